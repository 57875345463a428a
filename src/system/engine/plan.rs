//! The fixed choices of one worker: sizes of slices and batches, and what it may do.

use llama_cpp_2::token::LlamaToken;

use super::tune::{DraftCost, Slices};

/// The settings of a context, the same for all its jobs.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Most tokens of one prompt and answer.
    pub tokens_max: usize,
    /// Answers computed at once.
    pub sequences: usize,
    /// Tokens of prompts in one decode.
    pub slices: Slices,
    /// Most tokens of one decode.
    pub batch_tokens: usize,
    /// Most tokens of a decode whose logits are, to the bit, those that each would have alone.
    pub alike_tokens: usize,
    /// The token that answers start with, for a model with an encoder.
    pub answer_start: Option<LlamaToken>,
    /// The cost of drafts; `None`: nothing is drafted.
    pub draft_cost: Option<DraftCost>,
    /// True if the context serves only its first job.
    pub once: bool,
    /// True if no earlier computation may be reused.
    pub deterministic: bool,
    /// Most anonymous memory of the process, and how to read it, both in bytes.
    pub memory_max: Option<(u64, fn() -> u64)>,
}
