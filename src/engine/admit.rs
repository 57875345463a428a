//! Which waiting job gets a sequence of the cache, and when.

use llama_cpp_2::token::LlamaToken;

use super::Event;
use super::cache::Found;
use super::prefix::{TOKENS_MIN, common};
use super::tune::GRID;
use super::work::Work;
use super::worker::Worker;
use crate::error::{Error, Result};

/// A job waits for another that computes the same beginning if that saves it so many tokens.
const SHARED_TOKENS_MIN: usize = 64;
/// A mark in a long prompt every so many tokens.
const MARK_TOKENS: usize = 1024;

/// What becomes of a waiting job now.
enum Verdict {
    /// It gets this sequence, and goes on from what was found.
    Begin(usize, Found),
    /// It waits; others may begin.
    Wait,
    /// There is no room, for others neither.
    Full,
    /// It never can.
    TooLong,
}

impl Worker<'_> {
    /// Gives waiting jobs a sequence, in the order they came, while their prompts fit the cache.
    pub(super) fn admit(&mut self) {
        let mut next = 0;
        while next < self.waiting.len() {
            match self.verdict(next) {
                Verdict::Wait => next += 1,
                Verdict::Full => return,
                Verdict::Begin(index, found) => {
                    if let Some(work) = self.waiting.remove(next) {
                        self.begin(index, found, work);
                    }
                }
                Verdict::TooLong => {
                    if let Some(mut work) = self.waiting.remove(next) {
                        let error = Error::too_long(work.tokens.len(), self.plan.tokens_max);
                        work.send(Event::Failed(error));
                    }
                }
            }
        }
    }

    fn verdict(&mut self, next: usize) -> Verdict {
        if self.waiting[next].tokens.len() >= self.plan.tokens_max {
            return Verdict::TooLong;
        }
        if self.works.iter().all(Option::is_some) {
            return Verdict::Full;
        }
        let prompt = &self.waiting[next].tokens;
        let found = match self.plan.answer_start {
            None if !self.plan.deterministic => self.cache.find(prompt),
            // In a cache that is empty every cell and every slice is where it would be alone.
            _ => Found::NONE,
        };
        if let Some((index, tokens)) = self.being_computed(prompt)
            && tokens >= found.tokens + SHARED_TOKENS_MIN
        {
            if tokens > self.cache.whole()
                && let Some(work) = &mut self.works[index]
                && !work.marks.contains(&tokens)
            {
                work.marks.push(tokens);
            }
            return Verdict::Wait;
        }
        if !self.fits(prompt, found) {
            return Verdict::Full;
        }
        let is_idle = |index: usize| self.works[index].is_none();
        match self.cache.place(found, is_idle) {
            Some(index) => Verdict::Begin(index, found),
            None => Verdict::Full,
        }
    }

    /// The job under way whose prompt shares most with this one and is not computed so far yet, and
    /// how much that will be.
    fn being_computed(&self, prompt: &[LlamaToken]) -> Option<(usize, usize)> {
        let works = self.works.iter().enumerate();
        let shared = works.filter_map(|(index, work)| {
            let work = work.as_ref().filter(|work| !work.is_ended())?;
            let tokens = common(&work.tokens[..work.prompt_tokens], prompt);
            let tokens = match tokens > self.cache.whole() {
                true => tokens / GRID * GRID,
                false => tokens,
            };
            (tokens > self.cache.count(index)).then_some((index, tokens))
        });
        shared.max_by_key(|(_, tokens)| *tokens)
    }

    /// True if a prompt fits beside what the running jobs hold and will compute.
    fn fits(&self, prompt: &[LlamaToken], found: Found) -> bool {
        let is_active = |index: &usize| self.works[*index].is_some();
        let active = || (0..self.works.len()).filter(is_active);
        let held = self.cache.cells_of(active());
        let works = self.works.iter().enumerate();
        let coming = works.filter_map(|(index, work)| {
            let work = work.as_ref()?;
            Some(work.tokens.len() - self.cache.count(index) + 1)
        });
        let shared = match found.is_in(active()) {
            true => found.tokens,
            false => 0,
        };
        held + coming.sum::<usize>() + prompt.len() - shared < self.cache.all_cells()
    }

    fn begin(&mut self, index: usize, found: Found, mut work: Work) {
        let wanted = work.tokens.len() + 1;
        let kept = match self.bring(index, &work, found.tokens) {
            Some(brought) => brought,
            None => {
                let works = &self.works;
                if found.is_parked() {
                    let is_idle = |at: usize| works[at].is_none() && at != index;
                    self.cache.free(wanted, is_idle);
                }
                self.cache.begin(index, found)
            }
        };
        let offered = work.offer.take().map_or(0, |offer| offer.common);
        let common = found.common.max(offered);
        let works = &self.works;
        let is_idle = |at: usize| works[at].is_none() && at != index;
        self.cache.free(wanted - kept, is_idle);
        if let Some(start) = self.plan.answer_start {
            if let Err(error) = self.encode(&mut work, start) {
                return work.send(Event::Failed(error));
            }
        } else if self.cache.needs_marks() && !(self.plan.once && wanted < TOKENS_MIN) {
            work.marks = marks(work.tokens.len(), common, kept, self.cache.whole());
        }
        let prompt = &work.tokens[..work.prompt_tokens];
        if work.sampler.is_none() {
            let (vocabulary, tokens_max) = (self.model.n_vocab(), self.plan.tokens_max);
            let chain = work.job.sampling.chain(vocabulary, tokens_max, prompt);
            work.sampler = Some(chain);
        }
        work.admit(kept);
        self.cache.touch(index, self.turn);
        self.works[index] = Some(work);
    }

    /// Lets the model read a prompt as a whole; what is then generated begins with `start`.
    fn encode(&mut self, work: &mut Work, start: LlamaToken) -> Result<()> {
        let vocab = self.model.vocab();
        let end = vocab.should_add_eos().then(|| vocab.eos());
        let end = end.filter(|end| work.tokens.last() != Some(end));
        self.batch.clear();
        for (place, token) in work.tokens.iter().chain(&end).enumerate() {
            let added = self.batch.add(*token, place as i32, &[0], true);
            added.map_err(|_| Error::too_long(work.tokens.len(), self.plan.tokens_max))?;
        }
        let encoded = self.cache.context_mut().encode(&mut self.batch);
        encoded.map_err(|error| Error::failed(format!("llama.cpp failed to compute: {error}")))?;
        work.tokens = vec![start];
        work.prompt_tokens = 1;
        Ok(())
    }
}

