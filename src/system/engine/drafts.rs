//! Drafts in the engine's loop: how many tokens of a guess join a decode, and which of them stay.

use llama_cpp_2::token::LlamaToken;

use super::speculation::Price;
use super::worker::{Place, Worker};

impl Worker<'_> {
    /// The worth of drafts while so many of these sequences generate; `None`: nothing is drafted, as also beside a slice
    /// of a prompt, which fills the time that streams may stall.
    pub(super) fn draft_price(&self, generating: usize, order: &[usize]) -> Option<Price> {
        let reads = order.iter().any(|index| self.pending(*index).len() > 1);
        let cost = self.plan.draft_cost.filter(|_| !reads)?;
        Some(Price {
            token: 1.0 / generating.max(1) as f32,
            cost: cost.among(generating),
        })
    }

    /// Adds the draft of a sequence to the batch, behind its next token: at most so many tokens.
    pub(super) fn add_drafts(
        &mut self,
        index: usize,
        room: usize,
        price: Price,
    ) -> Vec<LlamaToken> {
        let Some(job) = &mut self.jobs[index] else {
            return Vec::new();
        };
        let (start, tokens) = (self.cache.count(index) + 1, job.tokens.len());
        let taken = self.batch.n_tokens() as usize + self.plan.sequences;
        let free = self.cache.all_cells() - self.cache.used_cells();
        let checkpoints = job.checkpoints.iter().filter(|at| **at >= start);
        let room = room
            .min(self.plan.batch_tokens.saturating_sub(taken))
            .min(free.saturating_sub(taken))
            .min(self.plan.tokens_max.saturating_sub(tokens + 1))
            .min(
                job.request
                    .answer_tokens
                    .saturating_sub(job.answer_tokens + 1),
            )
            .min(checkpoints.min().map_or(usize::MAX, |at| at - start));
        let drafts = job.speculation.draft(&job.tokens, room, price).to_vec();
        job.speculation.drafts.computed += drafts.len();
        for (position, draft) in (start as i32..).zip(&drafts) {
            let added = self.batch.add(*draft, position, &[index as i32], true);
            added.expect("fill_batch counted the room");
        }
        drafts
    }

    /// Advances a sequence by its next token and the drafts that the sampler chooses too; the others leave the
    /// cache.
    pub(super) fn advance_drafted(&mut self, place: &Place) {
        let index = place.index;
        let before = self.cache.count(index);
        let token = self.pending(index).first().copied();
        let tokens = token.into_iter().chain(place.drafts.iter().copied());
        for (token, logits) in tokens.zip(place.logits.unwrap_or(0)..) {
            let Some(job) = &mut self.jobs[index] else {
                break;
            };
            let next = job.tokens.get(self.cache.count(index)..);
            if job.is_ended() || next != Some(&[token]) {
                break;
            }
            self.cache.extend(index, &[token]);
            self.sample(index, logits);
        }
        let count = self.cache.count(index);
        if !self.cache.remove_behind(index, count) {
            self.cache.clear(index); // It is computed again.
        }
        if let Some(job) = &mut self.jobs[index] {
            job.speculation.drafts.kept += count.saturating_sub(before + 1);
            if job.checkpoints.contains(&count) {
                self.cache.checkpoint(index);
            }
        }
        self.learn(index, before + 1);
    }

    /// Tells a job's speculation what was chosen from this position on.
    pub(super) fn learn(&mut self, index: usize, position: usize) {
        if let Some(job) = &mut self.jobs[index]
            && self.plan.draft_cost.is_some()
        {
            let chosen = job.tokens.get(position..).unwrap_or_default();
            job.speculation.learn(chosen);
        }
    }
}
