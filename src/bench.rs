//! How fast a model runs on this machine: prompts, answers, several at once, and with which settings.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::engine::{Context, Event, Facts, Job, Sampling};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::options::Options;
use crate::pool::{Lease, Pool};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens of an answer.
    pub answer_tokens: usize,
    /// Runs of each measurement; their median counts.
    pub runs: usize,
}

/// Something measured, or a setting that was in force.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is.
    pub what: String,
    /// How much.
    pub value: String,
    /// Of what; empty for a setting.
    pub unit: &'static str,
}

/// Answers computed at once, in turn.
const SEQUENCES: [usize; 3] = [1, 4, 8];

/// Tokens of the prompts before answers that are measured.
const SHORT_TOKENS: usize = 8;

/// Measures a model; each row is told as soon as it is known.
///
/// # Errors
/// What the load says; that the plan does not fit the context.
pub fn bench(
    pool: &Pool,
    model: &Model,
    options: &Options,
    plan: Plan,
    tell: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let row = |what: &str, value: String, unit: &'static str| Row {
        what: what.to_string(),
        value,
        unit,
    };
    let cancel = AtomicBool::new(false);
    let started = Instant::now();
    let lease = pool.acquire(model, options, None, &cancel, &mut |_| {})?;
    if let Some(limit) = lease.context_tokens
        && plan.prompt_tokens > limit as usize
    {
        return Err(Error::too_long(plan.prompt_tokens, limit as usize));
    }
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    for (what, value) in settings(lease.engine().facts()) {
        tell(row(what, value, ""))?;
    }
    tell(row("load", format!("{load_ms:.0}"), "ms"))?;
    let memory = pool.loaded().first().map_or(0, |loaded| loaded.size_bytes);
    tell(row("memory", format!("{}", memory >> 20), "MiB"))?;
    let mut seed = 0;
    let mut median = |plan: Plan, sequences: usize, pick: fn(&Rates) -> f64| -> Result<f64> {
        let mut rates = Vec::new();
        for _ in 0..plan.runs {
            seed += 1;
            rates.push(pick(&measured(&lease, plan, (sequences, seed))?));
        }
        rates.sort_by(f64::total_cmp);
        Ok(rates[rates.len() / 2])
    };
    let prompt = median(plan, 1, |rates| rates.prompt)?;
    let what = format!("prompt of {}", plan.prompt_tokens);
    tell(row(&what, format!("{prompt:.1}"), "tokens/s"))?;
    // Long prompts of the others would count against the first answers.
    let short = Plan {
        prompt_tokens: plan.prompt_tokens.min(SHORT_TOKENS),
        ..plan
    };
    for sequences in SEQUENCES {
        let answer = median(short, sequences, |rates| rates.answer)?;
        let what = format!("answers, {sequences} at once");
        tell(row(&what, format!("{answer:.1}"), "tokens/s"))?;
    }
    Ok(())
}

/// The settings in force, for people.
fn settings(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("threads", facts.threads.to_string()),
        ("flash attention", facts.attention.flash.to_string()),
        ("cache", facts.attention.kv.name().to_string()),
        ("slice", facts.slice_tokens.to_string()),
    ];
    if let Context::Shared { tokens, cells, .. } = facts.context {
        settings.push(("context", tokens.to_string()));
        settings.push(("cells", cells.to_string()));
    }
    settings.push(("device", facts.device.clone()));
    settings
}

struct Rates {
    prompt: f64,
    answer: f64,
}

/// One run: prompts that nothing in the cache begins like, and their answers.
fn measured(lease: &Lease, plan: Plan, (sequences, seed): (usize, usize)) -> Result<Rates> {
    let vocabulary = lease.engine().facts().vocabulary.max(4);
    let token = |sequence: usize, at: usize| {
        let mixed = (seed * 7919 + sequence * 104_729 + at * 31) % (vocabulary as usize - 3);
        mixed as i32 + 3
    };
    let mut answers = Vec::new();
    for sequence in 0..sequences {
        let prompt = (0..plan.prompt_tokens).map(|at| token(sequence, at));
        answers.push(lease.engine().submit(Job {
            prompt: prompt.collect(),
            answer_tokens: plan.answer_tokens,
            sampling: Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            endless: true,
            cancel: Arc::default(),
            ..Job::default()
        })?);
    }
    let mut first: Option<Instant> = None;
    let (mut prompt_s, mut count) = (0.0, 0);
    for answer in &answers {
        loop {
            match answer.next()? {
                Event::Token { .. } => {
                    first.get_or_insert_with(Instant::now);
                    count += 1;
                }
                Event::End { prompt, .. } => {
                    prompt_s = prompt.as_secs_f64();
                    break;
                }
                Event::Failed(error) => return Err(error),
                Event::Admitted { .. } => {}
            }
        }
    }
    let first = first.ok_or_else(|| Error::failed("the model generated nothing"))?;
    Ok(Rates {
        prompt: plan.prompt_tokens as f64 / prompt_s.max(1e-9),
        answer: count as f64 / first.elapsed().as_secs_f64().max(1e-9),
    })
}
