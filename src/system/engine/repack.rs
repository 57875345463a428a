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
/// Types whose rows are interleaved for AVX2.
const INTERLEAVED: &[&str] = &["Q4_0", "Q4_K", "IQ4_NL", "MXFP4"];
/// The type whose rows are interleaved only for AVX-512.
const INTERLEAVED_AVX512: &str = "Q2_K";
/// Rows that are interleaved.
const ROWS: u64 = 8;
/// The rules of x86 are known here. Elsewhere llama.cpp copies as it does by itself, and no copy is counted.
const KNOWN: bool = cfg!(any(target_arch = "x86_64", target_arch = "x86")) && !BUILT_FOR_GPU;

/// A processor, as far as it decides what is copied and what copies are worth.
#[derive(Debug, Clone, Copy)]
pub struct Processor {
    /// It multiplies 8-bit integers in AMX tiles.
    pub amx: bool,
    /// It has AVX2.
    pub avx2: bool,
    /// It has AVX-512.
    pub avx512: bool,
    /// It has AVX-512 with VNNI, for which `patches/sixteen_rows.h` and `patches/few_tokens.h` are.
    pub vnni: bool,
}

/// The layout of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Tiles for AMX.
    Tiles,
    /// Eight rows interleaved.
    Rows,
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

/// The gain of a layout for a type.
///
/// AMX, K types: Llama-3.2-1B's shape in Q4_K_M, prompts 199 tokens/s with copies and 180 without, answers 14.6
/// and 13.3; Q4_1: SmolLM2-135M, prompts 908 and 312, answers 94 and 75 (two cores of Xeons). AVX2, K types: a
/// Llama of 1.1 billion in Q4_K_M, prompts 49 with copies and 58 to 67 without (two cores of an EPYC). AVX-512, K types:
/// Llama-3.2-1B's shape in Q4_K_M, prompts 243 and 445, one answer 55 and 51, four at once 92 and 150, eight 117 and
/// 158 (two cores of an EPYC). VNNI, blocks of 32: the same shape in IQ4_NL there, prompts 278 and 508, one answer 52 and 50
/// (means of three), eight at once 155 and 192. What was not measured counts as a small gain, as llama.cpp's authors say;
/// tiles beside VNNI as none: their figures are from before `patches/sixteen_rows.h`, which made SmolLM2 six times as fast.
fn gain(layout: Layout, kind: &str, vnni: bool) -> Gain {
    match (layout, kind.ends_with("_K")) {
        (Layout::Tiles, _) if vnni => (0.0, 0.0),
        (Layout::Tiles, true) => (0.7, 7.0),
        (Layout::Tiles, false) => (22.0, 27.0),
        (Layout::Rows, true) => (-3.0, 0.0),
        (Layout::Rows, false) if vnni => (-2.1, 1.0),
        (Layout::Rows, false) => (1.0, 1.0),
    }
}

/// Whether copies are worth their cost for this work; `None`: so much that only the gain counts.
pub fn pays(header: &Header, processor: Processor, work: Option<Work>) -> bool {
    if !KNOWN {
        return true;
    }
    let (mut bytes, mut prompt, mut answer) = (0.0, 0.0, 0.0);
    for (tensor, layout) in copied(header, processor) {
        let size = tensor.size_bytes as f64;
        let computed = size * computed_share(header, tensor);
        let (each_prompt, each_answer) = gain(layout, tensor.kind.name, processor.vnni);
        bytes += size;
        prompt += computed * each_prompt;
        answer += computed * each_answer;
    }
    work.map_or(prompt + answer > 0.0, |work| {
        prompt * work.prompt as f64 + answer * work.answer as f64 > bytes * COST_PS
    })
}

/// Bytes of the weights that are copied on this processor.
pub fn bytes(header: &Header, processor: Processor) -> u64 {
    copied(header, processor)
        .map(|(tensor, _)| tensor.size_bytes)
        .fold(0, u64::saturating_add)
}

fn copied(header: &Header, processor: Processor) -> impl Iterator<Item = (&Tensor, Layout)> {
    let tied = header.tensor("output.weight").is_none();
    let is_looked_up = |tensor: &Tensor| tensor.name == "token_embd.weight";
    header
        .tensors
        .iter()
        .filter(|_| KNOWN)
        // A row of this one is looked up by its token; a model without another uses it for its output too.
        .filter(move |tensor| tied || !is_looked_up(tensor))
        .filter_map(move |tensor| Some((tensor, layout(tensor, processor)?)))
}

