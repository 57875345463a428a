//! `/v1/messages`: Anthropic's messages, and the count of their tokens.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use crate::format::wire::anthropic;
use crate::format::wire::anthropic::encode::{self, MessageEncoder};
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
        let turn = anthropic::messages(&body)?;
        Ok(Question {
            encoder: MessageEncoder::new(random_id(), turn.model.clone()),
            verb: "chat",
            turn,
        })
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}

/// `POST /v1/messages/count_tokens`.
pub fn count_tokens(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let counted = body.and_then(|body| {
        let turn = anthropic::conversation(&body)?;
        let tokens = turn::count(server, &exchange, turn, started)?;
        Ok(json!({ "input_tokens": tokens }))
    });
    turn::reply(exchange, counted, &headers, error_body);
}
