//! `/api/generate` and `/api/chat`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::Value as Json;

use crate::core::error::Result;
use crate::core::turn::TurnRequest;
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

/// Decodes a request. Of its errors the reference reports an unknown model before all but the one in `top_logprobs`.
fn decoded<T>(
    server: &Server,
    request: T,
    common: fn(&T) -> &Common,
    decode: fn(T) -> Result<TurnRequest>,
) -> Result<TurnRequest> {
    let fields = common(&request);
    let (model, logprobs) = (fields.model.clone(), fields.logprobs);
    let top = fields.top_logprobs;
    decode(request).or_else(|error| {
        decode::logprobs(logprobs, top)?;
        known(server, &model)?;
        Err(error)
    })
}

/// `POST /api/generate`.
pub fn generate(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = content::<GenerateRequest>(exchange) else {
        return;
    };
    let question = body.and_then(|request| {
        decode::named(&request.common.model)?;
        decoded(server, request, |request| &request.common, decode::generate)
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
    let question =
        body.and_then(|request| decoded(server, request, |request| &request.common, decode::chat));
    let question = question.map(|turn| Question {
        encoder: NativeEncoder::<ChatRecord>::new(&turn),
        verb: "chat",
        turn,
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}
