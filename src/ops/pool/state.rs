//! The state of a pool: its entries, which one a request may use, and which one to evict.

use std::path::PathBuf;
use std::sync::Arc;
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
}

pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) load: Load,
    pub(super) model: Loaded,
    pub(super) engine: Option<Arc<Engine>>,
    pub(super) users: usize,
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
    /// True if an engine with this load spec can serve a request for another.
    fn serves(&self, other: &Load) -> bool {
        // A request for as many GPU layers as fit accepts those that are loaded.
        let gpu_layers = other.gpu_layers.or(self.gpu_layers);
        *self
            == Load {
                gpu_layers,
                ..other.clone()
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

impl State {
    /// The next step of a request for this load spec. A loaded engine is used at once; loads run in the
    /// order of the requests.
    pub(super) fn step(&mut self, load: &Load, loaded_max: usize, ticket: Option<u64>) -> Step {
        let is_first = self.queue.is_first(ticket);
        if let Some(index) = self
            .entries
            .iter()
            .position(|entry| entry.load.weights == load.weights)
        {
            let entry = &self.entries[index];
            return match &entry.engine {
                None => Step::Wait,
                Some(engine) if entry.load.serves(load) && engine.is_alive() => Step::Use(index),
                Some(_) if entry.users == 0 && is_first => {
                    Step::Load(Some(Box::new(self.entries.remove(index))))
                }
                Some(_) => Step::Wait,
            };
        }
        if !is_first {
            return Step::Wait;
        }
        if self.entries.len() < loaded_max {
            return Step::Load(None);
        }
        match self.evict_idle(None) {
            Some(entry) => Step::Load(Some(Box::new(entry))),
            None => Step::Wait,
        }
    }

    /// Removes the engine that has been idle longest.
    pub(super) fn evict_idle(&mut self, except: Option<u64>) -> Option<Entry> {
        let idle = self.entries.iter().enumerate().filter(|(_, entry)| {
            entry.users == 0 && entry.engine.is_some() && Some(entry.id) != except
        });
        let (index, _) = idle.min_by_key(|(_, entry)| entry.idle_since)?;
        Some(self.entries.remove(index))
    }

    /// Records the memory that a load will use, and returns what the other running loads will use.
    pub(super) fn reserve_bytes(&mut self, id: u64, needed_bytes: u64) -> u64 {
        let mut others = 0u64;
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.engine.is_none())
        {
            if entry.id == id {
                entry.reserved_bytes = needed_bytes;
            } else {
                others = others.saturating_add(entry.reserved_bytes);
            }
        }
        others
    }

    pub(super) fn reserve(&mut self, load: &Load, model: &Model, keep_alive: KeepAlive) -> u64 {
        self.next_id += 1;
        self.entries.push(Entry {
            id: self.next_id,
            load: load.clone(),
            model: Loaded::new(model),
            engine: None,
            users: 0,
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
            && self.users == 0
            && self.used_once
            && self.idle_since.elapsed() >= keep_alive
    }

    pub(super) fn listing(&self) -> Loaded {
        let since = if self.users == 0 {
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
        Loaded {
            expires: expires.unwrap_or_else(SystemTime::now),
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
