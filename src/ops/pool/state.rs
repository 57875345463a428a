//! The state of a pool: its entries, which one a request may use, and which one to evict.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use super::queue::Queue;
use crate::core::digest::Digest;
use crate::core::duration::KeepAlive;
use crate::core::name::Name;
use crate::ops::model::Model;
use crate::system::engine::memory::Need;
use crate::system::engine::{Context, Engine, Spec};

#[derive(Default)]
pub(super) struct State {
    pub(super) entries: Vec<Entry>,
    pub(super) queue: Queue,
    pub(super) next_id: u64,
    /// The engine that the first request in the queue waits for to become idle.
    drained: Option<Drained>,
    /// A load that waits for memory, and the engine in use whose memory it is to get.
    yields: Option<(u64, u64)>,
}

/// An engine that takes no further requests until the first one in the queue has its place.
#[derive(Clone, Copy)]
struct Drained {
    id: u64,
    ticket: u64,
}

/// A request, by the address of the flag that cancels it: several answers to one request share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Requester(usize);

impl Requester {
    pub(super) fn new(cancel: &AtomicBool) -> Self {
        Requester(std::ptr::from_ref(cancel).addr())
    }
}

pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) load: Load,
    pub(super) model: Loaded,
    pub(super) engine: Option<Arc<Engine>>,
    /// The requests that use it; one with several answers occurs as often.
    pub(super) users: Vec<Requester>,
    pub(super) keep_alive: KeepAlive,
    pub(super) idle_since: Instant,
    pub(super) used_once: bool,
    /// Memory that a running load will use.
    pub(super) reserved_bytes: u64,
}

/// The options that a loaded engine cannot change.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Load {
    pub(super) weights: PathBuf,
    pub(super) context: Context,
    pub(super) batch_tokens: usize,
    pub(super) gpu_layers: Option<i32>,
    pub(super) main_gpu: Option<i32>,
    pub(super) mmap: Option<bool>,
    pub(super) lock: bool,
    /// A LoRA adapter, and its scale.
    pub(super) adapter: Option<(PathBuf, f32)>,
    pub(super) threads: usize,
}

impl Load {
    /// True if an engine with this load spec can serve a request for another. A longer context serves a shorter one, and
    /// a request for as many GPU layers as fit accepts those that are loaded.
    fn serves(&self, other: &Load) -> bool {
        let context = match (self.context, other.context) {
            (
                Context::Shared {
                    tokens,
                    sequences,
                    cells,
                },
                Context::Shared {
                    tokens: wanted,
                    sequences: at_once,
                    cells: needed,
                },
            ) if wanted <= tokens && at_once == sequences && needed <= cells => self.context,
            (_, context) => context,
        };
        *self
            == Load {
                gpu_layers: other.gpu_layers.or(self.gpu_layers),
                context,
                ..other.clone()
            }
    }

    /// Most tokens of one prompt and its answer, if that is known before the first one.
    pub(super) fn context_tokens(&self) -> Option<u32> {
        match self.context {
            Context::FirstJob => None,
            Context::Shared { tokens, .. } | Context::Texts { tokens, .. } => Some(tokens),
        }
    }
}

/// A loaded model, for listings.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The name that loaded it.
    pub name: Option<Name>,
    /// Digest of its manifest.
    pub digest: Option<Digest>,
    /// Its config, for listings.
    pub config: crate::format::manifest::Config,
    /// Memory that it uses: weights, cache and buffers, in bytes.
    pub size_bytes: u64,
    /// Memory that it uses on GPUs, in bytes.
    pub gpu_bytes: u64,
    /// Memory of the prompts that it has put aside, in bytes; `size_bytes` does not count it.
    pub saved_bytes: u64,
    /// Where it computes, and how many layers there.
    pub device: String,
    /// Most tokens of one prompt and its answer.
    pub context_tokens: u32,
    /// When it expires, unless it is used again.
    pub expires: SystemTime,
}

/// The next step of a request.
pub(super) enum Step {
    Use(usize),
    Load(Option<Box<Entry>>),
    Wait,
}

/// The answer to a load that needs memory.
pub(super) enum Room {
    /// There is enough, and it is reserved.
    Reserved,
    /// An idle engine that was removed; to be dropped.
    Evicted(Box<Entry>),
    /// There will be enough once an engine in use is idle, or a running load has ended.
    Wait,
    /// There will never be enough; so much is free, in bytes.
    None(u64),
}

