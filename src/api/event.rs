//! What every dialect makes of an answer: the events of a stream, or one whole record.

use serde_json::Value as Json;

use crate::error::Error;
use crate::message::{Delta, Usage};

/// An event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name, in dialects that have names.
    pub name: Option<&'static str>,
    /// Its data.
    pub data: Json,
}

impl Event {
    /// An event without a name.
    pub fn new(data: Json) -> Self {
        Event { name: None, data }
    }

    /// An event with a name, which its data repeats as `type`.
    pub fn named(name: &'static str, mut data: Json) -> Self {
        data["type"] = name.into();
        Event {
            name: Some(name),
            data,
        }
    }
}

/// Adds to a text in place: an answer grows by many small pieces.
pub fn append(text: &mut Json, more: &str) {
    match text {
        Json::String(text) => text.push_str(more),
        other => *other = more.into(),
    }
}

/// Who tells an answer in a dialect.
pub trait Teller {
    /// Events that go out as soon as the request is accepted.
    /// The usage holds what is known by then: the prompt's tokens.
    fn open(&mut self, usage: &Usage) -> Vec<Event>;

    /// Events of a piece of choice `index` of the answer.
    fn tell(&mut self, index: usize, delta: Delta) -> Vec<Event>;

    /// Events that end a stream in which something broke.
    fn fail(&mut self, error: &Error) -> Vec<Event>;

    /// The whole answer, once everything was told.
    fn whole(&mut self) -> Json;

    /// What stands behind the last event, in dialects that have it.
    fn end(&self) -> &'static str {
        ""
    }
}
