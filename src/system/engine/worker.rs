//! The thread that owns a context: accepts jobs, builds one batch from all of them, decodes, samples.
//!
//! Every step computes one token of each generating sequence and a slice of waiting prompts. When the
//! cache is full, the youngest sequence is preempted and resumes later; no answer is cut because of
//! another.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use llama_cpp_2::DecodeError;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::cache::Cache;
use super::job::Submission;
use super::memory::MEMORY_HINT;
use super::plan::Plan;
use super::prefix::Prefixes;
use super::running_job::RunningJob;
use super::sampler::{may_only_end, pick};
use super::tune::{self, IDLE_WAIT};
use super::{Event, ThinkingBudget, logprobs};
use crate::core::error::Error;
use crate::core::message::Reason;
use crate::core::threads;

/// How long to sleep when every reader is slow.
const REST: Duration = Duration::from_millis(2);

/// The state of the loop.
pub struct Worker<'a> {
    pub(super) model: &'a LlamaModel,
    pub(super) cache: Cache<'a>,
    pub(super) batch: LlamaBatch<'a>,
    /// The job in each sequence of the cache.
    pub(super) jobs: Vec<Option<RunningJob>>,
    pub(super) waiting: VecDeque<RunningJob>,
    pub(super) step: u64,
    pub(super) plan: Plan,
    /// Microseconds that a token of a prompt took lately, by the engine's own clock.
    pub(super) pace_us: Option<f32>,
    /// The prefix cache.
    pub(super) prefixes: Option<Arc<dyn Prefixes>>,
}

impl<'a> Worker<'a> {
    /// A loop over a fresh cache; `first` is a job that is already waiting.
    pub fn new(
        model: &'a LlamaModel,
        (cache, plan): (Cache<'a>, Plan),
        prefixes: Option<Arc<dyn Prefixes>>,
        first: Option<RunningJob>,
    ) -> Self {
        Worker {
            model,
            cache,
            batch: LlamaBatch::new(plan.batch_tokens, 1),
            jobs: (0..plan.sequences).map(|_| None).collect(),
            waiting: first.into_iter().collect(),
            step: 0,
            plan,
            pace_us: None,
            prefixes: prefixes.filter(|_| plan.answer_start.is_none()),
        }
    }

    /// Runs until the channel closes. Each busy period runs in its own thread: see the top of `engine_thread.rs`.
    pub fn run(&mut self, jobs: &mut Receiver<Submission>) {
        while self.wait(jobs) {
            if threads::beside(|| self.stretch(jobs)).is_err() {
                return; // It panicked: its jobs see their channels close.
            }
        }
        self.share();
    }

    /// Blocks until there is a job; false once the channel has closed.
    fn wait(&mut self, jobs: &mut Receiver<Submission>) -> bool {
        if !self.is_busy() {
            match jobs.recv() {
                Ok(submission) => self.enqueue(submission),
                Err(_) => return false,
            }
        }
        true
    }

    /// Runs until it has been idle for a while.
    fn stretch(&mut self, jobs: &mut Receiver<Submission>) {
        loop {
            while self.is_busy() {
                jobs.try_iter()
                    .for_each(|submission| self.enqueue(submission));
                self.step();
            }
            match jobs.recv_timeout(IDLE_WAIT) {
                Ok(submission) => self.enqueue(submission),
                Err(_) => return,
            }
        }
    }

    fn step(&mut self) {
        self.step += 1;
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

    /// Fails all jobs once the process uses more memory than it may.
    fn check_memory(&mut self) {
        let Some((most, read)) = self.plan.memory_max else {
            return;
        };
        let taken = read();
        if taken > most {
            let error = || Error::memory(taken, most, MEMORY_HINT);
            let jobs = self.jobs.iter_mut().flatten().chain(&mut self.waiting);
            jobs.for_each(|job| job.fail(error()));
        }
    }

    fn enqueue(&mut self, submission: Submission) {
        let mut job = RunningJob::new(submission.request, submission.events);
        job.look_up_prefix(self.prefixes.as_deref(), self.cache.window());
        self.waiting.push_back(job);
    }

    fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.jobs.iter().any(Option::is_some)
    }

    /// Removes cancelled jobs and those whose last event has been sent.
    fn drop_ended(&mut self) {
        let over = |job: &mut RunningJob| {
            job.flush();
            if job.is_cancelled() {
                job.send(Event::Failed(Error::cancelled()));
            }
            job.is_cancelled() || job.is_delivered()
        };
        self.waiting.retain_mut(|job| !over(job));
        for job in &mut self.jobs {
            if job.as_mut().is_some_and(over) {
                *job = None;
            }
        }
    }

    /// Tokens of a sequence's job that are not computed yet, if the job can continue.
    pub(super) fn pending(&self, index: usize) -> &[LlamaToken] {
        match &self.jobs[index] {
            Some(job) if job.is_open() => &job.tokens[self.cache.count(index)..],
            _ => &[],
        }
    }

    /// Fills the batch. Returns for each sequence in it the index, the number of tokens, and the position
    /// of its logits if they are needed.
    fn fill_batch(&mut self) -> Vec<Place> {
        self.batch.clear();
        let mut places = Vec::new();
        let order = self.order();
        let mut slice_left = self.slice_tokens(&order);
        let most = self.plan.batch_tokens;
        let one = |index: &&usize| self.pending(**index).len() == 1;
        let mut generating = order.iter().filter(one).count();
        let price = self.draft_price(generating, &order);
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
            let logits = (count == pending).then(|| self.batch.n_tokens() - 1);
            let drafts = match price {
                Some(price) if pending == 1 => {
                    generating -= 1;
                    let taken = self.batch.n_tokens() as usize + generating;
                    let alike = self.plan.alike_tokens.saturating_sub(taken);
                    let room = room.saturating_sub(1 + generating).min(alike);
                    self.add_drafts(index, room, price)
                }
                _ => Vec::new(),
            };
            places.push(Place {
                index,
                count,
                logits,
                drafts,
            });
        }
        places
    }

