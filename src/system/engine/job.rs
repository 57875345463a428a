//! A job for an engine, and the events that come back from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use super::grammar::Guide;
use super::logprobs::Alternatives;
use super::sampler::Sampling;
use super::speculation::Drafts;
use super::thinking_budget::ThinkingBudget;
use crate::core::error::Error;
use crate::core::message::{Logprob, Reason};

/// One prompt to continue.
#[derive(Debug, Default)]
pub struct Job {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<i32>,
    /// Most tokens to generate.
    pub answer_tokens: usize,
    /// How to pick them.
    pub sampling: Sampling,
    /// Special tokens whose text belongs to the answer: thinking tags and tool-call syntax. Sorted.
    pub visible: Vec<i32>,
    /// Report the logprob of each token, and those of these tokens in its place.
    pub logprobs: Option<Alternatives>,
    /// The grammar that constrains the answer.
    pub guide: Option<Guide>,
    /// The thinking budget.
    pub thinking_budget: Option<ThinkingBudget>,
    /// Continue after an end-of-generation token.
    pub endless: bool,
    /// End an answer that goes round in circles.
    pub ends_loops: bool,
    /// Most tokens of prompt and answer, where a context that others need is longer; `None`: as the context holds.
    pub context_tokens: Option<usize>,
    /// When the context is full, keep this many tokens at its front, drop the older half of the rest and
    /// continue; `None`: the answer stops there.
    pub shift: Option<usize>,
    /// How long its reader may accept no event before the job is abandoned; `None`: forever.
    pub stall_timeout: Option<Duration>,
    /// The cancel flag; set it to stop the job early.
    pub cancel: Arc<AtomicBool>,
    /// How many tokens of the prompt are computed or were cached; the engine counts here.
    pub computed: Arc<AtomicUsize>,
}

/// The events of a job, in this order: `Admitted`, any number of `Token`, `End`; or `Failed`.
#[derive(Debug)]
pub enum Event {
    /// The prompt fits and its computation starts; some of its tokens may be cached.
    Admitted {
        /// Tokens that need no computation.
        cached_tokens: usize,
    },
    /// A token was generated. Its bytes may be a part of a character.
    Token {
        /// The token's id.
        id: i32,
        /// Its text.
        bytes: Vec<u8>,
        /// Its logprob, if requested.
        logprobs: Option<Logprob>,
    },
    /// The answer is complete.
    End {
        /// Why it stopped.
        reason: Reason,
        /// Time spent from admission to the first token.
        prompt: Duration,
        /// Time spent from the first token on.
        answer: Duration,
        /// Tokens that were dropped to continue with a full context.
        dropped_tokens: usize,
        /// Tokens that were guessed and computed in advance.
        drafts: Drafts,
    },
    /// The job stopped without an answer.
    Failed(Error),
}

/// A job and the channel for its events.
pub struct Submission {
    pub request: Job,
    pub events: SyncSender<Event>,
}
