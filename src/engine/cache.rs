//! What lies in a context's cache: the tokens of each sequence, and where a new prompt finds its
//! beginning among them.
//!
//! Sequences that begin alike share the cells of that beginning. Where a model's memory cannot be cut
//! at any place (recurrent layers, sliding windows), it is set back to marks: copies of that memory,
//! taken on the way through a prompt. A window is whole until it slides, and so is a copy of it: either
//! goes back to any place before.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;

use super::cells::Cells;
use super::ffi;
use super::interrupt::{INTERRUPTED, Interrupt};
use super::line::{self, Line};
use super::parked::{Cost, Mark, Parked, Stay};
use super::prefix::{self, Prefix, TOKENS_MIN, common};

/// Marks of one sequence; the oldest goes for a new one.
const MARKS_MAX: usize = 16;
/// A sequence that is cut by more than this is copied out first.
const TAIL_TOKENS: usize = 64;

/// The cache and the context that it belongs to.
pub struct Cache<'a> {
    context: LlamaContext<'a>,
    interrupt: &'a Interrupt,
    lines: Vec<Line>,
    cells: Cells,
    parked: Parked,
    limits: Limits,
}

/// How much a cache may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sequences.
    pub sequences: usize,
    /// A sequence up to this long, or what a mark sets it back to, can be cut behind any token.
    pub whole: usize,
    /// Bytes of all marks together.
    pub mark_bytes: usize,
    /// Cells that may be in use while some of them are idle; beyond that idle sequences are parked.
    pub idle_cells: usize,
    /// Bytes of parked sequences.
    pub parked_bytes: usize,
}

/// A prompt's beginning that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    source: Source,
    /// How many tokens need no computation.
    pub tokens: usize,
    /// How many are the same; more than `tokens` where the memory cannot be cut behind them.
    pub common: usize,
}

impl Found {
    /// Nothing is there.
    pub const NONE: Found = Found {
        source: Source::Nowhere,
        tokens: 0,
        common: 0,
    };

    /// True if it is in one of these sequences.
    pub fn is_in(self, mut indexes: impl Iterator<Item = usize>) -> bool {
        indexes.any(|index| self.source == Source::Line(index))
    }

    /// True if it was copied out of the cache.
    pub fn is_parked(self) -> bool {
        matches!(self.source, Source::Parked(_))
    }
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Nowhere,
    Line(usize),
    Parked(u64),
}

impl<'a> Cache<'a> {
    /// An empty cache.
    pub fn new((context, interrupt): (LlamaContext<'a>, &'a Interrupt), limits: Limits) -> Self {
        Cache {
            cells: Cells::new(context.n_ctx() as usize),
            context,
            interrupt,
            lines: (0..limits.sequences).map(|_| Line::default()).collect(),
            parked: Parked::new(limits.parked_bytes),
            limits,
        }
    }

