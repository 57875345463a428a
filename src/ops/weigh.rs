//! The model's own probabilities of whole texts after a prompt: nothing is sampled.

use std::sync::atomic::AtomicBool;

use super::pool::Lease;
use crate::core::error::{Error, Result};
use crate::system::engine::{Answer, Event, Job, Sampling};

/// Weighs texts as continuations of prompts.
pub struct Weigher<'a> {
    /// The engine.
    pub lease: &'a Lease,
    /// The cancel flag.
    pub over: &'a AtomicBool,
}

impl Weigher<'_> {
    /// Asks for the probabilities of the next token after a prompt.
    ///
    /// # Errors
    /// `Busy`, or if the engine has stopped.
    pub fn begin(&self, prompt: Vec<i32>) -> Result<Answer> {
        let engine = self.lease.engine();
        engine.submit(Job {
            prompt,
            answer_tokens: 1,
            sampling: Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            logprobs: Some(engine.facts().vocabulary as usize),
            endless: true,
            stall_timeout: self.lease.stall_timeout(),
            ..Job::default() // Each has a cancel flag of its own: it is set when its answer is dropped.
        })
    }

    /// The logprob of each text, as its tokens, after a prompt for which `first` was begun.
    ///
    /// Texts with a common prefix share its computation: each place where they diverge costs one token.
    ///
    /// # Errors
    /// The engine's, or `Cancelled`.
    pub fn logs(&self, prompt: &[i32], first: Answer, texts: &[Vec<i32>]) -> Result<Vec<f64>> {
        let mut logs = vec![0.0; texts.len()];
        let all: Vec<usize> = (0..texts.len()).collect();
        let logprobs = self.wait(&first)?;
        drop(first);
        self.part((prompt, texts), (&all, 0), &logprobs, &mut logs)?;
        Ok(logs)
    }

    /// Adds the logprobs of the tokens at `depth`, then of the tokens after it, for texts that are equal up to there.
    fn part(
        &self,
        (prompt, texts): (&[i32], &[Vec<i32>]),
        (alike, depth): (&[usize], usize),
        logprobs: &[(i32, f64)],
        logs: &mut [f64],
    ) -> Result<()> {
        let longer = alike.iter().copied();
        let longer: Vec<usize> = longer.filter(|text| texts[*text].len() > depth).collect();
        let mut tokens: Vec<i32> = longer.iter().map(|text| texts[*text][depth]).collect();
        tokens.sort_unstable();
        tokens.dedup();
        for token in tokens {
            let log = logprobs.iter().find(|(id, _)| *id == token);
            let log = log.map_or(f64::NEG_INFINITY, |(_, log)| *log);
            let same = longer.iter().copied();
            let same: Vec<usize> = same.filter(|text| texts[*text][depth] == token).collect();
            same.iter().for_each(|text| logs[*text] += log);
            if same.iter().any(|text| texts[*text].len() > depth + 1) {
                let next = [prompt, &texts[same[0]][..=depth]].concat();
                let next = self.wait(&self.begin(next)?)?;
                self.part((prompt, texts), (&same, depth + 1), &next, logs)?;
            }
        }
        Ok(())
    }

    /// The logprob of each token, by id.
    fn wait(&self, answer: &Answer) -> Result<Vec<(i32, f64)>> {
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
