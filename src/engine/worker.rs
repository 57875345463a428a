//! The thread that owns a context: takes jobs, builds one batch from all of them, decodes, samples.
//!
//! Every turn holds one token of each generating sequence and a slice of waiting prompts. When the
//! cache is full the youngest sequence steps back and is computed again later from its tokens; no
//! answer is cut because of another.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

use super::sequence::{Sequence, Work};
use super::{Context, Event, Guide, Job, Spec};
use super::{likely, tune};
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
    model: &'a LlamaModel,
    context: LlamaContext<'a>,
    batch: LlamaBatch<'a>,
    sequences: Vec<Sequence>,
    waiting: VecDeque<Work>,
    /// Most tokens of one prompt and answer.
    tokens_max: usize,
    cells: usize,
    slice_tokens: usize,
    batch_tokens: usize,
    turn: u64,
}

impl<'a> Worker<'a> {
    /// A loop over a fresh context; `first` is a job that waits already.
    pub fn new(
        model: &'a LlamaModel,
        context: LlamaContext<'a>,
        spec: &Spec,
        gpu: bool,
        size: Context,
        first: Option<Work>,
    ) -> Self {
        let (tokens_max, sequences) = match size {
            Context::Shared {
                tokens, sequences, ..
            } => (tokens as usize, sequences as i32),
            Context::FirstJob | Context::Texts { .. } => (0, 1),
        };
        let batch_tokens = context.n_batch() as usize;
        Worker {
            model,
            cells: context.n_ctx() as usize,
            context,
            batch: LlamaBatch::new(batch_tokens, 1),
            sequences: (0..sequences).map(Sequence::new).collect(),
            waiting: first.into_iter().collect(),
            tokens_max,
            slice_tokens: tune::slice_tokens(model.n_params(), spec.threads, gpu).min(batch_tokens),
            batch_tokens,
            turn: 0,
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
        } else if self.is_busy() {
            thread::sleep(REST);
        }
    }

    fn take(&mut self, submission: Submission) {
        let work = Work::new(submission.job, submission.events);
        self.waiting.push_back(work);
    }

    fn is_busy(&self) -> bool {
        !self.waiting.is_empty()
            || self
                .sequences
                .iter()
                .any(|sequence| sequence.work.is_some())
    }

    /// Takes out the jobs that nobody wants any more and those whose last event has left.
    fn drop_ended(&mut self) {
        self.waiting.retain_mut(|work| {
            work.flush();
            if work.is_cancelled() {
                work.send(Event::Failed(Error::cancelled()));
            }
            !work.is_cancelled()
        });
        for sequence in &mut self.sequences {
            let Some(work) = &mut sequence.work else {
                continue;
            };
            work.flush();
            if work.is_cancelled() {
                work.send(Event::Failed(Error::cancelled()));
                sequence.work = None;
            } else if work.is_delivered() {
                sequence.work = None;
            }
        }
    }

    /// Gives waiting jobs a sequence, in the order they came, while their prompts fit the cache.
    fn admit(&mut self) {
        while let Some(work) = self.waiting.front() {
            if work.tokens.len() >= self.tokens_max {
                let error = Error::too_long(work.tokens.len(), self.tokens_max);
                if let Some(mut work) = self.waiting.pop_front() {
                    work.send(Event::Failed(error));
                }
                continue;
            }
            let Some(index) = self.best_sequence(&work.tokens) else {
                return;
            };
            let work = self.waiting.pop_front().expect("there was a front");
            self.begin(index, work);
        }
    }

    /// The idle sequence that shares most with `prompt`, if there is room for the prompt.
    fn best_sequence(&self, prompt: &[LlamaToken]) -> Option<usize> {
        let active: usize = self
            .sequences
            .iter()
            .filter_map(|sequence| sequence.work.as_ref())
            .map(|work| work.tokens.len() + 1)
            .sum();
        if active + prompt.len() + 1 > self.cells {
            return None;
        }
        let idle = self
            .sequences
            .iter()
            .enumerate()
            .filter(|(_, sequence)| sequence.work.is_none());
        idle.max_by_key(|(_, sequence)| {
            (
                sequence.common(prompt),
                sequence.cached.is_empty(),
                std::cmp::Reverse(sequence.used_at),
            )
        })
        .map(|(index, _)| index)
    }

