//! Logprobs of the chosen token and of the likeliest ones: natural logarithms of the model's own
//! probabilities, before any sampling option changed them.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;

use crate::core::message::Logprob;

/// Logits compared at once.
const BLOCK: usize = 32;

/// The tokens whose logprobs are reported beside that of the chosen one.
#[derive(Debug, Clone)]
pub enum Alternatives {
    /// This many of the likeliest.
    Likeliest(usize),
    /// These ids, in this order.
    Ids(Vec<i32>),
}

/// The logprob of the token that was chosen from `logits`, with those of its alternatives.
pub fn describe(
    vocab: LlamaVocab,
    logits: &[f32],
    chosen: LlamaToken,
    wanted: &Alternatives,
) -> Logprob {
    let (logprob, top) = logprobs(logits, chosen.0, wanted);
    let one = |id, logprob| Logprob {
        id,
        bytes: vocab.token_to_piece(LlamaToken(id), true, None),
        logprob,
        top: Vec::new(),
    };
    Logprob {
        top: top
            .into_iter()
            .map(|(id, logprob)| one(id, logprob))
            .collect(),
        ..one(chosen.0, logprob)
    }
}

/// The logarithm of the probability of `chosen`, and the alternatives with theirs.
fn logprobs(logits: &[f32], chosen: i32, wanted: &Alternatives) -> (f32, Vec<(i32, f32)>) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - highest).exp())
        .sum();
    let norm = f64::from(highest) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
    let logit = |id: i32| {
        let known = usize::try_from(id).ok().and_then(|id| logits.get(id));
        known.copied().unwrap_or(f32::NEG_INFINITY)
    };
    let top = match wanted {
        Alternatives::Likeliest(count) => likeliest(logits, *count),
        Alternatives::Ids(ids) => ids.iter().map(|id| (*id, logit(*id))).collect(),
    };
    let top = top.into_iter().map(|(id, logit)| (id, logprob(logit)));
    (logprob(logit(chosen)), top.collect())
}

/// The ids and logits of the `count` likeliest tokens, the likeliest first, ties by id. NaN and minus
/// infinity are skipped. One pass over the logits: llama.cpp's samplers first build an entry for each
/// token, 144 µs for SmolLM2's 49 152 where one is wanted. Eight streams of it: 154 tokens/s with them, 164 with
/// this (Xeon AVX512-FP16).
pub fn likeliest(logits: &[f32], count: usize) -> Vec<(i32, f32)> {
    let room = count.min(logits.len());
    if room == 0 {
        return Vec::new();
    }
    let mut found = Vec::with_capacity(2 * room);
    let mut floor = f32::NEG_INFINITY;
    for (block, first) in logits.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        // Branch-free, so that the compiler compares many in one instruction.
        let above = block.iter().map(|logit| *logit > floor);
        if !above.fold(false, |any, is| any | is) {
            continue;
        }
        for (logit, id) in block.iter().copied().zip(first..) {
            if logit > floor {
                found.push((id, logit));
            }
            if found.len() == 2 * room {
                floor = truncate(&mut found, room);
            }
        }
    }
    truncate(&mut found, room);
    found
}

/// Keeps that many of the likeliest, in order; returns the last one's logit.
fn truncate(found: &mut Vec<(i32, f32)>, count: usize) -> f32 {
    found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    found.truncate(count);
    found.last().map_or(f32::NEG_INFINITY, |(_, logit)| *logit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_as_sorting_all() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 501) as f32).collect();
        let mut all: Vec<(i32, f32)> = (0..).zip(logits.iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1)); // Stable: equal ones keep their order.
        for count in [0, 1, 2, 40, 999, 1000, 5000] {
            let found = likeliest(&logits, count);
            assert_eq!(found, all[..count.min(1000)], "{count}");
        }
    }

    #[test]
    fn nan_and_infinite_logits_are_skipped() {
        let logits = [f32::NAN, f32::NEG_INFINITY, -3.0, f32::NAN];
        assert_eq!(likeliest(&logits, 3), [(2, -3.0)]);
        assert_eq!(likeliest(&[f32::NAN], 1), []);
    }

    #[test]
    fn probabilities_add_up_to_one() {
        let logits = [1.0, 3.0, 2.0, -50.0];
        let (chosen, top) = logprobs(&logits, 2, &Alternatives::Likeliest(4));
        let ids: Vec<i32> = top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 2, 0, 3]);
        assert_eq!(chosen, top[1].1);
        let sum: f32 = top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        let count = |most| logprobs(&logits, 0, &Alternatives::Likeliest(most)).1.len();
        assert_eq!([count(2), count(0), count(9)], [2, 0, 4]);
        let ids = Alternatives::Ids(vec![3, 1, 9]);
        let (_, named) = logprobs(&logits, 2, &ids);
        assert_eq!(named[..2], [top[3], top[0]]);
        assert_eq!(named[2], (9, f32::NEG_INFINITY));
    }
}
