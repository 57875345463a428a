//! Creates contexts for a loaded model, and the plan of the loop that decodes in one.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::model::LlamaModel;

use super::cache::{Cache, Limits};
use super::embed::TEXTS_MAX;
use super::interrupt::Interrupt;
use super::kv::KvKind;
use super::plan::Plan;
use super::ready::Ready;
use super::saved_sequence::SavedSequences;
use super::tune;
use super::{Backend, Context, Spec, ffi};
use crate::core::error::{Error, Result};

/// llama.cpp rounds a context up to a multiple of this.
const CONTEXT_GRAIN: u32 = 256;
/// Cells that may be in use on a CPU while some of them are idle: attention processes this many at once.
const IDLE_CELLS: usize = 256;
/// Saved sequences, and checkpoints, may each use 1/32 of the free memory...
const SAVED_SHARE: u64 = 32;
/// ...and at most this much.
const SAVED_BYTES_MAX: u64 = 512 << 20;

/// The parts that a new context refers to.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    pub backend: &'a Backend,
    pub model: &'a LlamaModel,
    /// Aborts its computations.
    pub interrupt: &'a Interrupt,
    /// Gets the bytes of the sequences that are put aside.
    pub saved_bytes: &'a Arc<AtomicUsize>,
}

/// Creates a cache for answers of the given size, and the plan of its loop.
///
/// # Errors
/// llama.cpp's error.
pub fn for_answers<'a>(
    base: Base<'a>,
    ready: &mut Ready,
    spec: &Spec,
    size: Context,
) -> Result<(Cache<'a>, Plan)> {
    let Context::Shared {
        tokens,
        sequences,
        cells,
    } = size
    else {
        return Err(Error::failed("cannot create a context without a size"));
    };
    // The encoder's output is in the context once, for one answer.
    let sequences = if ready.encodes { 1 } else { sequences };
    let (work, gpu) = (multiplied(base.model), ready.gpu_layers > 0);
    let slices = tune::Slices::new(work, spec.threads, gpu, spec.deterministic);
    // A slice of prompts and one token of each sequence: a larger batch would only cost memory and setup
    // time. A model with an encoder reads a prompt in one batch.
    let batch = if ready.encodes {
        cells.next_multiple_of(CONTEXT_GRAIN) as usize
    } else {
        (slices.lone.min(tokens as usize) + sequences as usize)
            .next_multiple_of(tune::GRID)
            .min(spec.batch_tokens)
    };
    let params = params(spec, cells.next_multiple_of(CONTEXT_GRAIN), batch as u32)
        .with_n_seq_max(sequences)
        .with_type_k(kind(spec.attention.kv))
        .with_type_v(kind(spec.attention.kv))
        .with_swa_full(false);
    let context = make(base, ready, params, cells)?;
    let once = spec.context == Context::FirstJob;
    let bytes = (spec.memory_bytes / SAVED_SHARE).min(SAVED_BYTES_MAX) as usize;
    // A context for a single job needs checkpoints only if the prefix cache stores what it computed.
    let window = if once && spec.prefixes.is_none() {
        usize::MAX
    } else {
        ready.window_tokens
    };
    let limits = Limits {
        sequences: sequences as usize,
        window,
        checkpoint_bytes: bytes,
        idle_cells: if gpu { usize::MAX } else { IDLE_CELLS },
    };
    let plan = Plan {
        tokens_max: tokens as usize,
        sequences: sequences as usize,
        slices: slices.within(batch),
        batch_tokens: batch,
        alike_tokens: tune::alike_tokens(
            spec.processor,
            spec.repack && spec.need.repacked_bytes > 0,
            gpu,
        ),
        answer_start: ready.encodes.then(|| start(base.model)),
        // Recurrent memory cannot forget a draft that was wrong.
        draft_cost: (spec.speculate && !spec.deterministic && ready.window_tokens > 0)
            .then(|| tune::draft_cost(work, gpu, spec.processor)),
        once,
        deterministic: spec.deterministic,
        memory_max: spec.memory_max,
    };
    let saved = SavedSequences::new(if once { 0 } else { bytes }, base.saved_bytes.clone());
    Ok((Cache::new((context, base.interrupt), saved, limits), plan))
}

/// Parameters that are multiplied for each token: all but the embedding table, which is a lookup. Two thirds of
/// gemma-3-270m are that table; with it slices were half as long, and a prompt's ratio to the raw loop 0.93
/// instead of 1.07 (EPYC AVX-512).
pub fn multiplied(model: &LlamaModel) -> u64 {
    let table = (model.n_vocab().max(0) as u64).saturating_mul(model.n_embd().max(0) as u64);
    model.n_params().saturating_sub(table)
}

/// Creates a context that embeds texts: each text fits in one decode.
///
/// # Errors
/// llama.cpp's error.
pub fn for_texts<'a>(base: Base<'a>, ready: &mut Ready, spec: &Spec) -> Result<LlamaContext<'a>> {
    let Context::Texts { batch, .. } = spec.context else {
        return Err(Error::failed(
            "cannot create an embedding context without a size",
        ));
    };
    // llama.cpp reserves a graph with equally many tokens of each sequence, and aborts the process if the
    // batch does not divide evenly (`graph_reserve`, `GGML_ASSERT(ggml_can_mul_mat)`).
    let batch = batch.next_multiple_of(TEXTS_MAX);
    let params = params(spec, batch, batch)
        .with_n_seq_max(TEXTS_MAX)
        .with_embeddings(true);
    let params = if pools(base.model) {
        params
    } else {
        params.with_pooling_type(LlamaPoolingType::Mean)
    };
    make(base, ready, params, batch)
}

/// True if the model file states its pooling type.
fn pools(model: &LlamaModel) -> bool {
    let architecture = model.meta_val_str("general.architecture");
    let key = architecture.map(|name| format!("{name}.pooling_type"));
    key.is_ok_and(|key| model.meta_val_str(&key).is_ok())
}

fn params(spec: &Spec, cells: u32, batch: u32) -> LlamaContextParams {
    LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(cells))
        .with_n_batch(batch)
        .with_n_ubatch(batch)
        .with_n_threads(spec.threads as i32)
        .with_n_threads_batch(spec.threads as i32)
        .with_flash_attention_policy(i32::from(spec.attention.flash))
        .with_kv_unified(true)
        .with_no_perf(true)
}

/// The token that answers start with, for a model with an encoder.
fn start(model: &LlamaModel) -> llama_cpp_2::token::LlamaToken {
    match model.decode_start_token() {
        token if token.0 >= 0 => token,
        _ => model.vocab().bos(),
    }
}

fn kind(kv: KvKind) -> KvCacheType {
    match kv {
        KvKind::F16 => KvCacheType::F16,
        KvKind::Q8 => KvCacheType::Q8_0,
        KvKind::Q4 => KvCacheType::Q4_0,
    }
}

fn make<'a>(
    base: Base<'a>,
    ready: &mut Ready,
    params: LlamaContextParams,
    tokens: u32,
) -> Result<LlamaContext<'a>> {
    let made = ffi::new_context(&base.backend.inner, base.model, params, base.interrupt);
    let mut context = made.map_err(|error| {
        let why = base.backend.log.take_error();
        let why = why.unwrap_or_else(|| error.to_string());
        Error::failed(format!("cannot make a context of {tokens} tokens: {why}"))
    })?;
    if let Some((adapter, scale)) = &mut ready.adapter {
        context
            .lora_adapter_set(adapter, *scale)
            .map_err(|error| Error::failed(format!("cannot apply the adapter: {error}")))?;
    }
    Ok(context)
}
