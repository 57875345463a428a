//! The thread that owns a context: takes jobs, builds one batch from all of them, decodes, samples.
//!
//! Every turn holds one token of each generating sequence and a slice of waiting prompts. When the
//! cache is full the youngest sequence steps back and goes on later; no answer is cut because of
//! another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use llama_cpp_2::DecodeError;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use super::cache::Cache;
use super::memory::MEMORY_HINT;
use super::prefix::Prefixes;
use super::work::Work;
use super::{Budget, Event, Guide, Job};
use super::{likely, prefix, tune};
use crate::error::{Error, Result};
use crate::message::Reason;

/// How long a busy thread waits for another job before it ends.
pub const LINGER: Duration = Duration::from_millis(20);
/// How long to rest when every listener is slow.
const REST: Duration = Duration::from_millis(2);

/// A job and where its events go.
pub struct Submission {
    pub job: Job,
    pub events: SyncSender<Event>,
}

/// The state of the loop.
pub struct Worker<'a> {
    pub(super) model: &'a LlamaModel,
    pub(super) cache: Cache<'a>,
    pub(super) batch: LlamaBatch<'a>,
    /// The job in each sequence of the cache.
    pub(super) works: Vec<Option<Work>>,
    pub(super) waiting: VecDeque<Work>,
    pub(super) turn: u64,
    pub(super) plan: Plan,
    /// Who keeps beginnings of prompts.
    pub(super) prefixes: Option<Arc<dyn Prefixes>>,
}

/// What stays the same for all jobs of a context.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Most tokens of one prompt and answer.
    pub tokens_max: usize,
    /// Answers computed at once.
    pub sequences: usize,
    /// Tokens of prompts in one decode.
    pub slice_tokens: usize,
    /// Tokens of one decode, at most.
    pub batch_tokens: usize,
    /// True if attention may be computed in tiles, over the cells of all sequences.
    pub has_tiles: bool,
    /// The token that answers begin with, for a model that encodes its prompts first.
    pub answer_start: Option<LlamaToken>,
    /// True if the context goes with its first job.
    pub once: bool,
    /// True if nothing that was computed before is used.
    pub deterministic: bool,
    /// Most anonymous memory of the process, and how to read it, both in bytes.
    pub memory_max: Option<(u64, fn() -> u64)>,
}

impl<'a> Worker<'a> {
    /// A loop over a fresh cache; `first` is a job that waits already.
    pub fn new(
        model: &'a LlamaModel,
        (cache, plan): (Cache<'a>, Plan),
        prefixes: Option<Arc<dyn Prefixes>>,
        first: Option<Work>,
    ) -> Self {
        Worker {
            model,
            cache,
            batch: LlamaBatch::new(plan.batch_tokens, 1),
            works: (0..plan.sequences).map(|_| None).collect(),
            waiting: first.into_iter().collect(),
            turn: 0,
            plan,
            prefixes: prefixes.filter(|_| plan.answer_start.is_none()),
        }
    }

    /// Works until no more jobs can come. Each busy stretch has a thread of its own: see the top
    /// of `thread.rs`.
    pub fn turns(&mut self, jobs: &mut Receiver<Submission>) {
        while self.wait(jobs) {
            let ended = thread::scope(|scope| scope.spawn(|| self.stretch(jobs)).join());
            if ended.is_err() {
                return; // It panicked: its jobs are told by their channels.
            }
        }
        self.hand_over();
    }

    /// Blocks until there is something to do. False: there will never be.
    fn wait(&mut self, jobs: &mut Receiver<Submission>) -> bool {
        if !self.is_busy() {
            match jobs.recv() {
                Ok(submission) => self.take(submission),
                Err(_) => return false,
            }
        }
        true
    }

    /// Works until nothing was to do for a while.
    fn stretch(&mut self, jobs: &mut Receiver<Submission>) {
        loop {
            while self.is_busy() {
                jobs.try_iter().for_each(|submission| self.take(submission));
                self.turn();
            }
            match jobs.recv_timeout(LINGER) {
                Ok(submission) => self.take(submission),
                Err(_) => return,
            }
        }
    }

    fn turn(&mut self) {
        self.turn += 1;
        self.drop_ended();
        self.admit();
        let places = self.fill_batch();
        if !places.is_empty() {
            self.decode(&places);
            self.check_memory();
        } else if self.is_busy() {
            thread::sleep(REST);
        }
    }

    /// Fails all jobs once the process takes more memory than it may.
    fn check_memory(&mut self) {
        let Some((most, read)) = self.plan.memory_max else {
            return;
        };
        let taken = read();
        if taken > most {
            let error = || Error::memory(taken, most, MEMORY_HINT);
            let works = self.works.iter_mut().flatten().chain(&mut self.waiting);
            works.for_each(|work| work.fail(error()));
        }
    }

    fn take(&mut self, submission: Submission) {
        let mut work = Work::new(submission.job, submission.events);
        work.offer = prefix::offer(self.prefixes.as_deref(), &work, self.cache.whole());
        self.waiting.push_back(work);
    }

    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.works.iter().any(Option::is_some)
    }

