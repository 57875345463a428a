//! Measures how fast a model runs on this machine: prompts, answers, several answers at once, and which
//! settings are faster.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::measured_settings::{self, Faster};
use super::model::Model;
use super::pool::{Lease, Policy, Pool};
use crate::core::error::{Error, Result};
use crate::core::options::{Options, Value};
use crate::system::config::Config;
use crate::system::engine::{Context, Event, Facts, Job, Level, Sampling, Sink};

/// The measurements to make.
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
    /// The name of the measurement or setting.
    pub what: String,
    /// The value as text.
    pub value: String,
    /// The unit; empty for a setting.
    pub unit: &'static str,
    /// Why a setting was chosen; empty for a measurement.
    pub why: &'static str,
}

/// Numbers of simultaneous answers to measure.
const SEQUENCES: [usize; 3] = [1, 4, 8];

/// Prompt tokens of a one-shot.
const ONE_SHOT_TOKENS: usize = 16;

/// Prompt tokens of the answers that are measured.
const SHORT_TOKENS: usize = 8;

/// Prompt lengths at which settings are compared, in tokens.
const DEPTHS: [usize; 3] = [512, 4096, 16_384];
/// Tokens of the answers there.
const DEPTH_ANSWER_TOKENS: usize = 32;
/// Prompts that would take longer than this are skipped, in seconds.
const DEPTH_S_MAX: f64 = 120.0;
/// Simultaneous answers that are compared, and the tokens of their prompts.
const SEVERAL: (usize, usize) = (8, 256);

/// Measures a model; reports each row as soon as it is known.
///
/// # Errors
/// The error of the load; or if the plan does not fit the context.
pub fn bench(
    (config, log): (&Config, (Level, Sink)),
    model: &Model,
    options: &Options,
    plan: Plan,
    report: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let cancel = AtomicBool::new(false);
    let started = Instant::now();
    let pool = Pool::new(config.clone(), Policy::Server, log);
    let lease = pool.acquire(model, options, None, &cancel, &mut |_| {})?;
    if let Some(limit) = lease.context_tokens {
        let limit = limit as usize;
        if plan.prompt_tokens > limit {
            return Err(Error::too_long(plan.prompt_tokens, limit));
        }
        if plan.answer_tokens > limit {
            let text = format!("an answer of {} tokens does not fit", plan.answer_tokens);
            return Err(Error::usage(format!(
                "{text} the context of {limit}: see num_ctx"
            )));
        }
    }
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    for (what, value) in settings(lease.engine().facts()) {
        let why = reason(what, config, options);
        report(Row {
            why,
            ..row(what, value, "")
        })?;
    }
    report(row("load", format!("{load_ms:.0}"), "ms"))?;
    let memory = pool.loaded().first().map_or(0, |loaded| loaded.size_bytes);
    report(row("memory", format!("{}", memory >> 20), "MiB"))?;
    let mut gauge = Gauge { lease, seed: 0 };
    let prompt = median(&gauge.rates(plan, 1)?, |rates| rates.prompt);
    let what = format!("prompt of {}", plan.prompt_tokens);
    report(row(&what, format!("{prompt:.1}"), "tokens/s"))?;
    // With long prompts, the prompts of the others would count against the first answers.
    let short = Plan {
        prompt_tokens: plan.prompt_tokens.min(SHORT_TOKENS),
        ..plan
    };
    for sequences in SEQUENCES {
        let answer = median(&gauge.rates(short, sequences)?, |rates| rates.answer);
        let what = format!("answers, {sequences} at once");
        report(row(&what, format!("{answer:.1}"), "tokens/s"))?;
    }
    drop((gauge, pool));
    let shot = || one_shot((config, log), model, options);
    let times = (0..plan.runs).map(|_| shot()).collect::<Result<Vec<_>>>()?;
    let time = median(&times, |time| *time);
    report(row("one-shot of one token", format!("{time:.0}"), "ms"))
}

