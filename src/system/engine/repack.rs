//! Which weights llama.cpp copies into another layout when it loads a model for the CPU.
//!
//! The copies are plain memory beside the mapped file. The rules are those of ggml's `amx/common.h` and
//! `repack.cpp` in the pinned version.

use super::devices::BUILT_FOR_GPU;
use crate::format::gguf::{Header, Tensor};

/// Types that the AMX kernels read, with the number of values in a row that must fit.
const AMX: &[(&str, u64)] = &[
    ("Q4_0", 32),
    ("Q4_1", 32),
    ("Q8_0", 32),
    ("Q4_K", 256),
    ("Q5_K", 256),
    ("Q6_K", 256),
    ("IQ4_XS", 256),
];
/// Rows that an AMX tile pair takes at once.
const AMX_ROWS: u64 = 32;
/// Types that are interleaved by rows for AVX2.
const AVX2: &[&str] = &["Q4_0", "Q4_K", "IQ4_NL"];
/// Rows that are interleaved.
const AVX2_ROWS: u64 = 8;

/// Bytes of the weights that are copied on a processor with (`amx`) or without AMX.
pub fn bytes(header: &Header, amx: bool) -> u64 {
    if BUILT_FOR_GPU {
        return 0;
    }
    let tied = header.tensor("output.weight").is_none();
    let is_looked_up = |tensor: &&Tensor| tensor.name == "token_embd.weight";
    let copied = header
        .tensors
        .iter()
        // A row of this one is looked up by its token; a model without another uses it for its output too.
        .filter(|tensor| tied || !is_looked_up(tensor))
        .filter(|tensor| is_copied(tensor, amx));
    copied
        .map(|tensor| tensor.size_bytes)
        .fold(0, u64::saturating_add)
}

fn is_copied(tensor: &Tensor, amx: bool) -> bool {
    let [columns, rows, ..] = tensor.shape[..] else {
        return false;
    };
    if tensor.shape.iter().skip(2).any(|more| *more != 1) {
        return false; // Experts stay as they are.
    }
    let tiled = AMX.iter().find(|(name, _)| *name == tensor.kind.name);
    if amx && tiled.is_some_and(|(_, values)| columns % values == 0 && rows % AMX_ROWS == 0) {
        return true;
    }
    cfg!(target_feature = "avx2") && AVX2.contains(&tensor.kind.name) && rows % AVX2_ROWS == 0
}
