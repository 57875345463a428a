//! Sequences restored from the prefix cache, and shared with it when an engine ends.

use super::prefix::TOKENS_MIN;
use super::running_job::RunningJob;
use super::worker::Worker;

/// Sequences that a server shares when it unloads a model: the most recently used.
pub const SHARED_MAX: usize = 4;

impl Worker<'_> {
    /// Restores a job's candidate into a sequence, if it saves much more than the `found` tokens that are
    /// there already. Returns the number of tokens that are there then.
    pub(super) fn restore(
        &mut self,
        index: usize,
        job: &RunningJob,
        found: usize,
    ) -> Option<usize> {
        let candidate = job.candidate.as_ref()?;
        if candidate.usable < found + TOKENS_MIN || candidate.tokens > self.cache.all_cells() {
            return None;
        }
        let prefix = self.prefixes.as_ref()?.load(candidate)?;
        let jobs = &self.jobs;
        let is_idle = |at: usize| jobs[at].is_none() && at != index;
        self.cache.free(prefix.tokens.len() + 1, is_idle);
        let there = self.cache.restore(index, prefix) && self.cache.cut(index, candidate.usable);
        if !there {
            self.cache.clear(index);
            return None;
        }
        Some(candidate.usable)
    }

    /// Shares the sequences that took long to compute and would be lost with the engine.
    pub(super) fn share(&mut self) {
        let Some(prefixes) = &self.prefixes else {
            return;
        };
        let mut indexes: Vec<usize> = (0..self.jobs.len()).collect();
        indexes.sort_by_key(|index| std::cmp::Reverse(self.cache.used_at(*index)));
        let mut shared = 0;
        for index in indexes {
            let prefix = self.cache.prefix(index).filter(|_| shared < SHARED_MAX);
            prefix.iter().for_each(|prefix| prefixes.store(prefix));
            shared += usize::from(prefix.is_some());
        }
        while let Some(prefix) = self.cache.saved_prefix().filter(|_| shared < SHARED_MAX) {
            prefixes.store(&prefix);
            shared += 1;
        }
    }
}
