//! `/v1/messages`: Anthropic's messages, and the count of their tokens.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use super::native;
use crate::format::wire::anthropic;
use crate::format::wire::anthropic::encode::{self, Telling};
use crate::server::decode;
use crate::server::http::Exchange;
use crate::server::ids::random_id;
use crate::server::shared::Server;
use crate::server::turn::{self, Headers, Question, read};

/// An error's body, by its HTTP status.
pub fn error_body(message: &str, status: u16) -> Json {
    encode::error_body(message, status, &random_id())
}

/// `POST /v1/messages`.
pub fn messages(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let question = body.and_then(|body| {
        let (request, stream) = anthropic::messages(&body)?;
        let model = request.common.model.clone();
        Ok(Question {
            asked: decode::chat(server, request, started)?,
            stream,
            choices: 1,
            bias: Vec::new(),
            teller: Telling::new(random_id(), model),
        })
    });
    turn::answer(server, exchange, headers, question, error_body);
}

/// `POST /v1/messages/count_tokens`.
pub fn count_tokens(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let counted = body.and_then(|body| {
        let request = anthropic::conversation(&body)?;
        let asked = decode::chat(server, request, Instant::now())?;
        let tokens = native::count(server, &exchange, &asked)?;
        Ok(json!({ "input_tokens": tokens }))
    });
    turn::reply(exchange, counted, &headers, error_body);
}
