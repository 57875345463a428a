//! The engine's choices that depend on the machine, each with the measurement behind it.
//!
//! Measured with `benches/raw.rs` on two cores of a Xeon with AVX-512 and AMX, gcc 12.2, prompt of
//! 440 tokens and 96 generated; tokens a second, medians of 7:
//!
//! | model | heads of | flash, cache | prompt | answer | whole |
//! |---|---|---|---|---|---|
//! | SmolLM2-135M Q4_1 | 64 | on, q8_0 | 684 | 154 | 1.27 s |
//! | | | on, f16 | 1238 | 88 | 1.45 s |
//! | | | off, f16 | 919 | 154 | 1.11 s |
//! | gemma-3-270m Q4_K_M | 256 | on, q8_0 | 503 | 60 | 2.48 s |
//! | | | on, f16 | 647 | 66 | 2.14 s |
//! | | | off, f16 | 669 | 64 | 2.17 s |
//!
//! (SmolLM2's answer with flash attention and f16 was measured before `-U__AVX512FP16__`, see below,
//! and not again on that machine. `puna bench --tune` measures any machine.) Whole time with flash attention
//! off, f16 and slices of 64: SmolLM2 1.04 s, gemma-3-270m 2.24 s. On an earlier Xeon with AMX, q8_0 with flash
//! attention was 10 % faster for heads of 64; PUNA_KV_CACHE_TYPE=q8_0 chooses it.
//!
//! On two cores of an EPYC with AVX-512 and no AMX (raw, medians; prompt, answer, whole), and with
//! `puna bench`, several answers at once in one cache:
//!
//! | model | flash, cache | 440 and 96 | 4000 and 96 | 1, 4, 8 answers |
//! |---|---|---|---|---|
//! | SmolLM2 | on, f16 | 415, 135, 1.78 s | 249, 65, 17.5 s | 164, 225, 288 |
//! | | off, f16 | 448, 140, 1.67 s | 261, 61, 16.9 s | 148, 191, 265 |
//! | | on, q8_0 | 369, 130, 1.93 s | 127, 50, 33.5 s | |
//! | gemma-3-270m | on, f16 | 796, 89, 1.63 s | 603, 77, 7.9 s | |
//! | | off, f16 | 919, 85, 1.61 s | 546, 57, 9.0 s | |
//!
//! Flash attention skips the cells of other answers, so it is faster wherever several are
//! computed at once. The same on two cores of a Xeon with AVX512-FP16 and without AMX: SmolLM2, an
//! answer after so many tokens and eight of them after 256 (`puna bench --tune`), and eight short
//! streams of a server. The values in brackets are flash attention with ggml's own loops over 16-bit floats
//! (without `-U__AVX512FP16__` of `patches/apply.cmake`):
//!
//! | flash, cache | behind 512 | 4096 | 8160 | 8 at once | 8 streams |
//! |---|---|---|---|---|---|
//! | on, f16 | 77 (43) | 35 (11) | 21 (7) | 29 | 154 |
//! | off, f16 | 80 | 36 | 24 | 24 | 138 |
//!
//! Texts to embed share a decode, but not their attention: MiniLM (heads of 32) there, 200 texts of
//! 27 tokens in one request, texts a second: 193 with flash attention in decodes of 512 tokens and 186
//! of 128, without it 64 and 137.
//!
//! Slices of 64 tokens cost nothing compared with 512 there (SmolLM2, off, f16: 1045 and 919).

use std::time::Duration;

use super::kv::KvKind;
use super::memory::head_size;
use crate::format::gguf::Header;

/// Positions at which a prompt may be cut into slices: multiples of this. AMX tiles have 16 rows.
pub const GRID: usize = 16;

/// Largest head for which a CPU generates faster without flash attention when it computes one answer at a
/// time: heads of 64 took 1.11 s without it and 1.27 s or more with it, heads of 256 took 2.17 s and 2.14 s
/// (first table of this file).
const SMALL_HEAD: u64 = 64;

/// Parameters times tokens that one thread computes in a second while reading a prompt: SmolLM2
/// (106 M without its embeddings) at 1000 and gemma-3-270m (100 M) at 650 tokens/s on two threads.
/// Only the order of magnitude matters: it sizes slices, the same way in every run.
const PROMPT_WORK_A_THREAD: f64 = 50e9;

/// One decode of a prompt's slice should take about this many seconds, so that running streams do not stall
/// and a client that left is noticed. SmolLM2 loses nothing by it: 1.04 s with slices of 64 against 1.11 s
/// with 512 (440 and 96 tokens, Xeon AMX); gemma-3-270m without flash attention loses 3 %: 2.24 s against 2.17.
const SLICE_S: f64 = 0.08;

