//! Parses request bodies; errors have the reference's wording.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};

use super::http::{Exchange, NoBody};
use super::reply::fail;
use crate::core::error::{Class, Error, Result};
use crate::core::json::repaired_bytes;
use crate::format::compressed::{Flaw, inflate};

/// Largest body with content, such as a conversation with images.
const CONTENT_BYTES_MAX: usize = 64 << 20;
/// The same for a compressed body, whose size says little of what comes out of it.
const INFLATED_BYTES_MAX: usize = 16 << 20;
/// Largest body that only contains names.
const NAMES_BYTES_MAX: usize = 1 << 20;
/// Most JSON values in one body: each takes about 70 bytes of memory, however short it is.
const VALUES_MAX: usize = 1 << 19;

/// Fields of all bodies: name, JSON kind, and the reference's Go type.
const FIELDS: &[(&str, &str, &str)] = &[
    ("model", "string", "string"),
    ("name", "string", "string"),
    ("prompt", "string", "string"),
    ("suffix", "string", "string"),
    ("system", "string", "string"),
    ("template", "string", "string"),
    ("from", "string", "string"),
    ("source", "string", "string"),
    ("destination", "string", "string"),
    ("quantize", "string", "string"),
    ("stream", "bool", "bool"),
    ("raw", "bool", "bool"),
    ("truncate", "bool", "bool"),
    ("shift", "bool", "bool"),
    ("logprobs", "bool", "bool"),
    ("verbose", "bool", "bool"),
    ("top_logprobs", "number", "int"),
    ("dimensions", "number", "int"),
    ("context", "array", "[]int"),
    ("messages", "array", "[]api.Message"),
    ("tools", "array", "api.Tools"),
    ("images", "array", "[]api.ImageData"),
    ("options", "object", "map[string]interface {}"),
    ("parameters", "object", "map[string]interface {}"),
    ("files", "object", "map[string]string"),
    ("adapters", "object", "map[string]string"),
    ("info", "object", "map[string]interface {}"),
];

/// Sends the error of a body in the format of its API.
pub type Fail<'a> = &'a dyn Fn(Exchange, &Error, Option<u16>);

/// Reads a JSON body that only contains names. `None`: an error answer was already sent.
pub fn names<T: DeserializeOwned>(exchange: Exchange) -> Option<(Exchange, Result<T>)> {
    body(exchange, NAMES_BYTES_MAX, &fail)
}

/// Reads a JSON body with content. `None`: an error answer was already sent.
pub fn content<T: DeserializeOwned>(exchange: Exchange) -> Option<(Exchange, Result<T>)> {
    body(exchange, CONTENT_BYTES_MAX, &fail)
}

/// Like [`content`], with the error format of another API.
pub fn content_of<T: DeserializeOwned>(
    exchange: Exchange,
    fail: Fail,
) -> Option<(Exchange, Result<T>)> {
    body(exchange, CONTENT_BYTES_MAX, fail)
}

fn body<T: DeserializeOwned>(
    mut exchange: Exchange,
    bytes_max: usize,
    fail: Fail,
) -> Option<(Exchange, Result<T>)> {
    match exchange.body(bytes_max) {
        Ok(bytes) => match inflated(&exchange, bytes, bytes_max) {
            Ok(bytes) => return Some((exchange, parse(repaired_bytes(bytes)))),
            Err((error, status)) => fail(exchange, &error, Some(status)),
        },
        Err(NoBody::TooLong) => {
            let limit = bytes_max >> 20;
            let error = Error::usage(format!("the request body is larger than {limit} MiB"));
            fail(exchange, &error, Some(413));
        }
        Err(NoBody::Slow) => {
            let error = Error::usage("the request body arrives too slowly");
            fail(exchange, &error, Some(408));
        }
        Err(NoBody::Full) => {
            let text = "server busy, please try again.  too many large requests at once";
            fail(exchange, &Error::plain(Class::Busy, text), None);
        }
        Err(NoBody::Broken) => {
            fail(
                exchange,
                &Error::usage("the request body cannot be read"),
                None,
            );
        }
    }
    None
}

/// A body without its compression; the error has a status.
fn inflated(
    exchange: &Exchange,
    bytes: Vec<u8>,
    bytes_max: usize,
) -> Result<Vec<u8>, (Error, u16)> {
    let Some(encoding) = exchange.header("Content-Encoding") else {
        return Ok(bytes);
    };
    let bytes_max = bytes_max.min(INFLATED_BYTES_MAX);
    let (text, status) = match inflate(bytes, encoding, bytes_max) {
        Ok(inflated) => return Ok(inflated),
        Err(Flaw::Unknown) => {
            let text = format!("the body's encoding must be gzip or zstd, not '{encoding:.40}'");
            (text, 415)
        }
        Err(Flaw::Broken(why)) => (format!("the request body cannot be inflated: {why}"), 400),
        Err(Flaw::TooLong) => {
            let limit = bytes_max >> 20;
            let text = format!("the request body is larger than {limit} MiB when inflated");
            (text, 413)
        }
    };
    Err((Error::usage(text), status))
}

/// Parses the first JSON value of a body; field names match in any case.
fn parse<T: DeserializeOwned>(text: String) -> Result<T> {
    if text.is_empty() {
        return Err(Error::usage("missing request body"));
    }
    if values(text.as_bytes()) > VALUES_MAX {
        return Err(Error::usage("the request body contains too many values"));
    }
    let mut values = serde_json::Deserializer::from_str(&text).into_iter::<Json>();
    let value = match values.next() {
        None => return Err(Error::usage("unexpected EOF")),
        Some(Err(error)) if error.is_eof() => return Err(Error::usage("unexpected EOF")),
        Some(Err(error)) => return Err(Error::usage(error.to_string())),
        Some(Ok(value)) => value,
    };
    drop(text); // A body may be large, and its parsed values are a second copy.
    let whole = std::any::type_name::<T>();
    let whole = whole.rsplit("::").next().unwrap_or(whole);
    let map: Map<String, Json> = match value {
        Json::Null => Map::new(),
        Json::Object(map) => {
            let fields = map.into_iter();
            fields
                .map(|(key, value)| (key.to_lowercase(), value))
                .collect()
        }
        other => {
            return Err(Error::usage(format!(
                "json: cannot unmarshal {} into Go value of type api.{whole}",
                kind(&other)
            )));
        }
    };
    let wrong = FIELDS.iter().find_map(|(field, wanted, theirs)| {
        let found = map.get(*field).filter(|value| !value.is_null()).map(kind)?;
        (found != *wanted).then_some((field, found, theirs))
    });
    T::deserialize(Json::Object(map)).map_err(|error| {
        Error::usage(match wrong {
            Some((field, found, theirs)) => format!(
                "json: cannot unmarshal {found} into Go struct field {whole}.{field} of type {theirs}"
            ),
            None => format!("json: cannot unmarshal: {error}"),
        })
    })
}

/// An upper bound for the number of values in a JSON text: commas and opening brackets outside strings.
fn values(bytes: &[u8]) -> usize {
    let (mut count, mut text, mut escaped) = (1, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b',' | b'[' | b'{' if !text => count += 1,
            _ => {}
        }
    }
    count
}

/// The reference's name for a JSON value's kind.
fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}
