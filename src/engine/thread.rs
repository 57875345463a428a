//! The engine's thread: loads the model, makes its context, and runs the worker's loop.
//!
//! OpenMP gives every thread that computes a team of its own, and once all teams together have more
//! members than there are cores it makes each of them sleep between operations: SmolLM2 then
//! generates 29 tokens/s instead of 171. So no thread keeps a team while it waits: loading and each
//! busy stretch run in a thread that ends afterwards. (ggml's own threads instead of OpenMP's are
//! no way out: they spin at every barrier, and two programs at once took over 20 times as long.)

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::model::LlamaModel;

use super::embed::{Embedder, TEXTS_MAX, Texts};
use super::memory::MEMORY_HINT;
use super::sequence::Work;
use super::tune::{self, KvKind};
use super::worker::{Submission, Worker};
use super::{Backend, Context, Event, JOBS_MAX, Spec, ffi};
use crate::error::{Error, Result};

/// llama.cpp rounds a context up to a multiple of this.
const CONTEXT_GRAIN: u32 = 256;
/// Cells that are planned for on a GPU before the first job tells its own need.
const FIRST_CELLS: u32 = 4096;

/// What the thread computes.
pub enum Jobs {
    Answers(SyncSender<Submission>),
    Texts(SyncSender<Texts>),
}

/// The thread's end of it.
enum Inbox {
    Answers(Receiver<Submission>),
    Texts(Receiver<Texts>),
}

/// The way to the thread.
pub struct Door {
    pub jobs: Jobs,
    thread: JoinHandle<()>,
}

impl Door {
    /// True once the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Lets no more jobs in and waits until the thread has freed its context.
    pub fn close(self) {
        drop(self.jobs);
        let _ = self.thread.join(); // If it panicked, its jobs were told by their channels.
    }
}

/// A loaded model, as its thread shares it.
pub struct Loaded {
    pub model: Arc<LlamaModel>,
    pub gpu_layers: u32,
}

/// What the thread tells while it loads.
enum News {
    Progress(f32),
    Ready(Result<Loaded>),
}

