//! The probability of each of several answers: by the model's own probabilities over their whole texts, not
//! by sampling and not by their first tokens alone.

use std::sync::atomic::AtomicBool;

use super::pool::{Lease, Pool, Progress};
use super::turn::{Prompter, Request, options_in_force};
use crate::core::error::{Error, Result};
use crate::system::engine::{Event, Job, Sampling};

/// Most choices.
pub const CHOICES_MAX: usize = 100;

/// The probability of each choice as the answer to a request; together they are 1.
///
/// Texts with a common prefix share its computation: each place where they diverge costs one token.
///
/// # Errors
/// If the model, the request or a choice is invalid.
pub fn choose(
    pool: &Pool,
    request: Request,
    choices: &[String],
    progress: Progress,
) -> Result<Vec<f64>> {
    let options = options_in_force(request.model, &request.turn.options);
    let template_choice = request.template_choice(pool)?;
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
    let mut logs = vec![0.0; texts.len()];
    let all: Vec<usize> = (0..texts.len()).collect();
    let weigher = Weigher {
        lease: &lease,
        prompt: &prompt,
        texts: &texts,
        over: &request.cancel,
    };
    weigher.part(&all, 0, &mut logs)?;
    Ok(shares(&texts, &logs))
}

/// The inputs that are the same for all choices.
struct Weigher<'a> {
    lease: &'a Lease,
    prompt: &'a [i32],
    texts: &'a [Vec<i32>],
    /// The cancel flag.
    over: &'a AtomicBool,
}

impl Weigher<'_> {
    /// Adds the logprobs of the tokens at `depth`, then of the tokens after it, for choices that are
    /// equal up to there.
    fn part(&self, alike: &[usize], depth: usize, logs: &mut [f64]) -> Result<()> {
        let texts = self.texts;
        let longer = alike.iter().copied();
        let longer: Vec<usize> = longer
            .filter(|choice| texts[*choice].len() > depth)
            .collect();
        let Some(first) = longer.first() else {
            return Ok(());
        };
        let logprobs = self.next([self.prompt, &texts[*first][..depth]].concat())?;
        let mut tokens: Vec<i32> = longer.iter().map(|choice| texts[*choice][depth]).collect();
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            let log = logprobs.iter().find(|(id, _)| *id == token);
            let log = log.map_or(f64::NEG_INFINITY, |(_, log)| *log);
            let same = longer.iter().copied();
            let same: Vec<usize> = same
                .filter(|choice| texts[*choice][depth] == token)
                .collect();
            same.iter().for_each(|choice| logs[*choice] += log);
            self.part(&same, depth + 1, logs)?;
        }
        Ok(())
    }

    /// The logprob of each token after some others, by id.
    fn next(&self, before: Vec<i32>) -> Result<Vec<(i32, f64)>> {
        let engine = self.lease.engine();
        let job = Job {
            prompt: before,
            answer_tokens: 1,
            sampling: Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            logprobs: Some(engine.facts().vocabulary as usize),
            endless: true,
            stall_timeout: self.lease.stall_timeout(),
            ..Job::default() // Each has a cancel flag of its own: it is set when its answer is dropped.
        };
        let answer = engine.submit(job)?;
        loop {
            match answer.next_until(self.over)? {
                Event::Token {
                    logprobs: Some(logprobs),
                    ..
                } => {
                    let tokens = logprobs.top.iter();
                    return Ok(tokens
                        .map(|token| (token.id, f64::from(token.logprob)))
                        .collect());
                }
                Event::Failed(error) => return Err(error),
                Event::End { .. } => return Err(Error::failed("the engine returned no logprobs")),
                Event::Admitted { .. } | Event::Token { .. } => {}
            }
        }
    }
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