    /// Tokens of prompts in the next decode: many while nobody generates, else as many as fit into the time that
    /// streams may stall.
    fn slice_tokens(&self, order: &[usize]) -> usize {
        let generates = order.iter().any(|index| self.pending(*index).len() == 1);
        match self.pace_us {
            _ if self.plan.deterministic => self.plan.slices.shared,
            _ if !generates => self.plan.slices.lone,
            Some(pace_us) => tune::paced_tokens(pace_us).min(self.plan.slices.lone),
            None => self.plan.slices.shared,
        }
    }

    /// Notes how long a decode with a slice of a prompt took.
    fn note_pace(&mut self, tokens: usize, time: Duration) {
        if tokens >= tune::GRID {
            let now_us = time.as_secs_f32() * 1e6 / tokens as f32;
            let before_us = self.pace_us.unwrap_or(now_us);
            self.pace_us = Some((before_us + now_us) / 2.0);
        }
    }

    /// How many tokens of a prompt to compute now: up to `limit`, and up to the next checkpoint.
    fn slice(&self, index: usize, limit: usize) -> usize {
        let start = self.cache.count(index);
        let checkpoints = self.jobs[index].iter().flat_map(|job| &job.checkpoints);
        let checkpoint = checkpoints.filter(|checkpoint| **checkpoint > start).min();
        let limit = checkpoint.map_or(limit, |checkpoint| limit.min(checkpoint - start));
        tune::slice(start, self.pending(index).len(), limit)
    }

