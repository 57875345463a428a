//! Loaded engines: one for each set of weights, shared by everyone who asks for it.
//!
//! Decides how large a context is, whether memory suffices, who must go when there is no room, and
//! how long an idle engine stays. No lock is held while a model loads.

mod state;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

pub use state::Loaded;

use state::{Entry, Load, State, Step, least_bytes};

use crate::config::Config;
use crate::derive;
use crate::dialect::{Dialect, Dialects, Sources};
use crate::duration::KeepAlive;
use crate::engine::memory::{MEMORY_HINT, Need};
use crate::engine::prefix::Prefixes;
use crate::engine::{Backend, Context, Engine, Level, Sink, Spec, tune};
use crate::error::{Error, Result};
use crate::kept::Kept;
use crate::machine;
use crate::model::Model;
use crate::options::Options;

/// The least context there is.
const CONTEXT_TOKENS_MIN: u32 = 4;
/// llama.cpp computes at most this many at once (LLAMA_MAX_SEQ).
const SEQUENCES_MAX: u32 = 256;
/// The cache of a shared context may take this part of all memory (one in so many).
const CACHE_SHARE: u64 = 16;
/// Answers seldom fill their context: this part of them all filled is planned for (one in so
/// many). One that finds no room waits, or steps back and goes on later.
const FILLED_SHARE: u32 = 2;
/// The least batch: a slice of the grid and a token for each sequence.
const BATCH_TOKENS_MIN: i64 = 32;
/// The largest.
const BATCH_TOKENS_MAX: i64 = 1 << 14;
/// Tokens of one text that becomes a vector, at most: the reference's batch of such models.
const TEXT_TOKENS: u32 = 2048;
/// Tokens of several such texts in one decode.
const TEXTS_TOKENS: u32 = 512;
/// A client that takes nothing of its answer for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How often a waiting request looks whether its client is still there.
const LOOK: Duration = Duration::from_millis(50);

/// Whom the pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One answer, then the process ends, which frees the weights: no more context than it needs.
    OneShot,
    /// One answer after another: a context of full size.
    Session,
    /// Many answers at once.
    Server,
}

/// Reports a load's progress, 0..=1.
pub type Progress<'a> = &'a mut dyn FnMut(f32);

/// The pool. Clones share it.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    config: Config,
    policy: Policy,
    log: (Level, Sink),
    backend: OnceLock<Arc<Backend>>,
    dialects: Dialects,
    state: Mutex<State>,
    changed: Condvar,
}

/// A loaded engine in use. Dropping it starts the keep-alive time.
pub struct Lease {
    pool: Pool,
    id: u64,
    engine: Arc<Engine>,
    /// Most tokens of one prompt and its answer; `None` if the first job decides.
    pub context_tokens: Option<u32>,
}

impl Lease {
    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// How long a reader may take nothing of its answer: a terminal or pipe of our own, for ever.
    pub fn patience(&self) -> Option<Duration> {
        match self.pool.0.policy {
            Policy::OneShot | Policy::Session => None,
            Policy::Server => Some(STALL_MAX),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == self.id) else {
            return;
        };
        entry.users -= 1;
        entry.idle_since = Instant::now();
        drop(state);
        self.pool.0.changed.notify_all();
        self.pool.expire();
    }
}

