//! Runs the turns of every API: one loop from a decoded request to an encoded answer. It knows no API; the
//! [`Encoder`] does.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use serde_json::{Map, Value as Json};

use super::body::content_of;
use super::http::{Chunks, Exchange, Reply};
use super::notices;
use super::reply::{error_body, error_reply};
use super::resolve::{Resolved, resolve};
use super::shared::Server;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::message::Delta;
use crate::core::network::JSON_KIND;
use crate::core::threads::spawn_in;
use crate::core::turn::TurnRequest;
use crate::format::wire::encoder::{Encoder, Event, Framing};
use crate::ops::pool::Lease;
use crate::ops::turn::{self, Prompt, Prompter, Request, Turn};

/// Headers of an answer.
pub type Headers = Vec<(&'static str, String)>;

const EVENTS: &str = "text/event-stream";
const LINES: &str = "application/x-ndjson";
/// A comment among server-sent events, which clients pass over.
const COMMENT: &str = ": still computing\n\n";
/// Content type of an error in place of newline-delimited JSON, as the reference sends it.
const RECORD: &str = "application/json";
/// Deltas of several answers at once that may wait to be sent.
const WAITING_MAX: usize = 64;

/// A decoded request of any API.
pub struct Question<E> {
    /// The turn.
    pub turn: TurnRequest,
    /// The ability that the route needs: `chat` or `generate`.
    pub verb: &'static str,
    /// Encodes the answer.
    pub encoder: E,
}

/// An error's body by its message and HTTP status.
pub type Errors = fn(&str, u16) -> Json;

/// Reads a JSON body. `None`: an error answer was already sent.
pub fn read(
    exchange: Exchange,
    headers: &Headers,
    errors: Errors,
) -> Option<(Exchange, Result<Map<String, Json>>)> {
    content_of(exchange, &|exchange, error, status| {
        exchange.reply(failure(error, status, errors), headers);
    })
}

/// An error in the API's format; a status other than its class's may be given.
fn failure(error: &Error, status: Option<u16>, errors: Errors) -> Reply {
    let native = error_reply(error);
    let status = status.unwrap_or(native.status);
    let body = errors(&error_body(error).error, status);
    Reply {
        status,
        body: json::line(&body),
        ..native
    }
}

/// Answers with a value, or with the error in the API's format.
pub fn reply(exchange: Exchange, result: Result<Json>, headers: &Headers, errors: Errors) {
    let reply = match result {
        Ok(body) => Reply {
            status: 200,
            kind: JSON_KIND,
            body: json::line(&body),
            ..Reply::default()
        },
        Err(error) => failure(&error, None, errors),
    };
    exchange.reply(reply, headers);
}

/// Answers a decoded request.
pub fn answer<E: Encoder>(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    question: Result<Question<E>>,
    errors: Errors,
    started: Instant,
) {
    let resolved = question.and_then(|question| {
        let resolved = resolve(server, question.turn, question.verb)?;
        Ok((resolved, question.encoder))
    });
    let (resolved, mut encoder) = match resolved {
        Ok(resolved) => resolved,
        Err(error) => return reply(exchange, Err(error), &headers, errors),
    };
    let mut headers = headers;
    let turn = &resolved.turn;
    headers.extend(notices::ignored(server, &turn.model, &turn.ignored));
    if resolved.turn.input.is_none() {
        return only_load(server, exchange, headers, &resolved, &mut encoder, errors);
    }
    if resolved.turn.render_only {
        let prompt = prompt(&exchange, &resolved, started);
        let rendered = prompt.map(|prompt| encoder.rendered(prompt.text, prompt.truncated_tokens));
        return reply(exchange, rendered, &headers, errors);
    }
    let choices = Choices {
        server,
        resolved: &resolved,
        cancel: exchange.watch().gone(),
        started,
    };
    // The first answer reports every error of the request, before anything is sent.
    let first = choices.start(0);
    headers.extend(first.iter().filter_map(notices::truncated));
    if resolved.turn.stream {
        return Stream::new(exchange, headers, encoder, errors).run(first, &choices);
    }
    let answered = first.and_then(|first| {
        choices.each(first, &mut |step| {
            if let Step::Deltas(index, deltas) = step {
                encoder.encode_token(index, deltas);
            }
            Ok(())
        })
    });
    reply(
        exchange,
        answered.map(|()| encoder.complete()),
        &headers,
        errors,
    );
}

/// Answers a request without an input: loads or unloads the model.
fn only_load<E: Encoder>(
    server: &Server,
    exchange: Exchange,
    headers: Headers,
    resolved: &Resolved,
    encoder: &mut E,
    errors: Errors,
) {
    let loaded = if resolved.turn.only_unloads() {
        server.pool.unload(resolved.local.model());
        Ok("unload")
    } else {
        acquire(&exchange, resolved).map(|_lease| "load")
    };
    let events = match loaded {
        Ok(reason) => encoder.loaded(reason),
        Err(error) => return reply(exchange, Err(error), &headers, errors),
    };
    if !resolved.turn.stream || encoder.framing() == Framing::Lines {
        return reply(exchange, Ok(encoder.complete()), &headers, errors);
    }
    let Ok(mut chunks) = exchange.stream(200, EVENTS, &headers) else {
        return; // The client has disconnected.
    };
    let sent = send(&mut chunks, encoder.framing(), &events);
    // As above.
    let _ = sent.and_then(|()| end(chunks, encoder.end()));
}

/// The engine for a turn.
///
/// # Errors
/// As for any load.
fn acquire(exchange: &Exchange, resolved: &Resolved) -> Result<Lease> {
    let (local, turn) = (&resolved.local, &resolved.turn);
    let options = turn::options_in_force(local.model(), &turn.options);
    let gone = exchange.watch().gone();
    local
        .pool()
        .acquire(local.model(), &options, turn.keep_alive, &gone, &mut |_| {})
}

/// The prompt that the model would see.
///
/// # Errors
/// As for any answer.
pub fn prompt(exchange: &Exchange, resolved: &Resolved, started: Instant) -> Result<Prompt> {
    let lease = acquire(exchange, resolved)?;
    let local = &resolved.local;
    let cancel = exchange.watch().gone();
    let request = Request::new(local.model(), resolved.turn.clone(), cancel, started)?;
    let template_choice = request.template_choice(local.pool())?;
    let options = turn::options_in_force(local.model(), &request.turn.options);
    let prompter = Prompter::new(&request, &template_choice, lease.engine(), &options);
    prompter.showing_all().prompt(lease.context_tokens)
}

/// The number of tokens in the prompt of a decoded request, 0 without an input.
///
/// # Errors
/// As for any answer.
pub fn count(
    server: &Server,
    exchange: &Exchange,
    turn: TurnRequest,
    started: Instant,
) -> Result<usize> {
    let resolved = resolve(server, turn, "chat")?;
    if resolved.turn.input.is_none() {
        return Ok(0);
    }
    let prompt = prompt(exchange, &resolved, started)?;
    Ok(prompt.tokens.len() + prompt.truncated_tokens)
}

/// The answers to one turn.
struct Choices<'a> {
    server: &'a Server,
    resolved: &'a Resolved,
    cancel: Arc<AtomicBool>,
    started: Instant,
}

