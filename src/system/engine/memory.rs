//! Estimates a model's memory from its GGUF header alone: weights, cache cells, compute buffers.

use super::kv::KvKind;
use crate::format::gguf::{Header, Value};

/// Buffers of a decode beside the logits: activations of a slice, measured at about 60 MiB for
/// SmolLM2-135M and gemma-3-270m on two CPUs.
const COMPUTE_BYTES: u64 = 64 << 20;
/// Cells of a sliding window beside its own, for the tokens that are being computed.
const WINDOW_MORE: u64 = 512;
/// One layer in this many has no sliding window, where the file does not state the pattern: llama.cpp's
/// constants for these architectures.
const WINDOW_PATTERNS: &[(&str, u64)] = &[
    ("gemma2", 2),
    ("gemma3", 6),
    ("gemma3n", 5),
    ("cohere2", 4),
    ("gpt-oss", 2),
    ("llama4", 4),
];

/// Advice for a user whose memory does not suffice.
pub const MEMORY_HINT: &str = "try -o num_ctx=2048, a smaller quantisation, or stop another model";

/// The memory that a model needs.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Weights, wherever they lie.
    pub weights_bytes: u64,
    /// Weights that the processor gets in another layout, as copies beside the file.
    pub repacked_bytes: u64,
    /// One cell of the cache, in all layers without a sliding window.
    pub cell_bytes: u64,
    /// One cell of the cache, in all layers with a sliding window.
    pub window_cell_bytes: u64,
    /// Tokens of that window.
    pub window_tokens: u64,
    /// The recurrent state of one sequence, in all layers.
    pub state_bytes: u64,
    /// Everything that depends neither on cells nor on sequences.
    pub fixed_bytes: u64,
}

impl Need {
    /// The memory that the model with this header needs, with so many bytes of copies.
    pub fn estimate(header: &Header, kv: KvKind, repacked_bytes: u64) -> Self {
        let weights_bytes = header
            .tensors
            .iter()
            .map(|tensor| tensor.size_bytes)
            .fold(0, u64::saturating_add);
        let vocabulary = match header.value("tokenizer.ggml.tokens") {
            Some(Value::Array(array)) => array.count,
            _ => 0,
        };
        let (whole, windowed) = attending_layers(header);
        let layer_bytes = layer_bytes(header, kv);
        Need {
            weights_bytes,
            repacked_bytes,
            cell_bytes: layer_bytes.saturating_mul(whole),
            window_cell_bytes: layer_bytes.saturating_mul(windowed),
            window_tokens: header.arch_integer("attention.sliding_window").unwrap_or(0),
            state_bytes: layers(header).saturating_mul(state_bytes(header)),
            fixed_bytes: COMPUTE_BYTES.saturating_add(vocabulary.saturating_mul(4 * 64)),
        }
    }

    /// Bytes of the weights, a cache of this many cells and sequences, and the buffers together.
    pub fn total_bytes(&self, cells: u32, sequences: u32) -> u64 {
        let (cells, sequences) = (u64::from(cells), u64::from(sequences));
        let window = self.window_tokens.saturating_mul(sequences);
        let window = window.saturating_add(WINDOW_MORE).min(cells);
        self.weights_bytes
            .saturating_add(self.repacked_bytes)
            .saturating_add(self.cell_bytes.saturating_mul(cells))
            .saturating_add(self.window_cell_bytes.saturating_mul(window))
            .saturating_add(self.state_bytes.saturating_mul(sequences))
            .saturating_add(self.fixed_bytes)
    }
}

/// Bytes of one cell of the cache, in all layers without a sliding window.
pub fn cell_bytes(header: &Header, kv: KvKind) -> u64 {
    layer_bytes(header, kv).saturating_mul(attending_layers(header).0)
}

fn layers(header: &Header) -> u64 {
    header.arch_integer("block_count").unwrap_or(0)
}

/// How many layers attend to the whole context, and how many to a sliding window.
fn attending_layers(header: &Header) -> (u64, u64) {
    let attending = match header.arch_integer("attention.head_count") {
        None | Some(0) if state_bytes(header) > 0 => 0,
        _ => layers(header),
    };
    let windowed = windowed(header, attending);
    (attending - windowed, windowed)
}

/// How many of the layers use a sliding window.
fn windowed(header: &Header, layers: u64) -> u64 {
    if header.arch_integer("attention.sliding_window").unwrap_or(0) == 0 {
        return 0;
    }
    let pattern = header.arch_integer("attention.sliding_window_pattern");
    let known = WINDOW_PATTERNS
        .iter()
        .find(|(name, _)| *name == header.architecture());
    match pattern.or(known.map(|(_, pattern)| *pattern)) {
        Some(pattern @ 2..) => layers - layers / pattern,
        _ => 0, // Too high an answer errs on the safe side.
    }
}

/// Bytes of a sequence's state in one recurrent layer: 32-bit floats.
fn state_bytes(header: &Header) -> u64 {
    let number = |key: &str| header.arch_integer(key).unwrap_or(0);
    let mamba = number("ssm.inner_size")
        .saturating_mul(number("ssm.state_size").saturating_add(number("ssm.conv_kernel")));
    let rwkv = number("wkv.head_size").saturating_mul(number("embedding_length"));
    mamba.saturating_add(rwkv).saturating_mul(4)
}

/// Bytes that one cell takes in a layer: its keys and values.
fn layer_bytes(header: &Header, kv: KvKind) -> u64 {
    let kv_heads = header
        .arch_integer("attention.head_count_kv")
        .unwrap_or_else(|| heads(header));
    let keys = head_size(header);
    let values = header
        .arch_integer("attention.value_length")
        .unwrap_or_else(|| even_head(header));
    kv.bytes(kv_heads.saturating_mul(keys.saturating_add(values)))
}

/// The size of one attention head.
pub fn head_size(header: &Header) -> u64 {
    header
        .arch_integer("attention.key_length")
        .unwrap_or_else(|| even_head(header))
}

/// The size of a head where all heads together are as wide as the model.
fn even_head(header: &Header) -> u64 {
    header.arch_integer("embedding_length").unwrap_or(0) / heads(header)
}

fn heads(header: &Header) -> u64 {
    header
        .arch_integer("attention.head_count")
        .unwrap_or(1)
        .max(1)
}
