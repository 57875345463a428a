//! `puna map`: loads a model once and answers many records. Answers are printed in the order of the
//! records, each as soon as it and all before it are complete.
//!
//! This file owns the flags and settings; `workers.rs` answers and prints the records.

pub mod journal;
pub mod template;
pub mod workers;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::context::Context;
use super::flag::{Flag, Group, HOST, JSON, QUIET, option, switch};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::records::Format;
use super::run::turn_args::{Ask, OVERFLOWS};
use super::run::turn_flags::{
    FORMAT, GRAMMAR, OPEN, OPTION, OVERFLOW, SCHEMA, SEED, SYSTEM, TEMPERATURE,
};
use super::run_limits::{self, Deadline};
use super::table::{Command, Completes, PLAIN, RECORDS_FAILED};
use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};
use crate::core::turn::OutputConstraint;
use crate::ops::backend::{Backend, Local};
use crate::ops::model::{self, Model};
use crate::ops::pool::{Lease, Policy, Pool};
use crate::ops::turn::options_in_force;
use crate::system::config::Config;
use journal::Journal;
use template::Template;
use workers::{Job, Source};

/// Default number of concurrent answers. gemma-3-270m answers 12.4 short records a second with 8 and 13.6
/// with 16, in other runs 14.6 with 16 and 14.1 with 32; SmolLM2 11.6 and 11.9, 11.1 and 11.4 (two cores
/// of an EPYC).
const JOBS: usize = 16;
/// Largest number of concurrent answers.
const JOBS_MAX: usize = 64;

pub const COMMAND: Command = Command {
    name: "map",
    summary: "answer a prompt for each record of standard input",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        PROMPT,
        JSONL,
        TSV,
        NULL,
        JOBS_FLAG,
        RESUME,
        CHOOSE,
        SCHEMA,
        OPEN,
        FORMAT,
        GRAMMAR,
        SYSTEM,
        OPTION,
        SEED,
        TEMPERATURE,
        NUM_PREDICT,
        NUM_CTX,
        OVERFLOW,
        JSON,
        HOST,
        QUIET,
    ],
    about: &[
        "Loads the model once, fills the template with each record, and prints one line for each answer, in the \
         order of the records. In the template {} is the record, {name} one of its fields, {{ and }} are braces. \
         Newlines, tabs and backslashes in an answer are escaped, so that line N answers record N; --json prints an \
         object with input, output, tokens, ms and, after a failure, error. A prompt that does not fit --num-ctx is \
         such an error, unless --overflow says what to keep: head, tail, or middle, which drops the middle. A note, \
         and dropped in the object, then give the number of dropped tokens. A note, and cut in the object, tell of an answer \
         that a limit cut.",
        "A record that fails prints an empty line, or an object with its error, and a note; the other records are \
         still answered, and the status is then 14. An answer that the token limit cut also fails its record if \
         --schema, --format, --grammar or --choose is given. --retry applies to each record.",
        "With --resume a run that was killed resumes: records whose prompt and settings are the same are printed from \
         the journal without computing anything. Only a window of records is in memory, so the input may be endless.",
        "A prefix that all prompts share, such as instructions, is computed once.",
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
            "resume after a crash",
        ),
    ],
    completes: Completes::Models,
    limits: run_limits::FLAGS,
    run,
    ..PLAIN
};

const PROMPT: Flag = option(
    "prompt",
    Some('p'),
    "TEMPLATE",
    "prompt template: {} is the record, {name} a field",
);
const JSONL: Flag = switch("jsonl", None, "read records as JSON objects, one per line");
const TSV: Flag = switch(
    "tsv",
    None,
    "read tab-separated records; line 1 names fields",
);
const NULL: Flag = switch(
    "null",
    Some('0'),
    "read records that end with NUL, not a newline",
);
const JOBS_FLAG: Flag = option(
    "jobs",
    Some('j'),
    "N",
    "records to answer at once (default 16)",
);
const RESUME: Flag = option(
    "resume",
    None,
    "FILE",
    "keep a journal in FILE and resume from it",
)
.in_group(Group::Files);
const CHOOSE: Flag = option("choose", None, "A,B,C", "answer with one of these words");
const NUM_PREDICT: Flag = option(
    "num-predict",
    Some('n'),
    "N",
    "generate at most N tokens for each record",
)
.in_group(Group::Limits);
const NUM_CTX: Flag = option(
    "num-ctx",
    None,
    "N",
    "context size in tokens for each record",
)
.in_group(Group::Limits);

/// The flags of `map`, read once.
struct MapArgs<'a> {
    template: Template,
    format: Format,
    /// Answers computed at once.
    jobs: usize,
    ask: Ask,
    /// The journal's file.
    resume: Option<&'a str>,
    retries: usize,
    json: bool,
    /// The flags that answers depend on, a line each.
    settings: String,
}

