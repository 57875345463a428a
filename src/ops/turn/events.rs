//! Turns the engine's tokens into the deltas of an answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::{Prompt, Request};
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Delta, Finish, Reason, ToolCall, Usage};
use crate::core::options::Options;
use crate::core::turn::{Input, OutputConstraint, ToolChoice};
use crate::format::reply::{Format, Piece, Reader, Stops, Utf8};
use crate::ops::pool::Lease;
use crate::system::engine::{Answer, Event};

/// An iterator over the deltas of an answer. Dropping it cancels the rest.
pub struct Turn {
    answer: Answer,
    lease: Lease,
    utf8: Utf8,
    stops: Stops,
    /// Stop strings given by the request; the others are the model's.
    own_stops: Vec<String>,
    /// Separates thinking and calls from text; `None` for raw prompts.
    reader: Option<Reader>,
    constraint: OutputConstraint,
    /// The text so far, to validate against the output constraint.
    constrained: String,
    ready: VecDeque<Delta>,
    calls: usize,
    /// The answer ends behind so many calls.
    calls_max: usize,
    usage: Usage,
    /// The tokens so far; `None` for a raw prompt, whose answer reports no context, as in the reference.
    context: Option<Vec<i32>>,
    started: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
    notes: Vec<&'static str>,
    computed: Arc<AtomicUsize>,
    failed: Option<Error>,
    done: bool,
}

/// An answer that the engine has started.
pub(super) struct Begun {
    /// The stream of its tokens.
    pub answer: Answer,
    /// Keeps the engine loaded.
    pub lease: Lease,
    /// Time until the model was loaded.
    pub load: Duration,
    /// Tokens of the prompt that the prefix cache supplied.
    pub cached_tokens: usize,
    /// Counts the tokens of the prompt that are computed.
    pub computed: Arc<AtomicUsize>,
}

/// How much of a prompt is computed.
#[derive(Debug, Clone)]
pub struct PromptProgress {
    computed: Arc<AtomicUsize>,
    cached: usize,
    total: usize,
}

