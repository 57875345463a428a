//! Picks tokens: sampling options become llama.cpp's chain of samplers, in llama.cpp's own order, and a grammar
//! checks what the chain selected.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llama_cpp_2::token::logit_bias::LlamaLogitBias;

use super::grammar::Guide;
use super::logprobs;
use crate::core::error::{Error, Result};
use crate::core::options::Options;

/// llama.cpp's LLAMA_DEFAULT_SEED: take the seed from the system.
const RANDOM_SEED: u32 = u32::MAX;

/// How to pick each token. The defaults are those of the options table.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Softmax temperature; 0: always the likeliest token.
    pub temperature: f32,
    /// How many of the likeliest tokens to keep; 0 or less: all.
    pub top_k: i32,
    /// Nucleus sampling: the cumulative probability to keep; 1: off.
    pub top_p: f32,
    /// Least probability relative to the likeliest token's; 0: off.
    pub min_p: f32,
    /// Locally typical sampling; 1: off.
    pub typical_p: f32,
    /// Tokens that the three penalties look back at; -1: all.
    pub repeat_last_n: i32,
    /// Penalty for tokens that occurred, as a factor; 1: off.
    pub repeat_penalty: f32,
    /// Penalty for tokens that occurred, once; 0: off.
    pub presence_penalty: f32,
    /// Penalty for tokens that occurred, per occurrence; 0: off.
    pub frequency_penalty: f32,
    /// Seed of the random choice; `None`: from the system.
    pub seed: Option<u32>,
    /// Logit biases: token ids, and what to add to their logits.
    pub bias: Vec<(i32, f32)>,
}

/// A seed folded to 32 bits, as llama.cpp expects it; never the value that means "random" there.
fn folded(seed: i64) -> u32 {
    let folded = (seed ^ (seed >> 32)) as u32;
    if folded == RANDOM_SEED {
        folded - 1
    } else {
        folded
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling::from_options(&Options::default())
    }
}

impl Sampling {
    /// Reads the sampling options; missing ones get the default of the options table.
    pub fn from_options(options: &Options) -> Self {
        let float = |name| options.float_or_default(name) as f32;
        let int = |name| {
            let value = options.int_or_default(name);
            value.clamp(i32::MIN.into(), i32::MAX.into()) as i32
        };
        Sampling {
            temperature: float("temperature"),
            top_k: int("top_k"),
            top_p: float("top_p"),
            min_p: float("min_p"),
            typical_p: float("typical_p"),
            repeat_last_n: int("repeat_last_n"),
            repeat_penalty: float("repeat_penalty"),
            presence_penalty: float("presence_penalty"),
            frequency_penalty: float("frequency_penalty"),
            seed: options.int("seed").filter(|seed| *seed >= 0).map(folded),
            bias: Vec::new(),
        }
    }

    /// The chain for one answer after `prompt`, in a context of `context_tokens`.
    pub(super) fn chain(
        &self,
        vocabulary: i32,
        context_tokens: usize,
        prompt: &[LlamaToken],
    ) -> LlamaSampler {
        let mut chain = Vec::new();
        if !self.bias.is_empty() {
            let biases = self.bias.iter();
            let biases = biases.map(|(id, bias)| LlamaLogitBias::new(LlamaToken(*id), *bias));
            chain.push(LlamaSampler::logit_bias(
                vocabulary,
                &biases.collect::<Vec<_>>(),
            ));
        }
        let last_n = match usize::try_from(self.repeat_last_n) {
            Ok(count) => count.min(context_tokens),
            Err(_) => context_tokens,
        };
        if self.is_penalised() && last_n > 0 {
            chain.push(LlamaSampler::penalties(
                vocabulary,
                last_n as i32,
                self.repeat_penalty,
                self.frequency_penalty,
                self.presence_penalty,
            ));
        }
        if self.temperature <= 0.0 {
            chain.push(LlamaSampler::greedy());
        } else {
            chain.extend(self.random());
        }
        let mut chain = LlamaSampler::chain(chain, true);
        if self.is_penalised() {
            chain.accept_many(&prompt[prompt.len().saturating_sub(last_n)..]);
        }
        chain
    }

    /// How many of the likeliest tokens suffice for the chain; `None`: all are needed. Penalties and
    /// biases change which ones are the likeliest.
    pub(super) fn shortlist(&self) -> Option<usize> {
        let changed = self.is_penalised() || !self.bias.is_empty();
        match usize::try_from(self.top_k) {
            _ if changed => None,
            _ if self.temperature <= 0.0 => Some(1),
            Ok(0) | Err(_) => None,
            Ok(count) => Some(count),
        }
    }

