//! Generated text to pieces: thinking, text for the user, calls of functions.

use std::sync::Arc;

use super::channels::Channels;
use super::format::Format;
use super::literal::Stop;
use super::shape::{Body, Shape, eat};
use super::stop::overlap;
use super::think::{Split, Thinking};
use crate::message::{Tool, ToolCall};

/// Longest call that is waited for; what is longer is text.
const CALL_BYTES_MAX: usize = 1 << 20;

/// So much of a mark at the end of an answer that was cut is no text.
const CUT_MARK_BYTES: usize = 2;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Thinking.
    Thinking(String),
    /// Text for the user.
    Text(String),
    /// A whole call.
    Call(ToolCall),
}

/// Reads one answer.
pub struct Reader {
    format: Arc<Format>,
    tools: Vec<Tool>,
    thinking: Thinking,
    channels: Option<Channels>,
    state: State,
    held: String,
    /// Whether the mark before the content was looked for.
    begun: bool,
    /// Whether the answer has ended before it was whole.
    cut: bool,
}

/// Where the reader is in the text behind thinking.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Before anything but white space.
    Start,
    /// In text.
    Text,
    /// Behind a mark that calls follow; so many were read.
    Calls(usize),
}

/// True if what looks like a call has a mark that tells it from text.
fn marked(shape: &Shape, text: &str) -> bool {
    !shape.trigger().is_empty() && text.trim_start().starts_with(shape.trigger())
}

impl Reader {
    /// A reader for the answer to `prompt`. Calls are looked for if there are tools.
    pub fn new(format: Arc<Format>, tools: &[Tool], prompt: &str) -> Self {
        Reader {
            thinking: Thinking::new(format.think.clone(), format.thought(prompt)),
            channels: format.channels.then(Channels::default),
            begun: format.content.0.is_empty(),
            cut: false,
            format,
            tools: tools.to_vec(),
            state: State::Start,
            held: String::new(),
        }
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        if let Some(channels) = &mut self.channels {
            return channels.push(text);
        }
        let split = self.thinking.push(text);
        self.split(split, false)
    }

    /// The end: what was held back is decided. Of an answer that was cut, a call and a mark that
    /// were begun are dropped.
    pub fn finish(&mut self, cut: bool) -> Vec<Piece> {
        self.cut = cut;
        if let Some(channels) = &mut self.channels {
            return channels.finish();
        }
        let split = self.thinking.finish();
        self.split(split, true)
    }

    fn split(&mut self, split: Split, ended: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if !split.thinking.is_empty() {
            pieces.push(Piece::Thinking(split.thinking));
        }
        self.held.push_str(&split.answer);
        while self.step(&mut pieces, ended) {}
        pieces.retain(|piece| !matches!(piece, Piece::Text(text) if text.is_empty()));
        pieces
    }

    /// One change of state; false if more text is needed, or all is said.
    fn step(&mut self, pieces: &mut Vec<Piece>, ended: bool) -> bool {
        if !self.begun {
            match eat(&self.held, &self.format.content.0) {
                Ok(((), used)) => self.held = self.held[used..].to_string(),
                Err(Stop::More) if !ended => return false,
                Err(_) => {}
            }
            self.begun = true;
        }
        let format = self.format.clone();
        let Some(shape) = format.calls.as_ref().filter(|_| !self.tools.is_empty()) else {
            return self.text(pieces, &[], ended);
        };
        match self.state {
            State::Start if shape.trigger().is_empty() => self.bare(shape, ended),
            State::Start | State::Text => {
                let mut triggers: Vec<&str> = format.triggers.iter().map(String::as_str).collect();
                triggers.push(shape.trigger());
                triggers.retain(|trigger| !trigger.is_empty());
                self.text(pieces, &triggers, ended)
            }
            State::Calls(read) => self.call(shape, read, pieces, ended),
        }
    }

    /// Calls without a mark stand at the very start of an answer.
    fn bare(&mut self, shape: &Shape, ended: bool) -> bool {
        let start = self.held.trim_start();
        let python = matches!(shape.body, Body::Python);
        let named = |tool: &Tool| {
            !start.is_empty() && (start.starts_with(&tool.name) || tool.name.starts_with(start))
        };
        match start.chars().next() {
            None if !ended => return false,
            _ if matches!(shape.body, Body::Named { .. }) && self.tools.iter().any(named) => {
                self.state = State::Calls(0);
            }
            Some('[') => self.state = State::Calls(0),
            Some('{') if !python => self.state = State::Calls(0),
            _ => self.state = State::Text,
        }
        true
    }

