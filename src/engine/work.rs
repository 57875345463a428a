//! A job under way: its prompt, what was generated so far, and the events that its listener gets.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use super::prefix::Offer;
use super::{Event, Job};
use crate::error::Error;
use crate::message::{Logprob, Reason};

/// A job under way: its prompt and what was generated so far.
pub struct Work {
    /// Prompt and answer.
    pub tokens: Vec<LlamaToken>,
    /// How many of them are the prompt.
    pub prompt_tokens: usize,
    /// How many needed no computation when it was admitted.
    pub kept_tokens: usize,
    /// Tokens generated.
    pub answer_tokens: usize,
    /// Tokens that were dropped because the context was full.
    pub dropped_tokens: usize,
    /// Where the memory is to be marked on the way through the prompt.
    pub marks: Vec<usize>,
    /// A beginning of the prompt that somebody keeps.
    pub offer: Option<Offer>,
    /// The sampler, once the job was admitted.
    pub sampler: Option<LlamaSampler>,
    /// What was asked for.
    pub job: Job,
    events: SyncSender<Event>,
    outbox: VecDeque<Event>,
    stalled_since: Option<Instant>,
    gone: bool,
    ended: bool,
    admitted_at: Option<Instant>,
    first_token_at: Option<Instant>,
}

impl Work {
    /// Takes over a submitted job.
    pub fn new(job: Job, events: SyncSender<Event>) -> Self {
        let tokens: Vec<LlamaToken> = job.prompt.iter().map(|id| LlamaToken(*id)).collect();
        Work {
            prompt_tokens: tokens.len(),
            kept_tokens: 0,
            answer_tokens: 0,
            dropped_tokens: 0,
            marks: Vec::new(),
            offer: None,
            tokens,
            sampler: None,
            job,
            events,
            outbox: VecDeque::new(),
            stalled_since: None,
            gone: false,
            ended: false,
            admitted_at: None,
            first_token_at: None,
        }
    }

    /// Notes that the prompt's computation begins; only the first time counts.
    pub fn admit(&mut self, cached_tokens: usize) {
        self.kept_tokens = cached_tokens;
        if self.admitted_at.is_none() {
            self.admitted_at = Some(Instant::now());
            self.send(Event::Admitted { cached_tokens });
        }
    }

    /// How long each of so many tokens of its prompt took, in microseconds, if it is computed just now.
    pub fn pace_us(&self, tokens: usize) -> f32 {
        let elapsed = self.admitted_at.map_or(Duration::ZERO, |at| at.elapsed());
        elapsed.as_micros() as f32 / tokens.max(1) as f32
    }

    /// Takes a generated token.
    pub fn push(&mut self, token: LlamaToken, bytes: Vec<u8>, likely: Option<Logprob>) {
        self.answered();
        self.answer_tokens += 1;
        self.tokens.push(token);
        self.send(Event::Token {
            id: token.0,
            bytes,
            likely,
        });
    }

    /// Notes that the first token was chosen.
    pub fn answered(&mut self) {
        self.first_token_at.get_or_insert_with(Instant::now);
    }

    /// Reports the end.
    pub fn end(&mut self, reason: Reason) {
        self.ended = true;
        let now = Instant::now();
        let first = self.first_token_at.unwrap_or(now);
        let prompt = self
            .admitted_at
            .map_or(Duration::ZERO, |admitted| first - admitted);
        self.send(Event::End {
            reason,
            prompt,
            answer: now - first,
            dropped_tokens: self.dropped_tokens,
        });
    }

    /// Reports that the answer cannot go on.
    pub fn fail(&mut self, error: Error) {
        self.ended = true;
        self.send(Event::Failed(error));
    }

    /// True if it can go on: it has not ended, and its listener keeps up.
    pub fn is_open(&self) -> bool {
        self.outbox.is_empty() && !self.ended
    }

    /// Sends an event, or keeps it until the listener has room. Never blocks.
    pub fn send(&mut self, event: Event) {
        self.outbox.push_back(event);
        self.flush();
    }

    /// Sends what could not be sent before.
    pub fn flush(&mut self) {
        while let Some(event) = self.outbox.pop_front() {
            match self.events.try_send(event) {
                Ok(()) => self.stalled_since = None,
                Err(TrySendError::Full(event)) => {
                    self.outbox.push_front(event);
                    self.stalled_since.get_or_insert_with(Instant::now);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    self.gone = true;
                    self.outbox.clear();
                }
            }
        }
    }

    /// Drops the older half of its tokens behind the first `keep`. What is left is computed anew.
    pub fn shift(&mut self, keep: usize) {
        let keep = keep.min(self.tokens.len());
        let dropped = (self.tokens.len() - keep) / 2;
        self.tokens.drain(keep..keep + dropped);
        self.prompt_tokens = self.prompt_tokens.min(self.tokens.len());
        self.dropped_tokens += dropped;
        self.marks.clear();
    }

    /// True if the answer has ended, whether or not its listener knows.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// True if the answer has ended and its listener has every event.
    pub fn is_delivered(&self) -> bool {
        self.ended && self.outbox.is_empty()
    }

    /// True if nobody wants this job any more.
    pub fn is_cancelled(&self) -> bool {
        self.gone
            || self.job.cancel.load(Ordering::Relaxed)
            || self
                .stalled_since
                .zip(self.job.patience)
                .is_some_and(|(since, patience)| since.elapsed() > patience)
    }
}