/// Where to mark the memory on the way through a prompt of so many tokens, `kept` of which are
/// there: near its end, where it parts from another prompt, and on the way there. One mark does for
/// the beginning that is `whole`, once the prompt or its answer comes to its end.
fn marks(prompt_tokens: usize, common: usize, kept: usize, whole: usize) -> Vec<usize> {
    let last = prompt_tokens.saturating_sub(1) / GRID * GRID;
    let on_the_way = (MARK_TOKENS..last).step_by(MARK_TOKENS);
    let marks = on_the_way.chain([last, common / GRID * GRID]);
    let marks = marks.filter(|mark| *mark > whole).chain([whole]);
    let mut marks: Vec<usize> = marks.filter(|mark| *mark > kept).collect();
    marks.sort_unstable();
    marks.dedup();
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_where_prompts_part() {
        assert_eq!(marks(100, 50, 0, 0), [48, 96]);
        assert_eq!(marks(100, 50, 48, 0), [96]);
        assert_eq!(marks(97, 96, 96, 0), [0; 0]);
        assert_eq!(marks(3000, 0, 0, 0), [1024, 2048, 2992]);
        assert_eq!(marks(1, 0, 0, 0), [0; 0]);
    }

    #[test]
    fn what_is_whole_has_one_mark_at_its_end() {
        assert_eq!(marks(100, 50, 0, 496), [496]);
        assert_eq!(marks(600, 560, 0, 496), [496, 560, 592]);
        assert_eq!(marks(600, 560, 496, 496), [560, 592]);
    }
}