/// A lone prompt's decode should not take much longer than this many seconds: a job that comes meanwhile waits
/// for it.
const LONE_S: f64 = 3.0;
/// Bounds of such a decode in tokens. From 256 on nothing is gained (512: 48 to 54 tokens/s, see `lone_tokens`).
const LONE_TOKENS_MIN: usize = 128;
const LONE_TOKENS_MAX: usize = 256;

/// Most tokens in one decode, and llama.cpp's logical and physical batch.
pub const BATCH_TOKENS: usize = 512;

/// From this many tokens in a decode on, ggml computes flash attention on a CPU in tiles, which cover the
/// cells of every sequence (`GGML_FA_TILE_Q`). With fewer, a token skips the cells of other sequences. A decode
/// with one token for each sequence takes (ms, `cargo bench --bench steps`, EPYC AVX-512, 24 to 48 cells each):
///
/// | tokens | 1 | 8 | 16 | 32 | 48 | 63 | 64 |
/// |---|---|---|---|---|---|---|---|
/// | SmolLM2, with logits | 5.3 | 25 | 42 | 82 | 123 | 168 | 288 |
/// | gemma-3-270m, with logits | 11.3 | 24 | 39 | 78 | 117 | 157 | 309 |
///
/// 32 records of 300 words with `map -j 8`, before and after: gemma-3-270m 1.15 and 1.84 records/s, SmolLM2
/// 0.90 and 1.18.
pub const TILE_TOKENS: usize = 64;

/// A cell in a tile costs about 1/3 of what it costs otherwise: SmolLM2 on the EPYC, after 1000 cells of
/// its own, 1.2 to 1.6 µs instead of 2.5 to 3.1; among 2304 of others, 0.8. One prompt of 2000 tokens alone
/// (SmolLM2): 174 tokens/s in slices of 48, 209 of 64, 239 of 256, so tiles stay where most cells are a
/// prompt's own.
const TILE_GAIN: usize = 3;

/// From this many rows on, ggml multiplies repacked weights by other code than single rows, where it has no AMX (`ne11 > 3`
/// in its `repack.cpp`). It rounds activations of four rows together otherwise: gemma-3-270m Q4_K_M on an EPYC with
/// AVX-512 answered otherwise at temperature 0 with four tokens in a decode.
const INTERLEAVED_ROWS: usize = 4;

/// Most tokens of a decode whose logits are, to the bit, those that each token would have alone.
pub fn alike_tokens(repacked: bool, gpu: bool, amx: bool) -> usize {
    if repacked && !gpu && !amx {
        INTERLEAVED_ROWS - 1
    } else {
        usize::MAX
    }
}

/// The cost of drafts, in units of the time of a lone token: more weights are read and more is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DraftCost {
    /// For the first one: several tokens are multiplied by other code than one.
    pub first: f32,
    /// For each.
    pub each: f32,
}

/// The costs of drafts by the parameters that are multiplied for each token (at most so many), with AMX and without. Fixed
/// and not timed, so that equal prompts are answered in equal decodes.
///
/// Decodes of so many tokens of one sequence, ms (`cargo bench --bench steps`, two cores of a Xeon with AMX):
///
/// | tokens | 1 | 2 | 4 | 8 | 16 |
/// |---|---|---|---|---|---|
/// | SmolLM2 Q4_1 | 3.5 | 6.1 | 7.3 | 9.9 | 13.4 |
/// | gemma-3-270m Q4_K_M | 13.8 | 15.9 | 18.5 | 28.5 | 40.3 |
/// | Llama-3.2-1B's shape Q4_K_M | 57.8 | 79.3 | 89.5 | 118.7 | 137.6 |
/// | Qwen2.5-3B's shape Q4_K_M | 111 | 168 | 196 | 267 | 329 |
///
/// Without AMX from the table at `TILE_TOKENS` (SmolLM2 on an EPYC) and the speed of prompts (1.1 billion, AVX2: 58 to
/// 67 tokens/s).
const DRAFT_COSTS: [(u64, DraftCost, DraftCost); 2] = [
    (
        300_000_000,
        DraftCost {
            first: 0.5,
            each: 0.15,
        },
        DraftCost {
            first: 0.1,
            each: 0.5,
        },
    ),
    (
        u64::MAX,
        DraftCost {
            first: 0.4,
            each: 0.1,
        },
        DraftCost {
            first: 0.1,
            each: 0.3,
        },
    ),
];
/// The same on a GPU, where a decode of few tokens takes about as long as one of one. Not measured.
const GPU_DRAFT_COST: DraftCost = DraftCost {
    first: 0.1,
    each: 0.03,
};
/// Attention and cache of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Use flash attention.
    pub flash: bool,
    /// The type of the cache.
    pub kv: KvKind,
}