/// Milliseconds from nothing to the first token behind a short prompt, as `run` computes it.
fn one_shot(
    (config, log): (&Config, (Level, Sink)),
    model: &Model,
    options: &Options,
) -> Result<f64> {
    let started = Instant::now();
    let mut config = config.clone();
    config.work = Some((ONE_SHOT_TOKENS, 1));
    let pool = Pool::new(config, Policy::OneShot, log);
    let lease = pool.acquire(model, options, None, &AtomicBool::new(false), &mut |_| {})?;
    let plan = Plan {
        prompt_tokens: ONE_SHOT_TOKENS,
        answer_tokens: 1,
        runs: 1,
    };
    measured(&lease, plan, (1, 0))?;
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Why a setting has its value.
fn reason(what: &str, config: &Config, options: &Options) -> &'static str {
    let is_given = |name| options.int(name).is_some();
    match what {
        "threads" if is_given("num_thread") => "num_thread",
        "threads" if config.threads.is_some() => "PUNA_NUM_THREADS",
        "threads" => "one for each core",
        "flash attention" if config.flash.is_some() => "PUNA_FLASH_ATTENTION",
        "flash attention" => "the default, or measured by --tune",
        "cache" if config.kv_cache.is_some() => "PUNA_KV_CACHE_TYPE",
        "cache" => "the default",
        "prompt tokens beside answers" => "running answers stall for 80 ms at most",
        "prompt tokens at once" => "fastest while nobody else generates",
        "repacked" if config.repack.is_some() => "PUNA_REPACK",
        "repacked" => "what this processor computes faster, as known or measured by --tune",
        "context" if is_given("num_ctx") => "num_ctx",
        "context" => "PUNA_CONTEXT_LENGTH or its default",
        "tokens of all answers" => "several answers share them, as far as memory allows",
        _ => "what this build can use here",
    }
}

fn row(what: &str, value: String, unit: &'static str) -> Row {
    Row {
        what: what.to_string(),
        value,
        unit,
        why: "",
    }
}

/// Measures a model with and without flash attention, after prompts of several lengths, then with and without copies of its
/// weights, if the processor has a layout for them, and stores the faster settings for all models of its shape; reports
/// each row as soon as it is known.
///
/// # Errors
/// The error of the load; `Usage` where there is no choice; or if the cache cannot be written.
pub fn tune(
    config: &Config,
    log: (Level, Sink),
    model: &Model,
    (options, runs): (&Options, usize),
    report: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    if let Some(kind) = config.kv_cache.as_deref().filter(|kind| *kind != "f16") {
        let text = format!("a cache of {kind} needs flash attention: there is nothing to choose");
        return Err(Error::usage(text));
    }
    let mut measure = |name: &str, (flash, repack): (bool, Option<bool>), depths: &[usize]| {
        let mut config = config.clone();
        config.flash = Some(flash);
        config.repack = repack.or(config.repack);
        let pool = Pool::new(config, Policy::Server, log);
        let mut report = |mut row: Row| {
            row.what = format!("{name}, {}", row.what);
            report(row)
        };
        at_depths(&pool, model, (options, runs, depths), &mut report)
    };
    let without = measure("no flash", (false, None), &DEPTHS)?;
    let with = measure("flash", (true, None), &DEPTHS)?;
    let flash = is_faster(&without, &with);
    let copied = measure("copied", (flash, Some(true)), &DEPTHS[..1])?;
    let repacked = match copied.repacked {
        true => {
            let mapped = measure("mapped", (flash, Some(false)), &DEPTHS[..1])?;
            Some(is_faster(&mapped, &copied))
        }
        false => None,
    };
    let faster = Faster {
        flash_attention: flash,
        repacked,
    };
    measured_settings::store(config, &model.header, with.on_gpu, faster)?;
    report(row("flash attention", flash.to_string(), ""))?;
    match repacked {
        Some(repacked) => report(row("repacked", repacked.to_string(), "")),
        None => Ok(()),
    }
}

/// True if the second setting is faster. Each depth has the same weight, however long it takes; a server has one client as
/// often as several. One choice for one answer and for several: a one-shot and a server compute alike.
fn is_faster(first: &AtDepths, second: &AtDepths) -> bool {
    let one = gain(&first.totals, &second.totals);
    let several = gain(&first.answers, &second.answers) + gain(&first.several, &second.several);
    one + several > 0.0
}

/// The rates of one setting: higher is better.
#[derive(Default)]
struct AtDepths {
    /// Prompts with their answers a second, at each depth.
    totals: Vec<f64>,
    /// Tokens of an answer a second, at each depth.
    answers: Vec<f64>,
    /// The same for several answers at once.
    several: Vec<f64>,
    on_gpu: bool,
    /// The weights were copied.
    repacked: bool,
}

