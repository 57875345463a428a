//! An answer as it comes: the engine's tokens to deltas.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Promise, Prompt, Request, ToolChoice};
use crate::engine::{Answer, Event};
use crate::error::{Class, Error, Result};
use crate::message::{Delta, Finish, Reason, ToolCall, Usage};
use crate::options::Options;
use crate::pool::Lease;
use crate::reply::{Format, Piece, Reader, Stops, Utf8};

/// An answer as it comes. Dropping it cancels what is left.
pub struct Turn {
    answer: Answer,
    lease: Lease,
    utf8: Utf8,
    stops: Stops,
    /// Stop strings that the request named; others are the model's own.
    own_stops: Vec<String>,
    /// Tells thinking and calls from text; raw prompts have none.
    reader: Option<Reader>,
    promise: Promise,
    /// The text that was promised to look like something.
    promised: String,
    ready: VecDeque<Delta>,
    calls: usize,
    usage: Usage,
    context: Vec<i32>,
    started: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
    notes: Vec<&'static str>,
    failed: Option<Error>,
    done: bool,
}

/// An answer that the engine has begun.
pub(super) struct Begun {
    /// Its tokens.
    pub answer: Answer,
    /// Holds the engine.
    pub lease: Lease,
    /// Time until the model was loaded.
    pub load: Duration,
    /// Tokens of the prompt that needed no computation.
    pub cached_tokens: usize,
}

impl Turn {
    /// A turn whose prompt was just admitted.
    pub(super) fn new(
        request: &Request,
        prompt: Prompt,
        options: &Options,
        format: Option<Arc<Format>>,
        begun: Begun,
    ) -> Self {
        let usage = Usage {
            prompt_tokens: prompt.tokens.len(),
            cached_tokens: begun.cached_tokens,
            truncated_tokens: prompt.truncated_tokens,
            load: begun.load,
            ..Usage::default()
        };
        let own_stops = request.options.texts("stop").unwrap_or_default().to_vec();
        let mut stops = options.texts("stop").unwrap_or_default().to_vec();
        // What is held to a grammar ends by it: a mark in it is text.
        let free = request.promise == Promise::None;
        stops.extend(
            format
                .iter()
                .filter(|_| free)
                .flat_map(|format| format.ends.iter().cloned()),
        );
        // A grammar of the user's own says all that the answer holds.
        let format = format.filter(|_| !matches!(request.promise, Promise::Grammar(_)));
        let calls = free && request.tool_choice != ToolChoice::None;
        let tools = if calls { &request.tools[..] } else { &[] };
        Turn {
            answer: begun.answer,
            lease: begun.lease,
            utf8: Utf8::default(),
            stops: Stops::new(&stops),
            own_stops,
            reader: format.map(|format| Reader::new(format, tools, &prompt.text)),
            promise: request.promise.clone(),
            promised: String::new(),
            ready: VecDeque::new(),
            calls: 0,
            usage,
            context: prompt.tokens,
            started: request.started,
            admitted: Instant::now(),
            first_token: None,
            notes: prompt.notes,
            failed: None,
            done: false,
        }
    }

    /// Where the model computes.
    pub fn device(&self) -> String {
        let facts = self.lease.engine().facts();
        match facts.gpu_layers {
            0 => facts.device.clone(),
            layers => format!("{}, {layers} of {} layers", facts.device, facts.layers),
        }
    }

    /// What is known of the cost so far: the prompt's tokens.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// How the conversation was changed to suit the template.
    pub fn notes(&self) -> &[&'static str] {
        &self.notes
    }

    /// The next delta, if it came with the same token as the last one.
    pub fn next_of_token(&mut self) -> Option<Delta> {
        let same = |delta: &Delta| !matches!(delta, Delta::Logprob(_) | Delta::Finish(_));
        self.ready
            .front()
            .is_some_and(same)
            .then(|| self.ready.pop_front())?
    }

    fn step(&mut self) -> Result<()> {
        match self.answer.next()? {
            Event::Token { id, bytes, likely } => {
                self.ready.extend(likely.map(Delta::Logprob));
                self.first_token.get_or_insert_with(Instant::now);
                self.usage.answer_tokens += 1;
                self.context.push(id);
                let whole = self.utf8.push(&bytes);
                let (text, found) = self.stops.push(&whole);
                self.read(&text);
                if found {
                    let first = self.first_token.unwrap_or(self.admitted);
                    self.end(Reason::Stop, true, first - self.admitted, first.elapsed());
                }
                Ok(())
            }
            Event::End {
                reason,
                prompt,
                answer,
                dropped_tokens,
            } => {
                self.usage.shifted_tokens = dropped_tokens;
                let held = self.utf8.finish(reason == Reason::Length);
                let (text, found) = self.stops.push(&held);
                self.read(&text);
                if !found {
                    let rest = self.stops.finish();
                    self.read(&rest);
                }
                let reason = if found { Reason::Stop } else { reason };
                self.end(reason, found, prompt, answer);
                Ok(())
            }
            Event::Failed(error) => Err(error),
            Event::Admitted { .. } => Ok(()),
        }
    }

    fn read(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let pieces = match &mut self.reader {
            Some(reader) => reader.push(text),
            None => vec![Piece::Text(text.to_string())],
        };
        self.say(pieces);
    }

    fn say(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            let delta = match piece {
                Piece::Thinking(text) => Delta::Thinking(text),
                Piece::Text(text) => {
                    if self.promise != Promise::None {
                        self.promised.push_str(&text);
                    }
                    Delta::Text(text)
                }
                Piece::Call(call) => {
                    self.calls += 1;
                    Delta::Call {
                        index: self.calls - 1,
                        call: with_id(call),
                    }
                }
            };
            self.ready.push_back(delta);
        }
    }

    fn end(&mut self, reason: Reason, stopped: bool, prompt: Duration, answer: Duration) {
        let cut = reason == Reason::Length;
        let reader = self.reader.as_mut();
        let pieces = reader.map(|reader| reader.finish(cut)).unwrap_or_default();
        self.say(pieces);
        self.usage.prompt = prompt;
        self.usage.answer = answer;
        self.usage.total = self.started.elapsed();
        if reason == Reason::Stop
            && let Err(error) = self.promise.check(&self.promised)
        {
            // A stop string of the user's own may cut what was promised whole.
            self.failed = Some(match stopped {
                true => Error::plain(
                    Class::Cut,
                    "a stop string cut the answer before it was whole",
                ),
                false => error,
            });
            return;
        }
        self.ready.push_back(Delta::Finish(Box::new(Finish {
            reason,
            usage: self.usage,
            context: std::mem::take(&mut self.context),
            stop: self
                .stops
                .hit()
                .filter(|hit| self.own_stops.iter().any(|own| own == hit))
                .map(str::to_string),
        })));
    }
}

/// A call always has an id, so that its answer can name it.
fn with_id(call: ToolCall) -> ToolCall {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    if call.id.is_some() {
        return call;
    }
    let mut bytes = [0; 8];
    // Without random bytes ids repeat; nothing else depends on them.
    let _ = getrandom::fill(&mut bytes);
    let tail: String = bytes
        .iter()
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect();
    ToolCall {
        id: Some(format!("call_{tail}")),
        ..call
    }
}

impl Iterator for Turn {
    type Item = Result<Delta>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                self.done |= matches!(delta, Delta::Finish(_));
                return Some(Ok(delta));
            }
            if self.done {
                return None;
            }
            if let Some(error) = self.failed.take() {
                self.done = true;
                return Some(Err(error));
            }
            if let Err(error) = self.step() {
                self.done = true;
                return Some(Err(error));
            }
        }
    }
}
