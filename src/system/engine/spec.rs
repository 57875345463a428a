//! How an engine is loaded, and what it then reports of itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::memory::Need;
use super::prefix::Prefixes;
use super::repack::Processor;
use super::tune::{Attention, Slices};

/// Jobs that may wait in the queue of one engine; the pool limits requests long before.
pub const JOBS_MAX: usize = 1024;

/// The size of a context to create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Context {
    /// As much as the first job needs, and no more.
    FirstJob,
    /// For `sequences` answers at once of up to `tokens` each, sharing `cells`.
    Shared {
        /// Most tokens of one prompt and its answer.
        tokens: u32,
        /// Answers computed at once.
        sequences: u32,
        /// Cells of the cache, shared by all.
        cells: u32,
    },
    /// For texts to embed.
    Texts {
        /// Most tokens of one text.
        tokens: u32,
        /// Most tokens of one decode; at least `tokens`.
        batch: u32,
    },
}

/// The load spec: which model to load, and how.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The GGUF file.
    pub path: PathBuf,
    /// Layers on the GPU; `None`: as many as fit.
    pub gpu_layers: Option<i32>,
    /// The GPU to prefer.
    pub main_gpu: Option<i32>,
    /// Map the file; `None` lets llama.cpp choose.
    pub mmap: Option<bool>,
    /// Keep the weights in memory: never swap them out.
    pub lock: bool,
    /// Proportions of the model for each GPU; empty: as it fits.
    pub tensor_split: Vec<f32>,
    /// A LoRA adapter's GGUF file, and its scale.
    pub adapter: Option<(PathBuf, f32)>,
    /// True if its vocabulary has no accents.
    pub strips_accents: bool,
    /// Threads to compute with.
    pub threads: usize,
    /// Copy weights into the processor's own layout when they are loaded.
    pub repack: bool,
    /// Guess tokens that repeat the text and compute them in advance.
    pub speculate: bool,
    /// The processor.
    pub processor: Processor,
    /// Tokens in one decode, at most.
    pub batch_tokens: usize,
    /// Attention and cache.
    pub attention: Attention,
    /// The context's size.
    pub context: Context,
    /// The memory of weights and cells, to size a context for its first job.
    pub need: Need,
    /// Memory limit of model and context together, in bytes.
    pub memory_bytes: u64,
    /// How long the load may stall; `None`: forever.
    pub stall_max: Option<Duration>,
    /// Compute each answer as if it ran alone: reuse no earlier computation.
    pub deterministic: bool,
    /// The prefix cache.
    pub prefixes: Option<Arc<dyn Prefixes>>,
    /// Most anonymous memory of the process, and how to read it, both in bytes.
    pub memory_max: Option<(u64, fn() -> u64)>,
}

/// Facts about a loaded model.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Context length the model was trained with, in tokens.
    pub trained_tokens: u32,
    /// The device that computes: `CPU`, or the GPU's name.
    pub device: String,
    /// Layers on a GPU.
    pub gpu_layers: u32,
    /// All layers, the output layer counted.
    pub layers: u32,
    /// Tokens of the vocabulary.
    pub vocabulary: i32,
    /// Threads that compute.
    pub threads: usize,
    /// Attention and cache.
    pub attention: Attention,
    /// The context's size.
    pub context: Context,
    /// True if weights were copied into the processor's own layout.
    pub repacked: bool,
    /// Tokens of prompts in one decode.
    pub slices: Slices,
}