/// The deltas that one token brought, with the index of its answer.
type Indexed = (usize, Result<Vec<Delta>>);

/// An event while answers are computed.
enum Step {
    /// Deltas of the answer with this index.
    Deltas(usize, Vec<Delta>),
    /// Nothing, for the time that a stream may be silent.
    Silence,
}

impl Choices<'_> {
    /// Starts an answer. The prompt is computed once: later answers share it.
    fn start(&self, index: usize) -> Result<Turn> {
        let mut turn = self.resolved.turn.clone();
        let local = &self.resolved.local;
        // The answers must differ; without a seed they do by themselves.
        let seed = turn::options_in_force(local.model(), &turn.options).int("seed");
        if let (Some(seed), 1..) = (seed.filter(|seed| *seed >= 0), index) {
            let own = (seed.wrapping_add(index as i64) & i64::MAX).to_string();
            turn.options.set_text("seed", &own)?;
        }
        local.start(turn, &self.cancel, self.started, &mut |_| {})
    }

    /// Passes on the deltas of all answers as they come. Each answer is started and read by a thread of its
    /// own, so that none waits for a sequence that an unread one occupies. None is dropped before all are
    /// done: they share the flag that cancels them.
    fn each(&self, mut first: Turn, take: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        let (count, silence) = (self.resolved.turn.choices, self.server.heartbeat);
        if count == 1 {
            loop {
                while !first.wait(silence) {
                    take(Step::Silence)?;
                }
                let Some(deltas) = first.next_token() else {
                    return Ok(());
                };
                take(Step::Deltas(0, self.counted(deltas?)))?;
            }
        }
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            let read = |index: usize, mut turn: Turn, sender: SyncSender<Indexed>| {
                while let Some(deltas) = turn.next_token() {
                    // A failed send means that another answer failed: this one is given up, too.
                    if sender.send((index, deltas)).is_err() {
                        break;
                    }
                }
                turn
            };
            let mut turns = Vec::new();
            let own = sender.clone();
            turns.push(spawn_in(scope, move || Some(read(0, first, own)))?);
            for index in 1..count {
                let sender = sender.clone();
                let answer = move || match self.start(index) {
                    Ok(turn) => Some(read(index, turn, sender)),
                    Err(error) => {
                        // As above.
                        let _ = sender.send((index, Err(error)));
                        None
                    }
                };
                turns.push(spawn_in(scope, answer)?);
            }
            drop(sender);
            let taken = loop {
                let taken = match receiver.recv_timeout(silence) {
                    Ok((index, deltas)) => {
                        deltas.and_then(|deltas| take(Step::Deltas(index, self.counted(deltas))))
                    }
                    Err(RecvTimeoutError::Timeout) => take(Step::Silence),
                    Err(RecvTimeoutError::Disconnected) => break Ok(()),
                };
                if taken.is_err() {
                    break taken;
                }
            };
            drop(receiver); // Threads that still send stop now.
            for turn in turns {
                drop(turn.join()); // A panic in it was printed already.
            }
            taken
        })
    }

    /// Counts a finished answer, and logs the tokens that were dropped.
    fn counted(&self, deltas: Vec<Delta>) -> Vec<Delta> {
        let model = self.resolved.local.model();
        // One series for each model, however a request spells its name.
        let name = model.name.as_ref();
        let model = name.map_or_else(|| model.label.clone(), ToString::to_string);
        for delta in &deltas {
            let Delta::Finish(finish) = delta else {
                continue;
            };
            let usage = &finish.usage;
            self.server.counters.answer(&model, usage);
            if usage.truncated_tokens + usage.shifted_tokens > 0 {
                (self.server.log)(&format!(
                    "{model}: dropped {} tokens of the prompt and {} of the context to fit the context length",
                    usage.truncated_tokens, usage.shifted_tokens
                ));
            }
        }
        deltas
    }
}