impl PromptProgress {
    /// The share of the prompt's tokens that is there, and of those that were not cached.
    pub fn shares(&self) -> (f64, f64) {
        let there = self.computed.load(Ordering::Relaxed).max(self.cached);
        let of = |part: usize, all: usize| part as f64 / all.max(1) as f64;
        (
            of(there, self.total),
            of(there - self.cached, self.total.saturating_sub(self.cached)),
        )
    }
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
        let has_context = !matches!(request.input, Input::Raw(_));
        let own_stops = request
            .turn
            .options
            .texts("stop")
            .unwrap_or_default()
            .to_vec();
        let mut stops = options.texts("stop").unwrap_or_default().to_vec();
        // A grammar decides where the answer ends, so an end marker inside it is text.
        let free = request.turn.constraint == OutputConstraint::None;
        stops.extend(
            format
                .iter()
                .filter(|_| free)
                .flat_map(|format| format.ends.iter().cloned()),
        );
        // The user's grammar defines the entire answer, so it has no thinking and no calls.
        let format =
            format.filter(|_| !matches!(request.turn.constraint, OutputConstraint::Grammar(_)));
        // Calls without a text of their own before them cannot be told from an answer in JSON.
        let shape = format.as_ref().and_then(|format| format.calls.as_ref());
        let tells = shape.is_some_and(|shape| !shape.trigger().is_empty());
        let calls = (free || tells) && request.turn.tool_choice != ToolChoice::None;
        let tools = if calls { &request.turn.tools[..] } else { &[] };
        Turn {
            answer: begun.answer,
            lease: begun.lease,
            utf8: Utf8::default(),
            stops: Stops::new(&stops),
            own_stops,
            reader: format.map(|format| Reader::new(format, tools, &prompt.text)),
            constraint: request.turn.constraint.clone(),
            constrained: String::new(),
            ready: VecDeque::new(),
            calls: 0,
            calls_max: match request.turn.tool_choice {
                ToolChoice::Named(_) => 1,
                _ => request.turn.calls_max,
            },
            usage,
            context: has_context.then_some(prompt.tokens),
            started: request.started,
            admitted: Instant::now(),
            first_token: None,
            notes: prompt.notes,
            computed: begun.computed,
            failed: None,
            done: false,
        }
    }

    /// The device that computes, with the number of layers on the GPU.
    pub fn device(&self) -> String {
        let facts = self.lease.engine().facts();
        match facts.gpu_layers {
            0 => facts.device.clone(),
            layers => format!("{}, {layers} of {} layers", facts.device, facts.layers),
        }
    }

    /// True if the processor has its own copy of the weights, in another layout than the file's.
    pub fn copies_weights(&self) -> bool {
        self.lease.engine().facts().repacked
    }

    /// How much of the prompt is computed; it goes on changing.
    pub fn prompt_progress(&self) -> PromptProgress {
        PromptProgress {
            computed: self.computed.clone(),
            cached: self.usage.cached_tokens,
            total: self.usage.prompt_tokens,
        }
    }

    /// The usage so far: the prompt's tokens and the load time until the answer is finished.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// How the conversation was changed to fit the template.
    pub fn notes(&self) -> &[&'static str] {
        &self.notes
    }

    /// Waits until more of the answer is there, but not longer than this; false if nothing has come.
    pub fn wait(&self, most: Duration) -> bool {
        !self.ready.is_empty() || self.done || self.failed.is_some() || self.answer.wait(most)
    }

    /// Returns the next deltas that one token brought; a token without a logprob brings one at a time.
    pub fn next_token(&mut self) -> Option<Result<Vec<Delta>>> {
        let first = match self.next()? {
            Ok(delta) => delta,
            Err(error) => return Some(Err(error)),
        };
        let opens = matches!(first, Delta::Logprob(_));
        let same = |delta: &Delta| !matches!(delta, Delta::Logprob(_) | Delta::Finish(_));
        let mut deltas = vec![first];
        while opens && self.ready.front().is_some_and(same) {
            deltas.extend(self.ready.pop_front());
        }
        Some(Ok(deltas))
    }

    fn step(&mut self) -> Result<()> {
        match self.answer.next()? {
            Event::Token {
                id,
                bytes,
                logprobs,
            } => {
                self.ready.extend(logprobs.map(Delta::Logprob));
                self.first_token.get_or_insert_with(Instant::now);
                self.usage.answer_tokens += 1;
                self.context.iter_mut().for_each(|context| context.push(id));
                let whole = self.utf8.push(&bytes);
                let (text, found) = self.stops.push(&whole);
                self.read(&text);
                if found || self.calls == self.calls_max {
                    let first = self.first_token.unwrap_or(self.admitted);
                    self.end(Reason::Stop, found, first - self.admitted, first.elapsed());
                }
                Ok(())
            }
            Event::End {
                reason,
                prompt,
                answer,
                dropped_tokens,
                drafts,
            } => {
                self.usage.shifted_tokens = dropped_tokens;
                self.usage.draft_tokens = drafts.computed;
                self.usage.draft_tokens_kept = drafts.kept;
                let held = self.utf8.finish(reason.is_cut());
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
        self.emit(pieces);
    }

    fn emit(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            let delta = match piece {
                Piece::Thinking(text) => Delta::Thinking(text),
                Piece::Text(text) => {
                    if self.constraint != OutputConstraint::None {
                        self.constrained.push_str(&text);
                    }
                    Delta::Text(text)
                }
                Piece::Call(_) if self.calls == self.calls_max => continue,
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
        let reader = self.reader.as_mut();
        let pieces = reader
            .map(|reader| reader.finish(reason.is_cut()))
            .unwrap_or_default();
        self.emit(pieces);
        self.usage.prompt = prompt;
        self.usage.answer = answer;
        self.usage.total = self.started.elapsed();
        // An answer may be a call in place of what the constraint describes.
        if reason == Reason::Stop
            && self.calls == 0
            && let Err(error) = super::output_constraint::check(&self.constraint, &self.constrained)
        {
            // The user's stop string may have cut constrained output.
            self.failed = Some(if stopped {
                Error::plain(
                    Class::Cut,
                    "a stop string cut the answer before it was complete",
                )
            } else {
                error
            });
            return;
        }
        self.ready.push_back(Delta::Finish(Box::new(Finish {
            reason,
            usage: self.usage,
            context: self.context.take().unwrap_or_default(),
            stop: self
                .stops
                .hit()
                .filter(|hit| self.own_stops.iter().any(|own| own == hit))
                .map(str::to_string),
        })));
    }
}

/// Gives a call without an id a random one, so that its result can refer to it.
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
