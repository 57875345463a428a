//! Loaded engines: one for each set of weights, shared by all requests for it.
//!
//! Decides the size of a context, whether memory suffices, which engine to evict when there is no room, and
//! how long an idle engine stays. No lock is held while a model loads.

mod load_spec;
mod queue;
mod state;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use super::measured_settings::MeasuredSettings;
use super::model::{self, Model};
use super::ollama_layout;
use super::prefix_cache::PrefixCache;
use super::trial;
use super::turn::template_choice::{Sources, TemplateChoice, TemplateChoices};
use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};
use crate::core::lock::LockExt;
use crate::core::options::Options;
use crate::system::config::Config;
use crate::system::engine::memory::MEMORY_HINT;
use crate::system::engine::prefix::Prefixes;
use crate::system::engine::{Backend, Engine, Level, Sink, Spec, return_memory};
use crate::system::machine;
use state::{Entry, Load, Requester, Room, State, Step, least_bytes};

pub use state::Loaded;

/// A client that reads nothing of its answer for this long is abandoned.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How often a waiting request checks whether its client is still connected.
const LOOK: Duration = Duration::from_millis(50);

/// The kind of process that the pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// One answer, then the process exits, which frees the weights: no more context than it needs.
    OneShot,
    /// One answer after another: a context of full size.
    Session,
    /// Many answers at once.
    Server,
    /// One token, in the process that tries a model.
    Trial,
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
    backend: Mutex<Option<Arc<Backend>>>,
    measured: OnceLock<MeasuredSettings>,
    template_choices: TemplateChoices,
    state: Mutex<State>,
    changed: Condvar,
}

/// A loaded engine in use. Dropping it starts the keep-alive time.
pub struct Lease {
    pool: Pool,
    id: u64,
    requester: Requester,
    /// Taken when the lease ends, before its entry is free.
    engine: Option<Arc<Engine>>,
    /// Most tokens of one prompt and its answer; `None` if the first job decides.
    pub context_tokens: Option<u32>,
}

