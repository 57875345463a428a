//! The model's own probabilities of whole texts after a prompt: nothing is sampled.

use std::sync::atomic::AtomicBool;

use super::pool::Lease;
use crate::core::error::{Error, Result};
use crate::core::message::Logprob;
use crate::system::engine::{Alternatives, Answer, Event, Job, Sampling};

/// Weighs texts, each as its tokens, as continuations of a prompt.
///
/// Texts with a common prefix share its computation: each place where they diverge costs one token.
pub struct Weigher<'a> {
    /// The engine.
    pub lease: &'a Lease,
    /// The cancel flag.
    pub over: &'a AtomicBool,
    /// The tokens before every text.
    pub prompt: &'a [i32],
    /// The texts.
    pub texts: &'a [Vec<i32>],
}

impl Weigher<'_> {
    /// Has the prompt computed, and the probabilities of all first tokens.
    ///
    /// # Errors
    /// `Busy`, or if the engine has stopped.
    pub fn begin(&self) -> Result<Answer> {
        let all: Vec<usize> = (0..self.texts.len()).collect();
        self.ask(&[], self.tokens(&all, 0))
    }

    /// The logprob of each text, from the answer that was begun.
    ///
    /// # Errors
    /// The engine's, or `Cancelled`.
    pub fn logs(&self, first: Answer) -> Result<Vec<f64>> {
        let mut logs = vec![0.0; self.texts.len()];
        let all: Vec<usize> = (0..self.texts.len()).collect();
        self.part((&all, 0), first, &mut logs)?;
        Ok(logs)
    }

    /// Adds the logprobs of the tokens at `depth`, which `answer` gives, then of the tokens after it, for texts that are
    /// equal up to there.
    fn part(
        &self,
        (alike, depth): (&[usize], usize),
        answer: Answer,
        logs: &mut [f64],
    ) -> Result<()> {
        let logprobs = self.wait(&answer)?;
        drop(answer);
        let at = |text: usize, depth: usize| self.texts[text].get(depth).copied();
        for Logprob { id, logprob, .. } in logprobs {
            let same = alike.iter().copied();
            let same: Vec<usize> = same.filter(|text| at(*text, depth) == Some(id)).collect();
            same.iter()
                .for_each(|text| logs[*text] += f64::from(logprob));
            let next = self.tokens(&same, depth + 1);
            if !next.is_empty() {
                let answer = self.ask(&self.texts[same[0]][..=depth], next)?;
                self.part((&same, depth + 1), answer, logs)?;
            }
        }
        Ok(())
    }

    /// The distinct tokens of some texts at `depth`.
    fn tokens(&self, texts: &[usize], depth: usize) -> Vec<i32> {
        let tokens = texts.iter().filter_map(|text| self.texts[*text].get(depth));
        let mut tokens: Vec<i32> = tokens.copied().collect();
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Asks for the probabilities of some tokens after the prompt and the beginning of a text.
    fn ask(&self, beginning: &[i32], tokens: Vec<i32>) -> Result<Answer> {
        self.lease.engine().submit(Job {
            prompt: [self.prompt, beginning].concat(),
            answer_tokens: 1,
            sampling: Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            logprobs: Some(Alternatives::Ids(tokens)),
            endless: true,
            stall_timeout: self.lease.stall_timeout(),
            ..Job::default() // Each has a cancel flag of its own: it is set when its answer is dropped.
        })
    }

    /// The logprobs that were asked for.
    fn wait(&self, answer: &Answer) -> Result<Vec<Logprob>> {
        loop {
            match answer.next_until(self.over)? {
                Event::Token {
                    logprobs: Some(logprobs),
                    ..
                } => return Ok(logprobs.top),
                Event::Failed(error) => return Err(error),
                Event::End { .. } => return Err(Error::failed("the engine returned no logprobs")),
                Event::Admitted { .. } | Event::Token { .. } => {}
            }
        }
    }
}
