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

/// A processor, as far as it decides what copies are worth.
#[derive(Debug, Clone, Copy)]
pub struct Processor {
    /// It multiplies 8-bit integers in AMX tiles.
    pub amx: bool,
    /// It has AVX-512.
    pub avx512: bool,
}

/// Picoseconds per byte that copying takes, once. Llama-3.2-1B's shape in Q4_K_M, 0.78 GB: 0.5 s longer, and
/// Qwen2.5-3B's, 1.9 GB: 1.0 s (two cores of a Xeon with AMX).
const COST_PS: f64 = 600.0;

/// The work of a process: tokens of prompts and of answers.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Tokens of prompts.
    pub prompt: usize,
    /// Tokens of answers.
    pub answer: usize,
}

/// The savings of a copy with each token of a prompt and of an answer: picoseconds per byte. Negative: the copy is
/// slower.
type Gain = (f64, f64);

/// The gain for a type on a processor.
///
/// AMX, K types: Llama-3.2-1B's shape in Q4_K_M, prompts 199 tokens/s with copies and 180 without, answers 14.6
/// and 13.3; Q4_1: SmolLM2-135M, prompts 908 and 312, answers 94 and 75 (two cores of Xeons). AVX2, K types: a
/// Llama of 1.1 billion in Q4_K_M, prompts 49 with copies and 58 to 67 without (two cores of an EPYC). What was
/// not measured counts as a small gain, as llama.cpp's authors say.
fn gain(kind: &str, processor: Processor) -> Gain {
    match (kind.ends_with("_K"), processor) {
        (true, Processor { amx: true, .. }) => (0.7, 7.0),
        (true, Processor { avx512: true, .. }) => (0.5, 0.5),
        (true, _) => (-8.0, 0.0),
        (false, Processor { amx: true, .. }) => (22.0, 27.0),
        (false, _) => (1.0, 1.0),
    }
}

/// Whether copies are worth their cost for this work; `None`: so much that only the gain counts.
pub fn pays(header: &Header, processor: Processor, work: Option<Work>) -> bool {
    let (mut bytes, mut prompt, mut answer) = (0.0, 0.0, 0.0);
    for tensor in copied(header, processor.amx) {
        let size = tensor.size_bytes as f64;
        let (each_prompt, each_answer) = gain(tensor.kind.name, processor);
        bytes += size;
        prompt += size * each_prompt;
        answer += size * each_answer;
    }
    work.map_or(prompt + answer > 0.0, |work| {
        prompt * work.prompt as f64 + answer * work.answer as f64 > bytes * COST_PS
    })
}

/// Bytes of the weights that are copied on a processor with (`amx`) or without AMX.
pub fn bytes(header: &Header, amx: bool) -> u64 {
    copied(header, amx)
        .map(|tensor| tensor.size_bytes)
        .fold(0, u64::saturating_add)
}

fn copied(header: &Header, amx: bool) -> impl Iterator<Item = &Tensor> {
    let tied = header.tensor("output.weight").is_none();
    let is_looked_up = |tensor: &Tensor| tensor.name == "token_embd.weight";
    header
        .tensors
        .iter()
        .filter(|_| !BUILT_FOR_GPU)
        // A row of this one is looked up by its token; a model without another uses it for its output too.
        .filter(move |tensor| tied || !is_looked_up(tensor))
        .filter(move |tensor| is_copied(tensor, amx))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::TensorKind;

    fn model(kind: &str, rows: u64) -> Header {
        let known = (0..64).filter_map(TensorKind::from_id);
        let kind = known.into_iter().find(|known| known.name == kind).unwrap();
        Header {
            values: Vec::new(),
            spans: Vec::new(),
            tensors: vec![Tensor {
                name: "output.weight".into(),
                kind,
                shape: vec![2048, rows],
                offset: 0,
                size_bytes: 2048 * rows / 2,
            }],
            data_offset: 0,
            file_bytes: 0,
        }
    }

    #[test]
    fn copies_pay_by_type_processor_and_work() {
        let (amx, avx512) = (true, true);
        let (q4_k, q4_1) = (model("Q4_K", 8192), model("Q4_1", 8192));
        let new = Processor { amx, avx512 };
        let old = Processor {
            amx: false,
            avx512: false,
        };
        // A server computes many tokens, a one-shot with a short prompt few.
        assert!(pays(&q4_k, new, None) && !pays(&q4_k, old, None));
        let work = |prompt, answer| Some(Work { prompt, answer });
        assert!(!pays(&q4_k, new, work(100, 1)) && pays(&q4_k, new, work(100, 100)));
        assert!(!pays(&q4_k, old, work(100, 100)));
        assert!(pays(&q4_1, new, work(100, 1)) && !pays(&q4_1, new, work(10, 1)));
    }

    #[test]
    fn only_whole_tiles_are_copied() {
        assert_eq!(bytes(&model("Q4_1", 8192), true), 2048 * 8192 / 2);
        assert_eq!(bytes(&model("Q4_1", 8192), false), 0);
        assert_eq!(bytes(&model("Q4_K", 12), false), 0);
    }
}
