//! How likely a token was, and which others were: natural logarithms of the model's own
//! probabilities, before any sampling option changed them.

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::vocab::LlamaVocab;

use crate::message::Logprob;

/// What is told of a token that was chosen from `logits`, with the `count` likeliest.
pub fn told(vocab: LlamaVocab, logits: &[f32], chosen: LlamaToken, count: usize) -> Logprob {
    let (logprob, top) = logprobs(logits, chosen.0, count);
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

/// The logarithm of the probability of `chosen`, and the `count` likeliest tokens with theirs, the
/// likeliest first.
fn logprobs(logits: &[f32], chosen: i32, count: usize) -> (f32, Vec<(i32, f32)>) {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - highest).exp())
        .sum();
    let norm = f64::from(highest) + sum.ln();
    let logprob = |logit: f32| (f64::from(logit) - norm) as f32;
    let mut tokens: Vec<(i32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let count = count.min(tokens.len());
    let higher = |a: &(i32, f32), b: &(i32, f32)| b.1.total_cmp(&a.1);
    if count > 0 && count < tokens.len() {
        tokens.select_nth_unstable_by(count, higher);
    }
    tokens.truncate(count);
    tokens.sort_by(higher);
    let top = tokens.into_iter().map(|(id, logit)| (id, logprob(logit)));
    let chosen = usize::try_from(chosen)
        .ok()
        .and_then(|id| logits.get(id).copied());
    (logprob(chosen.unwrap_or(f32::NEG_INFINITY)), top.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_to_one() {
        let logits = [1.0, 3.0, 2.0, -50.0];
        let (chosen, top) = logprobs(&logits, 2, 4);
        let ids: Vec<i32> = top.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [1, 2, 0, 3]);
        assert_eq!(chosen, top[1].1);
        let sum: f32 = top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6);
        assert_eq!(logprobs(&logits, 0, 2).1.len(), 2);
        assert!(logprobs(&logits, 0, 0).1.is_empty());
        assert_eq!(logprobs(&logits, 0, 9).1.len(), 4);
    }
}
