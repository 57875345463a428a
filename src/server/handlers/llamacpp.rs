//! llama.cpp's routes: health, tokenize and detokenize, apply-template, infill, metrics.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value as Json, json};

use super::models::{not_found, to_run};
use crate::core::error::{Error, Result};
use crate::core::message::{Delta, Finish, Usage};
use crate::core::options::Options;
use crate::core::turn::{Input, TurnRequest};
use crate::format::wire::encoder::{Encoder, Event};
use crate::format::wire::native::decode;
use crate::format::wire::openai::encode::error_body;
use crate::format::wire::openai::{self, text};
use crate::format::wire::options::{from_json, not_obeyed};
use crate::ops::model::Model;
use crate::ops::pool::Lease;
use crate::ops::turn::options_in_force;
use crate::server::http::{Exchange, Reply};
use crate::server::resolve::resolve;
use crate::server::shared::Server;
use crate::server::turn::{self, Headers, Question, read};

/// Most tokens in one request to `/tokenize` or `/detokenize`: each takes a kilobyte of memory while
/// the answer is built.
const TOKENS_MAX: usize = 1 << 17;
/// Largest text for `/tokenize`, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// `GET /health`.
pub fn health(_: &Arc<Server>, exchange: Exchange, headers: Headers) {
    turn::reply(
        exchange,
        Ok(json!({ "status": "ok" })),
        &headers,
        error_body,
    );
}

/// `POST /tokenize`.
pub fn tokenize(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    by_engine(server, exchange, headers, |lease, body| {
        let flag =
            |key: &str, default: bool| body.get(key).and_then(Json::as_bool).unwrap_or(default);
        let (begin, special) = (flag("add_special", false), flag("parse_special", true));
        let content = text(body, "content")?;
        if content.len() > TEXT_BYTES_MAX {
            let text = format!("content is longer than {} MiB", TEXT_BYTES_MAX >> 20);
            return Err(Error::usage(text));
        }
        let engine = lease.engine();
        let tokens = engine.tokens(content, begin && engine.wants_begin(), special);
        if tokens.len() > TOKENS_MAX {
            return Err(Error::usage(format!("more than {TOKENS_MAX} tokens")));
        }
        let pieces = tokens
            .iter()
            .map(|id| json!({ "id": id, "piece": engine.text(&[*id]) }));
        Ok(if flag("with_pieces", false) {
            json!({ "tokens": pieces.collect::<Vec<_>>() })
        } else {
            json!({ "tokens": tokens })
        })
    });
}

/// `POST /detokenize`.
pub fn detokenize(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    by_engine(server, exchange, headers, |lease, body| {
        let list = body.get("tokens").and_then(Json::as_array);
        let list = list.ok_or_else(|| Error::usage("tokens must be a list of token ids"))?;
        if list.len() > TOKENS_MAX {
            return Err(Error::usage(format!("more than {TOKENS_MAX} tokens")));
        }
        let vocabulary = i64::from(lease.engine().facts().vocabulary);
        let id = |value: &Json| {
            let id = value.as_i64().filter(|id| (0..vocabulary).contains(id));
            let id = id.and_then(|id| i32::try_from(id).ok());
            id.ok_or_else(|| Error::usage(format!("{value} is not a token of this model")))
        };
        let ids = list.iter().map(id).collect::<Result<Vec<i32>>>()?;
        Ok(json!({ "content": lease.engine().text(&ids) }))
    });
}

/// Loads the model named by the body and answers with the closure's result.
fn by_engine(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    answer_with: impl Fn(&Lease, &Map<String, Json>) -> Result<Json>,
) {
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let answer = body.and_then(|body| {
        let model = named(server, &body)?;
        let gone = exchange.watch().gone();
        let options = options_in_force(&model, &Options::default());
        let lease = server
            .pool
            .acquire(&model, &options, None, &gone, &mut |_| {})?;
        answer_with(&lease, &body)
    });
    turn::reply(exchange, answer, &headers, error_body);
}

/// `POST /apply-template`: renders a conversation as a prompt.
pub fn apply_template(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let answer = body.and_then(|body| {
        let resolved = resolve(server, openai::chat(&body)?, "chat")?;
        let prompt = turn::prompt(&exchange, &resolved, Instant::now())?;
        Ok(json!({ "prompt": prompt.text }))
    });
    turn::reply(exchange, answer, &headers, error_body);
}

/// `POST /infill`: generates the text between a prefix and a suffix.
pub fn infill(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let question = body.and_then(|body| {
        let before = text(&body, "input_prefix")?.to_string() + text(&body, "prompt")?;
        let after = text(&body, "input_suffix")?.to_string();
        if before.is_empty() || after.is_empty() {
            return Err(Error::usage("input_prefix and input_suffix are required"));
        }
        let mut options = Map::new();
        for (key, option) in [
            ("n_predict", "num_predict"),
            ("temperature", "temperature"),
            ("seed", "seed"),
        ] {
            let value = openai::number(&body, key)?;
            options.extend(value.and_then(|_| Some((option.to_string(), body.get(key)?.clone()))));
        }
        let model = text(&body, "model")?;
        decode::named(model)?;
        let turn = TurnRequest {
            options: from_json(&options)?,
            ignored: not_obeyed("", &options).collect(),
            stream: openai::flag(&body, "stream")?,
            ..decode::truncating(model, Some(Input::Insert(before, after)))
        };
        Ok(Question {
            turn,
            verb: "generate",
            encoder: InfillEncoder::default(),
        })
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}

/// Encodes the generated text in llama.cpp's format.
#[derive(Default)]
struct InfillEncoder {
    content: String,
    finish: Option<Finish>,
}

impl InfillEncoder {
    fn record(&self, content: &str) -> Json {
        let usage = self
            .finish
            .as_ref()
            .map(|finish| finish.usage)
            .unwrap_or_default();
        json!({
            "content": content,
            "stop": self.finish.is_some(),
            "tokens_predicted": usage.answer_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "truncated": usage.truncated_tokens > 0,
        })
    }
}

impl Encoder for InfillEncoder {
    fn open(&mut self, _: &Usage) -> Vec<Event> {
        Vec::new()
    }

    fn encode(&mut self, _: usize, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Text(text) => {
                self.content += &text;
                vec![Event::new(self.record(&text))]
            }
            Delta::Finish(finish) => {
                self.finish = Some(*finish);
                vec![Event::new(self.record(""))]
            }
            _ => Vec::new(),
        }
    }

    fn fail(&mut self, error: &Error) -> Vec<Event> {
        vec![Event::new(error_body(&error.public_text(), 500))]
    }

    fn complete(&mut self) -> Json {
        self.record(&self.content)
    }
}

/// `GET /metrics`: metrics in Prometheus's text format.
pub fn metrics(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let reply = Reply {
        status: 200,
        kind: "text/plain; version=0.0.4; charset=utf-8",
        body: server.counters.text(&server.pool.loaded()),
        ..Reply::default()
    };
    exchange.reply(reply, &headers);
}

/// Opens the model that a request names.
///
/// # Errors
/// `Usage` without a name; `NoModel` if it is not in the store.
pub fn named(server: &Server, body: &Map<String, Json>) -> Result<Arc<Model>> {
    let text = text(body, "model")?;
    let found = server.model_cache.open(&server.store, text, &to_run(text)?);
    found.map_err(|error| not_found(error, text))
}
