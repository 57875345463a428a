//! `/api/generate` and `/api/chat`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value as Json;

use crate::core::error::Result;
use crate::format::wire::native::encode::{ChatRecord, GenerateRecord, NativeEncoder};
use crate::format::wire::native::{ChatRequest, Common, GenerateRequest, decode, error_json};
use crate::server::body::content;
use crate::server::http::Exchange;
use crate::server::resolve::known;
use crate::server::shared::Server;
use crate::server::turn::{self, Headers, Question};

/// An error's body; it is the same for every HTTP status.
fn error_body(message: &str, _status: u16) -> Json {
    error_json(message)
}

/// The errors that the reference reports before any other invalid field.
fn precedes(server: &Server, common: &Common) -> Result<()> {
    decode::logprobs(common.logprobs, common.top_logprobs)?;
    known(server, &common.model)
}

/// `POST /api/generate`.
pub fn generate(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = content::<GenerateRequest>(exchange) else {
        return;
    };
    let question = body.and_then(|request| {
        decode::named(&request.common.model)?;
        precedes(server, &request.common)?;
        decode::generate(request)
    });
    let question = question.map(|turn| Question {
        encoder: NativeEncoder::<GenerateRecord>::new(&turn),
        verb: "generate",
        turn,
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}

/// `POST /api/chat`.
pub fn chat(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = content::<ChatRequest>(exchange) else {
        return;
    };
    let question = body.and_then(|request| {
        precedes(server, &request.common)?;
        decode::chat(request)
    });
    let question = question.map(|turn| Question {
        encoder: NativeEncoder::<ChatRecord>::new(&turn),
        verb: "chat",
        turn,
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}
