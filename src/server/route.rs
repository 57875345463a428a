//! Paths and methods to handlers; errors to statuses and bodies.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::Server;
use super::access::Verdict;
use super::http::{Exchange, NoBody, Reply};
use super::{answer, embed, models};
use crate::api::native::ErrorBody;
use crate::client::{SERVER, STORE_HEADER};
use crate::error::{Class, Error, Result};
use crate::json;

/// Content type of a whole JSON answer.
pub const JSON_KIND: &str = "application/json; charset=utf-8";
const TEXT_KIND: &str = "text/plain; charset=utf-8";
const PLAIN_KIND: &str = "text/plain";

/// Bodies that carry content: a conversation with images.
const CONTENT_BYTES_MAX: usize = 64 << 20;
/// Bodies that carry names.
const NAMES_BYTES_MAX: usize = 1 << 20;

/// What answers a route.
type Handler = fn(&Arc<Server>, Exchange, Vec<(&'static str, String)>);

/// Every route: path, methods as `Allow` prints them, handler.
const ROUTES: &[(&str, &[&str], Handler)] = &[
    ("/", &["GET", "HEAD"], greet),
    ("/api/version", &["GET", "HEAD"], version),
    ("/api/tags", &["GET", "HEAD"], models::tags),
    ("/api/ps", &["GET"], models::ps),
    ("/api/show", &["POST"], models::show),
    ("/api/generate", &["POST"], answer::generate),
    ("/api/chat", &["POST"], answer::chat),
    ("/api/embed", &["POST"], embed::embed),
    ("/api/embeddings", &["POST"], embed::embeddings),
    ("/api/copy", &["POST"], models::copy),
    ("/api/delete", &["DELETE"], models::delete),
];

/// Answers a request.
pub fn route(server: &Arc<Server>, exchange: Exchange) {
    let mut headers = match server.access.judge(&exchange) {
        Verdict::Pass(headers) => headers,
        Verdict::Answer(reply) => return exchange.reply(reply, &[]),
    };
    headers.push(("Server", SERVER.to_string()));
    if exchange.is_local() {
        headers.extend(server.store_path.clone().map(|path| (STORE_HEADER, path)));
    }
    let path = exchange.path().to_string();
    let method = exchange.method();
    match ROUTES.iter().find(|(known, _, _)| *known == path) {
        Some((_, methods, handler)) if methods.contains(&method.as_str()) => {
            handler(server, exchange, headers)
        }
        Some((_, methods, _)) => exchange.reply(wrong_method(methods), &headers),
        None => exchange.reply(elsewhere(&path, &method), &headers),
    }
}

fn wrong_method(methods: &[&str]) -> Reply {
    let allow = methods.iter().rev().copied().collect::<Vec<_>>().join(", ");
    Reply {
        status: 405,
        kind: PLAIN_KIND,
        headers: vec![("Allow", allow)],
        body: "405 method not allowed".into(),
    }
}

/// A path with a slash too many is sent on to the right one; all others are unknown.
fn elsewhere(path: &str, method: &str) -> Reply {
    let cleaned = format!("/{}", path.trim_matches('/'));
    if cleaned != path && ROUTES.iter().any(|(known, _, _)| *known == cleaned) {
        let status = if method == "GET" { 301 } else { 307 };
        return Reply {
            status,
            headers: vec![("Location", cleaned)],
            ..Reply::default()
        };
    }
    Reply {
        status: 404,
        kind: PLAIN_KIND,
        body: "404 page not found".into(),
        ..Reply::default()
    }
}

fn greet(_: &Arc<Server>, exchange: Exchange, headers: Vec<(&'static str, String)>) {
    // The reference's own words: clients look for them.
    exchange.reply(
        Reply {
            status: 200,
            kind: TEXT_KIND,
            body: "Ollama is running".into(),
            ..Reply::default()
        },
        &headers,
    );
}

fn version(_: &Arc<Server>, exchange: Exchange, headers: Vec<(&'static str, String)>) {
    let body = format!("{{\"version\":\"{}\"}}", env!("CARGO_PKG_VERSION"));
    exchange.reply(
        Reply {
            status: 200,
            kind: JSON_KIND,
            body,
            ..Reply::default()
        },
        &headers,
    );
}

/// Answers with a value, or with the error.
pub fn reply(exchange: Exchange, result: Result<String>, headers: &[(&'static str, String)]) {
    match result {
        Ok(body) => exchange.reply(
            Reply {
                status: 200,
                kind: JSON_KIND,
                body,
                ..Reply::default()
            },
            headers,
        ),
        Err(error) => exchange.reply(error_reply(&error), headers),
    }
}

/// Reads a JSON body of names.
///
/// # Errors
/// The answer to send; the exchange is used up if the body was too long.
pub fn names<T: DeserializeOwned>(exchange: Exchange) -> Option<(Exchange, Result<T>)> {
    body(exchange, NAMES_BYTES_MAX)
}

/// Reads a JSON body that may carry content.
pub fn content<T: DeserializeOwned>(exchange: Exchange) -> Option<(Exchange, Result<T>)> {
    body(exchange, CONTENT_BYTES_MAX)
}

fn body<T: DeserializeOwned>(
    mut exchange: Exchange,
    bytes_max: usize,
) -> Option<(Exchange, Result<T>)> {
    let error = match exchange.body(bytes_max) {
        Ok(bytes) => return Some((exchange, parse(&bytes))),
        Err(NoBody::TooLong) => {
            let limit = bytes_max >> 20;
            let error = Error::usage(format!("the request body is larger than {limit} MiB"));
            Reply {
                status: 413,
                ..error_reply(&error)
            }
        }
        Err(NoBody::Broken) => error_reply(&Error::usage("the request body cannot be read")),
    };
    exchange.reply(error, &[]);
    None
}

/// Parses the first JSON value of a body; field names match whatever their case.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    if bytes.is_empty() {
        return Err(Error::usage("missing request body"));
    }
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Json>();
    let value = match values.next() {
        None => return Err(Error::usage("unexpected EOF")),
        Some(Err(error)) if error.is_eof() => return Err(Error::usage("unexpected EOF")),
        Some(Err(error)) => return Err(Error::usage(error.to_string())),
        Some(Ok(value)) => value,
    };
    let map = match value {
        Json::Null => Map::new(),
        Json::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key.to_lowercase(), value))
            .collect(),
        other => {
            let kind = if other.is_array() {
                "array"
            } else if other.is_string() {
                "string"
            } else {
                "number"
            };
            return Err(Error::usage(format!(
                "json: cannot unmarshal {kind} into Go value of type api.Request"
            )));
        }
    };
    serde_json::from_value(Json::Object(map))
        .map_err(|error| Error::usage(format!("json: cannot unmarshal: {error}")))
}

/// An error's body.
pub fn error_body(error: &Error) -> ErrorBody {
    ErrorBody {
        error: error.to_string(),
    }
}

/// An error as an answer; the one table of HTTP statuses.
pub fn error_reply(error: &Error) -> Reply {
    let status = match error.class() {
        Class::Usage | Class::TooLong | Class::Schema => 400,
        Class::NoModel => 404,
        Class::Denied => 403,
        Class::Cancelled => 499,
        Class::Busy | Class::Memory => 503,
        Class::NoVectors => 501,
        Class::Network => 502,
        Class::TimedOut => 504,
        Class::Failed | Class::Damaged | Class::Closed | Class::Cut => 500,
    };
    Reply {
        status,
        kind: JSON_KIND,
        body: json::line(&error_body(error)),
        ..Reply::default()
    }
}
