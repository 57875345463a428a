//! `/api/generate` and `/api/chat`: a request in, records out.

use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value as Json;

use super::Server;
use super::http::Exchange;
use super::models::{asked, not_found};
use super::route::{content, reply};
use super::stream::Stream;
use crate::api::native::{ChatRecord, ChatRequest, Common, GenerateRecord, GenerateRequest};
use crate::api::options::{from_json, keep_alive};
use crate::chat::{self, Input, Overflow, Request};
use crate::duration::KeepAlive;
use crate::error::{Error, Result};
use crate::json;
use crate::list;
use crate::message::{Delta, Finish, Message};
use crate::model::{self, Model};

type Headers = Vec<(&'static str, String)>;

const NO_MEDIA: &str = "Multimodal data provided, but model does not support multimodal requests.";

/// How a route turns an answer into records.
struct Shape<R> {
    text: fn(&str, String) -> R,
    last: fn(&str, Finish, &Asked) -> R,
    rendered: fn(&str, String) -> R,
    only: fn(&str, &str) -> R,
    whole: fn(R, String) -> R,
}

const GENERATE: Shape<GenerateRecord> = Shape {
    text: GenerateRecord::text,
    last: |model, finish, asked| {
        GenerateRecord::last(model, finish, matches!(asked.input, Some(Input::Raw(_))))
    },
    rendered: GenerateRecord::rendered,
    only: GenerateRecord::only,
    whole: |record, text| GenerateRecord {
        response: text,
        ..record
    },
};

const CHAT: Shape<ChatRecord> = Shape {
    text: ChatRecord::text,
    last: |model, finish, _| ChatRecord::last(model, finish),
    rendered: ChatRecord::rendered,
    only: ChatRecord::only,
    whole: |mut record, text| {
        record.message.content = text;
        record
    },
};

/// A request, understood.
struct Asked {
    common: Common,
    model: Model,
    /// `None`: only load or unload.
    input: Option<Input>,
    context: Vec<i32>,
    keep_alive: Option<KeepAlive>,
    started: Instant,
}

/// `POST /api/generate`.
pub fn generate(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, request)) = content::<GenerateRequest>(exchange) else {
        return;
    };
    let understood = request.and_then(|request| understand_generate(server, request, started));
    answer(server, exchange, headers, understood, &GENERATE);
}

/// `POST /api/chat`.
pub fn chat(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, request)) = content::<ChatRequest>(exchange) else {
        return;
    };
    let understood = request.and_then(|request| understand_chat(server, request, started));
    answer(server, exchange, headers, understood, &CHAT);
}

fn understand_generate(
    server: &Server,
    request: GenerateRequest,
    started: Instant,
) -> Result<Asked> {
    let text = request.common.model.clone();
    if text.trim().is_empty() {
        return Err(Error::plain(
            crate::error::Class::NoModel,
            format!("model '{text}' not found"),
        ));
    }
    let (model, keep_alive) = checked_model(server, &request.common, "generate")?;
    if request.raw
        && !(request.template.is_empty() && request.system.is_empty() && request.context.is_empty())
    {
        return Err(Error::usage(
            "raw mode does not support template, system, or context",
        ));
    }
    if !request.suffix.is_empty() {
        let name = model
            .name
            .as_ref()
            .map(|name| name.full())
            .unwrap_or_default();
        return Err(Error::usage(format!("{name} does not support insert")));
    }
    if !request.template.is_empty() {
        return Err(Error::usage(
            "a template in the request is not supported: the model's own is used",
        ));
    }
    if !request.images.is_empty() {
        return Err(Error::usage(NO_MEDIA));
    }
    let input = match (request.prompt.is_empty(), request.raw) {
        (true, _) => None,
        (false, true) => Some(Input::Raw(request.prompt)),
        (false, false) => Some(Input::Chat(single_turn(
            &model,
            request.system,
            request.prompt,
            &request.context,
        ))),
    };
    Ok(Asked {
        common: request.common,
        model,
        input,
        context: request.context,
        keep_alive,
        started,
    })
}

/// The conversation of a generate request: the model's MESSAGEs only where no context goes on.
fn single_turn(model: &Model, system: String, prompt: String, context: &[i32]) -> Vec<Message> {
    let system = (!system.is_empty()).then(|| Message::new("system", system));
    let asked = system
        .into_iter()
        .chain([Message::new("user", prompt)])
        .collect();
    let mut messages = chat::conversation(model, asked);
    if !context.is_empty() {
        let own = |message: &Message| model.messages.contains(message);
        let last = messages.pop();
        messages.retain(|message| !own(message));
        messages.extend(last);
    }
    messages
}

fn understand_chat(server: &Server, request: ChatRequest, started: Instant) -> Result<Asked> {
    let (model, keep_alive) = checked_model(server, &request.common, "chat")?;
    if !request.tools.is_empty() {
        let name = model
            .name
            .as_ref()
            .map(|name| name.full())
            .unwrap_or_default();
        return Err(Error::usage(format!("{name} does not support tools")));
    }
    if request.messages.iter().any(|message| message.has_media()) {
        return Err(Error::usage(NO_MEDIA));
    }
    let messages: Vec<Message> = request.messages.into_iter().map(Into::into).collect();
    let input = (!messages.is_empty()).then(|| Input::Chat(chat::conversation(&model, messages)));
    Ok(Asked {
        common: request.common,
        model,
        input,
        context: Vec::new(),
        keep_alive,
        started,
    })
}