/// A streamed answer.
struct Stream<E> {
    state: State,
    headers: Headers,
    encoder: E,
    errors: Errors,
}

enum State {
    /// Nothing was sent yet.
    Waiting(Exchange),
    Open(Chunks),
    /// The client has disconnected.
    Gone,
}

impl<E: Encoder> Stream<E> {
    fn new(exchange: Exchange, headers: Headers, encoder: E, errors: Errors) -> Self {
        Stream {
            state: State::Waiting(exchange),
            headers,
            encoder,
            errors,
        }
    }

    fn run(mut self, first: Result<Turn>, choices: &Choices) {
        let sent = first.and_then(|first| {
            let opening = self.encoder.open(&first.usage());
            if self.encoder.framing() == Framing::Sse {
                self.send(&opening)?;
            }
            choices.each(first, &mut |step| match step {
                Step::Deltas(index, deltas) => {
                    let events = self.encoder.encode_token(index, deltas);
                    if events.is_empty() {
                        return Ok(());
                    }
                    self.send(&events)
                }
                Step::Silence => self.beat(),
            })
        });
        choices.server.counters.outcome(&sent);
        self.finish(sent);
    }

    /// Sends a sign of life.
    fn beat(&mut self) -> Result<()> {
        match (self.encoder.beat(), &mut self.state) {
            (Some(event), _) => self.send(&[event]),
            (None, State::Open(chunks)) => chunks.write(COMMENT).map_err(|_| Error::cancelled()),
            (None, _) => Ok(()),
        }
    }

    /// Sends events; the first ones open the stream.
    fn send(&mut self, events: &[Event]) -> Result<()> {
        let framing = self.encoder.framing();
        let mut chunks = match std::mem::replace(&mut self.state, State::Gone) {
            State::Waiting(exchange) => {
                let kind = match framing {
                    Framing::Sse => {
                        self.headers.push(("Cache-Control", "no-cache".into()));
                        EVENTS
                    }
                    Framing::Lines => LINES,
                };
                let opened = exchange.stream(200, kind, &self.headers);
                opened.map_err(|_| Error::cancelled())?
            }
            State::Open(chunks) => chunks,
            State::Gone => return Err(Error::cancelled()),
        };
        send(&mut chunks, framing, events)?;
        self.state = State::Open(chunks);
        Ok(())
    }

    /// Ends the stream. An error has its own HTTP status if nothing was sent, else it is the last event.
    fn finish(mut self, sent: Result<()>) {
        let framing = self.encoder.framing();
        match (self.state, sent) {
            (State::Waiting(exchange), Err(error)) => {
                let failure = failure(&error, None, self.errors);
                let kind = match framing {
                    Framing::Sse => failure.kind,
                    Framing::Lines => RECORD,
                };
                exchange.reply(Reply { kind, ..failure }, &self.headers);
            }
            (State::Waiting(exchange), Ok(())) => {
                let empty = Reply {
                    status: 200,
                    kind: LINES,
                    ..Reply::default()
                };
                exchange.reply(empty, &self.headers);
            }
            (State::Open(mut chunks), sent) => {
                let sent =
                    sent.or_else(|error| send(&mut chunks, framing, &self.encoder.fail(&error)));
                // A failure means that the client has disconnected.
                let _ = sent.and_then(|()| end(chunks, self.encoder.end()));
            }
            (State::Gone, _) => {}
        }
    }
}

/// Sends events, each whole in one write.
fn send(chunks: &mut Chunks, framing: Framing, events: &[Event]) -> Result<()> {
    for event in events {
        let data = json::line(&event.data);
        let frame = match (framing, event.name) {
            (Framing::Lines, _) => data + "\n",
            (Framing::Sse, Some(name)) => format!("event: {name}\ndata: {data}\n\n"),
            (Framing::Sse, None) => format!("data: {data}\n\n"),
        };
        chunks.write(&frame).map_err(|_| Error::cancelled())?;
    }
    Ok(())
}

fn end(mut chunks: Chunks, last: &str) -> Result<()> {
    let written = if last.is_empty() {
        Ok(())
    } else {
        chunks.write(last)
    };
    written
        .and_then(|()| chunks.end())
        .map_err(|_| Error::cancelled())
}
