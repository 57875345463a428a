//! Parses answers in channels: `<|channel|>analysis<|message|>…<|end|>`, as in the harmony format.
//! A message with a recipient is a call.

use super::Piece;
use super::stop::overlap;
use crate::core::message::ToolCall;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 4] = ["<|end|>", "<|call|>", "<|return|>", START];

/// Every marker of the format.
pub const TAGS: &[&str] = &[
    START,
    CHANNEL,
    MESSAGE,
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];

/// Returns the text that opens thinking, and the text that ends it and opens the answer, or any message.
pub fn channel_thought(anything: bool) -> (&'static str, &'static str) {
    let close = if anything {
        "<|end|><|start|>assistant"
    } else {
        "<|end|><|start|>assistant<|channel|>final<|message|>"
    };
    ("<|channel|>analysis<|message|>", close)
}

/// Parses a stream of messages.
#[derive(Debug, Default)]
pub struct Channels {
    held: String,
    body: Option<CallBody>,
}

#[derive(Debug)]
enum CallBody {
    Thinking,
    Text,
    Call(String, String),
}

impl Channels {
    /// Reads more text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// Ends the stream. A call that was not closed counts if its arguments are complete.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let mut pieces = Vec::new();
        match self.body.take() {
            Some(body) => {
                let body = add(body, &held, &mut pieces);
                close(body, &mut pieces);
            }
            None if held.contains(CHANNEL) || held.contains(START) => {}
            None => text(held, &mut pieces),
        }
        pieces
    }

    fn step(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let Some(body) = self.body.take() else {
            return self.header();
        };
        let end = ENDS
            .iter()
            .filter_map(|tag| Some((self.held.find(tag)?, *tag)))
            .min();
        if let Some((at, tag)) = end {
            let body = add(body, &self.held[..at], pieces);
            close(body, pieces);
            self.held = self.held[at + tag.len()..].to_string();
            return true;
        }
        let keep = ENDS
            .iter()
            .map(|tag| overlap(&self.held, tag))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        let sure = std::mem::replace(&mut self.held, rest);
        self.body = Some(add(body, &sure, pieces));
        false
    }

    /// Reads the header of a message: its channel and recipient.
    fn header(&mut self) -> bool {
        // A model that writes no header writes plain text.
        let plain = self.held.trim_start();
        let tags = [START, CHANNEL, "assistant", "to="];
        let begins = tags
            .iter()
            .any(|tag| tag.starts_with(plain) || plain.starts_with(tag));
        if !begins {
            self.body = Some(CallBody::Text);
            return true;
        }
        let Some((header, rest)) = self.held.split_once(MESSAGE) else {
            return false;
        };
        let recipient = header.split_once("to=").map(|(_, rest)| rest);
        let recipient =
            recipient.and_then(|rest| rest.split(|c: char| c.is_whitespace() || c == '<').next());
        let channel = header
            .split_once(CHANNEL)
            .map_or("", |(_, rest)| rest.trim_start());
        self.body = Some(match recipient {
            Some(name) => CallBody::Call(
                name.strip_prefix("functions.").unwrap_or(name).to_string(),
                String::new(),
            ),
            None if channel.starts_with("analysis") => CallBody::Thinking,
            None => CallBody::Text,
        });
        self.held = rest.to_string();
        true
    }
}

fn text(text: String, pieces: &mut Vec<Piece>) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
}

fn add(body: CallBody, more: &str, pieces: &mut Vec<Piece>) -> CallBody {
    match body {
        CallBody::Call(name, arguments) => return CallBody::Call(name, arguments + more),
        CallBody::Thinking if !more.is_empty() => pieces.push(Piece::Thinking(more.to_string())),
        CallBody::Text => text(more.to_string(), pieces),
        CallBody::Thinking => {}
    }
    body
}

fn close(body: CallBody, pieces: &mut Vec<Piece>) {
    let CallBody::Call(name, arguments) = body else {
        return;
    };
    match serde_json::from_str::<serde_json::Value>(arguments.trim()) {
        Ok(json) if json.is_object() => {
            let arguments = json.to_string();
            pieces.push(Piece::Call(ToolCall {
                id: None,
                name,
                arguments,
            }));
        }
        _ => text(arguments, pieces),
    }
}
