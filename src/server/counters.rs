//! Metrics since the server started, in Prometheus's text format.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::error::{Class, Error, Result};
use crate::core::lock::LockExt;
use crate::core::message::Usage;
use crate::ops::pool::Loaded;
use crate::system::machine;

/// Most models counted by name; further ones are counted as `other`.
const MODELS_MAX: usize = 256;

/// Counters of one model.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    answers: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    answer_tokens: u64,
    dropped_tokens: u64,
    draft_tokens: u64,
    draft_tokens_kept: u64,
    wait_s: f64,
    prompt_s: f64,
    answer_s: f64,
}

/// Name, help text and value of one counter of a model.
type Column = (&'static str, &'static str, fn(&Counts) -> f64);

const COLUMNS: &[Column] = &[
    ("puna_answers_total", "Answers finished.", |counts| {
        counts.answers as f64
    }),
    ("puna_prompt_tokens_total", "Tokens of prompts.", |counts| {
        counts.prompt_tokens as f64
    }),
    (
        "puna_cached_tokens_total",
        "Prompt tokens found in the prefix cache.",
        |counts| counts.cached_tokens as f64,
    ),
    ("puna_answer_tokens_total", "Tokens generated.", |counts| {
        counts.answer_tokens as f64
    }),
    (
        "puna_dropped_tokens_total",
        "Tokens dropped to fit the context.",
        |counts| counts.dropped_tokens as f64,
    ),
    (
        "puna_draft_tokens_total",
        "Tokens guessed and computed in advance.",
        |counts| counts.draft_tokens as f64,
    ),
    (
        "puna_draft_tokens_kept_total",
        "Tokens computed in advance that an answer kept.",
        |counts| counts.draft_tokens_kept as f64,
    ),
    (
        "puna_wait_seconds_total",
        "Time until a model was ready.",
        |counts| counts.wait_s,
    ),
    (
        "puna_prompt_seconds_total",
        "Time spent on prompts.",
        |counts| counts.prompt_s,
    ),
    (
        "puna_answer_seconds_total",
        "Time spent on answers.",
        |counts| counts.answer_s,
    ),
];

/// Name, help text and value of one gauge of a loaded model.
type Gauge = (&'static str, &'static str, fn(&Loaded) -> u64);

const GAUGES: &[Gauge] = &[
    ("puna_model_bytes", "Memory of a loaded model.", |model| {
        model.size_bytes
    }),
    (
        "puna_saved_prompts_bytes",
        "Memory of prompts put aside for those that begin alike.",
        |model| model.saved_bytes,
    ),
];

/// All counters.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    cancelled: AtomicU64,
    models: Mutex<BTreeMap<String, Counts>>,
}

impl Counters {
    /// Counts a request.
    pub fn request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a stream as cancelled if its client disconnected before the answer was complete.
    pub fn outcome(&self, outcome: &Result<()>) {
        let left = |error: &Error| error.class() == Class::Cancelled;
        if outcome.as_ref().is_err_and(left) {
            self.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The number of requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Adds the usage of a finished answer to its model's counters.
    pub fn answer(&self, model: &str, usage: &Usage) {
        let mut models = self.models.locked();
        let known = models.contains_key(model) || models.len() < MODELS_MAX;
        let counts = models
            .entry(if known { model } else { "other" }.to_string())
            .or_default();
        counts.answers += 1;
        counts.prompt_tokens += usage.prompt_tokens as u64;
        counts.cached_tokens += usage.cached_tokens as u64;
        counts.answer_tokens += usage.answer_tokens as u64;
        counts.dropped_tokens += (usage.truncated_tokens + usage.shifted_tokens) as u64;
        counts.draft_tokens += usage.draft_tokens as u64;
        counts.draft_tokens_kept += usage.draft_tokens_kept as u64;
        counts.wait_s += usage.load.as_secs_f64();
        counts.prompt_s += usage.prompt.as_secs_f64();
        counts.answer_s += usage.answer.as_secs_f64();
    }

    /// All metrics as text, including the memory of the loaded models.
    pub fn text(&self, loaded: &[Loaded]) -> String {
        let one = |name: &str, kind: &str, help: &str, value: u64| {
            format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
        };
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut text = one(
            "puna_requests_total",
            "counter",
            "Requests.",
            value(&self.requests),
        );
        text += &one(
            "puna_cancelled_total",
            "counter",
            "Answers whose clients disconnected.",
            value(&self.cancelled),
        );
        text += &one(
            "puna_resident_bytes",
            "gauge",
            "Memory of the process.",
            machine::resident_bytes(),
        );
        let models = self.models.locked().clone();
        for (name, help, of) in COLUMNS {
            text += &format!("# HELP {name} {help}\n# TYPE {name} counter\n");
            for (model, counts) in &models {
                text += &format!("{name}{{model=\"{}\"}} {}\n", escaped(model), of(counts));
            }
        }
        for (name, help, of) in GAUGES {
            text += &format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
            for model in loaded {
                let label = model.name.as_ref().map(ToString::to_string);
                let label = escaped(&label.unwrap_or_default());
                text += &format!("{name}{{model=\"{label}\"}} {}\n", of(model));
            }
        }
        text
    }
}

/// Escapes a label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