/// Where attention is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processor {
    /// A CPU for one answer at a time.
    Cpu,
    /// A CPU for several answers at once, or for texts to embed.
    SharedCpu,
    /// A GPU.
    Gpu,
}

/// Chooses flash attention and cache type; the user's setting wins. A quantised cache needs flash
/// attention, so requesting one turns it on.
pub fn attention(
    header: &Header,
    processor: Processor,
    flash: Option<bool>,
    kv: Option<KvKind>,
) -> Attention {
    let kv = kv.unwrap_or_default();
    let faster = processor != Processor::Cpu || head_size(header) > SMALL_HEAD;
    let flash = if kv == KvKind::F16 {
        flash.unwrap_or(faster)
    } else {
        true
    };
    Attention { flash, kv }
}

/// Threads to compute with: those of a request's `num_thread`, else of the setting, else one for each physical
/// core. Threads without a processor wait for each other at every step: a thousand on two would block a model for
/// minutes.
pub fn threads(
    requested: Option<i64>,
    setting: Option<usize>,
    cores: usize,
    processors: usize,
) -> usize {
    requested
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count > 0)
        .map(|count| count.min(processors))
        .or(setting.map(|count| count.min(processors)))
        .unwrap_or(cores)
}

/// Tokens of prompts in one decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slices {
    /// While others generate, until the engine knows its own speed.
    pub shared: usize,
    /// While nobody generates.
    pub lone: usize,
}

impl Slices {
    /// The slices for a model of which so many parameters are multiplied for each token. In a deterministic
    /// engine they do not depend on other jobs.
    pub fn new(parameters: u64, threads: usize, gpu: bool, deterministic: bool) -> Self {
        let shared = slice_tokens(parameters, threads, gpu);
        let lone = if deterministic {
            shared
        } else {
            shared.max(lone_tokens(parameters, threads, gpu))
        };
        Slices { shared, lone }
    }

    /// The same, in batches of at most so many tokens.
    pub fn within(self, batch_tokens: usize) -> Self {
        Slices {
            shared: self.shared.min(batch_tokens),
            lone: self.lone.min(batch_tokens),
        }
    }
}

/// How many tokens of a prompt go into one decode, by the parameters that are multiplied for each token:
/// a multiple of [`GRID`].
fn slice_tokens(parameters: u64, threads: usize, gpu: bool) -> usize {
    if gpu {
        return BATCH_TOKENS;
    }
    let tokens = SLICE_S * PROMPT_WORK_A_THREAD * threads as f64 / parameters.max(1) as f64;
    let cells = (tokens / GRID as f64)
        .round()
        .clamp(1.0, (BATCH_TOKENS / 2 / GRID) as f64);
    cells as usize * GRID
}

/// How many tokens of a prompt go into one decode while nobody waits for the next token of another answer.
/// Large decodes read each weight less often: a Llama of 1.1 billion in Q4_K_M, prompt of 256, computes 44.5
/// tokens/s in decodes of 16, 48.5 of 64 and 56.5 of 256 (two cores of an EPYC, AVX2). It depends on parameters
/// and not on a clock, so that equal prompts are computed in equal decodes.
fn lone_tokens(parameters: u64, threads: usize, gpu: bool) -> usize {
    if gpu {
        return BATCH_TOKENS;
    }
    let tokens = LONE_S * PROMPT_WORK_A_THREAD * threads as f64 / parameters.max(1) as f64;
    (tokens as usize).clamp(LONE_TOKENS_MIN, LONE_TOKENS_MAX) / GRID * GRID
}

/// How many tokens of a prompt fit into a slice's time at this pace, in microseconds per token: at least one cell
/// of the grid.
pub fn paced_tokens(pace_us: f32) -> usize {
    let tokens = (SLICE_S * 1e6) as f32 / pace_us.max(1.0);
    (tokens as usize).clamp(GRID, BATCH_TOKENS) / GRID * GRID
}

/// The cost of drafts with a model of which so many parameters are multiplied for each token.
pub fn draft_cost(parameters: u64, gpu: bool, amx: bool) -> DraftCost {
    let costs = DRAFT_COSTS.iter().find(|(most, ..)| parameters <= *most);
    match costs {
        Some((_, with_amx, _)) if !gpu && amx => *with_amx,
        Some((_, _, without)) if !gpu => *without,
        _ => GPU_DRAFT_COST,
    }
}