    fn begin(&mut self, index: usize, mut work: Work) {
        // The last token is computed in any case: its logits choose the next.
        let keep = self.sequences[index]
            .common(&work.tokens)
            .min(work.tokens.len() - 1);
        let kept = self.keep_first(index, keep);
        self.free_cells(index, work.tokens.len() - kept);
        let prompt = &work.tokens[..work.prompt_tokens];
        if work.sampler.is_none() {
            let chain = work
                .job
                .sampling
                .chain(self.model.n_vocab(), self.tokens_max, prompt);
            work.sampler = Some(chain);
        }
        work.admit(kept);
        self.sequences[index].used_at = self.turn;
        self.sequences[index].work = Some(work);
    }

    /// Cuts a sequence's cells down to its first `keep`; all of them go where the model's memory
    /// cannot be cut. Returns how many are left.
    fn keep_first(&mut self, index: usize, keep: usize) -> usize {
        let sequence = &mut self.sequences[index];
        if keep == sequence.cached.len() {
            return keep;
        }
        let id = Some(sequence.id as u32);
        let cut = keep > 0
            && matches!(
                self.context.clear_kv_cache_seq(id, Some(keep as u32), None),
                Ok(true)
            );
        let left = if cut { keep } else { 0 };
        if !cut {
            // Removing a whole sequence cannot fail.
            let _ = self.context.clear_kv_cache_seq(id, None, None);
        }
        sequence.cached.truncate(left);
        left
    }

    /// Drops idle sequences, the longest unused first, until `wanted` cells are free.
    fn free_cells(&mut self, except: usize, wanted: usize) {
        while self.cells.saturating_sub(self.used_cells()) < wanted {
            let idle = self
                .sequences
                .iter()
                .enumerate()
                .filter(|(index, sequence)| {
                    *index != except && sequence.work.is_none() && !sequence.cached.is_empty()
                });
            let Some(oldest) = idle
                .min_by_key(|(_, sequence)| sequence.used_at)
                .map(|(index, _)| index)
            else {
                return;
            };
            self.keep_first(oldest, 0);
        }
    }

    fn used_cells(&self) -> usize {
        self.sequences
            .iter()
            .map(|sequence| sequence.cached.len())
            .sum()
    }