impl State {
    /// The next step of a request for this load spec. A loaded engine is used at once, unless the first request in the
    /// queue waits for it to become idle: requests that came later wait behind that one. Loads run in the order of the
    /// requests.
    pub(super) fn step(
        &mut self,
        load: &Load,
        loaded_max: usize,
        ticket: Option<u64>,
        requester: Requester,
    ) -> Step {
        // A load that waits for memory comes before those that ask later.
        let is_first = self.queue.is_first(ticket) && self.waiting_load().is_none();
        if let Some(index) = self
            .entries
            .iter()
            .position(|entry| entry.load.weights == load.weights)
        {
            let entry = &self.entries[index];
            return match &entry.engine {
                None => Step::Wait,
                Some(engine) if entry.load.serves(load) && engine.is_alive() => {
                    if self.is_open(entry, ticket, requester) {
                        Step::Use(index)
                    } else {
                        Step::Wait
                    }
                }
                Some(_) if entry.users.is_empty() && is_first => {
                    Step::Load(Some(Box::new(self.entries.remove(index))))
                }
                Some(_) => {
                    self.drain(entry.id, ticket);
                    Step::Wait
                }
            };
        }
        if !is_first {
            return Step::Wait;
        }
        if self.entries.len() < loaded_max {
            return Step::Load(None);
        }
        if let Some(entry) = self.evict_idle(None) {
            return Step::Load(Some(Box::new(entry)));
        }
        let loaded = self.entries.iter().filter(|entry| entry.engine.is_some());
        let least_used = loaded.min_by_key(|entry| (entry.users.len(), entry.id));
        if let Some(id) = least_used.map(|entry| entry.id) {
            self.drain(id, ticket);
        }
        Step::Wait
    }

    /// Lets an engine take no further requests until the first request in the queue has its place.
    fn drain(&mut self, id: u64, ticket: Option<u64>) {
        let first = self.queue.first();
        let Some(ticket) = ticket.filter(|ticket| Some(*ticket) == first) else {
            return;
        };
        let is_known = |drained: Drained| {
            drained.ticket == ticket && self.entries.iter().any(|entry| entry.id == drained.id)
        };
        if !self.drained.is_some_and(is_known) {
            self.drained = Some(Drained { id, ticket });
        }
    }

    /// True if a request may use an engine now. One that uses it already goes on: it would wait for itself.
    fn is_open(&self, entry: &Entry, ticket: Option<u64>, requester: Requester) -> bool {
        let yields = self
            .waiting_load()
            .is_some_and(|(_, engine)| engine == entry.id);
        if yields && !entry.users.contains(&requester) {
            return false;
        }
        let Some(drained) = self.drained.filter(|drained| drained.id == entry.id) else {
            return true;
        };
        self.queue.first() != Some(drained.ticket)
            || Some(drained.ticket) == ticket
            || entry.users.contains(&requester)
    }

    /// Removes the engine that has been idle longest.
    pub(super) fn evict_idle(&mut self, except: Option<u64>) -> Option<Entry> {
        let idle = self.entries.iter().enumerate().filter(|(_, entry)| {
            entry.users.is_empty() && entry.engine.is_some() && Some(entry.id) != except
        });
        let (index, _) = idle.min_by_key(|(_, entry)| entry.idle_since)?;
        Some(self.entries.remove(index))
    }

    /// The load that waits for memory, and the engine that it waits for.
    fn waiting_load(&self) -> Option<(u64, u64)> {
        let known = |id: u64| self.entries.iter().any(|entry| entry.id == id);
        self.yields
            .filter(|(load, engine)| known(*load) && known(*engine))
    }

