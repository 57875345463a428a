//! Admission: which waiting job gets a sequence of the cache, and when.

use llama_cpp_2::token::LlamaToken;

use super::Event;
use super::found::Found;
use super::prefix::{TOKENS_MIN, common};
use super::running_job::RunningJob;
use super::tune::GRID;
use super::worker::Worker;
use crate::core::error::{Error, Result};

/// A job waits for a running job with the same prompt prefix if that saves at least this many tokens.
const SHARED_TOKENS_MIN: usize = 64;
/// Distance between checkpoints in a long prompt, in tokens.
const CHECKPOINT_TOKENS: usize = 1024;

/// The decision about a waiting job.
enum Verdict {
    /// Starts in this sequence and resumes from the prefix that was found.
    Begin(usize, Found),
    /// Waits; later jobs may start.
    Wait,
    /// The cache is full: no job can start.
    Full,
    /// The prompt can never fit the context.
    TooLong,
}

impl Worker<'_> {
    /// Assigns sequences to waiting jobs in order of arrival, while their prompts fit the cache.
    pub(super) fn admit(&mut self) {
        let mut next = 0;
        while next < self.waiting.len() {
            match self.verdict(next) {
                Verdict::Wait => next += 1,
                Verdict::Full => return,
                Verdict::Begin(index, found) => {
                    if let Some(job) = self.waiting.remove(next) {
                        self.begin(index, found, job);
                    }
                }
                Verdict::TooLong => {
                    if let Some(mut job) = self.waiting.remove(next) {
                        let error = Error::too_long(job.tokens.len(), self.plan.tokens_max);
                        let trained = self.model.n_ctx_train() as usize;
                        let error = match self.plan.tokens_max >= trained {
                            true => error.at_maximum(),
                            false => error,
                        };
                        job.send(Event::Failed(error));
                    }
                }
            }
        }
    }

    fn verdict(&mut self, next: usize) -> Verdict {
        if self.waiting[next].tokens.len() >= self.plan.tokens_max {
            return Verdict::TooLong;
        }
        if self.jobs.iter().all(Option::is_some) {
            return Verdict::Full;
        }
        let prompt = &self.waiting[next].tokens;
        let found = match self.plan.answer_start {
            None if !self.plan.deterministic => self.cache.find(prompt),
            // A deterministic job reuses nothing: its cells and slices lie as they would if it ran alone.
            _ => Found::NONE,
        };
        if let Some((index, tokens)) = self.being_computed(prompt)
            && tokens >= found.tokens + SHARED_TOKENS_MIN
        {
            if tokens > self.cache.window()
                && let Some(job) = &mut self.jobs[index]
                && !job.checkpoints.contains(&tokens)
            {
                job.checkpoints.push(tokens);
            }
            return Verdict::Wait;
        }
        if !self.fits(prompt, found) {
            return Verdict::Full;
        }
        let is_idle = |index: usize| self.jobs[index].is_none();
        match self.cache.place(found, is_idle) {
            Some(index) => Verdict::Begin(index, found),
            None => Verdict::Full,
        }
    }

    /// The running job that shares the longest prompt prefix with this one and has not computed all of that
    /// prefix yet, and the length of the prefix in tokens.
    fn being_computed(&self, prompt: &[LlamaToken]) -> Option<(usize, usize)> {
        let jobs = self.jobs.iter().enumerate();
        let shared = jobs.filter_map(|(index, job)| {
            let job = job.as_ref().filter(|job| !job.is_ended())?;
            let tokens = common(&job.tokens[..job.prompt_tokens], prompt);
            let tokens = if tokens > self.cache.window() {
                tokens / GRID * GRID
            } else {
                tokens
            };
            (tokens > self.cache.count(index)).then_some((index, tokens))
        });
        shared.max_by_key(|(_, tokens)| *tokens)
    }

    /// True if a prompt fits beside the cells that the running jobs use now and still need.
    fn fits(&self, prompt: &[LlamaToken], found: Found) -> bool {
        let is_active = |index: &usize| self.jobs[*index].is_some();
        let active = || (0..self.jobs.len()).filter(is_active);
        let held = self.cache.cells_of(active());
        let jobs = self.jobs.iter().enumerate();
        let coming = jobs.filter_map(|(index, job)| {
            let job = job.as_ref()?;
            Some(job.tokens.len() - self.cache.count(index) + 1)
        });
        let shared = if found.is_in(active()) {
            found.tokens
        } else {
            0
        };
        held + coming.sum::<usize>() + prompt.len() - shared < self.cache.all_cells()
    }

    fn begin(&mut self, index: usize, found: Found, mut job: RunningJob) {
        let needed = job.tokens.len() + 1;
        let reused = match self.restore(index, &job, found.tokens) {
            Some(restored) => restored,
            None => {
                let jobs = &self.jobs;
                let is_idle = |at: usize| jobs[at].is_none() && at != index;
                self.cache.begin(index, found, (needed, is_idle))
            }
        };
        let candidate_common = job.candidate.take().map_or(0, |candidate| candidate.common);
        let common = found.common.max(candidate_common);
        let jobs = &self.jobs;
        let is_idle = |at: usize| jobs[at].is_none() && at != index;
        self.cache.free(needed - reused, is_idle);
        if let Some(start) = self.plan.answer_start {
            if let Err(error) = self.encode(&mut job, start) {
                return job.send(Event::Failed(error));
            }
        } else if self.cache.needs_checkpoints() && !(self.plan.once && needed < TOKENS_MIN) {
            job.checkpoints = checkpoints(job.tokens.len(), common, reused, self.cache.window());
        }
        let prompt = &job.tokens[..job.prompt_tokens];
        if job.sampler.is_none() {
            let (vocabulary, tokens_max) = (self.model.n_vocab(), self.plan.tokens_max);
            let chain = job.request.sampling.chain(vocabulary, tokens_max, prompt);
            job.sampler = Some(chain);
        }
        job.admit(reused);
        self.cache.touch(index, self.step);
        self.jobs[index] = Some(job);
    }

    /// Runs the model's encoder on the whole prompt; the decoder then starts with the token `start`.
    fn encode(&mut self, job: &mut RunningJob, start: LlamaToken) -> Result<()> {
        let vocab = self.model.vocab();
        let end = vocab.should_add_eos().then(|| vocab.eos());
        let end = end.filter(|end| job.tokens.last() != Some(end));
        self.batch.clear();
        for (place, token) in job.tokens.iter().chain(&end).enumerate() {
            let added = self.batch.add(*token, place as i32, &[0], true);
            added.map_err(|_| Error::too_long(job.tokens.len(), self.plan.tokens_max))?;
        }
        let encoded = self.cache.context_mut().encode(&mut self.batch);
        encoded.map_err(|error| Error::failed(format!("llama.cpp failed to compute: {error}")))?;
        job.tokens = vec![start];
        job.prompt_tokens = 1;
        Ok(())
    }
}