/// Starts the thread and waits until the model is loaded.
pub fn start(
    backend: Arc<Backend>,
    spec: Spec,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(Door, Loaded)> {
    let (jobs, inbox) = match spec.context {
        Context::Texts { .. } => {
            let (sender, receiver) = sync_channel(JOBS_MAX);
            (Jobs::Texts(sender), Inbox::Texts(receiver))
        }
        Context::FirstJob | Context::Shared { .. } => {
            let (sender, receiver) = sync_channel(JOBS_MAX);
            (Jobs::Answers(sender), Inbox::Answers(receiver))
        }
    };
    let (tell, news) = sync_channel(1);
    let stop = Arc::new(AtomicBool::new(false));
    let run = {
        let stop = stop.clone();
        move || run(&backend, &spec, inbox, &tell, &stop)
    };
    let spawned = thread::Builder::new().name("engine".into()).spawn(run);
    let thread =
        spawned.map_err(|error| Error::failed(format!("cannot start the engine: {error}")))?;
    loop {
        match news.recv() {
            Ok(News::Progress(fraction)) if !progress(fraction) => {
                stop.store(true, Ordering::Relaxed);
            }
            Ok(News::Progress(_)) => {}
            Ok(News::Ready(ready)) => {
                let door = Door { jobs, thread };
                return ready.map(|loaded| (door, loaded));
            }
            Err(_) => return Err(Error::failed("the engine stopped unexpectedly")),
        }
    }
}

fn run(backend: &Backend, spec: &Spec, inbox: Inbox, tell: &SyncSender<News>, stop: &AtomicBool) {
    // Whoever loads waits for this news; if it has gone, nobody sends jobs either.
    let ready = |outcome| _ = tell.send(News::Ready(outcome));
    let loading = || load(backend, spec, tell, stop);
    let loaded = thread::scope(|scope| scope.spawn(loading).join());
    let loaded = loaded.unwrap_or_else(|_| Err(Error::failed("the load stopped unexpectedly")));
    let (model, gpu_layers) = match loaded {
        Ok(loaded) => (Arc::new(loaded.model), loaded.gpu_layers),
        Err(error) => return ready(Err(error)),
    };
    let shared = Loaded {
        model: model.clone(),
        gpu_layers,
    };
    let mut jobs = match inbox {
        Inbox::Answers(jobs) => jobs,
        Inbox::Texts(mut texts) => {
            return match text_context(backend, &model, spec) {
                Err(error) => ready(Err(error)),
                Ok(context) => {
                    ready(Ok(shared));
                    Embedder::new(context).turns(&mut texts);
                }
            };
        }
    };
    if spec.context != Context::FirstJob {
        return match new_context(backend, &model, spec, spec.context) {
            Err(error) => ready(Err(error)),
            Ok(context) => {
                ready(Ok(shared));
                Worker::new(&model, context, spec, gpu_layers > 0, spec.context, None)
                    .turns(&mut jobs);
            }
        };
    }
    ready(Ok(shared));
    let Ok(first) = jobs.recv() else { return };
    let mut work = Work::new(first.job, first.events);
    let size = size_for(&work, &model, spec);
    match size.and_then(|size| Ok((size, new_context(backend, &model, spec, size)?))) {
        Err(error) => work.send(Event::Failed(error)),
        Ok((size, context)) => {
            Worker::new(&model, context, spec, gpu_layers > 0, size, Some(work)).turns(&mut jobs);
        }
    }
}

fn load(
    backend: &Backend,
    spec: &Spec,
    tell: &SyncSender<News>,
    stop: &AtomicBool,
) -> Result<ffi::Loaded> {
    let params = ffi::LoadParams {
        gpu_layers: spec.gpu_layers,
        main_gpu: spec.main_gpu,
        mmap: spec.mmap,
        repack: true,
        cells: match spec.context {
            Context::FirstJob => FIRST_CELLS,
            Context::Shared { cells, .. } => cells,
            Context::Texts { batch, .. } => batch,
        },
    };
    let mut report = |fraction| {
        // A full channel: the listener is still busy with the news before, and misses nothing.
        let _ = tell.try_send(News::Progress(fraction));
        !stop.load(Ordering::Relaxed)
    };
    backend.log.take_error(); // An earlier load's error is not this one's.
    ffi::load(&spec.path, &params, &mut report).ok_or_else(|| {
        if stop.load(Ordering::Relaxed) {
            return Error::cancelled();
        }
        let why = backend.log.take_error();
        let why = why.unwrap_or_else(|| "llama.cpp gives no reason".into());
        Error::damaged(&spec.path, format!("llama.cpp cannot load it: {why}"))
    })
}

/// The context that one job needs: its prompt and answer, at most what the model was trained for.
fn size_for(work: &Work, model: &LlamaModel, spec: &Spec) -> Result<Context> {
    let trained = model.n_ctx_train();
    let wanted = work
        .prompt_tokens
        .saturating_add(work.job.answer_tokens.max(1));
    let tokens = u32::try_from(wanted).unwrap_or(u32::MAX).min(trained);
    if work.prompt_tokens >= trained as usize {
        return Err(Error::too_long(work.prompt_tokens, trained as usize));
    }
    let needed_bytes = spec.need.total_bytes(tokens);
    if needed_bytes > spec.memory_bytes {
        return Err(Error::memory(needed_bytes, spec.memory_bytes, MEMORY_HINT));
    }
    Ok(Context::Shared {
        tokens,
        sequences: 1,
        cells: tokens,
    })
}

/// Tokens that one decode can hold: a slice of prompts and a token of each sequence. A larger batch
/// would only take memory, and time to set up.
fn batch_tokens(model: &LlamaModel, spec: &Spec, sequences: u32) -> usize {
    let slice = tune::slice_tokens(model.n_params(), spec.threads, ffi::has_gpu());
    (slice + sequences as usize)
        .next_multiple_of(tune::GRID)
        .min(spec.batch_tokens)
}

fn new_context<'a>(
    backend: &Backend,
    model: &'a LlamaModel,
    spec: &Spec,
    size: Context,
) -> Result<LlamaContext<'a>> {
    let Context::Shared {
        sequences, cells, ..
    } = size
    else {
        return Err(Error::failed("a context without a size"));
    };
    let kind = match spec.attention.kv {
        KvKind::F16 => KvCacheType::F16,
        KvKind::Q8 => KvCacheType::Q8_0,
        KvKind::Q4 => KvCacheType::Q4_0,
    };
    let batch = batch_tokens(model, spec, sequences) as u32;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells.next_multiple_of(CONTEXT_GRAIN)))
        .with_n_batch(batch)
        .with_n_ubatch(batch)
        .with_n_seq_max(sequences)
        .with_n_threads(spec.threads as i32)
        .with_n_threads_batch(spec.threads as i32)
        .with_flash_attention_policy(i32::from(spec.attention.flash))
        .with_type_k(kind)
        .with_type_v(kind)
        .with_kv_unified(true)
        // A window's cells can be cut and reused only if all of them are kept.
        .with_swa_full(spec.context != Context::FirstJob)
        .with_no_perf(true);
    make(backend, model, params, cells)
}

/// A context for texts that become vectors: each of them lies whole in one decode.
fn text_context<'a>(
    backend: &Backend,
    model: &'a LlamaModel,
    spec: &Spec,
) -> Result<LlamaContext<'a>> {
    let Context::Texts { batch, .. } = spec.context else {
        return Err(Error::failed("a context for texts without their size"));
    };
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(batch))
        .with_n_batch(batch)
        .with_n_ubatch(batch)
        .with_n_seq_max(TEXTS_MAX)
        .with_n_threads(spec.threads as i32)
        .with_n_threads_batch(spec.threads as i32)
        .with_flash_attention_policy(i32::from(spec.attention.flash))
        .with_embeddings(true)
        .with_kv_unified(true)
        .with_no_perf(true);
    make(backend, model, params, batch)
}

fn make<'a>(
    backend: &Backend,
    model: &'a LlamaModel,
    params: LlamaContextParams,
    tokens: u32,
) -> Result<LlamaContext<'a>> {
    model.new_context(&backend.inner, params).map_err(|error| {
        let why = backend.log.take_error();
        let why = why.unwrap_or_else(|| error.to_string());
        Error::failed(format!("cannot make a context of {tokens} tokens: {why}"))
    })
}
