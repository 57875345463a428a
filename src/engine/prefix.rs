//! Beginnings of prompts that outlive the engine: what it asks of whoever keeps them, and when it
//! hands some over.

use std::fmt::Debug;

use super::parked::USED_SHARE;
use super::work::Work;
use super::worker::Worker;

/// Fewer tokens than this are computed again: as fast, and no file to look after.
pub const TOKENS_MIN: usize = 512;
/// Sequences that a server hands over when it lets a model go: the ones last in use.
const KEPT_MAX: usize = 4;

/// Names the format of what is handed over: another llama.cpp may lay it out in another way.
pub const BUILD: &str = "llama-cpp-sys-2 0.1.161";

/// The memory behind some tokens.
pub struct Prefix {
    /// The tokens, from the first of a prompt on.
    pub tokens: Vec<i32>,
    /// All memory of them, as llama.cpp writes it.
    pub state: Vec<u8>,
    /// Where it can be set back to, for a memory that cannot be cut anywhere: behind so many
    /// tokens, by these bytes.
    pub marks: Vec<(usize, Vec<u8>)>,
    /// How long one of the tokens took to compute, in microseconds.
    pub pace_us: f32,
}

/// A beginning that somebody keeps.
#[derive(Debug, Clone)]
pub struct Offer {
    /// What its keeper calls it.
    pub name: String,
    /// How many tokens of the prompt need no computation with it; 0: taking it does not pay.
    pub usable: usize,
    /// How many are the same.
    pub common: usize,
    /// How many it holds.
    pub tokens: usize,
}

/// Who keeps beginnings.
pub trait Prefixes: Debug + Send + Sync {
    /// The one of most use for a prompt, if one pays; `whole`: see [`usable`].
    fn best(&self, prompt: &[i32], whole: usize) -> Option<Offer>;
    /// What was offered, if it is still there and sound.
    fn load(&self, offer: &Offer) -> Option<Prefix>;
    /// Keeps one. Failing to costs only time.
    fn keep(&self, prefix: &Prefix);
}

/// Asks for a beginning of a job's prompt.
pub fn offer(prefixes: Option<&dyn Prefixes>, work: &Work, whole: usize) -> Option<Offer> {
    let prompt = &work.job.prompt;
    let prefixes = prefixes.filter(|_| prompt.len() > TOKENS_MIN)?;
    // The last token is computed in any case.
    prefixes.best(&prompt[..prompt.len() - 1], whole)
}

impl Worker<'_> {
    /// Puts what was offered for a job into a sequence, if that is much more than `found` tokens
    /// that are there already. How many tokens are there then.
    pub(super) fn bring(&mut self, index: usize, work: &Work, found: usize) -> Option<usize> {
        let offer = work.offer.as_ref()?;
        if offer.usable < found + TOKENS_MIN || offer.tokens > self.cache.all_cells() {
            return None;
        }
        let prefix = self.prefixes.as_ref()?.load(offer)?;
        let works = &self.works;
        let is_idle = |at: usize| works[at].is_none() && at != index;
        self.cache.free(prefix.tokens.len() + 1, is_idle);
        let there = self.cache.restore(index, prefix) && self.cache.cut(index, offer.usable);
        if !there {
            self.cache.clear(index);
            return None;
        }
        Some(offer.usable)
    }

    /// Hands over what took long to compute and would be lost with the engine.
    pub(super) fn hand_over(&mut self) {
        let Some(prefixes) = &self.prefixes else {
            return;
        };
        let mut indexes: Vec<usize> = (0..self.works.len()).collect();
        indexes.sort_by_key(|index| std::cmp::Reverse(self.cache.used_at(*index)));
        let mut kept = 0;
        for index in indexes {
            let prefix = self.cache.prefix(index).filter(|_| kept < KEPT_MAX);
            prefix.iter().for_each(|prefix| prefixes.keep(prefix));
            kept += usize::from(prefix.is_some());
        }
        while let Some(prefix) = self.cache.parked_prefix().filter(|_| kept < KEPT_MAX) {
            prefixes.keep(&prefix);
            kept += 1;
        }
    }
}

/// How many of the tokens that a prompt has in `common` with a sequence it can go on from, where the
/// sequence holds `held` and has marks. What is no longer than `whole`, the sequence or what it is set
/// back to by a mark, can be cut behind any token; where there are marks all of it is copied first.
pub fn usable(
    held: usize,
    common: usize,
    marks: impl Iterator<Item = usize>,
    whole: usize,
) -> usize {
    let places = marks.chain([held]).filter_map(|place| match place {
        _ if place <= common => Some(place),
        _ if whole == usize::MAX => Some(common),
        _ => (place <= whole && place / USED_SHARE <= common).then_some(common),
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
    fn what_is_whole_is_of_use_up_to_any_token() {
        let marks = || [496, 1024].into_iter();
        assert_eq!(usable(2000, 2000, marks(), 496), 2000);
        assert_eq!(usable(2000, 1500, marks(), 496), 1024);
        assert_eq!(usable(2000, 1000, marks(), 496), 496);
        assert_eq!(usable(2000, 300, marks(), 496), 300);
        assert_eq!(usable(2000, 300, marks(), 0), 0);
        assert_eq!(
            usable(2000, 61, marks(), 496),
            0,
            "a copy of more than it is worth"
        );
        assert_eq!(usable(400, 300, [].into_iter(), 496), 300);
        assert_eq!(usable(2000, 300, [].into_iter(), usize::MAX), 300);
    }

    #[test]
    fn what_begins_alike_is_common() {
        assert_eq!(common(&[1, 2, 3], &[1, 2, 4, 5]), 2);
        assert_eq!(common(&[], &[1]), 0);
    }
}