    /// The context, for its results.
    pub fn context(&self) -> &LlamaContext<'a> {
        &self.context
    }

    /// The context, to compute what leaves no trace in the cache.
    pub fn context_mut(&mut self) -> &mut LlamaContext<'a> {
        &mut self.context
    }

    /// Computes a batch. What is then in the cache is told by [`Cache::extend`]. False: all those
    /// who `cancels` are of left on the way, and nothing of it is in the cache.
    ///
    /// # Errors
    /// What llama.cpp says.
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

    /// How many tokens a sequence holds.
    pub fn count(&self, index: usize) -> usize {
        self.lines[index].tokens.len()
    }

    /// Notes that a sequence is in use.
    pub fn touch(&mut self, index: usize, turn: u64) {
        self.lines[index].used_at = turn;
    }

    /// When a sequence was last in use.
    pub fn used_at(&self, index: usize) -> u64 {
        self.lines[index].used_at
    }

    /// True if the memory of a long sequence is set back to marks.
    pub fn needs_marks(&self) -> bool {
        self.limits.whole < usize::MAX
    }

    /// How long a sequence may be to be cut behind any token.
    pub fn whole(&self) -> usize {
        self.limits.whole
    }

    /// The longest beginning of a prompt that any sequence holds. The prompt's last token is
    /// computed in any case: its logits choose the next.
    pub fn find(&self, prompt: &[LlamaToken]) -> Found {
        let prompt = &prompt[..prompt.len().saturating_sub(1)];
        let lines = self.lines.iter().enumerate().map(|(index, line)| {
            let (tokens, common) = self.usable(&line.tokens, &line.marks, prompt);
            let source = Source::Line(index);
            Found {
                source,
                tokens,
                common,
            }
        });
        let line = lines.max_by_key(|found| (found.tokens, found.common));
        let line = line.filter(|found| found.common > 0).unwrap_or(Found::NONE);
        let usable = |stay: &Stay| self.usable(&stay.tokens, &stay.marks, prompt);
        match self.parked.best(usable) {
            Some((id, (tokens, common))) if tokens > line.tokens => {
                let source = Source::Parked(id);
                Found {
                    source,
                    tokens,
                    common,
                }
            }
            _ => line,
        }
    }

    /// How many tokens of a prompt a sequence can go on from, and how many are the same.
    fn usable(&self, held: &[LlamaToken], marks: &[Mark], prompt: &[LlamaToken]) -> (usize, usize) {
        let common = common(held, prompt);
        let marks = marks.iter().map(|mark| mark.tokens);
        let tokens = prefix::usable(held.len(), common, marks, self.limits.whole);
        (tokens, common)
    }

    /// The mark that a sequence is set back to before it is cut behind so many tokens.
    fn mark_for(&self, index: usize, tokens: usize) -> Option<Arc<Vec<u8>>> {
        let marks = &self.lines[index].marks;
        let is_whole = |mark: &&Mark| mark.tokens > tokens && mark.tokens <= self.whole();
        let exact = marks.iter().find(|mark| mark.tokens == tokens);
        let mark = exact.or_else(|| marks.iter().find(is_whole));
        mark.map(|mark| mark.state.clone())
    }

    /// The idle sequence to put a prompt in: the one that it goes on from, else an empty one, else
    /// the longest unused.
    pub fn place(&self, found: Found, is_idle: impl Fn(usize) -> bool) -> Option<usize> {
        match found.source {
            Source::Line(index) if is_idle(index) && found.tokens == self.count(index) => {
                return Some(index);
            }
            _ => {}
        }
        let idle = (0..self.lines.len()).filter(|index| is_idle(*index));
        idle.min_by_key(|index| (self.count(*index) > 0, self.used_at(*index)))
    }

    /// Puts the beginning that was found into a sequence, in place of what it held. Returns how many
    /// tokens are there.
    pub fn begin(&mut self, index: usize, found: Found) -> usize {
        if found.source != Source::Line(index) || self.count(index) > found.tokens + TAIL_TOKENS {
            self.keep(index);
        }
        let there = match found.source {
            _ if found.tokens == 0 => false,
            Source::Nowhere => false,
            Source::Line(line) if line == index => self.cut(index, found.tokens),
            Source::Line(line) => self.copy(line, found.tokens, index),
            Source::Parked(id) => self.unpark(id, index) && self.cut(index, found.tokens),
        };
        if !there {
            self.clear(index);
        }
        self.count(index)
    }

    /// Takes in the tokens that were computed for a sequence.
    pub fn extend(&mut self, index: usize, tokens: &[LlamaToken]) {
        let line = &mut self.lines[index];
        line.tokens.extend_from_slice(tokens);
        // One at a time is an answer's, which nobody sends again for sure.
        line.cost.fresh += tokens.len().saturating_sub(1);
        let cells = tokens.iter().map(|_| self.cells.take());
        line.cells.extend(cells);
    }

    /// Forgets a sequence.
    pub fn clear(&mut self, index: usize) {
        // Removing a whole sequence cannot fail.
        let _ = self
            .context
            .clear_kv_cache_seq(Some(index as u32), None, None);
        self.lines[index].cut(0, &mut self.cells);
    }

    /// Sets a mark behind what a sequence holds now.
    pub fn mark(&mut self, index: usize) {
        let tokens = self.count(index);
        let Some(state) = self.state(index) else {
            return;
        };
        let line = &mut self.lines[index];
        line.marks.retain(|mark| mark.tokens != tokens);
        if line.marks.len() == MARKS_MAX {
            line.marks.remove(0);
        }
        line.marks.push(Mark { tokens, state });
        line.marks.sort_by_key(|mark| mark.tokens);
        line::drop_marks(&mut self.lines, self.limits.mark_bytes);
    }

    /// Cells that are in use.
    pub fn used_cells(&self) -> usize {
        self.cells.used
    }

    /// Cells that these sequences hold, shared ones counted once.
    pub fn cells_of(&self, indexes: impl Iterator<Item = usize>) -> usize {
        let cells = indexes.flat_map(|index| self.lines[index].cells.iter());
        self.cells.distinct(cells)
    }

    /// Cells that there are.
    pub fn all_cells(&self) -> usize {
        self.cells.limit
    }

    /// Parks idle sequences, the longest unused first, until so many cells are free and no more
    /// than the limit stand idle, or none is left to park.
    pub fn free(&mut self, wanted: usize, is_idle: impl Fn(usize) -> bool) {
        while self.cells.limit.saturating_sub(self.cells.used) < wanted
            || self.cells.used > self.limits.idle_cells
        {
            let held = (0..self.lines.len()).filter(|index| self.count(*index) > 0);
            let idle = held.filter(|index| is_idle(*index));
            let Some(oldest) = idle.min_by_key(|index| self.used_at(*index)) else {
                return;
            };
            self.park(oldest);
        }
    }

    /// Copies a sequence out of the cache and forgets it here.
    pub fn park(&mut self, index: usize) {
        self.keep(index);
        self.clear(index);
    }

    /// Copies a sequence out of the cache, if that may pay later.
    fn keep(&mut self, index: usize) {
        let bytes = || ffi::state_bytes(&self.context, index, false);
        if self.parked.wants(self.count(index), bytes)
            && let Some(state) = ffi::state(&self.context, index, false)
        {
            let line = &self.lines[index];
            self.parked.put(Stay {
                tokens: line.tokens.clone(),
                state,
                marks: line.marks.clone(),
                cost: line.cost,
            });
        }
    }

    /// Copies a parked sequence into one of the cache.
    fn unpark(&mut self, id: u64, index: usize) -> bool {
        self.clear(index);
        let Some(stay) = self.parked.stay(id) else {
            return false;
        };
        if !ffi::set_state(&mut self.context, index, &stay.state, false) {
            return false;
        }
        let line = &mut self.lines[index];
        line.tokens.clone_from(&stay.tokens);
        line.marks.clone_from(&stay.marks);
        line.cells = stay.tokens.iter().map(|_| self.cells.take()).collect();
        line.cost = Cost {
            fresh: 0,
            ..stay.cost
        };
        true
    }

    /// Puts a sequence that was kept elsewhere in place of what is there; false if llama.cpp does
    /// not take it.
    pub fn restore(&mut self, index: usize, prefix: Prefix) -> bool {
        self.clear(index);
        if !ffi::set_state(&mut self.context, index, &prefix.state, false) {
            return false;
        }
        let mark = |(tokens, bytes)| Mark {
            tokens,
            state: Arc::new(bytes),
        };
        let line = &mut self.lines[index];
        line.cells = prefix.tokens.iter().map(|_| self.cells.take()).collect();
        line.tokens = prefix.tokens.into_iter().map(LlamaToken).collect();
        line.marks = prefix.marks.into_iter().map(mark).collect();
        line.cost = Cost {
            fresh: 0,
            pace_us: prefix.pace_us,
        };
        true
    }

    /// A copy of a sequence to be kept elsewhere, once, if much of it was computed here.
    pub fn prefix(&mut self, index: usize) -> Option<Prefix> {
        if self.lines[index].cost.fresh < TOKENS_MIN {
            return None;
        }
        let state = ffi::state(&self.context, index, false)?;
        let line = &mut self.lines[index];
        line.cost.fresh = 0;
        Some(line::prefix(&line.tokens, state, &line.marks, line.cost))
    }

    /// A parked sequence to be kept elsewhere, if much of one was computed here; it is let go.
    pub fn parked_prefix(&mut self) -> Option<Prefix> {
        let stays = std::iter::from_fn(|| self.parked.pop());
        let stay = { stays }.find(|stay| stay.cost.fresh >= TOKENS_MIN)?;
        Some(line::prefix(
            &stay.tokens,
            stay.state,
            &stay.marks,
            stay.cost,
        ))
    }

    /// Notes how long a token of a sequence's prompt took.
    pub fn note_pace(&mut self, index: usize, pace_us: f32) {
        self.lines[index].cost.pace_us = pace_us;
    }

    /// Cuts a sequence down to its first tokens.
    pub fn cut(&mut self, index: usize, tokens: usize) -> bool {
        if tokens == self.count(index) {
            return true;
        }
        if self.count(index) > self.whole() {
            let Some(state) = self.mark_for(index, tokens) else {
                return false;
            };
            if !ffi::set_state(&mut self.context, index, &state, true) {
                return false;
            }
        }
        let cut = self.remove_behind(index, tokens);
        self.lines[index].cut(tokens, &mut self.cells);
        cut
    }

    /// Takes what lies behind a sequence's first tokens out of llama.cpp's memory.
    fn remove_behind(&mut self, index: usize, tokens: usize) -> bool {
        let (sequence, from) = (Some(index as u32), Some(tokens as u32));
        let removed = self.context.clear_kv_cache_seq(sequence, from, None);
        matches!(removed, Ok(true))
    }

    /// Lets a sequence share the beginning of another. A memory with marks is not shared but set
    /// from a copy: what slides on in one sequence must not hold cells of the other.
    fn copy(&mut self, source: usize, tokens: usize, index: usize) -> bool {
        self.clear(index);
        let state = match self.needs_marks() {
            false => None,
            true => match self.mark_for(source, tokens).or_else(|| self.state(source)) {
                None => return false,
                state => state,
            },
        };
        let (from, to) = (source as i32, index as i32);
        let copied = self
            .context
            .copy_kv_cache_seq(from, to, Some(0), Some(tokens as u32));
        if copied.is_err() {
            return false;
        }
        // The copy may reach further than the beginning.
        if let Some(state) = &state
            && !(ffi::set_state(&mut self.context, index, state, true)
                && self.remove_behind(index, tokens))
        {
            return false;
        }
        let held = &self.lines[source];
        let cells = held.cells[..tokens].to_vec();
        let marks = held.marks.iter().filter(|mark| mark.tokens <= tokens);
        let (marks, held) = (marks.cloned().collect(), held.tokens[..tokens].to_vec());
        cells.iter().for_each(|cell| self.cells.share(*cell));
        let line = &mut self.lines[index];
        (line.tokens, line.cells, line.marks) = (held, cells, marks);
        line.cost.fresh = 0;
        true
    }

    /// A copy of the memory of a sequence, if it is no larger than all marks may be.
    fn state(&self, index: usize) -> Option<Arc<Vec<u8>>> {
        if ffi::state_bytes(&self.context, index, true) > self.limits.mark_bytes {
            return None;
        }
        ffi::state(&self.context, index, true).map(Arc::new)
    }
}
