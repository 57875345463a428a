//! Routes: maps paths and methods to handlers, and errors to statuses and bodies.

use std::sync::Arc;
use std::time::Instant;

use super::access::Verdict;
use super::access::keys::Refusal;
use super::handlers::{
    anthropic, create, decisions, embed, llamacpp, models, native, openai, rerank, transfer,
};
use super::http::{Exchange, Reply};
use super::reply::reply;
use super::shared::Server;
use crate::core::json;
use crate::core::network::{AGENT, JSON_KIND};
use crate::core::reference;
use crate::format::wire::decisions::systemone;
use crate::format::wire::native::ErrorBody;
use crate::format::wire::openai::encode::error_body as openai_error;
use crate::system::client::STORE_HEADER;

const TEXT_KIND: &str = "text/plain; charset=utf-8";
const PLAIN_KIND: &str = "text/plain";

/// The function that answers a route.
type Handler = fn(&Arc<Server>, Exchange, Vec<(&'static str, String)>);

/// Every route: path, methods as `Allow` prints them, handler.
const ROUTES: &[(&str, &[&str], Handler)] = &[
    ("/", &["GET", "HEAD"], greet),
    ("/api/version", &["GET", "HEAD"], version),
    ("/api/status", &["GET"], status),
    ("/api/tags", &["GET", "HEAD"], models::tags),
    ("/api/ps", &["GET"], models::ps),
    ("/api/show", &["POST"], models::show),
    ("/api/generate", &["POST"], native::generate),
    ("/api/chat", &["POST"], native::chat),
    ("/api/embed", &["POST"], embed::embed),
    ("/api/embeddings", &["POST"], embed::embeddings),
    ("/api/create", &["POST"], create::create),
    ("/api/blobs/:digest", &["HEAD", "POST"], create::blob),
    ("/api/pull", &["POST"], transfer::pull),
    ("/api/push", &["POST"], transfer::push),
    ("/api/copy", &["POST"], models::copy),
    ("/api/delete", &["DELETE"], models::delete),
    ("/v1/chat/completions", &["POST"], openai::chat),
    ("/v1/completions", &["POST"], openai::completions),
    ("/v1/embeddings", &["POST"], openai::embeddings),
    ("/v1/responses", &["POST"], openai::responses),
    (
        "/v1/responses/input_tokens",
        &["POST"],
        openai::input_tokens,
    ),
    ("/v1/systemone", &["POST"], decisions::systemone),
    ("/v1/decisions", &["POST"], decisions::decisions),
    ("/v1/models", &["GET"], openai::models),
    ("/v1/models/*name", &["GET"], openai::model),
    ("/v1/messages", &["POST"], anthropic::messages),
    (
        "/v1/messages/count_tokens",
        &["POST"],
        anthropic::count_tokens,
    ),
    ("/health", &["GET"], llamacpp::health),
    ("/v1/health", &["GET"], llamacpp::health),
    ("/tokenize", &["POST"], llamacpp::tokenize),
    ("/detokenize", &["POST"], llamacpp::detokenize),
    ("/apply-template", &["POST"], llamacpp::apply_template),
    ("/infill", &["POST"], llamacpp::infill),
    ("/metrics", &["GET"], llamacpp::metrics),
    ("/api/rerank", &["POST"], rerank::rerank),
    ("/v1/rerank", &["POST"], rerank::rerank),
    ("/rerank", &["POST"], rerank::rerank),
];

/// Routes that need no key: health checks.
const OPEN: &[&str] = &["/", "/health", "/v1/health"];
/// Routes that change the store.
const MANAGES: &[&str] = &[
    "/api/create",
    "/api/blobs/:digest",
    "/api/pull",
    "/api/push",
    "/api/copy",
    "/api/delete",
];

/// Checks a request's framing, origin and key, then calls the handler of its route.
pub fn route(server: &Arc<Server>, mut exchange: Exchange) {
    exchange.context.logged(server.access_log.clone());
    let mut headers = vec![
        ("Server", AGENT.to_string()),
        ("X-Request-Id", exchange.context.id.clone()),
    ];
    // A page of a foreign site knows no key, so that a request with one needs no further rule.
    let keys = server.keys.as_ref();
    let has_key = || keys.is_some_and(|keys| keys.knows(key(&exchange)));
    match server.access.judge(&exchange, &has_key) {
        Verdict::Pass(more) => headers.extend(more),
        Verdict::Answer(reply) => return exchange.reply(reply, &headers),
        Verdict::Refuse(why) => {
            let reply = failure(why, 403, exchange.path());
            return exchange.reply(reply, &headers);
        }
    }
    if exchange.is_local() {
        headers.extend(server.store_path.clone().map(|path| (STORE_HEADER, path)));
    }
    let path = exchange.path().to_string();
    let method = exchange.method();
    if let Some(keys) = server.keys.as_ref().filter(|_| !exchange.is_local())
        && !OPEN.contains(&path.as_str())
    {
        let manages = MANAGES.iter().any(|known| is_of(&path, known));
        match keys.judge(key(&exchange), manages, Instant::now()) {
            Ok(pass) => exchange.context.pass = Some(pass),
            Err(refusal) => return exchange.reply(refused(refusal, &path), &headers),
        }
    }
    match ROUTES.iter().find(|(known, _, _)| is_of(&path, known)) {
        Some((_, methods, handler)) if methods.contains(&method.as_str()) => {
            handler(server, exchange, headers)
        }
        Some((_, methods, _)) => exchange.reply(wrong_method(methods), &headers),
        None => exchange.reply(redirect_or_not_found(&path, &method), &headers),
    }
}

/// The API key of a request: a bearer token, or Anthropic's `x-api-key`.
fn key(exchange: &Exchange) -> Option<&str> {
    let bearer = exchange.header("Authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then(|| key.trim())
    });
    bearer.or_else(|| exchange.header("x-api-key"))
}

/// A refusal of the keys in the error format of the path's API.
fn refused(refusal: Refusal, path: &str) -> Reply {
    let after = refusal
        .after_s
        .map(|seconds| ("Retry-After", seconds.to_string()));
    let challenge = (refusal.status == 401).then(|| ("WWW-Authenticate", "Bearer".to_string()));
    Reply {
        headers: after.into_iter().chain(challenge).collect(),
        ..failure(refusal.why, refusal.status, path)
    }
}

/// An error in the format of the path's API.
fn failure(why: &str, status: u16, path: &str) -> Reply {
    let body = match path {
        path if path.starts_with("/v1/messages") => json::line(&anthropic::error_body(why, status)),
        "/v1/systemone" => json::line(&systemone::error_body(why, status)),
        path if path.starts_with("/api/") || path == "/" => {
            json::line(&ErrorBody { error: why.into() })
        }
        _ => json::line(&openai_error(why, status)),
    };
    Reply {
        status,
        kind: JSON_KIND,
        body,
        ..Reply::default()
    }
}

/// True if a path matches a route; a last part that begins with a colon matches one path segment, one
/// that begins with a star one or more.
fn is_of(path: &str, route: &str) -> bool {
    let Some(at) = route.find([':', '*']) else {
        return path == route;
    };
    let words = &route[at..at + 1] == "*";
    path.strip_prefix(&route[..at])
        .is_some_and(|rest| !rest.is_empty() && (words || !rest.contains('/')))
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

/// Redirects a path with extra slashes at either end to its route; any other path is not found.
fn redirect_or_not_found(path: &str, method: &str) -> Reply {
    let cleaned = format!("/{}", path.trim_matches('/'));
    if cleaned != path && ROUTES.iter().any(|(known, _, _)| is_of(&cleaned, known)) {
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
    // The reference's text; clients check for it.
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
    let body = format!("{{\"version\":\"{}\"}}", reference::VERSION);
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

/// `GET /api/status`: whether cloud models are available; with puna they never are.
fn status(_: &Arc<Server>, exchange: Exchange, headers: Vec<(&'static str, String)>) {
    let body = r#"{"cloud":{"disabled":true,"source":"env"}}"#.to_string();
    reply(exchange, Ok(body), &headers);
}
