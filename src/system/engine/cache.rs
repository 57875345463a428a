//! The cache of a context: the tokens of each sequence, and the search for a new prompt's longest prefix
//! among them.
//!
//! Sequences with the same prefix share its cells. Where a model's memory cannot be cut at any position
//! (recurrent layers, sliding windows), it is restored from checkpoints: copies of that memory, taken
//! while a prompt is computed. A window is complete until it slides, and so is a copy of one: both can be
//! cut at any earlier position.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::cells::Cells;
use super::ffi;
use super::found::{Found, Source};
use super::interrupt::{INTERRUPTED, Interrupt};
use super::prefix::{self, Prefix, TOKENS_MIN, common};
use super::saved_sequence::{Checkpoint, Cost, SavedSequence, SavedSequences, TAIL_TOKENS};
use super::sequence::{self, SequenceState};

/// Most checkpoints of one sequence; a new one replaces the earliest.
const CHECKPOINTS_MAX: usize = 16;

/// A llama.cpp context and what its cache contains.
pub struct Cache<'a> {
    context: LlamaContext<'a>,
    interrupt: &'a Interrupt,
    sequences: Vec<SequenceState>,
    cells: Cells,
    saved: SavedSequences,
    limits: Limits,
}

/// The limits of a cache.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most sequences.
    pub sequences: usize,
    /// A sequence of at most this many tokens, or a checkpoint of one, can be cut after any token.
    pub window: usize,
    /// Bytes of all checkpoints together.
    pub checkpoint_bytes: usize,
    /// Cells that may be in use while some of them are idle; beyond that, idle sequences are saved.
    pub idle_cells: usize,
}

impl<'a> Cache<'a> {
    /// An empty cache.
    pub fn new(
        (context, interrupt): (LlamaContext<'a>, &'a Interrupt),
        saved: SavedSequences,
        limits: Limits,
    ) -> Self {
        Cache {
            cells: Cells::new(context.n_ctx() as usize),
            context,
            interrupt,
            sequences: (0..limits.sequences)
                .map(|_| SequenceState::default())
                .collect(),
            saved,
            limits,
        }
    }

