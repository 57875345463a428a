//! The engine's thread: loads the model, makes its context, and runs the worker's loop.
//!
//! OpenMP gives every computing thread a team of its own. Once all teams together have more members than
//! there are cores, it makes each member sleep between operations: SmolLM2 then generates 29 tokens/s
//! instead of 171. So a thread keeps no team while it waits: the load and each busy period run in a
//! thread that exits afterwards. (ggml's own threads instead of OpenMP's do not help: they spin at every
//! barrier, and two programs at once took over 20 times as long.)

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use llama_cpp_2::model::LlamaModel;

use super::embed::{Embedder, Texts};
use super::interrupt::Interrupt;
use super::job::Submission;
use super::memory::MEMORY_HINT;
use super::ready::Ready;
use super::running_job::RunningJob;
use super::tune::GRID;
use super::worker::Worker;
use super::{Backend, Context, Event, JOBS_MAX, Spec, context, ffi};
use crate::core::duration;
use crate::core::error::{Error, Result};
use crate::core::threads::spawn_in;

/// Cells to plan for on a GPU before the first job states its own need.
const FIRST_CELLS: u32 = 4096;

/// The queue of the thread, by what it computes.
pub enum Jobs {
    Answers(SyncSender<Submission>),
    Texts(SyncSender<Texts>),
}

/// The thread's end of the queue.
enum Inbox {
    Answers(Receiver<Submission>),
    Texts(Receiver<Texts>),
}

/// The handle of the thread.
pub struct Handle {
    pub jobs: Jobs,
    /// Bytes of the sequences that it has put aside.
    pub saved_bytes: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// True once the thread has stopped.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Closes the queue and waits until the thread has freed its context.
    pub fn close(self) {
        drop(self.jobs);
        let _ = self.thread.join(); // If it panicked, its jobs have seen their channels close.
    }
}

/// A loaded model, as its thread shares it.
pub struct Loaded {
    pub model: Arc<LlamaModel>,
    pub gpu_layers: u32,
}

/// The messages of the thread while it loads.
enum News {
    Progress(f32),
    Ready(Result<Loaded>),
}

/// Starts the thread and waits until the model is loaded.
pub fn start(
    backend: Arc<Backend>,
    spec: Spec,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<(Handle, Loaded)> {
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
    let (news_sender, news) = sync_channel(1);
    let stall_max = spec.stall_max.unwrap_or(Duration::MAX);
    let stop = Arc::new(AtomicBool::new(false));
    let saved_bytes = Arc::new(AtomicUsize::new(0));
    let run = {
        let (stop, saved_bytes) = (stop.clone(), saved_bytes.clone());
        move || run(&backend, &spec, inbox, &news_sender, (&stop, &saved_bytes))
    };
    let spawned = thread::Builder::new().name("engine".into()).spawn(run);
    let thread =
        spawned.map_err(|error| Error::failed(format!("cannot start the engine: {error}")))?;
    loop {
        match news.recv_timeout(stall_max) {
            Ok(News::Progress(fraction)) if !progress(fraction) => {
                stop.store(true, Ordering::Relaxed);
            }
            Ok(News::Progress(_)) => {}
            Ok(News::Ready(ready)) => {
                let handle = Handle {
                    jobs,
                    saved_bytes,
                    thread,
                };
                return ready.map(|loaded| (handle, loaded));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::failed("the engine stopped unexpectedly"));
            }
            Err(RecvTimeoutError::Timeout) => {
                // The thread exits by itself once llama.cpp returns.
                stop.store(true, Ordering::Relaxed);
                let text = format!(
                    "timed out loading the model: no progress for {}",
                    duration::display(stall_max)
                );
                return Err(Error::failed(text));
            }
        }
    }
}