    /// Hands text on up to the next trigger, and to the mark that closes it.
    fn text(&mut self, pieces: &mut Vec<Piece>, triggers: &[&str], ended: bool) -> bool {
        let found = triggers
            .iter()
            .filter_map(|trigger| self.held.find(trigger))
            .min();
        if let Some(at) = found {
            // White space before a call goes with it, and is text again if it is none.
            let said = self.held[..at].trim_end().len();
            let rest = self.held.split_off(said);
            let text = std::mem::replace(&mut self.held, rest);
            pieces.push(Piece::Text(self.unclosed(&text)));
            self.state = State::Calls(0);
            return true;
        }
        let close = self.format.content.1.clone();
        let mut keep = triggers
            .iter()
            .map(|trigger| overlap(&self.held, trigger))
            .max()
            .unwrap_or(0);
        if !close.is_empty() {
            keep = keep.max(overlap(&self.held, &close));
        }
        let mut sure = self.held.len() - keep;
        if !triggers.is_empty() || !close.is_empty() {
            // White space before a mark belongs to it.
            sure = self.held[..sure].trim_end().len();
        }
        let sure = match (ended, self.cut && keep >= CUT_MARK_BYTES) {
            (true, true) => {
                self.held.truncate(self.held.len() - keep);
                self.held.len()
            }
            (true, false) => self.held.len(),
            (false, _) => sure,
        };
        let rest = self.held.split_off(sure);
        let text = std::mem::replace(&mut self.held, rest);
        pieces.push(Piece::Text(self.unclosed(&text)));
        if self.state == State::Start && !text.trim().is_empty() {
            self.state = State::Text;
        }
        false
    }

    fn unclosed(&self, text: &str) -> String {
        let close = self.format.content.1.as_str();
        match close.is_empty() {
            true => text.to_string(),
            false => text.replace(close, ""),
        }
    }

    /// Reads the next call behind its lead.
    fn call(&mut self, shape: &Shape, read: usize, pieces: &mut Vec<Piece>, ended: bool) -> bool {
        let mut rest = self.held.as_str();
        if read > 0 {
            rest = behind_closes(rest, shape);
            if rest.trim().is_empty() {
                if ended {
                    self.held.clear();
                }
                return false;
            }
            if shape
                .closes()
                .any(|close| eat(rest, close) == Err(Stop::More))
            {
                if ended {
                    self.held.clear(); // A mark that was cut is no text.
                }
                return false;
            }
        }
        let lead = self.lead(rest, shape, read);
        let found = lead.and_then(|lead| {
            shape
                .call(&rest[lead..], &self.tools)
                .map(|(call, used)| (call, lead + used))
        });
        match found {
            Ok((call, used)) => {
                self.held = rest[used..].to_string();
                pieces.push(Piece::Call(call));
                self.state = State::Calls(read + 1);
                true
            }
            Err(Stop::More) if !ended && self.held.len() < CALL_BYTES_MAX => false,
            Err(Stop::More) if self.cut && marked(shape, rest) => {
                self.held.clear();
                false
            }
            Err(_) if read > 0 => {
                // Behind a call comes text again, or another mark.
                let rest = rest.trim_start().to_string();
                self.held = rest;
                self.state = State::Text;
                let again = self
                    .format
                    .triggers
                    .iter()
                    .map(String::as_str)
                    .chain([shape.trigger()]);
                let looks = again
                    .filter(|mark| !mark.is_empty())
                    .any(|mark| self.held.starts_with(mark));
                !looks || self.skip_mark(pieces)
            }
            Err(_) => self.skip_mark(pieces),
        }
    }

    /// What only looked like a call is text: its first character is handed on, so that the search
    /// goes on behind it.
    fn skip_mark(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let first = self.held.chars().next().map_or(0, char::len_utf8);
        let rest = self.held.split_off(first);
        let text = std::mem::replace(&mut self.held, rest);
        let more = !text.is_empty();
        pieces.push(Piece::Text(text));
        self.state = State::Text;
        more
    }

    /// Length of the lead at the start of `rest`.
    fn lead(&self, rest: &str, shape: &Shape, read: usize) -> Result<usize, Stop> {
        let mut leads = vec![shape.lead.as_str()];
        if read > 0 {
            leads.insert(0, &shape.again);
        }
        leads.extend(self.format.triggers.iter().map(String::as_str));
        let mut outcome = Err(Stop::Never);
        for lead in leads {
            // An array of calls may open behind any lead.
            match eat(rest, lead) {
                Ok(((), used))
                    if !lead.is_empty()
                        || read > 0
                        || matches!(shape.body, Body::Named { .. })
                        || rest.trim_start().starts_with(['[', '{']) =>
                {
                    return Ok(used);
                }
                Ok(_) => {}
                Err(Stop::More) => outcome = Err(Stop::More),
                Err(Stop::Never) => {}
            }
        }
        outcome
    }
}

/// What follows the marks and signs that close calls.
fn behind_closes<'a>(mut text: &'a str, shape: &Shape) -> &'a str {
    loop {
        let before = text.len();
        text = text.trim_start_matches(|c: char| c.is_whitespace() || matches!(c, ']' | ',' | ';'));
        for close in shape.closes() {
            if let Ok(((), used)) = eat(text, close)
                && used > 0
            {
                text = &text[used..];
            }
        }
        if text.len() == before {
            return text;
        }
    }
}
