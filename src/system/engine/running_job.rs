//! A running job: its prompt, what was generated so far, and the events for its reader.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use super::prefix::{Candidate, Prefixes, TOKENS_MIN};
use super::repetition;
use super::speculation::Speculation;
use super::{Event, Job};
use crate::core::error::Error;
use crate::core::message::{Logprob, Reason};

/// A running job: its prompt and what was generated so far.
pub struct RunningJob {
    /// Prompt and answer.
    pub tokens: Vec<LlamaToken>,
    /// How many tokens are the prompt's.
    pub prompt_tokens: usize,
    /// Tokens that needed no computation when it was admitted.
    pub cached_tokens: usize,
    /// Tokens generated.
    pub answer_tokens: usize,
    /// Tokens that were dropped because the context was full.
    pub dropped_tokens: usize,
    /// The positions in the prompt at which to take checkpoints.
    pub checkpoints: Vec<usize>,
    /// A candidate from the prefix cache.
    pub candidate: Option<Candidate>,
    /// The sampler, once the job was admitted.
    pub sampler: Option<LlamaSampler>,
    /// Guesses of its next tokens.
    pub speculation: Speculation,
    /// The job as submitted.
    pub request: Job,
    events: SyncSender<Event>,
    outbox: VecDeque<Event>,
    stalled_since: Option<Instant>,
    gone: bool,
    ended: bool,
    admitted_at: Option<Instant>,
    first_token_at: Option<Instant>,
}

impl RunningJob {
    /// Looks in the prefix cache for a beginning of this job's prompt. `window` is how many tokens the memory of
    /// a sequence can hold and still be cut anywhere.
    pub fn look_up_prefix(&mut self, prefixes: Option<&dyn Prefixes>, window: usize) {
        let prompt = &self.request.prompt;
        let prefixes = prefixes.filter(|_| prompt.len() > TOKENS_MIN);
        // The last token is always computed.
        self.candidate =
            prefixes.and_then(|prefixes| prefixes.best(&prompt[..prompt.len() - 1], window));
    }

    /// Takes over a submitted job.
    pub fn new(job: Job, events: SyncSender<Event>) -> Self {
        let tokens: Vec<LlamaToken> = job.prompt.iter().map(|id| LlamaToken(*id)).collect();
        RunningJob {
            prompt_tokens: tokens.len(),
            cached_tokens: 0,
            answer_tokens: 0,
            dropped_tokens: 0,
            checkpoints: Vec::new(),
            candidate: None,
            tokens,
            sampler: None,
            speculation: Speculation::default(),
            request: job,
            events,
            outbox: VecDeque::new(),
            stalled_since: None,
            gone: false,
            ended: false,
            admitted_at: None,
            first_token_at: None,
        }
    }

    /// Records that the prompt's computation starts; only the first call counts.
    pub fn admit(&mut self, cached_tokens: usize) {
        self.cached_tokens = cached_tokens;
        if self.admitted_at.is_none() {
            self.admitted_at = Some(Instant::now());
            self.send(Event::Admitted { cached_tokens });
        }
    }

    /// Time per token since admission, in microseconds, if this many tokens were computed up to now.
    pub fn pace_us(&self, tokens: usize) -> f32 {
        let elapsed = self.admitted_at.map_or(Duration::ZERO, |at| at.elapsed());
        elapsed.as_micros() as f32 / tokens.max(1) as f32
    }

    /// Adds a generated token.
    pub fn push(&mut self, token: LlamaToken, bytes: Vec<u8>, logprobs: Option<Logprob>) {
        self.answered();
        self.answer_tokens += 1;
        self.tokens.push(token);
        self.send(Event::Token {
            id: token.0,
            bytes,
            logprobs,
        });
    }

    /// The limit that its answer has reached.
    pub fn limit(&self) -> Option<Reason> {
        let start = self.tokens.len().saturating_sub(self.answer_tokens);
        if self.answer_tokens >= self.request.answer_tokens {
            Some(Reason::Length)
        } else if self.request.ends_loops && repetition::is_loop(&self.tokens[start..]) {
            Some(Reason::Repetition)
        } else {
            None
        }
    }

    /// Records that the first token was chosen.
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
            drafts: self.speculation.drafts,
        });
    }

    /// Reports that the answer failed.
    pub fn fail(&mut self, error: Error) {
        self.ended = true;
        self.send(Event::Failed(error));
    }

    /// True if it can continue: it has not stopped, and its reader keeps up.
    pub fn is_open(&self) -> bool {
        self.outbox.is_empty() && !self.ended
    }

    /// Sends an event, or queues it until the reader has room. Never blocks.
    pub fn send(&mut self, event: Event) {
        self.outbox.push_back(event);
        self.flush();
    }

    /// Sends the queued events, as far as the reader has room.
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

    /// Drops the older half of its tokens after the first `keep`. The rest is computed again.
    pub fn shift(&mut self, keep: usize) {
        let keep = keep.min(self.tokens.len());
        let dropped = (self.tokens.len() - keep) / 2;
        self.tokens.drain(keep..keep + dropped);
        self.prompt_tokens = self.prompt_tokens.min(self.tokens.len());
        self.dropped_tokens += dropped;
        self.checkpoints.clear();
    }

    /// True if the answer has stopped, whether or not its reader knows.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// True if the answer has stopped and every event was sent.
    pub fn is_delivered(&self) -> bool {
        self.ended && self.outbox.is_empty()
    }

    /// True if the job was cancelled, its reader has gone, or the reader stalled too long.
    pub fn is_cancelled(&self) -> bool {
        self.gone
            || self.request.cancel.load(Ordering::Relaxed)
            || self
                .stalled_since
                .zip(self.request.stall_timeout)
                .is_some_and(|(since, stall_timeout)| since.elapsed() > stall_timeout)
    }
}
