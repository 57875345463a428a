//! The probability of each of several answers: by the model's own probabilities over their whole texts, not
//! by sampling and not by their first tokens alone.

use super::pool::{Pool, Progress};
use super::turn::{Prompter, Request, options_in_force};
use super::weigh::Weigher;
use crate::core::error::{Error, Result};
use crate::core::message::Think;

/// Most choices.
pub const CHOICES_MAX: usize = 100;

/// The probability of each choice as the answer to a request; together they are 1.
///
/// # Errors
/// If the model, the request or a choice is invalid.
pub fn choose(
    pool: &Pool,
    mut request: Request,
    choices: &[String],
    progress: Progress,
) -> Result<Vec<f64>> {
    let options = options_in_force(request.model, &request.turn.options);
    let template_choice = request.template_choice(pool)?;
    if template_choice.can("thinking") {
        // Otherwise a choice would be scored as thinking.
        request.turn.think.get_or_insert(Think::Off);
    }
    let lease = pool.acquire(request.model, &options, None, &request.cancel, progress)?;
    let engine = lease.engine();
    let prompter = Prompter::new(&request, &template_choice, engine, &options);
    let prompt = prompter.prompt(lease.context_tokens)?.tokens;
    let texts: Vec<Vec<i32>> = choices
        .iter()
        .map(|choice| engine.tokens(choice, false, false))
        .collect();
    if let Some(at) = texts.iter().position(Vec::is_empty) {
        return Err(Error::usage(format!("choice {} is empty", at + 1)));
    }
    if let Some(limit) = lease.context_tokens {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        if prompt.len() + longest > limit as usize {
            return Err(Error::too_long(prompt.len() + longest, limit as usize));
        }
    }
    let weigher = Weigher {
        lease: &lease,
        over: &request.cancel,
        prompt: &prompt,
        texts: &texts,
    };
    let logs = weigher.logs(weigher.begin()?)?;
    Ok(shares(&texts, &logs))
}

/// Probabilities among the choices. A choice that is a prefix of another gets the probability of the prefix
/// without that of the other.
fn shares(texts: &[Vec<i32>], logs: &[f64]) -> Vec<f64> {
    let highest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if highest == f64::NEG_INFINITY {
        return vec![1.0 / texts.len() as f64; texts.len()];
    }
    let weights: Vec<f64> = logs.iter().map(|log| (log - highest).exp()).collect();
    let begins =
        |short: &Vec<i32>, long: &Vec<i32>| long.len() > short.len() && long.starts_with(short);
    let own = |(index, text): (usize, &Vec<i32>)| {
        // Only the next longer ones: they include those that are longer still.
        let nearest = texts.iter().enumerate().filter(|(_, long)| {
            begins(text, long)
                && !texts
                    .iter()
                    .any(|middle| begins(text, middle) && begins(middle, long))
        });
        let others: f64 = nearest.map(|(other, _)| weights[other]).sum();
        (weights[index] - others).max(0.0)
    };
    let owns: Vec<f64> = texts.iter().enumerate().map(own).collect();
    let sum: f64 = owns.iter().sum();
    owns.iter().map(|own| own / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_prefixes_get_the_remainder() {
        let log = |p: f64| p.ln();
        let texts = [vec![1], vec![2]];
        let found = shares(&texts, &[log(0.3), log(0.1)]);
        assert!((found[0] - 0.75).abs() < 1e-9 && (found[1] - 0.25).abs() < 1e-9);
        // "no" 0.5, including "not sure" 0.2: "no" alone is 0.3.
        let texts = [vec![1], vec![1, 2], vec![3]];
        let found = shares(&texts, &[log(0.5), log(0.2), log(0.5)]);
        assert!(
            (found[0] - 0.3).abs() < 1e-9 && (found[1] - 0.2).abs() < 1e-9,
            "{found:?}"
        );
        assert_eq!(
            shares(&[vec![1], vec![2]], &[f64::NEG_INFINITY; 2]),
            [0.5, 0.5]
        );
    }
}
