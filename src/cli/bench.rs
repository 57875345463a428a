//! `puna bench`: how fast a model runs here.

use super::again;
use super::ask::{self, OPTION};
use super::out::{self, Out};
use super::parse::Parsed;
use super::spec::{Command, Completes, JSON, option, switch};
use crate::bench::{self, Plan, Row};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::model;
use crate::pool::{Policy, Pool};

pub const COMMAND: Command = Command {
    name: "bench",
    alias: None,
    summary: "measure how fast a model runs on this machine",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        option("prompt", Some('p'), "N", "tokens of a prompt (default 512)"),
        option(
            "num-predict",
            Some('n'),
            "N",
            "tokens of an answer (default 64)",
        ),
        option(
            "runs",
            None,
            "N",
            "runs, of which the median counts (default 3)",
        ),
        switch(
            "tune",
            None,
            "compare flash attention with none and keep what is faster",
        ),
        OPTION,
        JSON,
    ],
    about: &[
        "Loads a model as a server would and measures it: time to load, memory, a prompt alone, and answers behind \
         short prompts, one, four and eight at once. Each line holds what was measured, a tab, a number, a tab, and \
         its unit; the settings that were chosen come first, without a unit. PUNA_FLASH_ATTENTION, \
         PUNA_KV_CACHE_TYPE and PUNA_NUM_THREADS choose others to compare with.",
        "With --tune the model is measured with flash attention and without, behind prompts of 512, 4096 and 16384 \
         tokens as far as it was trained for them and they take less than two minutes each. What was faster, for one \
         answer and for several at once, is kept in the folder 'tuned' of the cache and holds on this machine for all \
         models of the same shape, where PUNA_FLASH_ATTENTION says nothing; remove the file to forget it. A server \
         takes it up when it starts.",
    ],
    examples: &[
        ("puna bench smol", "measure a model"),
        (
            "puna bench --tune smol",
            "choose the attention that is faster here",
        ),
        (
            "PUNA_KV_CACHE_TYPE=q8_0 puna bench smol | grep answers",
            "try another cache",
        ),
    ],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    again::with_short_spins();
    let number = |flag, default, least| {
        let number = parsed.number(flag, least..=usize::MAX)?;
        Ok::<_, Error>(number.unwrap_or(default))
    };
    let plan = Plan {
        prompt_tokens: number("prompt", 512, 1)?,
        answer_tokens: number("num-predict", 64, 2)?,
        runs: number("runs", 3, 1)?,
    };
    let options = ask::options(parsed)?;
    let model = model::open(&super::store(config), &parsed.operands[0])?;
    let json = parsed.has("json");
    let mut tell = |row: Row| match json {
        true => out.json(&[serde_json::json!({
            "what": row.what,
            "value": row.value,
            "unit": row.unit,
        })]),
        false => out.records(&[vec![row.what, row.value, row.unit.to_string()]]),
    };
    let log = out::log(None)?;
    if parsed.has("tune") {
        if parsed.has("prompt") || parsed.has("num-predict") {
            return Err(Error::usage(
                "--tune measures prompts and answers of its own lengths",
            ));
        }
        return bench::tune(config, log, &model, (&options, plan.runs), &mut tell);
    }
    let pool = Pool::new(config.clone(), Policy::Server, log);
    bench::bench(&pool, &model, &options, plan, &mut tell)
}