/// By how much the second rates are ahead of the first: the mean of their ratios' logarithms.
fn gain(first: &[f64], second: &[f64]) -> f64 {
    let gains = first.iter().zip(second).map(|(a, b)| (b / a).ln());
    gains.sum::<f64>() / first.len().min(second.len()).max(1) as f64
}

/// Measures one setting at each depth that the model was trained for and that does not take too long.
fn at_depths(
    pool: &Pool,
    model: &Model,
    (options, runs, depths): (&Options, usize, &[usize]),
    report: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<AtDepths> {
    let trained = model.header.context_length().unwrap_or(u64::MAX) as usize;
    let most = trained.saturating_sub(DEPTH_ANSWER_TOKENS).max(1);
    let mut depths: Vec<usize> = depths.iter().map(|depth| *depth.min(&most)).collect();
    depths.dedup();
    let mut report = |what: String, rate: f64| report(row(&what, format!("{rate:.1}"), "tokens/s"));
    let mut found = AtDepths::default();
    let mut prompt_rate = f64::INFINITY;
    for depth in depths {
        if depth as f64 / prompt_rate > DEPTH_S_MAX {
            break;
        }
        let plan = Plan {
            prompt_tokens: depth,
            answer_tokens: DEPTH_ANSWER_TOKENS,
            runs,
        };
        let mut options = options.clone();
        options.set("num_ctx", Value::Int((depth + DEPTH_ANSWER_TOKENS) as i64))?;
        let lease = pool.acquire(model, &options, None, &AtomicBool::new(false), &mut |_| {})?;
        let facts = lease.engine().facts();
        (found.on_gpu, found.repacked) = (facts.gpu_layers > 0, facts.repacked);
        let mut gauge = Gauge { lease, seed: 0 };
        let rates = gauge.rates(plan, 1)?;
        prompt_rate = median(&rates, |rates| rates.prompt);
        report(format!("prompt of {depth}"), prompt_rate)?;
        let answer_rate = median(&rates, |rates| rates.answer);
        report(format!("answer behind {depth}"), answer_rate)?;
        let (prompt, answer) = (depth as f64, DEPTH_ANSWER_TOKENS as f64);
        let total_s = prompt / prompt_rate + answer / answer_rate;
        found.totals.push(1.0 / total_s);
        found.answers.push(answer_rate);
        if found.several.is_empty() {
            let (count, prompt_tokens) = (SEVERAL.0, SEVERAL.1.min(depth));
            let several = Plan {
                prompt_tokens,
                ..plan
            };
            let rate = median(&gauge.rates(several, count)?, |rates| rates.answer);
            found.several.push(rate);
            report(format!("answers, {count} at once"), rate)?;
        }
    }
    Ok(found)
}

/// The settings in force, as display text.
fn settings(facts: &Facts) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("threads", facts.threads.to_string()),
        ("flash attention", facts.attention.flash.to_string()),
        ("cache", facts.attention.kv.name().to_string()),
        (
            "prompt tokens beside answers",
            facts.slices.shared.to_string(),
        ),
        ("prompt tokens at once", facts.slices.lone.to_string()),
        ("repacked", facts.repacked.to_string()),
    ];
    if let Context::Shared { tokens, cells, .. } = facts.context {
        settings.push(("context", tokens.to_string()));
        settings.push(("tokens of all answers", cells.to_string()));
    }
    settings.push(("device", facts.device.clone()));
    settings
}

struct Rates {
    prompt: f64,
    answer: f64,
}

/// A model to measure.
struct Gauge {
    lease: Lease,
    /// Runs so far.
    seed: usize,
}

impl Gauge {
    /// The rates of each run of a plan.
    fn rates(&mut self, plan: Plan, sequences: usize) -> Result<Vec<Rates>> {
        let run = |_| {
            self.seed += 1;
            measured(&self.lease, plan, (sequences, self.seed))
        };
        (0..plan.runs).map(run).collect()
    }
}

fn median<T>(runs: &[T], pick: fn(&T) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(pick).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One run: prompts that share no prefix with the cache, and their answers.
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
