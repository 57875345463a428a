//! `puna map`: one load, many records. Answers come out in the order of their records, each as soon
//! as it and all before it are there.
//!
//! The parts that do it are in `mapping.rs`.

use std::sync::atomic::AtomicBool;

use super::ask::{Ask, FORMAT, GRAMMAR, OPTION, OVERFLOW, SCHEMA, SEED, SYSTEM, TEMPERATURE};
use super::contract::{self, Deadline};
use super::fill::Template;
use super::journal::Journal;
use super::mapping::{self, Source, Work};
use super::out::{self, Out, Unit};
use super::parse::Parsed;
use super::records::Format;
use super::spec::{Command, Completes, JSON, QUIET, option, switch};
use crate::chat::{Promise, options_in_force};
use crate::config::Config;
use crate::duration::KeepAlive;
use crate::error::{Class, Error, Result};
use crate::model::{self, Model};
use crate::pool::{Lease, Policy, Pool};

/// Answers computed at once where nobody says how many. gemma-3-270m answers 12.4 short records a second with
/// 8 and 13.6 with 16, in other runs 14.6 with 16 and 14.1 with 32; SmolLM2 11.6 and 11.9, 11.1 and 11.4 (two
/// cores of an EPYC).
const JOBS: usize = 16;
/// Most of them.
const JOBS_MAX: usize = 64;

pub const COMMAND: Command = Command {
    name: "map",
    alias: None,
    summary: "answer a prompt for each record of standard input",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        option(
            "prompt",
            Some('p'),
            "TEMPLATE",
            "the prompt: {} is the record, {name} a field, {{ }} braces",
        ),
        switch("jsonl", None, "records are JSON objects, a line each"),
        switch(
            "tsv",
            None,
            "records are fields between tabs; the first line names them",
        ),
        switch(
            "null",
            Some('0'),
            "records end with NUL instead of a newline",
        ),
        option(
            "jobs",
            Some('j'),
            "N",
            "answers computed at once (default 16)",
        ),
        option(
            "resume",
            None,
            "FILE",
            "keep a journal in FILE, and do not answer again what stands there",
        ),
        option("choose", None, "A,B,C", "answer with one of these"),
        SCHEMA,
        FORMAT,
        GRAMMAR,
        SYSTEM,
        OPTION,
        SEED,
        TEMPERATURE,
        option(
            "num-predict",
            Some('n'),
            "N",
            "generate at most N tokens for each record",
        ),
        option("num-ctx", None, "N", "tokens of context for each record"),
        OVERFLOW,
        JSON,
        QUIET,
    ],
    about: &[
        "Loads the model once, fills the template with each record, and prints one line for each answer, in the order \
         of the records. Newlines, tabs and backslashes in an answer are escaped, so that line N belongs to record N; \
         --json prints an object with input, output, tokens, ms and, if something went wrong, error. A prompt that \
         does not fit --num-ctx is such an error, unless --overflow says what to keep of it: a note, and dropped in \
         the object, tell how many tokens that cost.",
        "A record that fails gives an empty line, or an object with its error, and a note; the others go on, and the \
         status is then 14. So does an answer that was cut by the token limit where --schema, --format, --grammar or \
         --choose promised a whole.",
        "With --resume a run that was killed goes on: records whose prompt and settings are the same are printed from \
         the journal without computing anything. Of an endless input only a window of records is held.",
        "A beginning that all prompts share, such as instructions, is computed once.",
    ],
    examples: &[
        (
            "puna map smol -p 'Translate to French: {}' -n 40 < lines.txt",
            "answer for each line",
        ),
        (
            "puna map smol -p 'Is this spam? {subject}' --jsonl --choose yes,no < mails.jsonl | sort | uniq -c",
            "classify records",
        ),
        (
            "puna map smol -p 'Summarise: {}' --resume done.journal --json < long.txt > out.jsonl",
            "go on after a crash",
        ),
    ],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let template = Template::parse(parsed.value("prompt").unwrap_or("{}"))?;
    let format = format(parsed)?;
    let jobs = parsed.number("jobs", 1..=JOBS_MAX)?.unwrap_or(JOBS);
    let ask = ask(parsed)?;
    let journal = parsed.value("resume").map(Journal::open).transpose()?;
    let model = model::open(&super::store(config), &ask.model)?;
    let settings = settings(parsed, config, &ask, &model);
    // A server's way to compute: several answers at once in one context.
    let mut shared = config.clone();
    shared.parallel = jobs as u32;
    let pool = Pool::new(shared, Policy::Server, out::log(None)?);
    // Loaded once, and kept: what is wrong with the model is wrong with all records.
    let lease = load(&pool, &model, &ask, out)?;
    let deadline = Deadline::new();
    let work = Work {
        pool,
        model,
        ask,
        retries: contract::retries(parsed)?,
        config: config.clone(),
        stop: AtomicBool::new(false),
        over: deadline.over.clone(),
    };
    let source = Source {
        template,
        settings,
        format,
    };
    let mapped = mapping::map(work, source, (jobs, journal), parsed.has("json"), out);
    lease.engine().leave_weights();
    match deadline.tell(mapped)? {
        0 => Ok(()),
        1 => Err(Error::plain(Class::Records, "1 record failed")),
        count => Err(Error::plain(
            Class::Records,
            format!("{count} records failed"),
        )),
    }
}

