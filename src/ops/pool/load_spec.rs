//! The load spec of a request: the options that decide how its model is loaded.

use super::state::Load;
use super::{Policy, Pool};
use crate::core::error::Result;
use crate::core::options::Options;
use crate::ops::measured_settings::{Faster, MeasuredSettings};
use crate::ops::model::Model;
use crate::system::engine::kv::KvKind;
use crate::system::engine::memory::{self, Need};
use crate::system::engine::{BUILT_FOR_GPU, Context, Spec, repack, tune};
use crate::system::machine;

/// Tokens of prompt and answer of a one-shot, where they are not known at the load.
const WORK: (usize, usize) = (256, 64);
/// The smallest context.
const CONTEXT_TOKENS_MIN: u32 = 4;
/// llama.cpp computes at most this many at once (LLAMA_MAX_SEQ).
const SEQUENCES_MAX: u32 = 256;
/// The cache of a shared context may use 1/16 of all memory.
const CACHE_SHARE: u64 = 16;
/// Answers seldom fill their context: half of them filled is planned for. An answer that finds no room
/// waits, or is preempted and resumes later.
const FILLED_SHARE: u32 = 2;
/// The same for more than eight answers at once: 1/4, because the more there are, the less they fill
/// together.
const FILLED_SHARE_OF_MANY: u32 = 4;
/// The smaller share plans for at least this many filled contexts.
const FILLED_MIN: u32 = 4;
/// The smallest batch: a slice of the grid and a token for each sequence.
const BATCH_TOKENS_MIN: i64 = 32;
/// The largest batch.
const BATCH_TOKENS_MAX: i64 = 1 << 14;
/// Most tokens of one text to embed: the reference's batch for embedding models.
const TEXT_TOKENS: u32 = 2048;
/// Tokens of several texts to embed in one decode.
const TEXTS_TOKENS: u32 = 512;

