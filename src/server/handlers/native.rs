//! `/api/generate` and `/api/chat`: a request in, records out.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::message::Delta;
use crate::core::turn::{Input, Overflow};
use crate::format::wire::native::encode::{ChatRecord, GenerateRecord, Record};
use crate::format::wire::native::{ChatRequest, GenerateRequest};
use crate::format::wire::options::from_json;
use crate::ops::turn::{self, Prompt, Prompter, Request};
use crate::server::body::content;
use crate::server::decode::{self, Asked};
use crate::server::http::Exchange;
use crate::server::reply::reply;
use crate::server::shared::Server;
use crate::server::stream::Stream;

type Headers = Vec<(&'static str, String)>;

/// `POST /api/generate`.
pub fn generate(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, request)) = content::<GenerateRequest>(exchange) else {
        return;
    };
    let asked = request.and_then(|request| decode::generate(server, request, started));
    answer::<GenerateRecord>(server, exchange, headers, asked);
}

/// `POST /api/chat`.
pub fn chat(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, request)) = content::<ChatRequest>(exchange) else {
        return;
    };
    let asked = request.and_then(|request| decode::chat(server, request, started));
    answer::<ChatRecord>(server, exchange, headers, asked);
}

fn answer<R: Record>(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    asked: Result<Asked>,
) {
    let asked = match asked {
        Ok(asked) => asked,
        Err(error) => return reply(exchange, Err(error), &headers),
    };
    let mut record = R::new(&asked.common.model);
    if asked.input.is_none() {
        let done = load_or_unload(server, &exchange, &asked);
        let body = done.map(|reason| {
            record.only(reason);
            json::line(&record)
        });
        return reply(exchange, body, &headers);
    }
    if asked.common.render_only {
        let body = render(server, &exchange, &asked).map(|prompt| {
            record.debug(prompt);
            json::line(&record)
        });
        return reply(exchange, body, &headers);
    }
    if asked.common.stream.unwrap_or(true) {
        return stream::<R>(server, exchange, headers, &asked);
    }
    let body = collect(server, &exchange, &asked, record).map(|record| json::line(&record));
    reply(exchange, body, &headers);
}

fn load_or_unload(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<&'static str> {
    if asked.keep_alive == Some(KeepAlive::For(std::time::Duration::ZERO)) {
        server.pool.unload(&asked.model);
        return Ok("unload");
    }
    acquire(server, exchange, asked).map(|_lease| "load")
}

/// The engine for a request.
///
/// # Errors
/// As for any load.
pub fn acquire(
    server: &Server,
    exchange: &Exchange,
    asked: &Asked,
) -> Result<crate::ops::pool::Lease> {
    let options = turn::options_in_force(&asked.model, &from_json(&asked.common.options)?);
    let gone = exchange.watch().gone();
    server
        .pool
        .acquire(&asked.model, &options, asked.keep_alive, &gone, &mut |_| {})
}

/// The request as the deed takes it.
///
/// # Errors
/// If there is no prompt, or an option is wrong.
pub fn request<'a>(gone: &Arc<AtomicBool>, asked: &'a Asked) -> Result<Request<'a>> {
    let input = asked
        .input
        .clone()
        .ok_or_else(|| Error::usage("the prompt is empty"))?;
    Ok(Request {
        tools: asked.tools.clone(),
        tool_choice: asked.tool_choice.clone(),
        think: asked.think,
        template: asked.template.clone(),
        constraint: asked.constraint.clone(),
        logprobs: asked
            .common
            .logprobs
            .then(|| usize::try_from(asked.common.top_logprobs).unwrap_or(0)),
        context: asked.context.clone(),
        options: from_json(&asked.common.options)?,
        keep_alive: asked.keep_alive,
        overflow: asked.overflow,
        shift: asked.common.shift.unwrap_or(true) && asked.overflow != Overflow::Error,
        cancel: gone.clone(),
        started: asked.started,
        ..Request::new(&asked.model, input)
    })
}

/// The prompt's text.
///
/// # Errors
/// As for any answer.
pub fn render(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<String> {
    Ok(prompt(server, exchange, asked)?.text)
}

/// How many tokens the prompt has.
///
/// # Errors
/// As for any answer.
pub fn count(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<usize> {
    match asked.input {
        Some(_) => {
            let prompt = prompt(server, exchange, asked)?;
            Ok(prompt.tokens.len() + prompt.truncated_tokens)
        }
        None => Ok(0),
    }
}

fn prompt(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<Prompt> {
    let lease = acquire(server, exchange, asked)?;
    let request = request(&exchange.watch().gone(), asked)?;
    let template_choice = request.template_choice(&server.pool)?;
    let options = turn::options_in_force(&asked.model, &request.options);
    let prompter = Prompter::new(&request, &template_choice, lease.engine(), &options);
    prompter.prompt(lease.context_tokens)
}

fn start(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<turn::Turn> {
    let request = request(&exchange.watch().gone(), asked)?;
    turn::start(&server.pool, request, &mut |_| {})
}

/// What a raw prompt leaves out of its records. The answer's end is counted, and what was dropped is
/// told in the log.
pub fn shown(server: &Server, asked: &Asked, mut delta: Delta) -> Delta {
    if let Delta::Finish(finish) = &delta {
        let usage = &finish.usage;
        server.counters.answer(&asked.common.model, usage);
        if usage.truncated_tokens + usage.shifted_tokens > 0 {
            (server.log)(&format!(
                "{}: dropped {} tokens of the prompt and {} of the context to fit the context length",
                asked.common.model, usage.truncated_tokens, usage.shifted_tokens
            ));
        }
    }
    if let (Delta::Finish(finish), Some(Input::Raw(_))) = (&mut delta, &asked.input) {
        finish.context.clear();
    }
    delta
}

fn stream<R: Record>(server: &Server, exchange: Exchange, headers: Headers, asked: &Asked) {
    let started = start(server, &exchange, asked);
    let mut stream = Stream::new(exchange, headers);
    let outcome = started.and_then(|mut turn| {
        while let Some(delta) = turn.next() {
            let mut record = R::new(&asked.common.model);
            let delta = delta?;
            let opens = matches!(delta, Delta::Logprob(_));
            record.add(shown(server, asked, delta));
            while opens && let Some(delta) = turn.next_of_token() {
                record.add(delta);
            }
            stream.send(&record)?;
        }
        Ok(())
    });
    server.counters.outcome(&outcome);
    stream.end(outcome);
}

fn collect<R: Record>(
    server: &Server,
    exchange: &Exchange,
    asked: &Asked,
    mut record: R,
) -> Result<R> {
    for delta in start(server, exchange, asked)? {
        record.add(shown(server, asked, delta?));
    }
    Ok(record)
}
