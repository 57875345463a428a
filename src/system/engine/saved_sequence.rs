//! Saved sequences: idle ones, copied out of the cache into plain memory.
//!
//! Attention processes every cell up to the last one in use, whichever sequence it belongs to: SmolLM2
//! generates at half its speed with 4 000 idle cells beside it. A copy costs about 10 µs a token each way;
//! computing the tokens again costs a hundred times as much.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use llama_cpp_2::token::LlamaToken;

use super::prefix::{USED_SHARE, common};

/// A sequence of fewer tokens is not worth a copy.
const TOKENS_MIN: usize = 32;
/// So many tokens behind what is held already are not worth a copy of all.
pub const TAIL_TOKENS: usize = 64;

/// A checkpoint: the memory after the first `tokens` tokens of a sequence.
#[derive(Clone)]
pub struct Checkpoint {
    /// The number of tokens before it.
    pub tokens: usize,
    /// The memory to restore, as llama.cpp writes it.
    pub state: Arc<Vec<u8>>,
}

/// A saved sequence.
pub struct SavedSequence {
    /// Its tokens.
    pub tokens: Vec<LlamaToken>,
    /// All its memory.
    pub state: Vec<u8>,
    /// Its checkpoints.
    pub checkpoints: Vec<Checkpoint>,
    /// The cost of computing it.
    pub cost: Cost,
}

/// The cost of computing a sequence's prompt.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Tokens that were computed here and not yet shared with the prefix cache.
    pub fresh: usize,
    /// Time for each, in microseconds.
    pub pace_us: f32,
}

impl SavedSequence {
    fn bytes(&self) -> usize {
        let checkpoints = self
            .checkpoints
            .iter()
            .map(|checkpoint| checkpoint.state.len());
        self.state.len() + checkpoints.sum::<usize>()
    }
}

/// The saved sequences, the least recently used first, each with a number of its own.
pub struct SavedSequences {
    sequences: VecDeque<(u64, SavedSequence)>,
    next: u64,
    bytes_max: usize,
    /// Bytes of all of them, for those who watch.
    bytes: Arc<AtomicUsize>,
}

impl SavedSequences {
    /// No sequence yet, and at most this many bytes; `bytes` will tell how many there are.
    pub fn new(bytes_max: usize, bytes: Arc<AtomicUsize>) -> Self {
        SavedSequences {
            sequences: VecDeque::new(),
            next: 0,
            bytes_max,
            bytes,
        }
    }

    /// True if a copy of this many tokens and bytes would be stored.
    pub fn wants(&self, tokens: usize, bytes: impl FnOnce() -> usize) -> bool {
        tokens >= TOKENS_MIN && self.bytes_max > 0 && bytes() <= self.bytes_max
    }

    /// True if one of these, or one of the `others`, begins with nearly all of some tokens, and they do not continue it.
    pub fn hold<'a>(
        &'a self,
        tokens: &[LlamaToken],
        others: impl Iterator<Item = &'a [LlamaToken]>,
    ) -> bool {
        let saved = self.sequences.iter().map(|(_, saved)| &saved.tokens[..]);
        let tail = TAIL_TOKENS.min(tokens.len() / USED_SHARE);
        others.chain(saved).any(|held| {
            let common = common(held, tokens);
            let continues = common == held.len() && common < tokens.len();
            common + tail >= tokens.len() && !continues
        })
    }

    /// Stores a sequence, in place of those that are a prefix of it.
    pub fn put(&mut self, sequence: SavedSequence) {
        self.sequences
            .retain(|(_, old)| !sequence.tokens.starts_with(&old.tokens));
        self.sequences.push_back((self.next, sequence));
        self.next += 1;
        while self.count_bytes() > self.bytes_max {
            self.sequences.pop_front();
        }
    }

    fn count_bytes(&self) -> usize {
        let bytes = self.sequences.iter().map(|(_, sequence)| sequence.bytes());
        let bytes = bytes.sum();
        self.bytes.store(bytes, Ordering::Relaxed);
        bytes
    }

    /// The sequence for which `usable` returns most, if restoring it pays off: its number, and what
    /// `usable` returned.
    pub fn best(
        &self,
        usable: impl Fn(&SavedSequence) -> (usize, usize),
    ) -> Option<(u64, (usize, usize))> {
        let sequences = self.sequences.iter().filter_map(|(id, sequence)| {
            let found = usable(sequence);
            let pays = found.0 >= TOKENS_MIN && found.0 >= sequence.tokens.len() / USED_SHARE;
            pays.then_some((*id, found))
        });
        sequences.max_by_key(|(_, found)| *found)
    }

    /// Removes and returns the sequence that was saved or used last.
    pub fn pop(&mut self) -> Option<SavedSequence> {
        let (_, last) = self.sequences.pop_back()?;
        self.count_bytes();
        Some(last)
    }

    /// Removes and returns a sequence, so that making room for others cannot drop it while it is restored.
    pub fn take(&mut self, id: u64) -> Option<SavedSequence> {
        let place = self.sequences.iter().position(|(known, _)| *known == id)?;
        let (_, taken) = self.sequences.remove(place)?;
        self.count_bytes();
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(first: i32, bytes: usize) -> SavedSequence {
        SavedSequence {
            tokens: (first..first + 40).map(LlamaToken).collect(),
            state: vec![0; bytes],
            checkpoints: Vec::new(),
            cost: Cost::default(),
        }
    }

    #[test]
    fn a_short_end_behind_what_is_held_is_not_worth_a_copy() {
        let mut all = SavedSequences::new(100, Arc::default());
        let tokens = |count: i32, end: i32| -> Vec<LlamaToken> {
            (0..count).chain([end; 40]).map(LlamaToken).collect()
        };
        let held = tokens(1000, 1);
        assert!(!all.hold(&held, [].into_iter()));
        assert!(all.hold(&tokens(1000, 2), [&held[..]].into_iter()));
        assert!(!all.hold(&tokens(900, 2), [&tokens(600, 1)[..]].into_iter()));
        assert!(!all.hold(&held, [&held[..1020]].into_iter()));
        assert!(all.hold(&held[..1020], [&held[..]].into_iter()));
        // Of a short one the end counts more.
        assert!(!all.hold(&tokens(20, 2), [&held[..]].into_iter()));
        all.put(SavedSequence {
            tokens: held,
            ..saved(0, 10)
        });
        assert!(all.hold(&tokens(1000, 2), [].into_iter()));
    }

    #[test]
    fn room_for_others_is_never_made_by_what_is_being_restored() {
        let mut all = SavedSequences::new(100, Arc::default());
        all.put(saved(0, 60));
        let usable = |sequence: &SavedSequence| match sequence.tokens[0].0 {
            0 => (40, 40),
            _ => (0, 0),
        };
        let (id, found) = all.best(usable).unwrap();
        assert_eq!(found, (40, 40));
        let taken = all.take(id).unwrap();
        all.put(saved(100, 60));
        all.put(taken);
        assert!(all.best(usable).is_some(), "the one used last stays");
        assert!(all.take(id).is_none());
    }
}
