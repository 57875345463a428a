//! Sequences that nobody works on, copied out of the cache into plain memory.
//!
//! Attention looks at every cell up to the last one in use, whoever it belongs to: SmolLM2 generates
//! at half its speed with 4 000 idle cells beside it. A copy costs about 10 µs a token each way, and
//! computing the tokens again a hundred times as much.

use std::collections::VecDeque;
use std::sync::Arc;

use llama_cpp_2::token::LlamaToken;

/// Less than this is not worth a copy.
const TOKENS_MIN: usize = 32;
/// Nor is a copy of which less than this part is of use (one in so many).
pub const USED_SHARE: usize = 8;

/// The memory behind the first `tokens` tokens of a sequence.
#[derive(Clone)]
pub struct Mark {
    /// How many tokens it stands behind.
    pub tokens: usize,
    /// What can be set back there.
    pub state: Arc<Vec<u8>>,
}

/// A sequence that was copied out.
pub struct Stay {
    /// Its tokens.
    pub tokens: Vec<LlamaToken>,
    /// All its memory.
    pub state: Vec<u8>,
    /// Its marks.
    pub marks: Vec<Mark>,
    /// What computing it cost.
    pub cost: Cost,
}

/// What computing a sequence's prompt cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Tokens of it that were computed here and never handed over.
    pub fresh: usize,
    /// Time for each, in microseconds.
    pub pace_us: f32,
}

impl Stay {
    fn bytes(&self) -> usize {
        let marks = self.marks.iter().map(|mark| mark.state.len());
        self.state.len() + marks.sum::<usize>()
    }
}

/// Sequences that were copied out, the longest unused in front, each with a number of its own.
pub struct Parked {
    stays: VecDeque<(u64, Stay)>,
    next: u64,
    bytes_max: usize,
}

impl Parked {
    /// None yet, and never more than so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Parked {
            stays: VecDeque::new(),
            next: 0,
            bytes_max,
        }
    }

    /// True if a copy of so many tokens, and bytes, would be kept.
    pub fn wants(&self, tokens: usize, bytes: impl FnOnce() -> usize) -> bool {
        tokens >= TOKENS_MIN && self.bytes_max > 0 && bytes() <= self.bytes_max
    }

    /// Keeps a sequence, in place of those that are its beginning.
    pub fn put(&mut self, stay: Stay) {
        self.stays
            .retain(|(_, old)| !stay.tokens.starts_with(&old.tokens));
        self.stays.push_back((self.next, stay));
        self.next += 1;
        let bytes = |stays: &VecDeque<(u64, Stay)>| -> usize {
            stays.iter().map(|(_, stay)| stay.bytes()).sum()
        };
        while bytes(&self.stays) > self.bytes_max {
            self.stays.pop_front();
        }
    }

    /// The sequence that `usable` says most of, if a copy of it pays: its number, and what `usable`
    /// said.
    pub fn best(&self, usable: impl Fn(&Stay) -> (usize, usize)) -> Option<(u64, (usize, usize))> {
        let stays = self.stays.iter().filter_map(|(id, stay)| {
            let found = usable(stay);
            let pays = found.0 >= TOKENS_MIN && found.0 >= stay.tokens.len() / USED_SHARE;
            pays.then_some((*id, found))
        });
        stays.max_by_key(|(_, found)| *found)
    }

    /// Takes out the sequence that was copied out last.
    pub fn pop(&mut self) -> Option<Stay> {
        self.stays.pop_back().map(|(_, stay)| stay)
    }

    /// A sequence by its number, if it is still there. It counts as used.
    pub fn stay(&mut self, id: u64) -> Option<&Stay> {
        let place = self.stays.iter().position(|(known, _)| *known == id)?;
        let stay = self.stays.remove(place)?;
        self.stays.push_back(stay);
        self.stays.back().map(|(_, stay)| stay)
    }
}