/// Positions of the checkpoints in a prompt of this many tokens, of which `reused` are already computed: near
/// its end, where it diverges from another prompt, and at regular distances before. A single checkpoint
/// covers the first `window` tokens, taken once the prompt or its answer reaches their end.
fn checkpoints(prompt_tokens: usize, common: usize, reused: usize, window: usize) -> Vec<usize> {
    let last = prompt_tokens.saturating_sub(1) / GRID * GRID;
    let on_the_way = (CHECKPOINT_TOKENS..last).step_by(CHECKPOINT_TOKENS);
    let checkpoints = on_the_way.chain([last, common / GRID * GRID]);
    let checkpoints = checkpoints
        .filter(|checkpoint| *checkpoint > window)
        .chain([window]);
    let mut checkpoints: Vec<usize> = checkpoints
        .filter(|checkpoint| *checkpoint > reused)
        .collect();
    checkpoints.sort_unstable();
    checkpoints.dedup();
    checkpoints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_taken_where_prompts_diverge() {
        assert_eq!(checkpoints(100, 50, 0, 0), [48, 96]);
        assert_eq!(checkpoints(100, 50, 48, 0), [96]);
        assert_eq!(checkpoints(97, 96, 96, 0), [0; 0]);
        assert_eq!(checkpoints(3000, 0, 0, 0), [1024, 2048, 2992]);
        assert_eq!(checkpoints(1, 0, 0, 0), [0; 0]);
    }

    #[test]
    fn prompts_within_the_window_have_one_checkpoint() {
        assert_eq!(checkpoints(100, 50, 0, 496), [496]);
        assert_eq!(checkpoints(600, 560, 0, 496), [496, 560, 592]);
        assert_eq!(checkpoints(600, 560, 496, 496), [560, 592]);
    }
}