    /// Takes out the jobs that nobody wants any more and those whose last event has left.
    fn drop_ended(&mut self) {
        let over = |work: &mut Work| {
            work.flush();
            if work.is_cancelled() {
                work.send(Event::Failed(Error::cancelled()));
            }
            work.is_cancelled() || work.is_delivered()
        };
        self.waiting.retain_mut(|work| !over(work));
        for work in &mut self.works {
            if work.as_mut().is_some_and(over) {
                *work = None;
            }
        }
    }

    /// Tokens of a sequence's job that are not computed yet, if the job can go on.
    fn pending(&self, index: usize) -> &[LlamaToken] {
        match &self.works[index] {
            Some(work) if work.is_open() => &work.tokens[self.cache.count(index)..],
            _ => &[],
        }
    }

    /// Fills the batch; for each sequence in it: its index, how many tokens, and the place of its
    /// logits if they are wanted.
    fn fill_batch(&mut self) -> Vec<Place> {
        self.batch.clear();
        let mut places = Vec::new();
        let mut slice_left = self.plan.slice_tokens;
        let order = self.order();
        let most = self.decode_tokens(&order);
        for index in order {
            let pending = self.pending(index).len();
            let room = most - self.batch.n_tokens() as usize;
            let count = match pending {
                0 => continue,
                1 => room.min(1),
                _ => self.slice(index, slice_left.min(room)),
            };
            if count == 0 {
                continue;
            }
            if pending > 1 {
                slice_left -= count;
            }
            self.add(index, count, count == pending);
            places.push(Place {
                index,
                count,
                logits: (count == pending).then(|| self.batch.n_tokens() - 1),
            });
        }
        places
    }

    /// Most tokens of a decode of these sequences; a prompt among them gets room for a slice.
    fn decode_tokens(&self, order: &[usize]) -> usize {
        if !self.plan.has_tiles {
            return self.plan.batch_tokens;
        }
        let pending = |index: &usize| self.pending(*index).len();
        let prompt = order.iter().find(|index| pending(index) > 1);
        let generating = order.iter().filter(|index| pending(index) == 1).count();
        let all = self.cache.used_cells() + order.iter().map(pending).sum::<usize>();
        let (least, own) = match prompt {
            Some(prompt) => (
                generating + tune::GRID,
                self.cache.count(*prompt) + pending(prompt),
            ),
            None => (1, all / generating.max(1)),
        };
        tune::decode_tokens(self.plan.batch_tokens, least, (own, all))
    }

    /// How many tokens of a prompt to compute now: up to `limit`, and up to the next mark.
    fn slice(&self, index: usize, limit: usize) -> usize {
        let start = self.cache.count(index);
        let marks = self.works[index].iter().flat_map(|work| &work.marks);
        let mark = marks.filter(|mark| **mark > start).min();
        let limit = mark.map_or(limit, |mark| limit.min(mark - start));
        tune::slice(start, self.pending(index).len(), limit)
    }