    /// Generating sequences first, then prompts in the order they were admitted.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.jobs.len()).collect();
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
        let jobs = places.iter().flat_map(|place| &self.jobs[place.index]);
        let cancels = jobs.map(|job| job.request.cancel.clone());
        let (tokens, started) = (self.batch.n_tokens() as usize, Instant::now());
        match self.cache.decode(&mut self.batch, cancels) {
            Ok(true) => {
                if places.iter().any(|place| place.count > 1) {
                    self.note_pace(tokens, started.elapsed());
                }
                places.iter().for_each(|place| self.advance(place));
            }
            // Memory that cannot be cut anywhere may have been half written.
            Ok(false) if self.cache.needs_checkpoints() => {
                places
                    .iter()
                    .for_each(|place| self.cache.clear(place.index));
            }
            Ok(false) => {}
            Err(DecodeError::NoKvCacheSlot) => self.make_room(),
            Err(error) => self.fail(places, &error),
        }
    }

    /// Makes room in a full cache: frees idle cells first, then returns the youngest job to the queue.
    fn make_room(&mut self) {
        let before = self.cache.used_cells();
        // A job that has stopped and only waits for its reader needs no cells any more.
        let jobs = &self.jobs;
        let is_working = |index: usize| jobs[index].as_ref().is_some_and(|job| !job.is_ended());
        self.cache
            .free(self.cache.all_cells(), |index| !is_working(index));
        if self.cache.used_cells() < before {
            return;
        }
        let working: Vec<usize> = (0..jobs.len()).filter(|at| is_working(*at)).collect();
        let age = |index: &&usize| (self.cache.used_at(**index), **index);
        let Some(&index) = working.iter().max_by_key(age) else {
            return;
        };
        if working.len() == 1 {
            if let Some(job) = &mut self.jobs[index] {
                job.end(Reason::Length);
            }
            return;
        }
        self.cache.save(index);
        if let Some(job) = self.jobs[index].take() {
            self.waiting.push_front(job);
        }
    }

    fn fail(&mut self, places: &[Place], error: &DecodeError) {
        for place in places {
            self.cache.clear(place.index);
            if let Some(mut job) = self.jobs[place.index].take() {
                job.send(Event::Failed(Error::failed(format!(
                    "llama.cpp failed to compute: {error}"
                ))));
            }
        }
    }

    fn advance(&mut self, place: &Place) {
        let index = place.index;
        if !place.drafts.is_empty() {
            return self.advance_drafted(place);
        }
        let done = self.pending(index)[..place.count].to_vec();
        self.cache.extend(index, &done);
        let count = self.cache.count(index);
        if let Some(job) = &mut self.jobs[index]
            && job.checkpoints.contains(&count)
        {
            self.cache.checkpoint(index);
        }
        if place.count > 1
            && let Some(job) = &self.jobs[index]
        {
            job.request.computed.store(count, Ordering::Relaxed);
            let pace = job.pace_us(count.saturating_sub(job.cached_tokens));
            self.cache.note_pace(index, pace);
        }
        if let Some(logits) = place.logits {
            self.sample(index, logits);
            self.learn(index, count);
        }
    }

    pub(super) fn sample(&mut self, index: usize, logits: i32) {
        let Some(job) = &mut self.jobs[index] else {
            return;
        };
        let sampler = job.sampler.as_mut().expect("an admitted job has a sampler");
        if job.answer_tokens >= job.request.answer_tokens {
            job.answered();
            return job.end(Reason::Length);
        }
        let logits = self.cache.context().get_logits_ith(logits);
        let vocab = self.model.vocab();
        let forced = job
            .request
            .thinking_budget
            .as_ref()
            .and_then(ThinkingBudget::forced);
        let picked = match forced {
            Some(token) => {
                sampler.accept(token);
                Ok(token)
            }
            None => {
                let shortlist = job.request.sampling.shortlist();
                pick(
                    (sampler, shortlist),
                    job.request.guide.as_mut(),
                    logits,
                    |token| vocab.is_eog(token),
                )
            }
        };
        let token = match picked {
            Ok(token) => token,
            Err(error) => return job.fail(error),
        };
        if vocab.is_eog(token) && !job.request.endless {
            job.answered();
            return job.end(Reason::Stop);
        }
        let visible = job.request.visible.binary_search(&token.0).is_ok();
        let bytes = vocab.token_to_piece(token, visible, None);
        if let Some(thinking_budget) = &mut job.request.thinking_budget {
            thinking_budget.record(&bytes);
        }
        if let Some(guide) = &mut job.request.guide
            && let Err(error) = guide.accept(token, &bytes)
        {
            return job.fail(error);
        }
        let wanted = job.request.logprobs.as_ref();
        let logprobs = wanted.map(|wanted| logprobs::describe(vocab, logits, token, wanted));
        job.push(token, bytes, logprobs);
        let own = job.request.context_tokens.unwrap_or(usize::MAX);
        let is_full = job.tokens.len() >= self.plan.tokens_max.min(own);
        let shifts = |keep: &usize| self.plan.answer_start.is_none() && keep + 2 < job.tokens.len();
        let reason = match (job.limit(), job.request.shift.filter(shifts)) {
            (Some(reason), _) => reason,
            (None, Some(keep)) if is_full => {
                job.shift(keep);
                return self.cache.clear(index);
            }
            (None, None) if is_full => Reason::Length,
            (None, _) => return,
        };
        let ends = |token| self.model.vocab().is_eog(token);
        let is_whole = may_only_end(job.request.guide.as_mut(), logits, ends);
        job.end(if is_whole { Reason::Stop } else { reason });
    }
}

/// The part of one sequence in a batch.
pub struct Place {
    pub(super) index: usize,
    /// Tokens of prompt or answer.
    count: usize,
    /// The position of the last one's logits in the batch, if they are needed.
    pub(super) logits: Option<i32>,
    /// Tokens behind it that the answer may continue with.
    pub(super) drafts: Vec<LlamaToken>,
}
