//! The interface of the encoders of every API: the events of a stream, or one complete record.

use serde_json::{Value as Json, json};

use crate::core::error::Error;
use crate::core::message::{Delta, Finish, Reason, Usage};

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

/// How the events of a stream are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Server-sent events; the stream opens once the request is accepted.
    Sse,
    /// Newline-delimited JSON; the stream opens with its first record, so that an earlier error still has its
    /// own HTTP status.
    Lines,
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
    /// How a stream of this API is sent.
    fn framing(&self) -> Framing {
        Framing::Sse
    }

    /// Returns the events to send once the request is accepted. At that point the usage contains only
    /// the prompt's tokens.
    fn open(&mut self, usage: &Usage) -> Vec<Event>;

    /// Returns the events for the next delta of choice `index`.
    fn encode(&mut self, index: usize, delta: Delta) -> Vec<Event>;

    /// Returns the events for all deltas that one token brought; an API with one record a token overrides it.
    fn encode_token(&mut self, index: usize, deltas: Vec<Delta>) -> Vec<Event> {
        let events = deltas
            .into_iter()
            .flat_map(|delta| self.encode(index, delta));
        events.collect()
    }

    /// Returns an event that says nothing, for a long wait; `None` in APIs whose clients expect only a comment.
    fn beat(&mut self) -> Option<Event> {
        None
    }

    /// Returns the events that end a stream after an error.
    fn fail(&mut self, error: &Error) -> Vec<Event>;

    /// Returns the complete answer, after all deltas were encoded.
    fn complete(&mut self) -> Json;

    /// Returns the text after the last event; empty in APIs without one.
    fn end(&self) -> &'static str {
        ""
    }

    /// Returns the events of a request without an input, which only loaded or unloaded the model: an empty
    /// answer. `reason` is `load` or `unload`.
    fn loaded(&mut self, _reason: &'static str) -> Vec<Event> {
        let mut events = self.open(&Usage::default());
        let finish = Finish {
            reason: Reason::Stop,
            usage: Usage::default(),
            context: Vec::new(),
            stop: None,
        };
        events.extend(self.encode(0, Delta::Finish(Box::new(finish))));
        events
    }

    /// Returns the answer to a request for its rendered prompt, of which so many tokens were dropped.
    fn rendered(&mut self, prompt: String, truncated_tokens: usize) -> Json {
        let mut info = json!({ "rendered_template": prompt, "image_count": 0 });
        if truncated_tokens > 0 {
            info["prompt_truncated_count"] = truncated_tokens.into();
        }
        json!({ "_debug_info": info })
    }
}