impl Lease {
    /// The engine.
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("it is taken at the end only")
    }

    /// The stall timeout of a reader; `None`: forever, for a terminal or pipe of our own.
    pub fn stall_timeout(&self) -> Option<Duration> {
        match self.pool.0.policy {
            Policy::OneShot | Policy::Session | Policy::Trial => None,
            Policy::Server => Some(STALL_MAX),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Whoever evicts the engine then frees its memory.
        drop(self.engine.take());
        let mut state = self.pool.state();
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.id == self.id) else {
            return;
        };
        if let Some(at) = entry.users.iter().position(|user| *user == self.requester) {
            entry.users.swap_remove(at);
        }
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
            backend: Mutex::default(),
            measured: OnceLock::new(),
            template_choices: TemplateChoices::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// The template choice of a model; its templates are compiled once.
    ///
    /// # Errors
    /// The mistake in its template.
    pub fn template_choice(&self, model: &Model) -> Result<Arc<TemplateChoice>> {
        let (choice, _) = Sources::from_model(model).choose()?;
        self.0.template_choices.compiled(choice)
    }

    /// The engine for a model, loaded if necessary. Waits while others load, or use an engine that must
    /// be evicted.
    ///
    /// # Errors
    /// `Busy` if too many are waiting, `Memory` if it cannot fit, `Cancelled`, or the error of the load.
    pub fn acquire(
        &self,
        model: &Model,
        options: &Options,
        keep_alive: Option<KeepAlive>,
        cancel: &AtomicBool,
        progress: Progress,
    ) -> Result<Lease> {
        let load = self.load_for(model, options)?;
        let requester = Requester::new(cancel);
        let mut ticket = None;
        let mut state = self.state();
        let id = loop {
            match state.step(&load, self.0.config.loaded_max, ticket, requester) {
                Step::Use(index) => {
                    state.queue.leave(ticket);
                    let mut lease = self.lease(&mut state, index, keep_alive, requester);
                    // The engine may have a longer context than the request asks for.
                    lease.context_tokens = load.context_tokens();
                    return Ok(lease);
                }
                Step::Load(evicted) => {
                    state.queue.leave(ticket);
                    let id =
                        state.reserve(&load, model, keep_alive.unwrap_or(self.0.config.keep_alive));
                    drop(state);
                    drop(evicted); // Freeing takes time and needs no lock.
                    break id;
                }
                Step::Wait => {}
            }
            if ticket.is_none() {
                ticket = Some(state.queue.enter(self.0.config.queue_max)?);
            }
            let woken = self.0.changed.wait_timeout(state, LOOK);
            state = woken.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            if cancel.load(Ordering::Relaxed) {
                state.queue.leave(ticket);
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
        let spec = self.spec(model, &load);
        let made = self
            .make_room(id, &spec, cancel)
            .and_then(|()| self.load(model, spec, cancel, progress));
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
                Ok(self.lease(&mut state, index, None, Requester::new(cancel)))
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
        spec: Spec,
        cancel: &AtomicBool,
        progress: Progress,
    ) -> Result<(Engine, Spec)> {
        let backend = self.backend()?;
        let mut report = |fraction| {
            progress(fraction);
            !cancel.load(Ordering::Relaxed)
        };
        let spec = Spec {
            path: ollama_layout::weights(&self.0.config, model, &mut report)?,
            memory_bytes: self.free_bytes(), // Idle engines may have been evicted since.
            ..spec
        };
        model.check(&spec.path)?;
        self.try_first(&spec, cancel)?;
        let prefix_cache =
            (!spec.deterministic).then(|| PrefixCache::new(&self.0.config, model, &spec));
        let spec = Spec {
            prefixes: prefix_cache
                .flatten()
                .map(|prefix_cache| prefix_cache as Arc<dyn Prefixes>),
            ..spec
        };
        let engine = Engine::load(&backend, spec.clone(), &mut report)?;
        if self.0.policy == Policy::OneShot {
            engine.leave_weights();
        }
        Ok((engine, spec))
    }

    /// Has a file of weights compute one token in a process of its own, before llama.cpp reads it in this one for anything
    /// else than answers.
    ///
    /// # Errors
    /// `Damaged` if that ends the process, or if the header has it so.
    pub fn try_file(&self, path: &Path) -> Result<()> {
        let model = model::open_file(path)?;
        model.check(path)?;
        let load = self.load_for(&model, &Options::default())?;
        self.try_first(&self.spec(&model, &load), &AtomicBool::new(false))
    }

    /// Tries a model that was never computed with.
    fn try_first(&self, spec: &Spec, cancel: &AtomicBool) -> Result<()> {
        if self.0.policy == Policy::Trial {
            return Ok(());
        }
        let ends_soon = self.0.policy == Policy::OneShot;
        let note = trial::check(&self.0.config, spec, (cancel, ends_soon))?;
        note.iter().for_each(|note| (self.0.log.1)(note));
        Ok(())
    }

    /// Reserves the memory of a load: evicts idle engines, and waits for those in use, until it fits.
    ///
    /// # Errors
    /// `Memory` if it would not fit without them either; `Cancelled`.
    fn make_room(&self, id: u64, spec: &Spec, cancel: &AtomicBool) -> Result<()> {
        let needed_bytes = least_bytes(&spec.need, spec.context);
        loop {
            let gpu_bytes = self.gpu_free_bytes(spec.gpu_layers).unwrap_or(0);
            // Layers that do not fit the GPU stay on the CPU.
            let free_bytes = self.free_bytes().saturating_add(gpu_bytes);
            let mut state = self.state();
            let most_bytes = self.most_bytes().saturating_add(gpu_bytes);
            let limits = (free_bytes, most_bytes);
            match state.make_room((id, Requester::new(cancel)), needed_bytes, limits) {
                Room::Reserved => return Ok(()),
                Room::Evicted(engine) => {
                    drop(state);
                    drop(engine);
                    return_memory();
                }
                Room::Wait => {
                    let woken = self.0.changed.wait_timeout(state, LOOK);
                    drop(woken);
                    if cancel.load(Ordering::Relaxed) {
                        return Err(Error::cancelled());
                    }
                }
                Room::None(free_bytes) => {
                    return Err(Error::memory(needed_bytes, free_bytes, self.memory_hint()));
                }
            }
        }
    }

    /// The advice for a lack of memory.
    fn memory_hint(&self) -> &'static str {
        match self.0.config.memory_max {
            Some(most) if most < machine::free_bytes() => "that is what --mem-max allows",
            _ => MEMORY_HINT,
        }
    }

    /// Main memory that a load may use, in bytes: the free memory, at most what the user allows.
    fn free_bytes(&self) -> u64 {
        let allowed = self.0.config.memory_max;
        let left = allowed.map(|most| most.saturating_sub(machine::anonymous_bytes()));
        machine::free_bytes().min(left.unwrap_or(u64::MAX))
    }

    /// Main memory that a load could use if no other model were loaded, in bytes.
    fn most_bytes(&self) -> u64 {
        let allowed = self.0.config.memory_max;
        machine::most_bytes().min(allowed.unwrap_or(u64::MAX))
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

    /// Drops the engines whose keep-alive time has passed.
    pub fn expire(&self) {
        let mut state = self.state();
        let (gone, prefix_cache) = std::mem::take(&mut state.entries)
            .into_iter()
            .partition(Entry::is_expired);
        state.entries = prefix_cache;
        drop(state);
        let gone: Vec<Entry> = gone;
        if !gone.is_empty() {
            drop(gone); // Frees the engines, outside the lock.
            return_memory();
            self.0.changed.notify_all();
        }
    }

    /// The loaded models, the last to expire first.
    pub fn loaded(&self) -> Vec<Loaded> {
        let state = self.state();
        let ready = state.entries.iter().filter(|entry| entry.engine.is_some());
        let mut loaded: Vec<Loaded> = ready.map(Entry::listing).collect();
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

    /// llama.cpp, started if necessary.
    ///
    /// # Errors
    /// If it cannot start.
    pub fn backend(&self) -> Result<Arc<Backend>> {
        // A lock of its own: the state stays free while llama.cpp starts. A failure is not remembered.
        let mut backend = self.0.backend.locked();
        if backend.is_none() {
            let (level, sink) = self.0.log;
            *backend = Some(Backend::start(level, sink)?);
        }
        Ok(backend.clone().expect("it was just started"))
    }

    fn lease(
        &self,
        state: &mut State,
        index: usize,
        keep_alive: Option<KeepAlive>,
        requester: Requester,
    ) -> Lease {
        let entry = &mut state.entries[index];
        entry.users.push(requester);
        entry.used_once = true;
        if let Some(keep_alive) = keep_alive {
            entry.keep_alive = keep_alive;
        }
        Lease {
            pool: self.clone(),
            id: entry.id,
            requester,
            engine: Some(entry.engine.clone().expect("a leased entry is loaded")),
            context_tokens: entry.load.context_tokens(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.locked()
    }
}
