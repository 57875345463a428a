//! `/v1/messages`: Anthropic's messages, and the count of their tokens.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};

use super::Server;
use super::answer;
use super::compat::{self, Headers, Question, random_id, read};
use super::http::Exchange;
use super::understand::{self, Asked};
use crate::api::anthropic;
use crate::api::anthropic::telling::{self, Telling};
use crate::api::native::ChatRequest;
use crate::error::Result;

fn error_body(message: &str, status: u16) -> Json {
    telling::error_body(message, status, &random_id())
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
            asked: understood(server, request, started)?,
            stream,
            choices: 1,
            bias: Vec::new(),
            teller: Telling::new(random_id(), model),
        })
    });
    compat::answer(server, exchange, headers, question, error_body);
}

/// `POST /v1/messages/count_tokens`.
pub fn count_tokens(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let counted = body.and_then(|body| {
        let asked = understood(server, anthropic::conversation(&body)?, Instant::now())?;
        let tokens = answer::count(server, &exchange, &asked)?;
        Ok(json!({ "input_tokens": tokens }))
    });
    compat::reply(exchange, counted, &headers, error_body);
}

/// A model that cannot think is not asked to, instead of refusing the whole request.
fn understood(server: &Server, request: ChatRequest, started: Instant) -> Result<Asked> {
    let thinks = request.common.think.is_some();
    let plain = thinks.then(|| {
        let mut plain = request.clone();
        plain.common.think = None;
        plain
    });
    match (understand::chat(server, request, started), plain) {
        (Err(error), Some(plain)) if error.to_string().ends_with("support thinking") => {
            understand::chat(server, plain, started)
        }
        (understood, _) => understood,
    }
}
