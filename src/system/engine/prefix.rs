//! Prompt prefixes that outlive the engine: the interface to the prefix cache, and when the engine shares
//! sequences with it.

use std::fmt::Debug;

/// Fewer tokens than this are computed again: that is as fast, and needs no file.
pub const TOKENS_MIN: usize = 512;
/// A saved sequence is restored only if at least 1/8 of it matches the prompt.
pub const USED_SHARE: usize = 8;

/// The computing code: another llama.cpp may lay a stored state out in another way, and other patches may round
/// otherwise or be as fast with other settings.
pub const BUILD: &str = concat!(
    "llama-cpp-sys-2 0.1.161, patches ",
    env!("GGML_PUNA_PATCHES")
);

/// The memory after some tokens.
pub struct Prefix {
    /// The tokens, from the first of a prompt on.
    pub tokens: Vec<i32>,
    /// All their memory, as llama.cpp writes it.
    pub state: Vec<u8>,
    /// Checkpoints, for a memory that cannot be cut anywhere: the number of tokens before each, and its
    /// bytes.
    pub checkpoints: Vec<(usize, Vec<u8>)>,
    /// Time to compute one of the tokens, in microseconds.
    pub pace_us: f32,
}

/// A candidate: a prefix in the prefix cache.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name in the prefix cache.
    pub name: String,
    /// Tokens of the prompt that need no computation with it; 0: restoring it does not pay off.
    pub usable: usize,
    /// Tokens in common with the prompt.
    pub common: usize,
    /// Tokens that it contains.
    pub tokens: usize,
}

/// The prefix cache, as the engine uses it.
pub trait Prefixes: Debug + Send + Sync {
    /// The best candidate for a prompt, if one pays off; `window`: see [`usable`].
    fn best(&self, prompt: &[i32], window: usize) -> Option<Candidate>;
    /// Loads a candidate, if it still exists and is intact.
    fn load(&self, candidate: &Candidate) -> Option<Prefix>;
    /// Stores a prefix. A failure costs only time.
    fn store(&self, prefix: &Prefix);
}

/// How many of the `common` tokens a prompt can resume from, in a sequence of `held` tokens with these
/// checkpoints. A sequence or a checkpoint of at most `window` tokens can be cut after any token; where
/// there are checkpoints, all of its tokens are copied first.
pub fn usable(
    held: usize,
    common: usize,
    checkpoints: impl Iterator<Item = usize>,
    window: usize,
) -> usize {
    let places = checkpoints.chain([held]).filter_map(|place| match place {
        _ if place <= common => Some(place),
        _ if window == usize::MAX => Some(common),
        _ => (place <= window && place / USED_SHARE <= common).then_some(common),
    });
    places.max().unwrap_or(0)
}

/// How many tokens two sequences have in common at their start.
pub fn common<T: PartialEq>(left: &[T], right: &[T]) -> usize {
    let pairs = left.iter().zip(right);
    pairs.take_while(|(left, right)| left == right).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_within_the_window_can_be_cut_anywhere() {
        let checkpoints = || [496, 1024].into_iter();
        assert_eq!(usable(2000, 2000, checkpoints(), 496), 2000);
        assert_eq!(usable(2000, 1500, checkpoints(), 496), 1024);
        assert_eq!(usable(2000, 1000, checkpoints(), 496), 496);
        assert_eq!(usable(2000, 300, checkpoints(), 496), 300);
        assert_eq!(usable(2000, 300, checkpoints(), 0), 0);
        assert_eq!(
            usable(2000, 61, checkpoints(), 496),
            0,
            "a copy of more than it is worth"
        );
        assert_eq!(usable(400, 300, [].into_iter(), 496), 300);
        assert_eq!(usable(2000, 300, [].into_iter(), usize::MAX), 300);
    }

    #[test]
    fn common_counts_the_shared_prefix() {
        assert_eq!(common(&[1, 2, 3], &[1, 2, 4, 5]), 2);
        assert_eq!(common(&[], &[1]), 0);
    }
}