    /// Generating sequences first, then prompts in the order they were admitted.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.works.len()).collect();
        order.sort_by_key(|index| (self.pending(*index).len() > 1, self.cache.used_at(*index)));
        order
    }

    fn add(&mut self, index: usize, count: usize, with_logits: bool) {
        let start = self.cache.count(index);
        let tokens = self.pending(index)[..count].to_vec();
        for (i, token) in tokens.into_iter().enumerate() {
            let logits = with_logits && i + 1 == count;
            let place = (start + i) as i32;
            let added = self.batch.add(token, place, &[index as i32], logits);
            added.expect("fill_batch counted the room");
        }
    }

    fn decode(&mut self, places: &[Place]) {
        let works = places.iter().flat_map(|place| &self.works[place.index]);
        let cancels = works.map(|work| work.job.cancel.clone());
        match self.cache.decode(&mut self.batch, cancels) {
            Ok(true) => places.iter().for_each(|place| self.advance(place)),
            // What cannot be cut anywhere may have been half written.
            Ok(false) if self.cache.needs_marks() => {
                places
                    .iter()
                    .for_each(|place| self.cache.clear(place.index));
            }
            Ok(false) => {}
            Err(DecodeError::NoKvCacheSlot) => self.make_room(),
            Err(error) => self.fail(places, &error),
        }
    }

    /// The cache is full: idle cells go first, then the youngest job steps back into the queue.
    fn make_room(&mut self) {
        let before = self.cache.used_cells();
        // A job that has ended and only waits for its listener needs no cells any more.
        let works = &self.works;
        let is_working = |index: usize| works[index].as_ref().is_some_and(|work| !work.is_ended());
        self.cache
            .free(self.cache.all_cells(), |index| !is_working(index));
        if self.cache.used_cells() < before {
            return;
        }
        let working: Vec<usize> = (0..works.len()).filter(|at| is_working(*at)).collect();
        let age = |index: &&usize| (self.cache.used_at(**index), **index);
        let Some(&index) = working.iter().max_by_key(age) else {
            return;
        };
        if working.len() == 1 {
            if let Some(work) = &mut self.works[index] {
                work.end(Reason::Length);
            }
            return;
        }
        self.cache.park(index);
        if let Some(work) = self.works[index].take() {
            self.waiting.push_front(work);
        }
    }

    fn fail(&mut self, places: &[Place], error: &DecodeError) {
        for place in places {
            self.cache.clear(place.index);
            if let Some(mut work) = self.works[place.index].take() {
                work.send(Event::Failed(Error::failed(format!(
                    "llama.cpp failed to compute: {error}"
                ))));
            }
        }
    }

    fn advance(&mut self, place: &Place) {
        let index = place.index;
        let done = self.pending(index)[..place.count].to_vec();
        self.cache.extend(index, &done);
        let count = self.cache.count(index);
        if let Some(work) = &mut self.works[index]
            && work.marks.contains(&count)
        {
            self.cache.mark(index);
        }
        if place.count > 1
            && let Some(work) = &self.works[index]
        {
            let pace = work.pace_us(count.saturating_sub(work.kept_tokens));
            self.cache.note_pace(index, pace);
        }
        if let Some(logits) = place.logits {
            self.sample(index, logits);
        }
    }

    fn sample(&mut self, index: usize, logits: i32) {
        let Some(work) = &mut self.works[index] else {
            return;
        };
        let sampler = work
            .sampler
            .as_mut()
            .expect("an admitted job has a sampler");
        if work.answer_tokens >= work.job.answer_tokens {
            work.answered();
            return work.end(Reason::Length);
        }
        let logits = self.cache.context().get_logits_ith(logits);
        let vocab = self.model.vocab();
        let forced = work.job.budget.as_ref().and_then(Budget::forced);
        let picked = match forced {
            Some(token) => {
                sampler.accept(token);
                Ok(token)
            }
            None => {
                let shortlist = work.job.sampling.shortlist();
                pick(
                    (sampler, shortlist),
                    work.job.guide.as_mut(),
                    logits,
                    |token| vocab.is_eog(token),
                )
            }
        };
        let token = match picked {
            Ok(token) => token,
            Err(error) => return work.fail(error),
        };
        if vocab.is_eog(token) && !work.job.endless {
            work.answered();
            return work.end(Reason::Stop);
        }
        let visible = work.job.visible.binary_search(&token.0).is_ok();
        let bytes = vocab.token_to_piece(token, visible, None);
        if let Some(budget) = &mut work.job.budget {
            budget.took(&bytes);
        }
        if let Some(guide) = &mut work.job.guide
            && let Err(error) = guide.accept(token, &bytes)
        {
            return work.fail(error);
        }
        let likely = work
            .job
            .likely
            .map(|count| likely::told(vocab, logits, token, count));
        work.push(token, bytes, likely);
        if work.answer_tokens >= work.job.answer_tokens {
            return work.end(Reason::Length);
        }
        if work.tokens.len() < self.plan.tokens_max {
            return;
        }
        match work.job.shift {
            Some(keep) if self.plan.answer_start.is_none() && keep + 2 < work.tokens.len() => {
                work.shift(keep);
                self.cache.clear(index);
            }
            _ => work.end(Reason::Length),
        }
    }
}

/// The next token. One that the grammar takes as it comes costs nothing more; only if it does not
/// is every token looked at.
fn pick(
    (sampler, shortlist): (&mut LlamaSampler, Option<usize>),
    guide: Option<&mut Guide>,
    logits: &[f32],
    ends: impl Fn(LlamaToken) -> bool,
) -> Result<LlamaToken> {
    let lost = || Error::failed("the sampler chose no token");
    let mut tokens = candidates(logits, shortlist);
    if tokens.data.is_empty() {
        return Err(Error::failed(
            "the model computed no numbers: its weights are damaged or need other settings",
        ));
    }
    tokens.apply_sampler(sampler);
    let mut token = tokens.selected_token().ok_or_else(lost)?;
    // A grammar knows one token that ends answers; a model may have several.
    if let Some(guide) = guide
        && !(ends(token) && guide.may_end())
        && !guide.allows(token)?
    {
        tokens = candidates(logits, None);
        guide.mask(&mut tokens)?;
        tokens.apply_sampler(sampler);
        token = tokens.selected_token().ok_or_else(lost)?;
    }
    sampler.accept(token);
    Ok(token)
}

/// The tokens to choose from: so many of the likeliest, or all whose logits are numbers.
fn candidates(logits: &[f32], shortlist: Option<usize>) -> LlamaTokenDataArray {
    let entry = |(id, logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0);
    match shortlist {
        Some(count) => {
            let tokens = likely::likeliest(logits, count).into_iter().map(entry);
            LlamaTokenDataArray::from_iter(tokens, true)
        }
        None => {
            let tokens = (0..).zip(logits.iter().copied());
            // What is no number would make llama.cpp sort without an order.
            let tokens = tokens.filter(|(_, logit)| !logit.is_nan()).map(entry);
            LlamaTokenDataArray::from_iter(tokens, false)
        }
    }
}

struct Place {
    index: usize,
    count: usize,
    logits: Option<i32>,
}