    /// Fills the batch; for each sequence in it: its index, how many tokens, and the place of its
    /// logits if they are wanted.
    fn fill_batch(&mut self) -> Vec<Place> {
        self.batch.clear();
        let mut places = Vec::new();
        let mut slice_left = self.slice_tokens;
        for index in self.order() {
            let pending = self.sequences[index].pending().len();
            let room = self.batch_tokens - self.batch.n_tokens() as usize;
            let count = match pending {
                0 => continue,
                1 => room.min(1),
                _ => tune::slice(
                    self.sequences[index].cached.len(),
                    pending,
                    slice_left.min(room),
                ),
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

    /// Generating sequences first, then prompts in the order they were admitted.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.sequences.len()).collect();
        order.sort_by_key(|index| {
            let sequence = &self.sequences[*index];
            (sequence.pending().len() > 1, sequence.used_at)
        });
        order
    }

    fn add(&mut self, index: usize, count: usize, with_logits: bool) {
        let sequence = &self.sequences[index];
        let start = sequence.cached.len();
        for (i, token) in sequence.pending()[..count].iter().enumerate() {
            let logits = with_logits && i + 1 == count;
            let added = self
                .batch
                .add(*token, (start + i) as i32, &[sequence.id], logits);
            added.expect("fill_batch counted the room");
        }
    }

    fn decode(&mut self, places: &[Place]) {
        match self.context.decode(&mut self.batch) {
            Ok(()) => self.advance(places),
            Err(DecodeError::NoKvCacheSlot) => self.make_room(),
            Err(error) => self.fail(places, &error),
        }
    }

    /// The cache is full: idle cells go first, then the youngest job steps back into the queue.
    fn make_room(&mut self) {
        let before = self.used_cells();
        self.free_cells(usize::MAX, self.cells);
        if self.used_cells() < before {
            return;
        }
        // A job that has ended and only waits for its listener needs no cells any more.
        let work_of = |index: usize| self.sequences[index].work.as_ref();
        let working: Vec<usize> = (0..self.sequences.len())
            .filter(|index| work_of(*index).is_some_and(|work| !work.is_ended()))
            .collect();
        for index in 0..self.sequences.len() {
            if !working.contains(&index) {
                self.keep_first(index, 0);
            }
        }
        let age = |index: &&usize| (self.sequences[**index].used_at, **index);
        let Some(&index) = working.iter().max_by_key(age) else {
            return;
        };
        if working.len() == 1 {
            if let Some(work) = &mut self.sequences[index].work {
                work.end(Reason::Length);
            }
            return;
        }
        self.keep_first(index, 0);
        if let Some(work) = self.sequences[index].work.take() {
            self.waiting.push_front(work);
        }
    }

    fn fail(&mut self, places: &[Place], error: &DecodeError) {
        for place in places {
            self.keep_first(place.index, 0);
            if let Some(mut work) = self.sequences[place.index].work.take() {
                work.send(Event::Failed(Error::failed(format!(
                    "llama.cpp failed to compute: {error}"
                ))));
            }
        }
    }

    fn advance(&mut self, places: &[Place]) {
        for place in places {
            let sequence = &mut self.sequences[place.index];
            let done = sequence.pending()[..place.count].to_vec();
            sequence.cached.extend(done);
            if let Some(logits) = place.logits {
                self.sample(place.index, logits);
            }
        }
    }

    fn sample(&mut self, index: usize, logits: i32) {
        let sequence = &mut self.sequences[index];
        let Some(work) = &mut sequence.work else {
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
        let token = match pick(sampler, work.job.guide.as_mut(), &self.context, logits) {
            Ok(token) => token,
            Err(error) => return work.fail(error),
        };
        let vocab = self.model.vocab();
        if vocab.is_eog(token) {
            work.answered();
            return work.end(Reason::Stop);
        }
        let visible = work.job.visible.binary_search(&token.0).is_ok();
        let bytes = vocab.token_to_piece(token, visible, None);
        if let Some(guide) = &mut work.job.guide
            && let Err(error) = guide.accept(token, &bytes)
        {
            return work.fail(error);
        }
        let likely = work
            .job
            .likely
            .map(|count| likely::told(vocab, self.context.get_logits_ith(logits), token, count));
        work.push(token, bytes, likely);
        let full =
            work.answer_tokens >= work.job.answer_tokens || work.tokens.len() >= self.tokens_max;
        if full {
            work.end(Reason::Length);
        }
    }
}

/// The next token. One that the grammar takes as it comes costs nothing more; only if it does not
/// is every token looked at.
fn pick(
    sampler: &mut LlamaSampler,
    guide: Option<&mut Guide>,
    context: &LlamaContext,
    logits: i32,
) -> Result<LlamaToken> {
    let Some(guide) = guide else {
        return Ok(sampler.sample(context, logits));
    };
    let lost = || Error::failed("the sampler chose no token");
    let mut tokens = context.token_data_array_ith(logits);
    tokens.apply_sampler(sampler);
    let token = tokens.selected_token().ok_or_else(lost)?;
    let token = if guide.allows(token)? {
        token
    } else {
        let mut tokens = context.token_data_array_ith(logits);
        guide.mask(&mut tokens)?;
        tokens.apply_sampler(sampler);
        tokens.selected_token().ok_or_else(lost)?
    };
    sampler.accept(token);
    Ok(token)
}

struct Place {
    index: usize,
    count: usize,
    logits: Option<i32>,
}