    /// The context, for its results.
    pub fn context(&self) -> &LlamaContext<'a> {
        &self.context
    }

    /// The context, for computations that leave the cache unchanged.
    pub fn context_mut(&mut self) -> &mut LlamaContext<'a> {
        &mut self.context
    }

    /// Decodes a batch. The caller then reports the new contents of the cache with [`Cache::extend`].
    /// Returns false if all of `cancels` were set meanwhile; the cache then contains nothing of the
    /// batch.
    ///
    /// # Errors
    /// llama.cpp's error.
    pub fn decode(
        &mut self,
        batch: &mut LlamaBatch,
        cancels: impl Iterator<Item = Arc<AtomicBool>>,
    ) -> Result<bool, DecodeError> {
        self.interrupt.set(cancels);
        let decoded = self.context.decode(batch);
        self.interrupt.set(iter::empty());
        match decoded {
            Ok(()) => Ok(true),
            Err(DecodeError::Unknown(INTERRUPTED)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The number of tokens in a sequence.
    pub fn count(&self, index: usize) -> usize {
        self.sequences[index].tokens.len()
    }

    /// Records that a sequence is in use in this step.
    pub fn touch(&mut self, index: usize, step: u64) {
        self.sequences[index].used_at = step;
    }

    /// The step in which a sequence was last used.
    pub fn used_at(&self, index: usize) -> u64 {
        self.sequences[index].used_at
    }

    /// True if a long sequence can only be cut at checkpoints.
    pub fn needs_checkpoints(&self) -> bool {
        self.limits.window < usize::MAX
    }

    /// The longest sequence, in tokens, that can be cut after any token.
    pub fn window(&self) -> usize {
        self.limits.window
    }

    /// The longest prefix of a prompt in any sequence. The prompt's last token is always computed: its
    /// logits select the next token.
    pub fn find(&self, prompt: &[LlamaToken]) -> Found {
        let prompt = &prompt[..prompt.len().saturating_sub(1)];
        let sequences = self.sequences.iter().enumerate().map(|(index, line)| {
            let (tokens, common) = self.usable(&line.tokens, &line.checkpoints, prompt);
            let source = Source::SequenceState(index);
            Found {
                source,
                tokens,
                common,
            }
        });
        let line = sequences.max_by_key(|found| (found.tokens, found.common));
        let line = line.filter(|found| found.common > 0).unwrap_or(Found::NONE);
        let usable =
            |sequence: &SavedSequence| self.usable(&sequence.tokens, &sequence.checkpoints, prompt);
        match self.saved.best(usable) {
            Some((id, (tokens, common))) if tokens > line.tokens => {
                let source = Source::SavedSequences(id);
                Found {
                    source,
                    tokens,
                    common,
                }
            }
            _ => line,
        }
    }

    /// How many tokens of a prompt a sequence can resume from, and how many they have in common.
    fn usable(
        &self,
        held: &[LlamaToken],
        checkpoints: &[Checkpoint],
        prompt: &[LlamaToken],
    ) -> (usize, usize) {
        let common = common(held, prompt);
        let checkpoints = checkpoints.iter().map(|checkpoint| checkpoint.tokens);
        let tokens = prefix::usable(held.len(), common, checkpoints, self.limits.window);
        (tokens, common)
    }

    /// The checkpoint that a sequence is restored to before it is cut after this many tokens.
    fn checkpoint_for(&self, index: usize, tokens: usize) -> Option<Arc<Vec<u8>>> {
        let checkpoints = &self.sequences[index].checkpoints;
        let is_in_window = |checkpoint: &&Checkpoint| {
            checkpoint.tokens > tokens && checkpoint.tokens <= self.window()
        };
        let exact = checkpoints
            .iter()
            .find(|checkpoint| checkpoint.tokens == tokens);
        let checkpoint = exact.or_else(|| checkpoints.iter().find(is_in_window));
        checkpoint.map(|checkpoint| checkpoint.state.clone())
    }

    /// The idle sequence for a prompt: the one that it resumes from, else an empty one, else the least
    /// recently used.
    pub fn place(&self, found: Found, is_idle: impl Fn(usize) -> bool) -> Option<usize> {
        if let Source::SequenceState(index) = found.source
            && is_idle(index)
            && found.tokens == self.count(index)
        {
            return Some(index);
        }
        let idle = (0..self.sequences.len()).filter(|index| is_idle(*index));
        idle.min_by_key(|index| (self.count(*index) > 0, self.used_at(*index)))
    }

    /// Replaces a sequence by the prefix that was found, for a prompt that needs this many cells. Returns the number of
    /// tokens that are there then.
    pub fn begin(
        &mut self,
        index: usize,
        found: Found,
        (cells_needed, is_idle): (usize, impl Fn(usize) -> bool),
    ) -> usize {
        // Saving others may drop saved ones, but not this one.
        let saved = match found.source {
            Source::SavedSequences(id) => self.saved.take(id),
            _ => None,
        };
        if saved.is_some() {
            self.free(cells_needed, is_idle);
        }
        if found.source != Source::SequenceState(index)
            || self.count(index) > found.tokens + TAIL_TOKENS
        {
            self.save_copy(index);
        }
        let there = match found.source {
            _ if found.tokens == 0 => false,
            Source::Nowhere => false,
            Source::SequenceState(line) if line == index => self.cut(index, found.tokens),
            Source::SequenceState(line) => self.copy(line, found.tokens, index),
            Source::SavedSequences(_) => saved.is_some_and(|saved| {
                let restored = self.unsave(&saved, index) && self.cut(index, found.tokens);
                self.saved.put(saved);
                restored
            }),
        };
        if !there {
            self.clear(index);
        }
        self.count(index)
    }

    /// Adds the tokens that were computed for a sequence.
    pub fn extend(&mut self, index: usize, tokens: &[LlamaToken]) {
        let line = &mut self.sequences[index];
        line.tokens.extend_from_slice(tokens);
        // A single token belongs to an answer, which may never be part of a later prompt.
        line.cost.fresh += tokens.len().saturating_sub(1);
        let cells = tokens.iter().map(|_| self.cells.allocate());
        line.cells.extend(cells);
    }

    /// Clears a sequence.
    pub fn clear(&mut self, index: usize) {
        // Removing a whole sequence cannot fail.
        let _ = self
            .context
            .clear_kv_cache_seq(Some(index as u32), None, None);
        self.sequences[index].cut(0, &mut self.cells);
    }

    /// Takes a checkpoint at the current end of a sequence.
    pub fn checkpoint(&mut self, index: usize) {
        let tokens = self.count(index);
        let Some(state) = self.state(index) else {
            return;
        };
        let line = &mut self.sequences[index];
        line.checkpoints
            .retain(|checkpoint| checkpoint.tokens != tokens);
        if line.checkpoints.len() == CHECKPOINTS_MAX {
            line.checkpoints.remove(0);
        }
        line.checkpoints.push(Checkpoint { tokens, state });
        line.checkpoints.sort_by_key(|checkpoint| checkpoint.tokens);
        sequence::drop_checkpoints(&mut self.sequences, self.limits.checkpoint_bytes);
    }

    /// The number of cells in use.
    pub fn used_cells(&self) -> usize {
        self.cells.used
    }

    /// The number of cells that these sequences use; a shared cell counts once.
    pub fn cells_of(&self, indexes: impl Iterator<Item = usize>) -> usize {
        let cells = indexes.flat_map(|index| self.sequences[index].cells.iter());
        self.cells.distinct(cells)
    }

    /// The number of cells in the cache.
    pub fn all_cells(&self) -> usize {
        self.cells.limit
    }

    /// Saves and clears idle sequences, the least recently used first, until this many cells are free and
    /// no more than the limit are in use, or no idle sequence is left.
    pub fn free(&mut self, cells_needed: usize, is_idle: impl Fn(usize) -> bool) {
        while self.cells.limit.saturating_sub(self.cells.used) < cells_needed
            || self.cells.used > self.limits.idle_cells
        {
            let held = (0..self.sequences.len()).filter(|index| self.count(*index) > 0);
            let idle = held.filter(|index| is_idle(*index));
            let Some(oldest) = idle.min_by_key(|index| self.used_at(*index)) else {
                return;
            };
            self.save(oldest);
        }
    }

    /// Saves a sequence to main memory and clears it.
    pub fn save(&mut self, index: usize) {
        self.save_copy(index);
        self.clear(index);
    }

    /// Saves a sequence to main memory, if that may pay off later.
    fn save_copy(&mut self, index: usize) {
        let bytes = || ffi::state_bytes(&self.context, index, false);
        if !self.is_held_elsewhere(index)
            && self.saved.wants(self.count(index), bytes)
            && let Some(state) = ffi::state(&self.context, index, false)
        {
            let line = &self.sequences[index];
            self.saved.put(SavedSequence {
                tokens: line.tokens.clone(),
                state,
                checkpoints: line.checkpoints.clone(),
                cost: line.cost,
            });
        }
    }

    /// True if nearly all of a sequence can be had from another or a saved one, and little was computed for it.
    fn is_held_elsewhere(&self, index: usize) -> bool {
        let sequence = &self.sequences[index];
        let others = self.sequences.iter().enumerate();
        let others = others.filter(|(at, _)| *at != index);
        let others = others.map(|(_, other)| &other.tokens[..]);
        !self.needs_checkpoints()
            && sequence.cost.fresh < TOKENS_MIN
            && self.saved.hold(&sequence.tokens, others)
    }

    /// Restores a saved sequence into a sequence of the cache; false if llama.cpp rejects it.
    fn unsave(&mut self, saved: &SavedSequence, index: usize) -> bool {
        let pace_us = saved.cost.pace_us;
        let content = (saved.tokens.clone(), saved.checkpoints.clone(), pace_us);
        self.set(index, &saved.state, content)
    }

    /// Replaces a sequence by one from the prefix cache; false if llama.cpp rejects it.
    pub fn restore(&mut self, index: usize, prefix: Prefix) -> bool {
        let checkpoint = |(tokens, bytes)| Checkpoint {
            tokens,
            state: Arc::new(bytes),
        };
        let checkpoints = prefix.checkpoints.into_iter().map(checkpoint).collect();
        let tokens = prefix.tokens.into_iter().map(LlamaToken).collect();
        let content = (tokens, checkpoints, prefix.pace_us);
        self.set(index, &prefix.state, content)
    }

    fn set(
        &mut self,
        index: usize,
        state: &[u8],
        (tokens, checkpoints, pace_us): (Vec<LlamaToken>, Vec<Checkpoint>, f32),
    ) -> bool {
        self.clear(index);
        if !ffi::set_state(&mut self.context, index, state, false) {
            return false;
        }
        let line = &mut self.sequences[index];
        line.cells = tokens.iter().map(|_| self.cells.allocate()).collect();
        (line.tokens, line.checkpoints) = (tokens, checkpoints);
        line.cost = Cost { fresh: 0, pace_us };
        true
    }

    /// A copy of a sequence for the prefix cache, once, if much of the sequence was computed here.
    pub fn prefix(&mut self, index: usize) -> Option<Prefix> {
        if self.sequences[index].cost.fresh < TOKENS_MIN {
            return None;
        }
        let state = ffi::state(&self.context, index, false)?;
        let line = &mut self.sequences[index];
        line.cost.fresh = 0;
        Some(sequence::prefix(
            &line.tokens,
            state,
            &line.checkpoints,
            line.cost,
        ))
    }

    /// Removes saved sequences until one has many tokens that were computed here, and returns that one
    /// for the prefix cache.
    pub fn saved_prefix(&mut self) -> Option<Prefix> {
        let sequences = std::iter::from_fn(|| self.saved.pop());
        let sequence = { sequences }.find(|sequence| sequence.cost.fresh >= TOKENS_MIN)?;
        Some(sequence::prefix(
            &sequence.tokens,
            sequence.state,
            &sequence.checkpoints,
            sequence.cost,
        ))
    }

    /// Records the time per token of a sequence's prompt, in microseconds.
    pub fn note_pace(&mut self, index: usize, pace_us: f32) {
        self.sequences[index].cost.pace_us = pace_us;
    }

    /// Cuts a sequence to its first tokens; false if it cannot be cut there.
    pub fn cut(&mut self, index: usize, tokens: usize) -> bool {
        if tokens == self.count(index) {
            return true;
        }
        if self.count(index) > self.window() {
            let Some(state) = self.checkpoint_for(index, tokens) else {
                return false;
            };
            if !ffi::set_state(&mut self.context, index, &state, true) {
                return false;
            }
        }
        let cut = self.remove_behind(index, tokens);
        self.sequences[index].cut(tokens, &mut self.cells);
        cut
    }

    /// Removes all but a sequence's first tokens from llama.cpp's memory; false if it cannot. Behind its end it can.
    pub fn remove_behind(&mut self, index: usize, tokens: usize) -> bool {
        let (sequence, from) = (Some(index as u32), Some(tokens as u32));
        let removed = self.context.clear_kv_cache_seq(sequence, from, None);
        matches!(removed, Ok(true))
    }

    /// Shares the prefix of one sequence with another. Memory that needs checkpoints is restored from a
    /// copy instead: a window that slides in one sequence must not occupy cells of the other.
    fn copy(&mut self, source: usize, tokens: usize, index: usize) -> bool {
        self.clear(index);
        let state = if self.needs_checkpoints() {
            let saved = self.checkpoint_for(source, tokens);
            let Some(state) = saved.or_else(|| self.state(source)) else {
                return false;
            };
            Some(state)
        } else {
            None
        };
        let (from, to) = (source as i32, index as i32);
        let copied = self
            .context
            .copy_kv_cache_seq(from, to, Some(0), Some(tokens as u32));
        if copied.is_err() {
            return false;
        }
        // The copy may contain more tokens than the prefix.
        if let Some(state) = &state
            && !(ffi::set_state(&mut self.context, index, state, true)
                && self.remove_behind(index, tokens))
        {
            return false;
        }
        let held = &self.sequences[source];
        let cells = held.cells[..tokens].to_vec();
        let checkpoints = held
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.tokens <= tokens);
        let checkpoints = checkpoints.cloned().collect();
        let tokens = held.tokens[..tokens].to_vec();
        cells.iter().for_each(|cell| self.cells.share(*cell));
        let sequence = &mut self.sequences[index];
        (sequence.tokens, sequence.cells, sequence.checkpoints) = (tokens, cells, checkpoints);
        sequence.cost.fresh = 0;
        true
    }

    /// A copy of a sequence's memory, if it fits the limit for all checkpoints together.
    fn state(&self, index: usize) -> Option<Arc<Vec<u8>>> {
        if ffi::state_bytes(&self.context, index, true) > self.limits.checkpoint_bytes {
            return None;
        }
        ffi::state(&self.context, index, true).map(Arc::new)
    }
}