fn run(
    backend: &Backend,
    spec: &Spec,
    inbox: Inbox,
    news_sender: &SyncSender<News>,
    (stop, saved_bytes): (&AtomicBool, &Arc<AtomicUsize>),
) {
    // The loading caller waits for this message; if it has gone, it sends no jobs either.
    let send_ready = |outcome| _ = news_sender.send(News::Ready(outcome));
    let loading = || load(backend, spec, news_sender, stop);
    let stopped = |_| Err(Error::failed("the load stopped unexpectedly"));
    let loaded = thread::scope(|scope| spawn_in(scope, loading)?.join().unwrap_or_else(stopped));
    let (model, mut ready) = match loaded {
        Ok((model, ready)) => (Arc::new(model), ready),
        Err(error) => return send_ready(Err(error)),
    };
    let shared = Loaded {
        model: model.clone(),
        gpu_layers: ready.gpu_layers,
    };
    let on_gpu = ready.gpu_layers > 0;
    let interrupt = Interrupt::default();
    let base = context::Base {
        backend,
        model: &model,
        interrupt: &interrupt,
        saved_bytes,
    };
    let mut jobs = match inbox {
        Inbox::Answers(jobs) => jobs,
        Inbox::Texts(mut texts) => {
            return match context::for_texts(base, &mut ready, spec) {
                Err(error) => send_ready(Err(error)),
                Ok(context) => {
                    send_ready(Ok(shared));
                    Embedder::new(context, &interrupt, on_gpu).run(&mut texts);
                }
            };
        }
    };
    if spec.context != Context::FirstJob {
        return match context::for_answers(base, &mut ready, spec, spec.context) {
            Err(error) => send_ready(Err(error)),
            Ok(made) => {
                send_ready(Ok(shared));
                Worker::new(&model, made, spec.prefixes.clone(), None).run(&mut jobs);
            }
        };
    }
    send_ready(Ok(shared));
    let Ok(first) = jobs.recv() else { return };
    let mut job = RunningJob::new(first.request, first.events);
    if !ready.encodes {
        job.look_up_prefix(spec.prefixes.as_deref(), ready.window_tokens);
    }
    let size = size_for(&job, &model, spec);
    let made = size.and_then(|size| context::for_answers(base, &mut ready, spec, size));
    match made {
        Err(error) => job.send(Event::Failed(error)),
        Ok(made) => Worker::new(&model, made, spec.prefixes.clone(), Some(job)).run(&mut jobs),
    }
}

fn load(
    backend: &Backend,
    spec: &Spec,
    news_sender: &SyncSender<News>,
    stop: &AtomicBool,
) -> Result<(LlamaModel, Ready)> {
    let params = ffi::LoadParams {
        gpu_layers: spec.gpu_layers,
        main_gpu: spec.main_gpu,
        mmap: spec.mmap,
        lock: spec.lock,
        tensor_split: &spec.tensor_split,
        repack: spec.repack,
        strips_accents: spec.strips_accents,
        cells: match spec.context {
            Context::FirstJob => FIRST_CELLS,
            Context::Shared { cells, .. } => cells,
            Context::Texts { batch, .. } => batch,
        },
    };
    let mut report = |fraction| {
        // If the channel is full, the receiver is still busy with the previous message and misses nothing.
        let _ = news_sender.try_send(News::Progress(fraction));
        !stop.load(Ordering::Relaxed)
    };
    backend.log.take_error(); // Discards an earlier load's error.
    let refused = |path: &Path| {
        let why = backend.log.take_error();
        let why = why.unwrap_or_else(|| "llama.cpp gives no reason".into());
        Error::damaged(path, format!("llama.cpp cannot load it: {why}"))
    };
    let loaded = ffi::load(&spec.path, &params, &mut report);
    let mut loaded = loaded.ok_or_else(|| {
        if stop.load(Ordering::Relaxed) {
            Error::cancelled()
        } else {
            refused(&spec.path)
        }
    })?;
    let adapter = match &spec.adapter {
        None => None,
        Some((path, scale)) => {
            let adapter = loaded.model.lora_adapter_init(path);
            Some((adapter.map_err(|_| refused(path))?, *scale))
        }
    };
    let recurs = loaded.model.is_recurrent() || loaded.model.is_hybrid();
    let window = loaded.window_tokens as usize;
    let ready = Ready {
        gpu_layers: loaded.gpu_layers,
        encodes: loaded.encodes,
        window_tokens: match window {
            _ if recurs => 0,
            0 => usize::MAX,
            // The next token must attend to all of them.
            _ => (window - 1) / GRID * GRID,
        },
        adapter,
    };
    Ok((loaded.model, ready))
}

/// The context that one job needs: its prompt and answer, at most what the model was trained for.
fn size_for(job: &RunningJob, model: &LlamaModel, spec: &Spec) -> Result<Context> {
    let trained = model.n_ctx_train();
    let needed = job
        .prompt_tokens
        .saturating_add(job.request.answer_tokens.max(1));
    let tokens = u32::try_from(needed).unwrap_or(u32::MAX).min(trained);
    if job.prompt_tokens >= trained as usize {
        return Err(Error::too_long(job.prompt_tokens, trained as usize).at_maximum());
    }
    let needed_bytes = spec.need.total_bytes(tokens, 1);
    if needed_bytes > spec.memory_bytes {
        return Err(Error::memory(needed_bytes, spec.memory_bytes, MEMORY_HINT));
    }
    // A prefix from the cache is restored as a whole before it is cut.
    let candidate = job
        .candidate
        .as_ref()
        .filter(|candidate| candidate.usable > 0);
    let candidate_cells = candidate.map_or(0, |candidate| candidate.tokens as u32 + 1);
    let has_room = candidate_cells <= trained
        && spec.need.total_bytes(candidate_cells, 1) <= spec.memory_bytes;
    Ok(Context::Shared {
        tokens,
        sequences: 1,
        cells: if has_room {
            tokens.max(candidate_cells)
        } else {
            tokens
        },
    })
}