impl Pool {
    pub(super) fn spec(&self, model: &Model, load: &Load) -> Spec {
        let measured = self.measured(model, load.gpu_layers);
        let attention = self.attention(measured);
        let processor = repack::Processor {
            amx: machine::has("amx_int8"),
            avx2: machine::has("avx2"),
            avx512: machine::has("avx512f"),
            vnni: machine::has("avx512_vnni"),
        };
        let repack = self.repacks(model, processor, measured);
        let repacked_bytes = if repack {
            repack::bytes(&model.header, processor)
        } else {
            0
        };
        let need = Need::estimate(&model.header, attention.kv, repacked_bytes);
        Spec {
            path: load.weights.clone(),
            gpu_layers: load.gpu_layers,
            main_gpu: load.main_gpu,
            mmap: load.mmap,
            lock: load.lock,
            tensor_split: self.0.config.tensor_split.clone(),
            adapter: load.adapter.clone(),
            strips_accents: model.header.strips_accents(),
            threads: load.threads,
            batch_tokens: load.batch_tokens,
            attention,
            context: load.context,
            speculate: self.0.config.speculate,
            processor,
            repack,
            need,
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

    /// Whether the model's weights are copied into the processor's own layout: as the user says, else if that
    /// pays for the work that is known.
    fn repacks(
        &self,
        model: &Model,
        processor: repack::Processor,
        measured: Option<Faster>,
    ) -> bool {
        let one_shot = self.0.policy == Policy::OneShot;
        let (prompt, answer) = self.0.config.work.unwrap_or(WORK);
        let work = one_shot.then_some(repack::Work { prompt, answer });
        // A measurement tells what is faster, and not whether a one-shot earns what the copies cost.
        let measured = measured.and_then(|faster| faster.repacked);
        let measured = measured.filter(|repacked| !(one_shot && *repacked));
        let setting = self.0.config.repack.or(measured);
        setting.unwrap_or_else(|| repack::pays(&model.header, processor, work))
    }

    /// Free memory of the GPUs that take part in a load; `None` if none does.
    pub(super) fn gpu_free_bytes(&self, layers: Option<i32>) -> Option<u64> {
        if !BUILT_FOR_GPU || layers == Some(0) {
            return None;
        }
        self.backend().ok()?.gpu_free_bytes()
    }

    /// The cache type that the user chose, if it has one of the known names.
    fn kv(&self) -> Option<KvKind> {
        self.0.config.kv_cache.as_deref().and_then(KvKind::parse)
    }

    /// The settings that were measured to be faster for models of this shape.
    fn measured(&self, model: &Model, layers: Option<i32>) -> Option<Faster> {
        let config = &self.0.config;
        let on_gpu = self.gpu_free_bytes(layers).is_some();
        let measured = self
            .0
            .measured
            .get_or_init(|| MeasuredSettings::read(config));
        measured.for_model(&model.header, on_gpu)
    }

    fn attention(&self, measured: Option<Faster>) -> tune::Attention {
        let measured = measured.map(|faster| faster.flash_attention);
        tune::attention(self.0.config.flash.or(measured), self.kv())
    }

    /// The load spec of a request, from the options in force.
    pub(super) fn load_for(&self, model: &Model, options: &Options) -> Result<Load> {
        let trained = model
            .header
            .context_length()
            .unwrap_or(u32::MAX.into())
            .clamp(1, u32::MAX.into()) as u32;
        let requested = options
            .int("num_ctx")
            .map(|tokens| tokens.clamp(0, u32::MAX.into()) as u32);
        let tokens = |tokens: u32| tokens.max(CONTEXT_TOKENS_MIN).min(trained);
        let batch_tokens = options
            .int("num_batch")
            .map(|tokens| tokens.clamp(BATCH_TOKENS_MIN, BATCH_TOKENS_MAX) as u32);
        // Without a GPU the options for one change nothing, so that they are no reason to load again.
        let for_gpu = |name: &str| options.int(name).filter(|_| BUILT_FOR_GPU);
        let gpu_layers = for_gpu("num_gpu")
            .filter(|layers| *layers >= 0)
            .map(|layers| layers as i32);
        let default = self.0.config.context_tokens;
        let one = |tokens: u32| Context::Shared {
            tokens,
            sequences: 1,
            cells: tokens,
        };
        let context = match (self.0.policy, requested) {
            _ if model.header.is_embedding() => {
                let longest = batch_tokens.unwrap_or(TEXT_TOKENS);
                let text = tokens(requested.unwrap_or(default)).min(longest);
                Context::Texts {
                    tokens: text,
                    batch: batch_tokens.unwrap_or(TEXTS_TOKENS).max(text),
                }
            }
            (Policy::OneShot | Policy::Trial, None) => Context::FirstJob,
            (Policy::OneShot | Policy::Trial, Some(requested)) => one(tokens(requested)),
            (Policy::Session, requested) => one(tokens(requested.unwrap_or(default))),
            (Policy::Server, requested) => {
                self.shared_context(model, tokens(requested.unwrap_or(default)))
            }
        };
        let (requested, setting) = (options.int("num_thread"), self.0.config.threads);
        let threads = tune::threads(requested, setting, machine::cores(), machine::processors());
        Ok(Load {
            weights: model.weights.clone(),
            context,
            batch_tokens: batch_tokens.map_or(tune::BATCH_TOKENS, |tokens| tokens as usize),
            gpu_layers,
            main_gpu: for_gpu("main_gpu").map(|gpu| gpu as i32),
            // A file is mapped anyway, unless a GPU gets it.
            mmap: options
                .bool("use_mmap")
                .filter(|maps| BUILT_FOR_GPU || !maps),
            lock: options.bool_or_default("use_mlock"),
            adapter: model.adapter.clone().map(|path| {
                let scale = options.float_or_default("adapter_scale");
                (path, scale as f32)
            }),
            threads,
        })
    }

    /// Cells for several answers at once: as many as their share of memory allows, never fewer
    /// than one answer may need. Total memory decides, so that equal requests give equal contexts.
    fn shared_context(&self, model: &Model, tokens: u32) -> Context {
        let sequences = if self.0.config.deterministic {
            1
        } else {
            self.0.config.parallel.min(SEQUENCES_MAX)
        };
        let cell_bytes = memory::cell_bytes(&model.header, self.kv().unwrap_or_default());
        let allowed = machine::total_bytes() / CACHE_SHARE / cell_bytes.max(1);
        let of_many = sequences.div_ceil(FILLED_SHARE_OF_MANY).max(FILLED_MIN);
        let filled = sequences.div_ceil(FILLED_SHARE).min(of_many);
        let cells = u64::from(tokens) * u64::from(filled);
        let cells = cells.min(allowed).clamp(tokens.into(), u32::MAX.into()) as u32;
        Context::Shared {
            tokens,
            sequences,
            cells,
        }
    }
}