    fn is_penalised(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    fn random(&self) -> Vec<LlamaSampler> {
        let mut chain = Vec::new();
        if self.top_k > 0 {
            chain.push(LlamaSampler::top_k(self.top_k));
        }
        if self.typical_p < 1.0 {
            chain.push(LlamaSampler::typical(self.typical_p, 1));
        }
        if self.top_p < 1.0 {
            chain.push(LlamaSampler::top_p(self.top_p, 1));
        }
        if self.min_p > 0.0 {
            chain.push(LlamaSampler::min_p(self.min_p, 1));
        }
        chain.push(LlamaSampler::temp(self.temperature));
        chain.push(LlamaSampler::dist(self.seed.unwrap_or(RANDOM_SEED)));
        chain
    }
}

/// Selects the next token. The grammar checks only the sampled token, which costs little; only if it
/// rejects that one does it check every token.
pub(super) fn pick(
    (sampler, shortlist): (&mut LlamaSampler, Option<usize>),
    guide: Option<&mut Guide>,
    logits: &[f32],
    ends: impl Fn(LlamaToken) -> bool,
) -> Result<LlamaToken> {
    let lost = || Error::failed("the sampler chose no token");
    let mut tokens = candidates(logits, shortlist);
    if tokens.data.is_empty() {
        return Err(Error::failed(
            "the model's logits are not numbers: its weights are damaged or need other settings",
        ));
    }
    tokens.apply_sampler(sampler);
    let mut token = tokens.selected_token().ok_or_else(lost)?;
    // A grammar has one end-of-generation token; a model may have several.
    if let Some(guide) = guide
        && !(ends(token) && guide.may_end())
        && !guide.allows(token)?
    {
        tokens = candidates(logits, None);
        guide.mask(&mut tokens)?;
        tokens.apply_sampler(sampler);
        token = tokens.selected_token().ok_or_else(lost)?;
    }
    sampler.accept(token);
    Ok(token)
}

/// True if there is a grammar that allows nothing but the end: the answer is whole, although its end was not chosen.
pub(super) fn may_only_end(
    guide: Option<&mut Guide>,
    logits: &[f32],
    ends: impl Fn(LlamaToken) -> bool,
) -> bool {
    let Some(guide) = guide else { return false };
    let mut tokens = candidates(logits, None);
    guide.mask(&mut tokens).is_ok() && tokens.data.iter().all(|data| ends(data.id()))
}

/// The tokens to choose from: this many of the likeliest, or all whose logits are not NaN.
fn candidates(logits: &[f32], shortlist: Option<usize>) -> LlamaTokenDataArray {
    let entry = |(id, logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0);
    match shortlist {
        Some(count) => {
            let tokens = logprobs::likeliest(logits, count).into_iter().map(entry);
            LlamaTokenDataArray::from_iter(tokens, true)
        }
        None => {
            let tokens = (0..).zip(logits.iter().copied());
            // NaN would make llama.cpp sort without a total order.
            let tokens = tokens.filter(|(_, logit)| !logit.is_nan()).map(entry);
            LlamaTokenDataArray::from_iter(tokens, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_one_of_its_own() {
        assert_eq!((folded(0), folded(42)), (0, 42));
        assert_ne!(folded(u32::MAX.into()), RANDOM_SEED);
        assert_ne!(folded(1), folded(1 + (1 << 32)));
        assert_ne!(folded(i64::MAX), RANDOM_SEED);
    }

    /// The tokens that remain of four with these logits, likeliest first, and the selected one.
    fn left(sampling: &Sampling, logits: [f32; 4], prompt: &[i32]) -> (Vec<i32>, Option<i32>) {
        let candidates =
            (0..4).map(|id| LlamaTokenData::new(LlamaToken(id), logits[id as usize], 0.0));
        let mut candidates = LlamaTokenDataArray::from_iter(candidates, false);
        let prompt: Vec<LlamaToken> = prompt.iter().copied().map(LlamaToken).collect();
        candidates.apply_sampler(&mut sampling.chain(4, 64, &prompt));
        let ids = candidates.data.iter().map(|token| token.id().0).collect();
        (ids, candidates.selected_token().map(|token| token.0))
    }

    #[test]
    fn the_choice_is_narrowed_before_the_temperature_flattens_it() {
        let logits = [2.0, 1.0, 0.0, -1.0]; // 64, 24, 9 and 3 %
        let hot = Sampling {
            temperature: 100.0,
            top_k: 0,
            top_p: 1.0,
            seed: Some(1),
            ..Sampling::default()
        };
        let narrowed = |change: &dyn Fn(&mut Sampling)| {
            let mut sampling = hot.clone();
            change(&mut sampling);
            left(&sampling, logits, &[]).0
        };
        assert_eq!(narrowed(&|_| {}).len(), 4);
        assert_eq!(narrowed(&|sampling| sampling.top_k = 3), [0, 1, 2]);
        assert_eq!(narrowed(&|sampling| sampling.top_p = 0.7), [0, 1]);
        assert_eq!(narrowed(&|sampling| sampling.min_p = 0.1), [0, 1, 2]);
        assert_eq!(narrowed(&|sampling| sampling.typical_p = 0.2).len(), 1);
        let both = narrowed(&|sampling| (sampling.top_k, sampling.top_p) = (2, 0.7));
        assert_eq!(both, [0], "top_p counts what top_k left: 73 %");
    }

    #[test]
    fn penalties_come_first_and_count_the_prompt() {
        let greedy = Sampling {
            temperature: 0.0,
            repeat_penalty: 4.0,
            ..Sampling::default()
        };
        let logits = [2.0, 1.0, 0.0, -1.0];
        assert_eq!(left(&greedy, logits, &[]).1, Some(0));
        assert_eq!(left(&greedy, logits, &[0]).1, Some(1));
        let forgetful = Sampling {
            repeat_last_n: 1,
            ..greedy
        };
        assert_eq!(left(&forgetful, logits, &[0, 3]).1, Some(0));
    }
}