    /// Reserves memory for the load `id`, or says what stands in its way. Nothing is evicted for a load that would not fit
    /// an empty machine: `most_bytes` without what other engines use on GPUs.
    pub(super) fn make_room(
        &mut self,
        (id, requester): (u64, Requester),
        needed_bytes: u64,
        (free_bytes, most_bytes): (u64, u64),
    ) -> Room {
        let others = self.entries.iter().filter(|entry| entry.id != id);
        let (mut loading_bytes, mut most_bytes) = (0u64, most_bytes);
        for entry in others {
            match entry.engine {
                Some(_) => most_bytes = most_bytes.saturating_add(entry.model.gpu_bytes),
                None => loading_bytes = loading_bytes.saturating_add(entry.reserved_bytes),
            }
        }
        if self.yields.is_some_and(|(load, _)| load == id) {
            self.yields = None;
        }
        let left_bytes = free_bytes.saturating_sub(loading_bytes);
        if needed_bytes <= left_bytes {
            let own = self.entries.iter_mut().filter(|entry| entry.id == id);
            own.for_each(|entry| entry.reserved_bytes = needed_bytes);
            return Room::Reserved;
        }
        if needed_bytes > most_bytes {
            return Room::None(left_bytes);
        }
        if let Some(idle) = self.evict_idle(Some(id)) {
            return Room::Evicted(Box::new(idle));
        }
        let in_use = self.entries.iter().filter(|entry| {
            entry.engine.is_some() && !entry.users.contains(&requester) && entry.id != id
        });
        let least_used = in_use.min_by_key(|entry| (entry.users.len(), entry.id));
        match least_used.map(|entry| entry.id) {
            Some(engine) => {
                // One load waits at a time; another takes its turn after that.
                self.yields = self.waiting_load().or(Some((id, engine)));
                Room::Wait
            }
            None if loading_bytes > 0 => Room::Wait,
            None => Room::None(left_bytes),
        }
    }

    pub(super) fn reserve(&mut self, load: &Load, model: &Model, keep_alive: KeepAlive) -> u64 {
        self.next_id += 1;
        self.entries.push(Entry {
            id: self.next_id,
            load: load.clone(),
            model: Loaded::new(model),
            engine: None,
            users: Vec::new(),
            keep_alive,
            idle_since: Instant::now(),
            used_once: false,
            reserved_bytes: 0,
        });
        self.next_id
    }
}

impl Entry {
    pub(super) fn is_expired(&self) -> bool {
        let KeepAlive::For(keep_alive) = self.keep_alive else {
            return false;
        };
        self.engine.is_some()
            && self.users.is_empty()
            && self.used_once
            && self.idle_since.elapsed() >= keep_alive
    }

    pub(super) fn listing(&self) -> Loaded {
        let since = if self.users.is_empty() {
            self.idle_since
        } else {
            Instant::now()
        };
        let expires = match self.keep_alive {
            KeepAlive::For(keep_alive) => {
                let end = SystemTime::now().checked_add(keep_alive);
                end.and_then(|end| end.checked_sub(since.elapsed()))
            }
            KeepAlive::Forever => {
                SystemTime::now().checked_add(Duration::from_nanos(i64::MAX as u64))
            }
        };
        let saved_bytes = self
            .engine
            .as_ref()
            .map_or(0, |engine| engine.saved_bytes());
        Loaded {
            expires: expires.unwrap_or_else(SystemTime::now),
            saved_bytes: saved_bytes as u64,
            ..self.model.clone()
        }
    }
}

impl Loaded {
    pub(super) fn new(model: &Model) -> Self {
        Loaded {
            name: model.name.clone(),
            digest: model.digest,
            config: model.config.clone(),
            size_bytes: 0,
            gpu_bytes: 0,
            saved_bytes: 0,
            device: String::new(),
            context_tokens: 0,
            expires: SystemTime::UNIX_EPOCH,
        }
    }

    /// Fills in the fields that are known once the engine is loaded.
    pub(super) fn describe(&mut self, engine: &Engine, spec: &Spec) {
        let facts = engine.facts();
        self.size_bytes = least_bytes(&spec.need, spec.context);
        self.gpu_bytes =
            self.size_bytes * u64::from(facts.gpu_layers) / u64::from(facts.layers.max(1));
        self.device = match facts.gpu_layers {
            0 => facts.device.clone(),
            layers => format!("{} {layers}/{} layers", facts.device, facts.layers),
        };
        match spec.context {
            Context::FirstJob => {}
            Context::Shared { tokens, .. } | Context::Texts { tokens, .. } => {
                self.context_tokens = tokens;
            }
        }
    }
}

/// The least memory that a load allocates, in bytes.
pub(super) fn least_bytes(need: &Need, context: Context) -> u64 {
    match context {
        Context::FirstJob => need.total_bytes(256, 1),
        Context::Shared {
            cells, sequences, ..
        } => need.total_bytes(cells, sequences),
        Context::Texts { batch, .. } => need.total_bytes(batch, 1),
    }
}
