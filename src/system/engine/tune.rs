//! The engine's choices that depend on the machine, each with the measurement behind it.
//!
//! Flash attention is computed by `patches/attention.h` on x86 with AVX2: the same to the bit for a token alone and among
//! others. `puna bench` on two cores of an EPYC with AVX-512, before it and `patches/few_tokens.h`, with both, and with
//! `patches/sixteen_rows.h` too, tokens/s:
//!
//! | model | prompt | one answer | 4 at once | 8 at once |
//! |---|---|---|---|---|
//! | Llama-3.2-1B's shape Q4_K_M | 225, 445, 483 | 47.9, 51.4, 51.4 | 62, 150, 142 | 78, 158, 204 |
//! | gemma-3-270m Q4_K_M | 967, 1126, 2090 | 104, 101, 151 | 276, 307, 423 | 370, 400, 598 |
//! | SmolLM2-135M Q4_1 | 482, 485, 3230 | 184, 184, 279 | 289, 258, 822 | 334, 326, 1227 |
//!
//! Before that, without flash attention was faster for a lone answer with heads of 64 (Xeon with AMX, 440 and 96 tokens:
//! SmolLM2 1.11 s without and 1.27 s with, gemma-3-270m with heads of 256 2.17 and 2.14 s).
//!
//! Texts to embed share a decode, but not their attention: MiniLM (heads of 32) on a Xeon without AMX, 200 texts of
//! 27 tokens in one request, texts a second: 193 with flash attention in decodes of 512 tokens and 186
//! of 128, without it 64 and 137.
//!
//! Slices of 64 tokens cost nothing compared with 512 on the Xeon with AMX (SmolLM2, off, f16: 1045 and 919).

use std::time::Duration;

use super::kv::KvKind;
use super::repack::Processor;

/// Positions at which a prompt may be cut into slices: multiples of this. AMX tiles have 16 rows.
pub const GRID: usize = 16;

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

/// From this many tokens in a decode on, ggml computes flash attention on a CPU in tiles, which round otherwise
/// (`GGML_FA_TILE_Q`), where `patches/attention.h` does not take its place: without AVX2.
const TILE_TOKENS: usize = 64;

/// From this many rows on, ggml multiplies repacked weights by other code than single rows, where it has no AMX (`ne11 > 3`
/// in its `repack.cpp`). It rounds activations of four rows together otherwise: gemma-3-270m Q4_K_M on an EPYC with
/// AVX-512 answered otherwise at temperature 0 with four tokens in a decode.
const INTERLEAVED_ROWS: usize = 4;

/// Most tokens of a decode whose logits are, to the bit, those that each token would have alone.
pub fn alike_tokens(processor: Processor, repacked: bool, gpu: bool) -> usize {
    if gpu {
        usize::MAX
    } else if repacked && !processor.amx {
        INTERLEAVED_ROWS - 1
    } else if !processor.avx2 {
        TILE_TOKENS - 1
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

/// The costs of drafts by the parameters that are multiplied for each token, with AVX-512 VNNI, with AMX and without. Fixed
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
/// 67 tokens/s). With `patches/sixteen_rows.h` on an EPYC: SmolLM2 Q4_1 3.1, 3.4, 4.0, 5.7 and 9.0 ms, the 1B shape in Q8_0
/// 35, 35, 33.5, 38 and 57 ms, in Q4_K_M (4 and 8 answers of `puna bench`) 19.4, 28 and 39 ms.
struct DraftCosts {
    parameters_max: u64,
    vnni: DraftCost,
    amx: DraftCost,
    plain: DraftCost,
}

const fn draft(first: f32, each: f32) -> DraftCost {
    DraftCost { first, each }
}

const DRAFT_COSTS: [DraftCosts; 2] = [
    DraftCosts {
        parameters_max: 300_000_000,
        vnni: draft(0.05, 0.12),
        amx: draft(0.5, 0.15),
        plain: draft(0.1, 0.5),
    },
    DraftCosts {
        parameters_max: u64::MAX,
        vnni: draft(0.1, 0.13),
        amx: draft(0.4, 0.1),
        plain: draft(0.1, 0.3),
    },
];
/// The same on a GPU, where a decode of few tokens takes about as long as one of one. Not measured.
const GPU_DRAFT_COST: DraftCost = draft(0.1, 0.03);

/// Attention and cache of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Use flash attention.
    pub flash: bool,
    /// The type of the cache.
    pub kv: KvKind,
}

/// Chooses flash attention and cache type; the user's setting wins. Flash attention is on by itself everywhere, so that
/// a one-shot and a server compute alike. A quantised cache needs it, so requesting one turns it on.
pub fn attention(flash: Option<bool>, kv: Option<KvKind>) -> Attention {
    let kv = kv.unwrap_or_default();
    let flash = kv != KvKind::F16 || flash.unwrap_or(true);
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
pub fn draft_cost(parameters: u64, gpu: bool, processor: Processor) -> DraftCost {
    let costs = DRAFT_COSTS
        .iter()
        .find(|costs| parameters <= costs.parameters_max);
    match costs {
        Some(costs) if !gpu && processor.vnni => costs.vnni,
        Some(costs) if !gpu && processor.amx => costs.amx,
        Some(costs) if !gpu => costs.plain,
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
        let [plain, amx, vnni] =
            [(false, false), (true, false), (true, true)].map(|(amx, vnni)| Processor {
                amx,
                avx2: true,
                avx512: amx,
                vnni,
            });
        let cost = draft_cost(1_000_000_000, false, amx);
        assert_eq!(cost.among(1), cost);
        let among = cost.among(8);
        assert!(among.first == 0.0 && among.each < cost.each && among.each > cost.each / 3.0);
        assert!(draft_cost(1_000_000_000, false, plain).each > cost.each);
        assert!(draft_cost(1_000_000_000, false, vnni).first < cost.first);
        assert_eq!(draft_cost(1, true, vnni), GPU_DRAFT_COST);
    }

    #[test]
    fn slices_shrink_with_the_model() {
        assert_eq!(slice_tokens(135_000_000, 2, false), 64);
        assert_eq!(slice_tokens(8_000_000_000, 2, false), GRID);
        assert_eq!(slice_tokens(1_000_000, 2, false), BATCH_TOKENS / 2);
    }

    #[test]
    fn a_quantised_cache_brings_flash_attention() {
        let choice = attention(Some(false), Some(KvKind::Q8));
        let quantised = Attention {
            flash: true,
            kv: KvKind::Q8,
        };
        assert_eq!(choice, quantised);
        assert!(attention(None, None).flash && !attention(Some(false), None).flash);
    }

    #[test]
    fn tokens_are_alike_unless_other_code_takes_several() {
        let processor = |amx, avx2| Processor {
            amx,
            avx2,
            avx512: amx,
            vnni: false,
        };
        let (new, old) = (processor(true, true), processor(false, false));
        assert_eq!(alike_tokens(new, true, false), usize::MAX);
        assert_eq!(
            alike_tokens(processor(false, true), false, false),
            usize::MAX
        );
        assert_eq!(alike_tokens(processor(false, true), true, false), 3);
        assert_eq!(alike_tokens(old, false, false), 63);
        assert_eq!(alike_tokens(old, true, true), usize::MAX);
    }
}