impl DraftCost {
    /// The same in units of the time of a decode with so many tokens, each of another answer.
    pub fn among(self, answers: usize) -> Self {
        let more = answers.saturating_sub(1) as f32;
        // Several tokens are multiplied together anyway.
        let shared = if answers > 1 { self.first } else { 0.0 };
        let decode = 1.0 + shared + self.each * more;
        DraftCost {
            first: (self.first - shared) / decode,
            each: self.each / decode,
        }
    }
}

/// Most tokens of a decode with at least `least`, each of a sequence with about `own` of the `all` cells in
/// use: few enough that attention skips the cells of other sequences, if most cells are theirs.
pub fn decode_tokens(batch: usize, least: usize, (own, all): (usize, usize)) -> usize {
    let few = TILE_TOKENS - 1;
    if own * TILE_GAIN < all && least <= few {
        batch.min(few)
    } else {
        batch
    }
}

/// How many of `pending` tokens from position `start` on to compute now: up to `limit`, ending on
/// the grid unless the prompt ends.
pub fn slice(start: usize, pending: usize, limit: usize) -> usize {
    if pending <= limit {
        return pending;
    }
    let end = (start + limit) / GRID * GRID;
    end.saturating_sub(start)
}

/// How long a busy thread waits for another job before it exits.
pub const IDLE_WAIT: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_end_on_the_grid() {
        assert_eq!(slice(0, 100, 64), 64);
        assert_eq!(slice(64, 36, 64), 36);
        assert_eq!(slice(5, 100, 64), 59);
        assert_eq!(slice(5, 100, 8), 0);
        assert_eq!(slice(0, 1000, 16), 16);
    }

    #[test]
    fn a_decode_among_many_cells_of_others_stays_below_a_tile() {
        assert_eq!(decode_tokens(80, 7 + GRID, (400, 2700)), TILE_TOKENS - 1);
        assert_eq!(decode_tokens(32, 7 + GRID, (400, 2700)), 32);
        // Most cells are its own, or a slice of a prompt would not fit.
        assert_eq!(decode_tokens(80, 7 + GRID, (2000, 2700)), 80);
        assert_eq!(decode_tokens(128, 60 + GRID, (44, 2700)), 128);
    }

    #[test]
    fn a_lone_prompt_is_computed_in_large_decodes() {
        assert_eq!(lone_tokens(1_100_000_000, 2, false), LONE_TOKENS_MAX);
        assert_eq!(lone_tokens(8_000_000_000, 2, false), LONE_TOKENS_MIN);
        assert_eq!(lone_tokens(8_000_000_000, 2, true), BATCH_TOKENS);
    }

    #[test]
    fn a_slow_engine_computes_small_slices() {
        assert_eq!(paced_tokens(20_000.0), GRID);
        assert_eq!(paced_tokens(1_000.0), 80);
        assert_eq!(paced_tokens(0.0), BATCH_TOKENS);
    }

    #[test]
    fn drafts_are_cheap_among_others() {
        let cost = draft_cost(1_000_000_000, false, true);
        assert_eq!(cost.among(1), cost);
        let among = cost.among(8);
        assert!(among.first == 0.0 && among.each < cost.each && among.each > cost.each / 3.0);
        assert!(draft_cost(1_000_000_000, false, false).each > cost.each);
        assert_eq!(draft_cost(1, true, true), GPU_DRAFT_COST);
    }

    #[test]
    fn slices_shrink_with_the_model() {
        assert_eq!(slice_tokens(135_000_000, 2, false), 64);
        assert_eq!(slice_tokens(8_000_000_000, 2, false), GRID);
        assert_eq!(slice_tokens(1_000_000, 2, false), BATCH_TOKENS / 2);
    }

    #[test]
    fn a_quantised_cache_brings_flash_attention() {
        let header = Header {
            values: Vec::new(),
            spans: Vec::new(),
            tensors: Vec::new(),
            data_offset: 0,
            file_bytes: 0,
        };
        let choice = attention(&header, Processor::Cpu, Some(false), Some(KvKind::Q8));
        assert_eq!(
            choice,
            Attention {
                flash: true,
                kv: KvKind::Q8
            }
        );
        assert!(!attention(&header, Processor::Cpu, None, None).flash);
        assert!(attention(&header, Processor::SharedCpu, None, None).flash);
    }
}
