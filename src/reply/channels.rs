//! Answers in channels: `<|channel|>analysis<|message|>…<|end|>`, as the harmony format has them.
//! A message with a recipient is a call.

use super::Piece;
use super::stop::overlap;
use crate::message::ToolCall;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const ENDS: [&str; 4] = ["<|end|>", "<|call|>", "<|return|>", START];

/// Every mark of the format.
pub const MARKS: &[&str] = &[
    START,
    CHANNEL,
    MESSAGE,
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
];

/// What opens a thought, and what ends it and begins the answer, or whatever comes behind it.
pub fn channel_thought(anything: bool) -> (&'static str, &'static str) {
    let close = match anything {
        true => "<|end|><|start|>assistant",
        false => "<|end|><|start|>assistant<|channel|>final<|message|>",
    };
    ("<|channel|>analysis<|message|>", close)
}

/// Reads a stream of messages.
#[derive(Debug, Default)]
pub struct Channels {
    held: String,
    body: Option<Body>,
}

#[derive(Debug)]
enum Body {
    Thinking,
    Text,
    Call(String, String),
}

impl Channels {
    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        self.held.push_str(text);
        let mut pieces = Vec::new();
        while self.step(&mut pieces) {}
        pieces
    }

    /// The end. A call that was not closed counts if its arguments are whole.
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
            .filter_map(|mark| Some((self.held.find(mark)?, *mark)))
            .min();
        if let Some((at, mark)) = end {
            let body = add(body, &self.held[..at], pieces);
            close(body, pieces);
            self.held = self.held[at + mark.len()..].to_string();
            return true;
        }
        let keep = ENDS
            .iter()
            .map(|mark| overlap(&self.held, mark))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        let sure = std::mem::replace(&mut self.held, rest);
        self.body = Some(add(body, &sure, pieces));
        false
    }

    /// What stands before a message's text: its channel and recipient.
    fn header(&mut self) -> bool {
        // A model that writes no header at all writes plain text.
        let plain = self.held.trim_start();
        let marks = [START, CHANNEL, "assistant", "to="];
        let begins = marks
            .iter()
            .any(|mark| mark.starts_with(plain) || plain.starts_with(mark));
        if !begins {
            self.body = Some(Body::Text);
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
            Some(name) => Body::Call(
                name.strip_prefix("functions.").unwrap_or(name).to_string(),
                String::new(),
            ),
            None if channel.starts_with("analysis") => Body::Thinking,
            None => Body::Text,
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

fn add(body: Body, more: &str, pieces: &mut Vec<Piece>) -> Body {
    match body {
        Body::Call(name, arguments) => return Body::Call(name, arguments + more),
        Body::Thinking if !more.is_empty() => pieces.push(Piece::Thinking(more.to_string())),
        Body::Text => text(more.to_string(), pieces),
        Body::Thinking => {}
    }
    body
}

fn close(body: Body, pieces: &mut Vec<Piece>) {
    let Body::Call(name, arguments) = body else {
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