impl<'a> MapArgs<'a> {
    fn read(parsed: &'a Parsed) -> Result<Self> {
        let template = Template::parse(parsed.value(&PROMPT).unwrap_or("{}"))?;
        if !template.has_place() {
            return Err(Error::usage(
                "--prompt has no place for the record: write {}, or {name} for a field",
            ));
        }
        Ok(MapArgs {
            template,
            format: format(parsed)?,
            jobs: parsed.number(&JOBS_FLAG, 1..=JOBS_MAX)?.unwrap_or(JOBS),
            ask: ask(parsed)?,
            resume: parsed.value(&RESUME),
            retries: run_limits::retries(parsed)?,
            json: parsed.has(&JSON),
            settings: settings(parsed),
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let MapArgs {
        template,
        format,
        jobs,
        ask,
        resume,
        retries,
        json,
        settings,
    } = MapArgs::read(parsed)?;
    let journal = resume.map(Journal::open).transpose()?;
    let (backend, lease) = match context.model_server(parsed)? {
        Some(server) => (Backend::Remote(Arc::new(server)), None),
        None => {
            let model = Arc::new(model::open(&context.store(), &ask.turn.model)?);
            // As in a server, several answers are computed at once in one context.
            let mut shared = config.clone();
            shared.parallel = jobs as u32;
            let pool = Pool::new(shared, Policy::Server, out::log(None)?);
            // The model is loaded before the first record, because a load error would fail every record.
            let lease = load(&pool, &model, &ask, out)?;
            let local = Local::new(pool, model);
            (Backend::Local(Box::new(local)), Some(lease))
        }
    };
    let settings = key(&settings, config, &ask, &backend);
    let deadline = Deadline::new();
    let job = Job {
        backend,
        ask,
        retries,
        config: config.clone(),
        stop: AtomicBool::new(false),
        over: deadline.over.clone(),
    };
    let source = Source {
        template,
        settings,
        format,
    };
    let mapped = workers::map(job, source, (jobs, journal), json, out);
    if let Some(lease) = &lease {
        lease.engine().leave_weights();
    }
    match deadline.check(mapped)? {
        0 => return Ok(()),
        1 => out::complain("1 record failed"),
        count => out::complain(&format!("{count} records failed")),
    }
    context.end_with(RECORDS_FAILED);
    Ok(())
}

fn load(pool: &Pool, model: &Model, ask: &Ask, out: &Out) -> Result<Lease> {
    if model.header.is_embedding() {
        let text = format!("{} is an embedding model; use 'puna embed'", model.label);
        return Err(Error::usage(text));
    }
    let options = options_in_force(model, &ask.turn.options);
    let stays = Some(KeepAlive::Forever);
    let cancel = AtomicBool::new(false);
    pool.acquire(model, &options, stays, &cancel, &mut out.loading())
}

fn format(parsed: &Parsed) -> Result<Format> {
    let given = parsed.only_one(&[
        (&JSONL, Format::Json),
        (&TSV, Format::Tabs),
        (&NULL, Format::Nul),
    ])?;
    Ok(given.unwrap_or(Format::Lines))
}

/// The request of every record, without its prompt.
fn ask(parsed: &Parsed) -> Result<Ask> {
    let mut ask = Ask::without_prompt(parsed, OVERFLOWS)?;
    if let Some(list) = parsed.value(&CHOOSE) {
        if ask.turn.constraint != OutputConstraint::None {
            return Err(Error::usage(
                "--choose, --schema, --format and --grammar cannot be used together",
            ));
        }
        let choices: Vec<&str> = list
            .split(',')
            .filter(|choice| !choice.is_empty())
            .collect();
        if choices.len() < 2 {
            return Err(Error::usage(
                "--choose needs two words or more, separated by commas",
            ));
        }
        let quoted: Vec<String> = choices.iter().map(|choice| quoted(choice)).collect();
        ask.turn.constraint = OutputConstraint::Grammar(format!("root ::= {}", quoted.join(" | ")));
    }
    Ok(ask)
}

/// A text as a GBNF string literal.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    let text = text
        .replace('\n', "\\n")
        .replace('\r', "\\r")
        .replace('\t', "\\t");
    format!("\"{text}\"")
}

/// The flags that answers depend on, a line each.
fn settings(parsed: &Parsed) -> String {
    let mut text = String::new();
    for flag in [
        &OPTION,
        &SEED,
        &TEMPERATURE,
        &NUM_PREDICT,
        &NUM_CTX,
        &OVERFLOW,
        &SYSTEM,
        &CHOOSE,
        &SCHEMA,
        &FORMAT,
        &GRAMMAR,
    ] {
        for value in parsed.values(flag) {
            text += &format!("\n{}={value}", flag.long);
        }
    }
    text
}

/// Everything that answers depend on besides their prompts, as text for the journal's key.
fn key(settings: &str, config: &Config, ask: &Ask, backend: &Backend) -> String {
    let weights = match backend {
        Backend::Local(local) => match local.model().digest {
            Some(digest) => digest.to_string(),
            None => {
                let model = local.model();
                format!("{} {:?}", model.weights.display(), model.modified)
            }
        },
        Backend::Remote(server) => format!("{} {}", server.address(), ask.turn.model),
    };
    // A file's content counts, not its name. The context size counts, because it can cut an answer.
    format!(
        "{weights}{settings}\n{:?}\n{}",
        ask.turn.constraint, config.context_tokens
    )
}
