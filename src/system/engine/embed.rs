//! The loop of an embedding model: packs the texts of all requests into as few decodes as possible.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::interrupt::{INTERRUPTED, Interrupt};
use super::tune::IDLE_WAIT;
use crate::core::error::{Error, Result};
use crate::core::threads;

/// Most texts in one decode.
pub const TEXTS_MAX: u32 = 64;
/// Tokens in one decode of a processor, unless one text has more: larger decodes are no faster there, and a request that
/// comes meanwhile waits for all of it.
const TOKENS_AT_ONCE: usize = 256;
/// The lower bound of the norm that a vector is divided by.
const NORM_MIN: f32 = 1e-12;

/// The texts of one request, each with at least one token, and the channel for their vectors.
pub struct Texts {
    pub tokens: Vec<Vec<i32>>,
    pub cancel: Arc<AtomicBool>,
    pub vectors: SyncSender<Result<Vec<Vec<f32>>>>,
}

/// The state of the loop.
pub struct Embedder<'a> {
    context: LlamaContext<'a>,
    interrupt: &'a Interrupt,
    batch: LlamaBatch<'a>,
    batch_tokens: usize,
    /// Tokens in one decode, unless one text has more.
    tokens_at_once: usize,
    open: VecDeque<Open>,
}

/// A running request.
struct Open {
    texts: Texts,
    vectors: Vec<Vec<f32>>,
}

impl<'a> Embedder<'a> {
    /// A loop over a fresh context.
    pub fn new(context: LlamaContext<'a>, interrupt: &'a Interrupt, on_gpu: bool) -> Self {
        let batch_tokens = context.n_batch() as usize;
        Embedder {
            tokens_at_once: if on_gpu { usize::MAX } else { TOKENS_AT_ONCE },
            batch: LlamaBatch::new(batch_tokens, 1),
            batch_tokens,
            context,
            interrupt,
            open: VecDeque::new(),
        }
    }

    /// Runs until the channel closes. Each busy period runs in its own thread: see the top of `engine_thread.rs`.
    pub fn run(&mut self, texts: &mut Receiver<Texts>) {
        while let Ok(first) = texts.recv() {
            self.enqueue(first);
            if threads::beside(|| self.stretch(texts)).is_err() {
                return; // It panicked: its requests see their channels close.
            }
        }
    }

    /// Runs until it has been idle for a while.
    fn stretch(&mut self, texts: &mut Receiver<Texts>) {
        loop {
            while !self.open.is_empty() {
                texts.try_iter().for_each(|more| self.enqueue(more));
                self.step();
            }
            match texts.recv_timeout(IDLE_WAIT) {
                Ok(more) => self.enqueue(more),
                Err(_) => return,
            }
        }
    }

    fn enqueue(&mut self, texts: Texts) {
        let vectors = Vec::with_capacity(texts.tokens.len());
        self.open.push_back(Open { texts, vectors });
    }

    /// Runs one decode and delivers the finished requests.
    fn step(&mut self) {
        self.open
            .retain(|open| !open.texts.cancel.load(Ordering::Relaxed));
        let owners = self.fill();
        if !owners.is_empty()
            && let Err(error) = self.decode(&owners)
        {
            for open in std::mem::take(&mut self.open) {
                open.deliver(Err(Error::failed(error.to_string())));
            }
        }
        let done = |open: &Open| open.vectors.len() == open.texts.tokens.len();
        let (done, open): (Vec<Open>, Vec<Open>) = self.open.drain(..).partition(done);
        self.open = open.into();
        for mut open in done {
            let vectors = std::mem::take(&mut open.vectors);
            open.deliver(Ok(vectors));
        }
        // Rotates, so that the first request does not block the others.
        self.open.rotate_left(usize::from(self.open.len() > 1));
    }

    /// Fills the batch with a text from each request in turn. Returns the request of each sequence.
    fn fill(&mut self) -> Vec<usize> {
        self.batch.clear();
        let mut owners = Vec::new();
        let mut taken = vec![0; self.open.len()];
        let (mut room, mut used) = (self.batch_tokens, 0);
        loop {
            let before = owners.len();
            for (owner, open) in self.open.iter().enumerate() {
                let Some(text) = open.texts.tokens.get(open.vectors.len() + taken[owner]) else {
                    continue;
                };
                let is_full = used > 0 && used + text.len() > self.tokens_at_once;
                if is_full || text.len() > room || owners.len() == TEXTS_MAX as usize {
                    return owners;
                }
                room -= text.len();
                used += text.len();
                let sequence = owners.len() as i32;
                for (place, token) in text.iter().enumerate() {
                    let token = LlamaToken(*token);
                    let added = self.batch.add(token, place as i32, &[sequence], true);
                    added.expect("the room was counted");
                }
                taken[owner] += 1;
                owners.push(owner);
            }
            if owners.len() == before {
                return owners;
            }
        }
    }

    fn decode(&mut self, owners: &[usize]) -> Result<()> {
        self.context.clear_kv_cache();
        let failed = |why: String| Error::failed(format!("llama.cpp failed to compute: {why}"));
        let cancels = owners.iter().map(|owner| &self.open[*owner].texts.cancel);
        self.interrupt.set(cancels.cloned());
        match self.context.decode(&mut self.batch) {
            Ok(()) => {}
            Err(DecodeError::Unknown(INTERRUPTED)) => return Ok(()),
            Err(error) => return Err(failed(error.to_string())),
        }
        for (sequence, owner) in owners.iter().enumerate() {
            let vector = self
                .context
                .embeddings_seq_ith(sequence as i32)
                .map_err(|error| failed(error.to_string()))?;
            self.open[*owner].vectors.push(vector.to_vec());
        }
        Ok(())
    }
}

impl Open {
    fn deliver(self, outcome: Result<Vec<Vec<f32>>>) {
        // The requester may have gone.
        let _ = self.texts.vectors.send(outcome);
    }
}

/// A vector of length 1 in the same direction.
pub fn normalised(vector: &[f32]) -> Vec<f32> {
    let squares = vector.iter().map(|x| f64::from(*x) * f64::from(*x));
    let norm = (squares.sum::<f64>().sqrt() as f32).max(NORM_MIN);
    vector.iter().map(|x| x / norm).collect()
}