/// The layout into which a tensor is copied, if it is.
fn layout(tensor: &Tensor, processor: Processor) -> Option<Layout> {
    let [columns, rows, ..] = tensor.shape[..] else {
        return None;
    };
    let kind = tensor.kind.name;
    let tiled = AMX.iter().find(|(name, _)| *name == kind);
    let fits = tiled.is_some_and(|(_, values)| columns % values == 0 && rows % AMX_ROWS == 0);
    if processor.amx && fits && !has_experts(tensor) {
        return Some(Layout::Tiles);
    }
    let interleaved = (processor.avx2 && INTERLEAVED.contains(&kind))
        || (processor.avx512 && kind == INTERLEAVED_AVX512);
    (interleaved && rows % ROWS == 0).then_some(Layout::Rows)
}

/// True for the weights of several experts, which AMX does not take.
fn has_experts(tensor: &Tensor) -> bool {
    tensor.shape.iter().skip(2).any(|more| *more != 1)
}

/// The share of a tensor that is computed with each token: of experts only some.
fn computed_share(header: &Header, tensor: &Tensor) -> f64 {
    if !has_experts(tensor) {
        return 1.0;
    }
    let count = |key| header.arch_integer(key).map_or(1.0, |count| count as f64);
    (count("expert_used_count") / count("expert_count").max(1.0)).min(1.0)
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

    fn processor(amx: bool, avx512: bool) -> Processor {
        Processor {
            amx,
            avx2: true,
            avx512,
            vnni: false,
        }
    }

    #[test]
    fn copies_pay_by_type_processor_and_work() {
        let (q4_k, q4_1) = (model("Q4_K", 8192), model("Q4_1", 8192));
        let (new, old) = (processor(true, true), processor(false, false));
        // A server computes many tokens, a one-shot with a short prompt few.
        assert!(pays(&q4_k, new, None) && !pays(&q4_k, old, None));
        let work = |prompt, answer| Some(Work { prompt, answer });
        assert!(!pays(&q4_k, new, work(100, 1)) && pays(&q4_k, new, work(100, 100)));
        assert!(!pays(&q4_k, old, work(100, 100)));
        assert!(pays(&q4_1, new, work(100, 1)) && !pays(&q4_1, new, work(10, 1)));
        let vnni = Processor { vnni: true, ..new };
        assert!(!pays(&q4_1, vnni, None) && !pays(&q4_k, vnni, None));
        assert!(pays(&model("IQ4_NL", 8192), old, None));
        let vnni = Processor { amx: false, ..vnni };
        assert!(!pays(&model("IQ4_NL", 8192), vnni, None));
    }

    #[test]
    fn only_whole_tiles_and_rows_are_copied() {
        let (amx, avx2) = (processor(true, true), processor(false, false));
        let copied = |kind, rows, processor| bytes(&model(kind, rows), processor);
        assert_eq!(copied("Q4_1", 8192, amx), 2048 * 8192 / 2);
        assert_eq!(copied("Q4_1", 8192, avx2), 0);
        assert_eq!(copied("Q4_K", 8, avx2), 2048 * 8 / 2);
        assert_eq!(copied("Q4_K", 12, avx2), 0);
        assert_eq!(copied("Q2_K", 12, amx), 0);
    }

    #[test]
    fn a_copy_is_worth_what_its_own_layout_is() {
        // Eight rows are no tile: the gain measured with tiles does not count.
        let (tiles, rows) = (model("Q4_0", 32), model("Q4_0", 8));
        let amx = processor(true, true);
        let work = Some(Work {
            prompt: 100,
            answer: 1,
        });
        assert!(pays(&tiles, amx, work) && !pays(&rows, amx, work));
    }

    #[test]
    fn experts_are_interleaved_and_not_tiled() {
        let mut experts = model("Q4_1", 8192);
        experts.tensors[0].shape.push(8);
        assert_eq!(bytes(&experts, processor(true, true)), 0);
        let mut experts = model("Q4_K", 8192);
        experts.tensors[0].shape.push(8);
        let [tensor] = &experts.tensors[..] else {
            panic!("one tensor");
        };
        assert_eq!(layout(tensor, processor(true, true)), Some(Layout::Rows));
    }
}
