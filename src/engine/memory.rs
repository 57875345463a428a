//! What a model will need, by GGUF arithmetic alone: weights, cache cells, compute buffers.

use crate::gguf::{Header, Value};

use super::tune::KvKind;

/// Buffers of a decode beside the logits: activations of a slice, measured at about 60 MiB for
/// SmolLM2-135M and gemma-3-270m on two CPUs.
const COMPUTE_BYTES: u64 = 64 << 20;

/// What a user can do about too little memory.
pub const MEMORY_HINT: &str = "try -o num_ctx=2048, a smaller quantisation, or stop another model";

/// What a model needs.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Weights, wherever they lie.
    pub weights_bytes: u64,
    /// One cell of the cache, all layers together.
    pub cell_bytes: u64,
    /// Everything that depends on neither.
    pub fixed_bytes: u64,
}

impl Need {
    /// The need of the model with this header.
    pub fn of(header: &Header, kv: KvKind) -> Self {
        let weights_bytes = header
            .tensors
            .iter()
            .map(|tensor| tensor.size_bytes)
            .fold(0, u64::saturating_add);
        let vocabulary = match header.value("tokenizer.ggml.tokens") {
            Some(Value::Array(array)) => array.count,
            _ => 0,
        };
        Need {
            weights_bytes,
            cell_bytes: cell_bytes(header, kv),
            fixed_bytes: COMPUTE_BYTES.saturating_add(vocabulary.saturating_mul(4 * 64)),
        }
    }

    /// Weights, cache of that many cells and buffers together.
    pub fn total_bytes(&self, cells: u32) -> u64 {
        self.weights_bytes
            .saturating_add(self.cell_bytes.saturating_mul(cells.into()))
            .saturating_add(self.fixed_bytes)
    }
}

/// Bytes that one cell takes: keys and values of every layer. Sliding windows and recurrent
/// layers need less; the answer is then too high, which errs on the safe side.
fn cell_bytes(header: &Header, kv: KvKind) -> u64 {
    let layers = header.arch_integer("block_count").unwrap_or(0);
    let width = header.arch_integer("embedding_length").unwrap_or(0);
    let heads = header
        .arch_integer("attention.head_count")
        .unwrap_or(1)
        .max(1);
    let kv_heads = header
        .arch_integer("attention.head_count_kv")
        .unwrap_or(heads);
    let head = width / heads;
    let keys = header.arch_integer("attention.key_length").unwrap_or(head);
    let values = header
        .arch_integer("attention.value_length")
        .unwrap_or(head);
    let elements = layers
        .saturating_mul(kv_heads)
        .saturating_mul(keys.saturating_add(values));
    kv.bytes(elements)
}

/// The size of one attention head.
pub fn head_size(header: &Header) -> u64 {
    let width = header.arch_integer("embedding_length").unwrap_or(0);
    let heads = header
        .arch_integer("attention.head_count")
        .unwrap_or(1)
        .max(1);
    header
        .arch_integer("attention.key_length")
        .unwrap_or(width / heads)
}
