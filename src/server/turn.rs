//! Answers in dialects other than the native one: the same turns, told by a [`Encoder`].

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use serde_json::{Map, Value as Json};

use super::body::content_of;
use super::decode::Asked;
use super::handlers::native;
use super::http::{Chunks, Exchange, Reply};
use super::reply::{JSON_KIND, error_body, error_reply};
use super::shared::Server;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::message::{Delta, Finish, Reason, Usage};
use crate::format::wire::encoder::{Encoder, Event};
use crate::ops::turn::{self, Request, Turn};

/// Headers of an answer.
pub type Headers = Vec<(&'static str, String)>;

const EVENTS: &str = "text/event-stream";
/// Deltas of several answers at once that may wait to be sent.
const WAITING_MAX: usize = 64;

/// A question in any dialect.
pub struct Question<T> {
    /// What is asked, natively.
    pub asked: Asked,
    /// The answer comes as a stream.
    pub stream: bool,
    /// Answers to give.
    pub choices: usize,
    /// Tokens that are made likelier or less likely.
    pub bias: Vec<(i32, f32)>,
    /// Who tells the answer.
    pub teller: T,
}

/// An error's body by its message and HTTP status.
pub type Errors = fn(&str, u16) -> Json;

/// Reads a JSON body. `None`: the answer was sent already.
pub fn read(
    exchange: Exchange,
    headers: &Headers,
    errors: Errors,
) -> Option<(Exchange, Result<Map<String, Json>>)> {
    content_of(exchange, &|exchange, error, status| {
        exchange.reply(failure(error, status, errors), headers);
    })
}

/// An error in the dialect's shape; a status other than its class's may be given.
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

/// Answers with a value, or with the error in the dialect's shape.
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

/// Answers a question.
pub fn answer<T: Encoder>(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    question: Result<Question<T>>,
    errors: Errors,
) {
    let question = match question {
        Ok(question) => question,
        Err(error) => return reply(exchange, Err(error), &headers, errors),
    };
    if question.asked.input.is_none() {
        return only_load(server, exchange, headers, question, errors);
    }
    let choices = Choices {
        server,
        asked: &question.asked,
        bias: &question.bias,
        gone: exchange.watch().gone(),
        count: question.choices,
    };
    // What is wrong with the request shows with the first answer, before anything is sent.
    let first = match choices.start(0) {
        Ok(turn) => turn,
        Err(error) => return reply(exchange, Err(error), &headers, errors),
    };
    let mut teller = question.teller;
    if question.stream {
        return stream(exchange, headers, first, &choices, &mut teller);
    }
    let told = choices.each(first, &mut |index, delta| {
        teller.tell(index, native::shown(server, &question.asked, delta));
        Ok(())
    });
    reply(exchange, told.map(|()| teller.whole()), &headers, errors);
}

/// What an empty conversation asks for: the model, and no words.
fn only_load<T: Encoder>(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    mut question: Question<T>,
    errors: Errors,
) {
    if let Err(error) = native::acquire(server, &exchange, &question.asked) {
        return reply(exchange, Err(error), &headers, errors);
    }
    let teller = &mut question.teller;
    let mut events = teller.open(&Usage::default());
    let finish = Finish {
        reason: Reason::Stop,
        usage: Usage::default(),
        context: Vec::new(),
        stop: None,
    };
    events.extend(teller.tell(0, Delta::Finish(Box::new(finish))));
    if !question.stream {
        return reply(exchange, Ok(teller.whole()), &headers, errors);
    }
    let Ok(mut chunks) = exchange.stream(200, EVENTS, &headers) else {
        return; // The client has left.
    };
    let sent = send(&mut chunks, &events);
    // As above.
    let _ = sent.and_then(|()| end(chunks, question.teller.end()));
}

/// The answers to one question.
struct Choices<'a> {
    server: &'a Server,
    asked: &'a Asked,
    bias: &'a [(i32, f32)],
    gone: Arc<AtomicBool>,
    count: usize,
}

impl Choices<'_> {
    /// Begins an answer. The prompt is computed once: later ones share it.
    fn start(&self, index: usize) -> Result<Turn> {
        let mut request = Request {
            bias: self.bias.to_vec(),
            ..native::request(&self.gone, self.asked)?
        };
        if let Some(seed) = request.options.int("seed") {
            let own = seed.wrapping_add(index as i64).to_string();
            request.options.set_text("seed", &own)?; // Each answer is one of its own.
        }
        turn::start(&self.server.pool, request, &mut |_| {})
    }

    /// Takes the deltas of all answers as they come. Each is begun and read on a thread of its own,
    /// so that none waits for a place that another holds unread. None is dropped before all are
    /// done: they share the flag that cancels them.
    fn each(
        &self,
        mut first: Turn,
        take: &mut dyn FnMut(usize, Delta) -> Result<()>,
    ) -> Result<()> {
        if self.count == 1 {
            return first.try_for_each(|delta| take(0, delta?));
        }
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(WAITING_MAX);
            let read =
                |index: usize, mut turn: Turn, sender: SyncSender<(usize, Result<Delta>)>| {
                    // A failed send means that another answer failed: this one is given up too.
                    turn.all(|delta| sender.send((index, delta)).is_ok());
                    turn
                };
            let mut kept = Vec::new();
            let own = sender.clone();
            kept.push(scope.spawn(move || Some(read(0, first, own))));
            for index in 1..self.count {
                let sender = sender.clone();
                kept.push(scope.spawn(move || match self.start(index) {
                    Ok(turn) => Some(read(index, turn, sender)),
                    Err(error) => {
                        // As above.
                        let _ = sender.send((index, Err(error)));
                        None
                    }
                }));
            }
            drop(sender);
            let mut deltas = receiver.into_iter();
            let told = deltas.try_for_each(|(index, delta)| take(index, delta?));
            drop(deltas); // Those that still send are done now.
            for turn in kept {
                drop(turn.join()); // Nothing within it panics but what was told already.
            }
            told
        })
    }
}

fn stream<T: Encoder>(
    exchange: Exchange,
    mut headers: Headers,
    first: Turn,
    choices: &Choices,
    teller: &mut T,
) {
    headers.push(("Cache-Control", "no-cache".into()));
    let Ok(mut chunks) = exchange.stream(200, EVENTS, &headers) else {
        return; // The client has left.
    };
    let (server, asked) = (choices.server, choices.asked);
    let told = send(&mut chunks, &teller.open(&first.usage())).and_then(|()| {
        choices.each(first, &mut |index, delta| {
            let events = teller.tell(index, native::shown(server, asked, delta));
            send(&mut chunks, &events)
        })
    });
    server.counters.outcome(&told);
    let told = match told {
        Ok(()) => Ok(()),
        Err(error) => send(&mut chunks, &teller.fail(&error)),
    };
    // If the client has left there is nobody to tell.
    let _ = told.and_then(|()| end(chunks, teller.end()));
}

/// Sends events, each whole in one write.
fn send(chunks: &mut Chunks, events: &[Event]) -> Result<()> {
    for event in events {
        let name = event.name.map(|name| format!("event: {name}\n"));
        let frame = format!(
            "{}data: {}\n\n",
            name.unwrap_or_default(),
            json::line(&event.data)
        );
        chunks.write(&frame).map_err(|_| Error::cancelled())?;
    }
    Ok(())
}

fn end(mut chunks: Chunks, last: &str) -> Result<()> {
    let written = match last.is_empty() {
        true => Ok(()),
        false => chunks.write(last),
    };
    written
        .and_then(|()| chunks.end())
        .map_err(|_| Error::cancelled())
}
