//! Splits generated text into pieces: thinking, text for the user, tool calls.

pub use super::piece::Piece;

use std::sync::Arc;

use super::channels::Channels;
use super::format::Format;
use super::literal::Stop;
use super::stop::overlap;
use super::thinking::{Split, Thinking};
use super::tool_syntax::{CallBody, ToolSyntax, eat};
use crate::core::message::Tool;

/// Maximum bytes to hold back for a call; a longer one is text.
const CALL_BYTES_MAX: usize = 1 << 20;

/// A partial marker of at least this many bytes is dropped at the end of an answer that was cut off.
const CUT_TAG_BYTES: usize = 2;

/// Parses one answer.
pub struct Reader {
    format: Arc<Format>,
    tools: Vec<Tool>,
    thinking: Thinking,
    channels: Option<Channels>,
    state: State,
    held: String,
    /// True once the marker before the content was looked for.
    begun: bool,
    /// True if the answer was cut off before its end.
    cut: bool,
}

/// The state of the reader in the text after thinking.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Only white space so far.
    Start,
    /// In text.
    Text,
    /// Behind a marker that precedes calls; the number of calls read so far.
    Calls(usize),
}

/// True if an apparent call starts with a marker that distinguishes it from text.
fn starts_call(shape: &ToolSyntax, text: &str) -> bool {
    !shape.trigger().is_empty() && text.trim_start().starts_with(shape.trigger())
}

impl Reader {
    /// A reader for the answer to `prompt`. Calls are parsed only if there are tools.
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

    /// Reads more text.
    pub fn push(&mut self, text: &str) -> Vec<Piece> {
        if let Some(channels) = &mut self.channels {
            return channels.push(text);
        }
        let split = self.thinking.push(text);
        self.split(split, false)
    }

    /// Ends the answer and decides what was held back. If the answer was cut off, a partial call or marker
    /// is dropped.
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

    /// Makes one change of state; false if more text is needed or none is left.
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

    /// Decides whether calls follow: calls without a marker stand at the very start of an answer.
    fn bare(&mut self, shape: &ToolSyntax, ended: bool) -> bool {
        let start = self.held.trim_start();
        let python = matches!(shape.body, CallBody::Python);
        let named = |tool: &Tool| {
            !start.is_empty() && (start.starts_with(&tool.name) || tool.name.starts_with(start))
        };
        match start.chars().next() {
            None if !ended => return false,
            _ if matches!(shape.body, CallBody::Named { .. }) && self.tools.iter().any(named) => {
                self.state = State::Calls(0);
            }
            Some('[') => self.state = State::Calls(0),
            Some('{') if !python => self.state = State::Calls(0),
            _ => self.state = State::Text,
        }
        true
    }

    /// Emits text up to the next trigger, without the marker that closes the content.
    fn text(&mut self, pieces: &mut Vec<Piece>, triggers: &[&str], ended: bool) -> bool {
        let found = triggers
            .iter()
            .filter_map(|trigger| self.held.find(trigger))
            .min();
        if let Some(at) = found {
            // White space before a call belongs to the call, and is text if the call turns out to be text.
            let text_end = self.held[..at].trim_end().len();
            let rest = self.held.split_off(text_end);
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
            // White space before a marker belongs to the marker.
            sure = self.held[..sure].trim_end().len();
        }
        let sure = match (ended, self.cut && keep >= CUT_TAG_BYTES) {
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
        if close.is_empty() {
            text.to_string()
        } else {
            text.replace(close, "")
        }
    }

    /// Reads the next call after its lead.
    fn call(
        &mut self,
        shape: &ToolSyntax,
        read: usize,
        pieces: &mut Vec<Piece>,
        ended: bool,
    ) -> bool {
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
                    self.held.clear(); // A partial marker is not text.
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
            Err(Stop::More) if self.cut && starts_call(shape, rest) => {
                self.held.clear();
                false
            }
            Err(_) if read > 0 => {
                // Text or another marker follows a call.
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
                    .filter(|tag| !tag.is_empty())
                    .any(|tag| self.held.starts_with(tag));
                !looks || self.skip_tag(pieces)
            }
            Err(_) => self.skip_tag(pieces),
        }
    }

    /// Treats an apparent call as text: emits its first character, so that the search resumes after it.
    fn skip_tag(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let first = self.held.chars().next().map_or(0, char::len_utf8);
        let rest = self.held.split_off(first);
        let text = std::mem::replace(&mut self.held, rest);
        let more = !text.is_empty();
        pieces.push(Piece::Text(text));
        self.state = State::Text;
        more
    }

    /// Length of the lead at the start of `rest`.
    fn lead(&self, rest: &str, shape: &ToolSyntax, read: usize) -> Result<usize, Stop> {
        let mut leads = vec![shape.lead.as_str()];
        if read > 0 {
            leads.insert(0, &shape.next_lead);
        }
        leads.extend(self.format.triggers.iter().map(String::as_str));
        let mut outcome = Err(Stop::Never);
        for lead in leads {
            // An array of calls may open after any lead.
            match eat(rest, lead) {
                Ok(((), used))
                    if !lead.is_empty()
                        || read > 0
                        || matches!(shape.body, CallBody::Named { .. })
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

/// Returns the text after the markers and punctuation that close calls.
fn behind_closes<'a>(mut text: &'a str, shape: &ToolSyntax) -> &'a str {
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
