//! Answers in dialects other than the native one: the same turns, told by a [`Teller`].

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value as Json};

use super::Server;
use super::answer;
use super::body::content;
use super::http::{Chunks, Exchange, Reply};
use super::route::{JSON_KIND, error_body, error_reply};
use super::understand::Asked;
use crate::api::event::{Event, Teller};
use crate::chat::{self, Request, Turn};
use crate::error::{Error, Result};
use crate::json;
use crate::message::{Delta, Finish, Reason, Usage};

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
pub fn read(exchange: Exchange) -> Option<(Exchange, Result<Map<String, Json>>)> {
    content::<Map<String, Json>>(exchange)
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
        Err(error) => {
            let native = error_reply(&error);
            let body = errors(&error_body(&error).error, native.status);
            Reply {
                body: json::line(&body),
                ..native
            }
        }
    };
    exchange.reply(reply, headers);
}

/// Answers a question.
pub fn answer<T: Teller>(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    question: Result<Question<T>>,
    errors: Errors,
) {
    let mut question = match question {
        Ok(question) => question,
        Err(error) => return reply(exchange, Err(error), &headers, errors),
    };
    if question.asked.input.is_none() {
        return only_load(server, exchange, headers, question, errors);
    }
    let turns = match start(server, &exchange, &question) {
        Ok(turns) => turns,
        Err(error) => return reply(exchange, Err(error), &headers, errors),
    };
    if !question.stream {
        let asked = &question.asked;
        let teller = &mut question.teller;
        let told = each(turns, &mut |index, delta| {
            teller.tell(index, answer::shown(server, asked, delta));
            Ok(())
        });
        let whole = told.map(|()| question.teller.whole());
        return reply(exchange, whole, &headers, errors);
    }
    stream(server, exchange, headers, question, turns);
}

/// What an empty conversation asks for: the model, and no words.
fn only_load<T: Teller>(
    server: &Arc<Server>,
    exchange: Exchange,
    headers: Headers,
    mut question: Question<T>,
    errors: Errors,
) {
    if let Err(error) = answer::acquire(server, &exchange, &question.asked) {
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

/// Begins all answers. The prompt is computed once: the others wait for it and share it.
fn start<T>(server: &Server, exchange: &Exchange, question: &Question<T>) -> Result<Vec<Turn>> {
    let begin = |index: usize| {
        let mut request = Request {
            bias: question.bias.clone(),
            ..answer::request(exchange, &question.asked)?
        };
        if let Some(seed) = request.options.int("seed") {
            let own = seed.wrapping_add(index as i64).to_string();
            request.options.set_text("seed", &own)?; // Each answer is one of its own.
        }
        chat::start(&server.pool, request, &mut |_| {})
    };
    (0..question.choices).map(begin).collect()
}

/// Takes the deltas of all answers as they come. None of the turns is dropped before all are done:
/// they share the flag that cancels them.
fn each(mut turns: Vec<Turn>, take: &mut dyn FnMut(usize, Delta) -> Result<()>) -> Result<()> {
    if let [turn] = &mut turns[..] {
        return turn.try_for_each(|delta| take(0, delta?));
    }
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        for (index, turn) in turns.iter_mut().enumerate() {
            let sender = sender.clone();
            // A failed send means that another answer failed: this one is given up too.
            scope.spawn(move || turn.all(|delta| sender.send((index, delta)).is_ok()));
        }
        drop(sender);
        let mut deltas = receiver.into_iter();
        deltas.try_for_each(|(index, delta)| take(index, delta?))
    })
}

fn stream<T: Teller>(
    server: &Arc<Server>,
    exchange: Exchange,
    mut headers: Headers,
    mut question: Question<T>,
    turns: Vec<Turn>,
) {
    headers.push(("Cache-Control", "no-cache".into()));
    let Ok(mut chunks) = exchange.stream(200, EVENTS, &headers) else {
        return; // The client has left.
    };
    let usage = turns.first().map(Turn::usage).unwrap_or_default();
    let (asked, teller) = (&question.asked, &mut question.teller);
    let told = send(&mut chunks, &teller.open(&usage)).and_then(|()| {
        each(turns, &mut |index, delta| {
            let events = teller.tell(index, answer::shown(server, asked, delta));
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

/// An id that no other answer has.
pub fn random_id() -> String {
    let mut bytes = [0; 12];
    // Without random bytes ids repeat; nothing else depends on them.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unix seconds.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