fn load(pool: &Pool, model: &Model, ask: &Ask, out: &Out) -> Result<Lease> {
    if model.header.is_embedding() {
        let text = format!("{} makes vectors, not texts: see embed", model.label);
        return Err(Error::usage(text));
    }
    let options = options_in_force(model, &ask.options);
    let progress = out.progress("loading", Unit::Percent);
    let stays = Some(KeepAlive::Forever);
    pool.acquire(
        model,
        &options,
        stays,
        &AtomicBool::new(false),
        &mut |fraction| progress.show((fraction * 100.0) as u64, 100),
    )
}

fn format(parsed: &Parsed) -> Result<Format> {
    let given = [
        ("jsonl", Format::Json),
        ("tsv", Format::Tabs),
        ("null", Format::Nul),
    ];
    let given: Vec<_> = given
        .into_iter()
        .filter(|(flag, _)| parsed.has(flag))
        .collect();
    match given[..] {
        [] => Ok(Format::Lines),
        [(_, format)] => Ok(format),
        _ => Err(Error::usage("--jsonl, --tsv and --null exclude each other")),
    }
}

/// What each record is asked with; only the prompt differs.
fn ask(parsed: &Parsed) -> Result<Ask> {
    let mut ask = Ask::without_prompt(parsed)?;
    if let Some(list) = parsed.value("choose") {
        if ask.promise != Promise::None {
            return Err(Error::usage(
                "--choose, --schema, --format and --grammar exclude each other",
            ));
        }
        let choices: Vec<&str> = list
            .split(',')
            .filter(|choice| !choice.is_empty())
            .collect();
        if choices.is_empty() {
            return Err(Error::usage("--choose needs words between commas"));
        }
        let quoted: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
        ask.promise = Promise::Grammar(format!("root ::= {}", quoted.join(" | ")));
    }
    Ok(ask)
}

/// A text as GBNF writes it.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    let text = text
        .replace('\n', "\\n")
        .replace('\r', "\\r")
        .replace('\t', "\\t");
    format!("\"{text}\"")
}

/// All that answers depend on beside their prompts.
fn settings(parsed: &Parsed, config: &Config, ask: &Ask, model: &Model) -> String {
    let mut text = match model.digest {
        Some(digest) => digest.to_string(),
        None => format!("{} {:?}", model.weights.display(), model.modified),
    };
    for flag in [
        "option",
        "seed",
        "temperature",
        "num-predict",
        "num-ctx",
        "overflow",
        "system",
        "choose",
        "schema",
        "format",
        "grammar",
    ] {
        for value in parsed.values(flag) {
            text += &format!("\n{flag}={value}");
        }
    }
    // What a file held counts, not what it is called; and where a context ends, an answer does.
    text + &format!("\n{:?}\n{}", ask.promise, config.context_tokens)
}
