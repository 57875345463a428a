//! The interface of the encoders of every API: events of a stream, or one complete record.

use serde_json::Value as Json;

use crate::core::error::Error;
use crate::core::message::{Delta, Usage};

/// An event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The event's name, in APIs that name events.
    pub name: Option<&'static str>,
    /// The event's data.
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

/// Appends to a JSON string in place, since an answer grows by many small pieces.
pub fn append(text: &mut Json, more: &str) {
    match text {
        Json::String(text) => text.push_str(more),
        other => *other = more.into(),
    }
}

/// Encodes an answer in the format of one API.
pub trait Encoder {
    /// Returns the events to send once the request is accepted. At that point the usage contains only
    /// the prompt's tokens.
    fn open(&mut self, usage: &Usage) -> Vec<Event>;

    /// Returns the events for the next delta of choice `index`.
    fn tell(&mut self, index: usize, delta: Delta) -> Vec<Event>;

    /// Returns the events that end a stream after an error.
    fn fail(&mut self, error: &Error) -> Vec<Event>;

    /// Returns the complete answer, after all deltas were encoded.
    fn whole(&mut self) -> Json;

    /// Returns the text after the last event; empty in APIs without one.
    fn end(&self) -> &'static str {
        ""
    }
}
