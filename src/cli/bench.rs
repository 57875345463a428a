//! `puna bench`: measures how fast a model runs on this machine.

use super::context::Context;
use super::flag::{Flag, Group, JSON, option, switch};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::reexec;
use super::run::turn_args;
use super::run::turn_flags::OPTION;
use super::table::{Command, ONE_MODEL, PLAIN, Section};
use crate::core::error::{Error, Result};
use crate::core::options::Options;
use crate::ops::bench::{self, Plan, Row};
use crate::ops::model;

pub const COMMAND: Command = Command {
    name: "bench",
    summary: "measure how fast a model runs on this machine",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[PROMPT, NUM_PREDICT, RUNS, TUNE, OPTION, JSON],
    about: &[
        "Loads a model as a server would and measures load time, memory, a prompt alone, and answers after short \
         prompts, one, four and eight at once, then what one token costs in a process of its own. Each line is the name \
         of the measurement, its value, its unit and, for the settings, which come first, why they were chosen, \
         separated by tabs. PUNA_FLASH_ATTENTION, PUNA_KV_CACHE_TYPE, PUNA_REPACK and PUNA_NUM_THREADS select other \
         settings to compare.",
        "With --tune the model is measured with and without flash attention, after prompts of 512, 4096 and 16384 \
         tokens, as far as it was trained for them and each takes less than two minutes; then with and without a copy of the \
         weights in the processor's own layout, if it has one for their types. The faster settings are \
         saved in the folder 'measured' of the cache. They apply on this machine to \
         all models of the same shape, unless PUNA_FLASH_ATTENTION or PUNA_REPACK is set; remove the file to undo it. A \
         server reads it when it starts.",
    ],
    examples: &[
        ("puna bench smol", "measure a model"),
        (
            "puna bench --tune smol",
            "use the faster settings on this machine",
        ),
        (
            "PUNA_KV_CACHE_TYPE=q8_0 puna bench smol | grep answers",
            "measure another KV cache type",
        ),
    ],
    run,
    section: Section::Machine,
    completes: ONE_MODEL,
    ..PLAIN
};

const PROMPT: Flag = option("prompt", Some('p'), "N", "tokens in a prompt (default 512)");
const NUM_PREDICT: Flag = option(
    "num-predict",
    Some('n'),
    "N",
    "tokens in an answer (default 64)",
)
.in_group(Group::Limits);
const RUNS: Flag = option(
    "runs",
    None,
    "N",
    "number of runs; the median counts (default 3)",
);
const TUNE: Flag = switch(
    "tune",
    None,
    "measure flash attention and copied weights, use the faster",
);

/// The flags of `bench`, read once.
struct BenchArgs {
    plan: Plan,
    options: Options,
    tune: bool,
    json: bool,
}

impl BenchArgs {
    fn read(parsed: &Parsed) -> Result<Self> {
        let number = |flag: &Flag, default, least| {
            let number = parsed.number(flag, least..=usize::MAX)?;
            Ok::<_, Error>(number.unwrap_or(default))
        };
        let tune = parsed.has(&TUNE);
        if tune && (parsed.has(&PROMPT) || parsed.has(&NUM_PREDICT)) {
            return Err(Error::usage(
                "--tune chooses its own lengths: --prompt and --num-predict cannot be used with it",
            ));
        }
        Ok(BenchArgs {
            plan: Plan {
                prompt_tokens: number(&PROMPT, 512, 1)?,
                answer_tokens: number(&NUM_PREDICT, 64, 2)?,
                runs: number(&RUNS, 3, 1)?,
            },
            options: turn_args::options(parsed)?,
            tune,
            json: parsed.has(&JSON),
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    // Its rows say what a decode costs, not what a text that repeats itself saves.
    let mut config = context.config.clone();
    config.speculate = false;
    reexec::with_short_spins();
    let BenchArgs {
        plan,
        options,
        tune,
        json,
    } = BenchArgs::read(parsed)?;
    let model = model::open(&context.store(), &parsed.operands[0])?;
    model.must_generate()?;
    let mut print_row = |row: Row| {
        if json {
            out.json(&[serde_json::json!({
                "what": row.what,
                "value": row.value,
                "unit": row.unit,
                "why": row.why,
            })])
        } else if out.output_is_terminal {
            let line = format!("{:<34} {:>12} {}{}", row.what, row.value, row.unit, row.why);
            out.write(&format!("{}\n", line.trim_end()))
        } else {
            let (unit, why) = (row.unit.to_string(), row.why.to_string());
            out.records(&[vec![row.what, row.value, unit, why]])
        }
    };
    let log = out::log(None)?;
    if tune {
        return bench::tune(&config, log, &model, (&options, plan.runs), &mut print_row);
    }
    bench::bench((&config, log), &model, &options, plan, &mut print_row)
}