/// Finds the model and checks what both routes have in common.
fn checked_model(
    server: &Server,
    common: &Common,
    verb: &str,
) -> Result<(Model, Option<KeepAlive>)> {
    let name = asked(&common.model)?;
    let found = model::of_name(&server.store, &common.model, &name);
    let model = found.map_err(|error| not_found(error, &common.model))?;
    let keep_alive = keep_alive(common.keep_alive.as_ref())?;
    check_think(common.think.as_ref(), &model)?;
    if model.header.is_embedding() {
        return Err(Error::usage(format!(
            "\"{}\" does not support {verb}",
            model.label
        )));
    }
    match &common.format {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) if text.is_empty() => {}
        Some(_) => {
            return Err(Error::plain(
                crate::error::Class::Schema,
                "format: no schema or grammar is supported",
            ));
        }
    }
    if common.logprobs {
        return Err(Error::usage("logprobs are not supported"));
    }
    Ok((model, keep_alive))
}

fn check_think(think: Option<&Json>, model: &Model) -> Result<()> {
    const LEVELS: &str = "(\"high\", \"medium\", \"low\", \"max\", true, or false)";
    let wanted = match think {
        None | Some(Json::Null | Json::Bool(false)) => false,
        Some(Json::Bool(true)) => true,
        Some(Json::String(level))
            if matches!(level.as_str(), "high" | "medium" | "low" | "max") =>
        {
            true
        }
        Some(Json::String(other)) => {
            let levels = LEVELS.trim_matches(['(', ')']);
            return Err(Error::usage(format!(
                "invalid think value: {other:?} (must be {levels})"
            )));
        }
        Some(_) => {
            return Err(Error::usage(format!(
                "think must be a boolean or string {LEVELS}"
            )));
        }
    };
    let thinks = list::capabilities(&model.config, &model.header)
        .iter()
        .any(|word| word == "thinking");
    if wanted && !thinks {
        return Err(Error::usage(format!(
            "\"{}\" does not support thinking",
            model.label
        )));
    }
    Ok(())
}

fn answer<R: Serialize>(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    understood: Result<Asked>,
    shape: &Shape<R>,
) {
    let asked = match understood {
        Ok(asked) => asked,
        Err(error) => return reply(exchange, Err(error), &headers),
    };
    if asked.input.is_none() {
        let record = load_or_unload(server, &exchange, &asked);
        let body = record.map(|reason| json::line(&(shape.only)(&asked.common.model, reason)));
        return reply(exchange, body, &headers);
    }
    if asked.common.render_only {
        let body = render(server, &exchange, &asked);
        let body = body.map(|prompt| json::line(&(shape.rendered)(&asked.common.model, prompt)));
        return reply(exchange, body, &headers);
    }
    if asked.common.stream.unwrap_or(true) {
        return stream(server, exchange, headers, &asked, shape);
    }
    let body = collect(server, &exchange, &asked, shape).map(|record| json::line(&record));
    reply(exchange, body, &headers);
}

fn load_or_unload(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<&'static str> {
    if asked.keep_alive == Some(KeepAlive::For(std::time::Duration::ZERO)) {
        server.pool.unload(&asked.model);
        return Ok("unload");
    }
    acquire(server, exchange, asked).map(|_lease| "load")
}

fn acquire(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<crate::pool::Lease> {
    let options = chat::options_in_force(&asked.model, &from_json(&asked.common.options)?);
    let gone = exchange.watch().gone();
    server
        .pool
        .acquire(&asked.model, &options, asked.keep_alive, &gone, &mut |_| {})
}

fn render(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<String> {
    let lease = acquire(server, exchange, asked)?;
    match &asked.input {
        Some(Input::Chat(messages)) => {
            let earlier = if asked.context.is_empty() {
                String::new()
            } else {
                lease.engine().text(&asked.context)
            };
            Ok(earlier + &chat::render(&asked.model, lease.engine(), messages)?)
        }
        Some(Input::Raw(text)) => Ok(text.clone()),
        None => Ok(String::new()),
    }
}

fn start(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<chat::Turn> {
    let input = asked
        .input
        .clone()
        .ok_or_else(|| Error::usage("the prompt is empty"))?;
    let request = Request {
        model: &asked.model,
        input,
        context: asked.context.clone(),
        options: from_json(&asked.common.options)?,
        keep_alive: asked.keep_alive,
        overflow: if asked.common.truncate == Some(false) {
            Overflow::Error
        } else {
            Overflow::Truncate
        },
        cancel: exchange.watch().gone(),
        started: asked.started,
    };
    chat::start(&server.pool, request, &mut |_| {})
}

fn stream<R: Serialize>(
    server: &Server,
    exchange: Exchange,
    headers: Headers,
    asked: &Asked,
    shape: &Shape<R>,
) {
    let started = start(server, &exchange, asked);
    let mut stream = Stream::new(exchange, headers);
    let model = &asked.common.model;
    let outcome = started.and_then(|turn| {
        for delta in turn {
            match delta? {
                Delta::Text(text) => stream.send(&(shape.text)(model, text))?,
                Delta::Finish(finish) => stream.send(&(shape.last)(model, *finish, asked))?,
            }
        }
        Ok(())
    });
    stream.end(outcome);
}

fn collect<R: Serialize>(
    server: &Server,
    exchange: &Exchange,
    asked: &Asked,
    shape: &Shape<R>,
) -> Result<R> {
    let mut whole = String::new();
    for delta in start(server, exchange, asked)? {
        match delta? {
            Delta::Text(text) => whole.push_str(&text),
            Delta::Finish(finish) => {
                return Ok((shape.whole)(
                    (shape.last)(&asked.common.model, *finish, asked),
                    whole,
                ));
            }
        }
    }
    Err(Error::failed("the answer stopped without an end"))
}