impl Pool {
    /// An empty pool; llama.cpp starts with the first load.
    pub fn new(config: Config, policy: Policy, log: (Level, Sink)) -> Self {
        Pool(Arc::new(Inner {
            config,
            policy,
            log,
            backend: OnceLock::new(),
            dialects: Dialects::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// How a model is spoken to; its templates are compiled once.
    ///
    /// # Errors
    /// What is wrong with its template.
    pub fn dialect(&self, model: &Model) -> Result<Arc<Dialect>> {
        let (choice, _) = Sources::of(model).choose()?;
        self.0.dialects.of(choice)
    }

    /// The engine for a model, loaded if need be. Waits while others load or use what must go.
    ///
    /// # Errors
    /// `Busy` if too many wait, `Memory` if it cannot fit, `Cancelled`, or what the load says.
    pub fn acquire(
        &self,
        model: &Model,
        options: &Options,
        keep_alive: Option<KeepAlive>,
        cancel: &AtomicBool,
        progress: Progress,
    ) -> Result<Lease> {
        let load = self.load_for(model, options)?;
        let mut ticket = None;
        let mut state = self.state();
        let id = loop {
            match state.step(&load, self.0.config.loaded_max, ticket) {
                Step::Use(index) => {
                    state.leave(ticket);
                    return Ok(self.lease(&mut state, index, keep_alive));
                }
                Step::Load(evicted) => {
                    state.leave(ticket);
                    let id =
                        state.reserve(&load, model, keep_alive.unwrap_or(self.0.config.keep_alive));
                    drop(state);
                    drop(evicted); // Freeing takes time and needs no lock.
                    break id;
                }
                Step::Wait => {}
            }
            if ticket.is_none() {
                ticket = Some(state.queue(self.0.config.queue_max)?);
            }
            let woken = self.0.changed.wait_timeout(state, LOOK);
            state = woken.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            if cancel.load(Ordering::Relaxed) {
                state.leave(ticket);
                return Err(Error::cancelled());
            }
        };
        self.fill(id, model, load, cancel, progress)
    }

    /// Loads the engine of a reserved entry; a failure leaves nothing behind.
    fn fill(
        &self,
        id: u64,
        model: &Model,
        load: Load,
        cancel: &AtomicBool,
        progress: Progress,
    ) -> Result<Lease> {
        let made = self
            .make_room(id, model, &load)
            .and_then(|()| self.load(model, &load, cancel, progress));
        let mut state = self.state();
        let index = state
            .entries
            .iter()
            .position(|entry| entry.id == id)
            .expect("only its loader removes it");
        let result = match made {
            Ok((engine, spec)) => {
                let entry = &mut state.entries[index];
                entry.model.describe(&engine, &spec);
                entry.engine = Some(Arc::new(engine));
                Ok(self.lease(&mut state, index, None))
            }
            Err(error) => {
                state.entries.remove(index);
                Err(error)
            }
        };
        drop(state);
        self.0.changed.notify_all();
        result
    }

    fn load(
        &self,
        model: &Model,
        load: &Load,
        cancel: &AtomicBool,
        progress: Progress,
    ) -> Result<(Engine, Spec)> {
        let backend = self.backend()?;
        let mut report = |fraction| {
            progress(fraction);
            !cancel.load(Ordering::Relaxed)
        };
        let spec = Spec {
            path: derive::weights(&self.0.config, model, &mut report)?,
            ..self.spec(model, load)
        };
        let kept = (!spec.deterministic).then(|| Kept::new(&self.0.config, model, &spec));
        let spec = Spec {
            prefixes: kept.flatten().map(|kept| kept as Arc<dyn Prefixes>),
            ..spec
        };
        let engine = Engine::load(&backend, spec.clone(), &mut report)?;
        if self.0.policy == Policy::OneShot {
            engine.leave_weights();
        }
        Ok((engine, spec))
    }

    /// Evicts idle engines until the model fits the free memory.
    fn make_room(&self, id: u64, model: &Model, load: &Load) -> Result<()> {
        let spec = self.spec(model, load);
        let needed_bytes = least_bytes(&spec.need, load.context);
        loop {
            let reserved_bytes = self.state().reserve_bytes(id, needed_bytes);
            let free_bytes = self.free_bytes().saturating_sub(reserved_bytes);
            if needed_bytes <= free_bytes {
                return Ok(());
            }
            let evicted = self.state().evict_idle(Some(id));
            if evicted.is_none() {
                return Err(Error::memory(needed_bytes, free_bytes, MEMORY_HINT));
            }
        }
    }

    /// Memory that a load may take, in bytes: what is free, at most what the user allows.
    fn free_bytes(&self) -> u64 {
        let allowed = self.0.config.memory_max;
        let left = allowed.map(|most| most.saturating_sub(machine::anonymous_bytes()));
        machine::free_bytes().min(left.unwrap_or(u64::MAX))
    }

    /// Unloads a model as soon as nobody uses it.
    pub fn unload(&self, model: &Model) {
        let mut state = self.state();
        for entry in state
            .entries
            .iter_mut()
            .filter(|entry| entry.load.weights == model.weights)
        {
            entry.keep_alive = KeepAlive::For(Duration::ZERO);
        }
        drop(state);
        self.expire();
    }

    /// Drops the engines whose time has come.
    pub fn expire(&self) {
        let mut state = self.state();
        let (gone, kept) = std::mem::take(&mut state.entries)
            .into_iter()
            .partition(Entry::is_expired);
        state.entries = kept;
        drop(state);
        let gone: Vec<Entry> = gone;
        if !gone.is_empty() {
            drop(gone); // Frees the engines, outside the lock.
            self.0.changed.notify_all();
        }
    }

    /// What is loaded, the longest to stay first.
    pub fn loaded(&self) -> Vec<Loaded> {
        let state = self.state();
        let ready = state.entries.iter().filter(|entry| entry.engine.is_some());
        let mut loaded: Vec<Loaded> = ready.map(Entry::told).collect();
        loaded.sort_by_key(|loaded| std::cmp::Reverse(loaded.expires));
        loaded
    }

    /// Devices that this build can compute on.
    ///
    /// # Errors
    /// If llama.cpp cannot start.
    pub fn devices(&self) -> Result<Vec<String>> {
        Ok(self.backend()?.devices())
    }

    /// llama.cpp, started if need be.
    ///
    /// # Errors
    /// If it cannot start.
    pub fn backend(&self) -> Result<Arc<Backend>> {
        if let Some(backend) = self.0.backend.get() {
            return Ok(backend.clone());
        }
        let _one_at_a_time = self.state();
        if let Some(backend) = self.0.backend.get() {
            return Ok(backend.clone());
        }
        let backend = Backend::start(self.0.log.0, self.0.log.1)?;
        Ok(self.0.backend.get_or_init(|| backend).clone())
    }

    fn lease(&self, state: &mut State, index: usize, keep_alive: Option<KeepAlive>) -> Lease {
        let entry = &mut state.entries[index];
        entry.users += 1;
        entry.used_once = true;
        if let Some(keep_alive) = keep_alive {
            entry.keep_alive = keep_alive;
        }
        Lease {
            pool: self.clone(),
            id: entry.id,
            engine: entry.engine.clone().expect("a leased entry is loaded"),
            context_tokens: match entry.load.context {
                Context::FirstJob => None,
                Context::Shared { tokens, .. } | Context::Texts { tokens, .. } => Some(tokens),
            },
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn spec(&self, model: &Model, load: &Load) -> Spec {
        let attention = self.attention(model);
        Spec {
            path: load.weights.clone(),
            gpu_layers: load.gpu_layers,
            main_gpu: load.main_gpu,
            mmap: load.mmap,
            lock: load.lock,
            tensor_split: self.0.config.tensor_split.clone(),
            adapter: load.adapter.clone(),
            threads: load.threads,
            batch_tokens: load.batch_tokens,
            attention,
            context: load.context,
            need: Need::of(&model.header, attention.kv),
            memory_bytes: self.free_bytes(),
            stall_max: self.0.config.load_stall,
            prefixes: None,
            deterministic: self.0.config.deterministic,
            memory_max: self
                .0
                .config
                .memory_max
                .map(|most| (most, machine::anonymous_bytes as fn() -> u64)),
        }
    }

    fn attention(&self, model: &Model) -> tune::Attention {
        let kv = self
            .0
            .config
            .kv_cache
            .as_deref()
            .and_then(tune::KvKind::parse);
        let gpu = cfg!(any(
            feature = "cuda",
            feature = "metal",
            feature = "vulkan",
            feature = "rocm"
        ));
        let processor = match self.0.policy {
            _ if gpu => tune::Processor::Gpu,
            Policy::Server if !machine::has_amx() => tune::Processor::SharedCpu,
            _ => tune::Processor::Cpu,
        };
        tune::attention(&model.header, processor, self.0.config.flash, kv)
    }

    /// The load-relevant options in force for a request.
    fn load_for(&self, model: &Model, options: &Options) -> Result<Load> {
        let trained = model
            .header
            .context_length()
            .unwrap_or(u32::MAX.into())
            .clamp(1, u32::MAX.into()) as u32;
        let asked = options
            .int("num_ctx")
            .map(|tokens| tokens.clamp(0, u32::MAX.into()) as u32);
        let tokens = |tokens: u32| tokens.max(CONTEXT_TOKENS_MIN).min(trained);
        let batch_tokens = options
            .int("num_batch")
            .map(|tokens| tokens.clamp(BATCH_TOKENS_MIN, BATCH_TOKENS_MAX) as u32);
        let default = self.0.config.context_tokens;
        let one = |tokens: u32| Context::Shared {
            tokens,
            sequences: 1,
            cells: tokens,
        };
        let context = match (self.0.policy, asked) {
            _ if model.header.is_embedding() => {
                let longest = batch_tokens.unwrap_or(TEXT_TOKENS);
                let text = tokens(asked.unwrap_or(default)).min(longest);
                Context::Texts {
                    tokens: text,
                    batch: batch_tokens.unwrap_or(TEXTS_TOKENS).max(text),
                }
            }
            (Policy::OneShot, None) => Context::FirstJob,
            (Policy::OneShot, Some(asked)) => one(tokens(asked)),
            (Policy::Session, asked) => one(tokens(asked.unwrap_or(default))),
            (Policy::Server, asked) => self.shared_context(model, tokens(asked.unwrap_or(default))),
        };
        let threads = options
            .int("num_thread")
            .filter(|count| *count > 0)
            .map(|count| count as usize);
        Ok(Load {
            weights: model.weights.clone(),
            context,
            batch_tokens: batch_tokens.map_or(tune::BATCH_TOKENS, |tokens| tokens as usize),
            gpu_layers: options
                .int("num_gpu")
                .filter(|layers| *layers >= 0)
                .map(|layers| layers as i32),
            main_gpu: options.int("main_gpu").map(|gpu| gpu as i32),
            mmap: options.bool("use_mmap"),
            lock: options.bool("use_mlock").unwrap_or(false),
            adapter: model.adapter.clone().map(|path| {
                let scale = options.float("adapter_scale").unwrap_or(1.0);
                (path, scale as f32)
            }),
            threads: threads
                .or(self.0.config.threads)
                .unwrap_or_else(machine::cores),
        })
    }

    /// Cells for several answers at once: as many as their share of memory allows, never fewer
    /// than one answer may need. Total memory decides, so that equal requests give equal contexts.
    fn shared_context(&self, model: &Model, tokens: u32) -> Context {
        let sequences = match self.0.config.deterministic {
            true => 1,
            false => self.0.config.parallel.min(SEQUENCES_MAX),
        };
        let need = Need::of(&model.header, self.attention(model).kv);
        let allowed = machine::total_bytes() / CACHE_SHARE / need.cell_bytes.max(1);
        let cells = u64::from(tokens) * u64::from(sequences.div_ceil(FILLED_SHARE));
        let cells = cells.min(allowed).clamp(tokens.into(), u32::MAX.into()) as u32;
        Context::Shared {
            tokens,
            sequences,
            cells,
        }
    }
}
