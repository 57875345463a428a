//! Where the prefix of a prompt was found.

/// The prefix of a prompt that is already computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub source: Source,
    /// Tokens that need no computation.
    pub tokens: usize,
    /// Tokens in common; more than `tokens` where the memory cannot be cut after them.
    pub common: usize,
}

impl Found {
    /// No prefix was found.
    pub const NONE: Found = Found {
        source: Source::Nowhere,
        tokens: 0,
        common: 0,
    };

    /// True if it is in one of these sequences.
    pub fn is_in(self, mut indexes: impl Iterator<Item = usize>) -> bool {
        indexes.any(|index| self.source == Source::SequenceState(index))
    }
}

/// Where a prefix was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// In nothing.
    Nowhere,
    /// In the sequence of this index.
    SequenceState(usize),
    /// In the saved sequence of this number.
    SavedSequences(u64),
}
