//! `puna map`: loads a model once and answers many records. Answers are printed in the order of the
//! records, each as soon as it and all before it are complete.
//!
//! This file owns the flags and settings; `workers.rs` answers the records, `printer.rs` prints them.

mod decides;
pub mod journal;
mod printer;
mod progress;
pub mod template;
pub mod workers;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::choose::SURE;
use super::context::Context;
use super::deadline::Deadline;
use super::encoding::{ENCODING, Encoding};
use super::flag::{Flag, Group, HOST, JSON, QUIET, option, switch};
use super::model_notes;
use super::out::{self, Out};
use super::parsed::{Parsed, repeated};
use super::records::{Format, NULL};
use super::run::turn_args::{Ask, OVERFLOWS};
use super::run::turn_flags::{
    FORMAT, GRAMMAR, OPEN, OPTION, OVERFLOW, SCHEMA, SEED, STOP, SYSTEM, TEMPERATURE, THINK,
};
use super::run_limits;
use super::shape::{EXTRACT, FIELDS, ONE_LINE, STRIP, Shape};
use super::table::{Command, ONE_MODEL, PLAIN, RECORDS_FAILED};
use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};
use crate::core::turn::OutputConstraint;
use crate::ops::backend::{Backend, Local};
use crate::ops::model::{self, Model};
use crate::ops::pool::{Lease, Policy, Pool};
use crate::ops::turn::options_in_force;
use crate::system::config::Config;
use decides::{CHOOSE, Decides, QUESTIONS};
use journal::Journal;
use printer::{Form, Layout, Printer};
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
        CSV,
        NULL,
        ENCODING,
        ADD_COLUMN,
        JOBS_FLAG,
        RESUME,
        CHOOSE,
        QUESTIONS,
        SURE,
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
        STOP,
        THINK,
        EXTRACT,
        FIELDS,
        STRIP,
        ONE_LINE,
        JSON,
        HOST,
        PROGRESS,
        QUIET,
    ],
    about: &[
        "Loads the model once, fills the template with each record (without --prompt the record is the prompt), and \
         prints one line for each answer, in the order of the records. In the template {} is the record, {name} one of \
         its fields, {{ and }} are braces. Newlines, tabs and backslashes in an answer are escaped, so that line N \
         answers record N; --json prints an object with input, output, tokens, ms and, after a failure, error. A \
         prompt that does not fit --num-ctx is such an error, unless --overflow says what to keep: head, tail, or \
         middle, which drops the middle. A note, and dropped in the object, then give the number of dropped tokens. A \
         note, and cut in the object, tell of an answer that a limit cut.",
        "With --csv and --tsv the first row names the columns, and the output is such a table too: a column output, \
         or one for each of --fields. --add-column keeps the columns of the records and adds the answer under a new \
         name, or the --fields under as many names; with --jsonl it adds members to the objects. CSV is read and \
         written as in RFC 4180, with quotes where they are needed. Empty lines of CSV are no records. The cells of \
         TSV are neither unescaped nor escaped, answers are.",
        "--choose decides for a word by the model's probabilities, as puna choose does with the record as its text, and \
         prints the word and its probability; --sure prints unsure below a probability. --questions answers all questions \
         of a file about each record, as puna choose --questions does: an object with the answers on each line. \
         Both compute in this process.",
        "A record that fails prints an empty line, or an object with its error, and a note; the other records are \
         still answered, and the status is then 14. An answer that the token limit cut also fails its record if \
         --schema, --format or --grammar is given. --retry applies to each record.",
        "With --resume a run that was killed resumes: records whose place, prompt and settings are the same are printed from \
         the journal without computing anything. Only a window of records is in memory, so the input may be endless.",
        "A prefix that all prompts share, such as instructions, is computed once. On a terminal a line tells how \
         many records are answered, how fast, and, if standard input is a file, how long the rest will take; \
         --progress prints such a line every ten seconds and at the end, for logs.",
    ],
    examples: &[
        (
            "puna map smol -p 'Translate to French: {}' -n 40 < lines.txt",
            "answer for each line",
        ),
        (
            "puna map smol -p 'Is this spam? {subject}' --jsonl --choose yes,no < mails.jsonl | cut -f1 | sort | uniq -c",
            "classify records",
        ),
        (
            "puna map smol -p 'One word for: {title}' --csv --add-column topic -n 8 --strip < books.csv > topics.csv",
            "add a column to a table",
        ),
        (
            "puna map smol -p 'Summarise: {}' --resume done.journal --json < long.txt > out.jsonl",
            "resume after a crash",
        ),
    ],
    limits: run_limits::FLAGS,
    run,
    completes: ONE_MODEL,
    ..PLAIN
};

const PROMPT: Flag = option(
    "prompt",
    Some('p'),
    "TEMPLATE",
    "prompt template: {} is the record, {name} a field",
);
const JSONL: Flag = switch("jsonl", None, "read records as JSON objects, one per line");
const TSV: Flag = switch("tsv", None, "read and print TSV; line 1 names the fields");
const CSV: Flag = switch("csv", None, "read and print CSV; row 1 names the fields");
const ADD_COLUMN: Flag = option(
    "add-column",
    None,
    "NAMES",
    "print the records with the answer under this name",
)
.in_group(Group::Output);
const PROGRESS: Flag =
    switch("progress", None, "print how far it is every ten seconds").in_group(Group::Output);
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
    source: Source,
    layout: Layout,
    /// Answers computed at once.
    jobs: usize,
    ask: Ask,
    /// Decides instead of generating.
    decides: Option<Decides>,
    /// The journal's file.
    resume: Option<&'a str>,
    retries: usize,
    /// Progress is told in lines.
    progress: bool,
}

impl<'a> MapArgs<'a> {
    fn read(parsed: &'a Parsed) -> Result<Self> {
        parsed.only_one(&[(&PROGRESS, ()), (&QUIET, ())])?;
        let template = Template::parse(parsed.value(&PROMPT).unwrap_or("{}"))?;
        if !template.has_place() {
            return Err(Error::usage(
                "--prompt has no place for the record: write {}, or {name} for a field",
            ));
        }
        let ask = Ask::without_prompt(parsed, OVERFLOWS)?;
        let decides = Decides::read(parsed, &ask)?;
        let format = format(parsed)?;
        if let (Format::Lines | Format::Nul, Some(name)) = (format, template.fields().next()) {
            let text = format!("{{{name}}} is a field: it needs --csv, --tsv or --jsonl");
            return Err(Error::usage(text));
        }
        let layout = layout(parsed, format, (&ask, decides.as_ref()))?;
        let decided = decides.as_ref().map(Decides::settings);
        Ok(MapArgs {
            source: Source {
                template,
                settings: settings(parsed) + &decided.unwrap_or_default(),
                format,
                encoding: Encoding::read(parsed)?,
                added: layout.added.clone(),
            },
            layout,
            jobs: parsed.number(&JOBS_FLAG, 1..=JOBS_MAX)?.unwrap_or(JOBS),
            ask,
            decides,
            resume: parsed.value(&RESUME),
            retries: run_limits::retries(parsed)?,
            progress: parsed.has(&PROGRESS),
        })
    }
}

/// The form of the output.
fn layout(
    parsed: &Parsed,
    format: Format,
    (ask, decides): (&Ask, Option<&Decides>),
) -> Result<Layout> {
    let has_probability = decides.is_some_and(Decides::has_probability);
    let shape = Shape::read(parsed)?;
    shape.check(&ask.turn.constraint)?;
    parsed.only_one(&[(&JSON, ()), (&ADD_COLUMN, ())])?;
    let added = parsed.names(&ADD_COLUMN);
    if parsed.has(&ADD_COLUMN) {
        if repeated(&added).is_some() {
            return Err(Error::usage("--add-column names a column twice"));
        }
        if added.iter().any(|name| name.contains(['\t', '\n', '\r'])) {
            return Err(Error::usage(
                "--add-column: a name is one line without tabs",
            ));
        }
        let wanted = shape.fields().len().max(1);
        let with_probability = has_probability && added.len() == 2;
        if added.len() != wanted && !with_probability {
            let text = match wanted {
                1 if has_probability => {
                    "--add-column needs one name, or two: for the word and its probability"
                        .to_string()
                }
                1 => "--add-column needs one name, or one for each of --fields".to_string(),
                count => format!("--add-column needs {count} names, one for each of --fields"),
            };
            return Err(Error::usage(text));
        }
        if !matches!(format, Format::Json | Format::Tabs | Format::Commas) {
            return Err(Error::usage("--add-column needs --csv, --tsv or --jsonl"));
        }
    }
    let form = match format {
        _ if parsed.has(&JSON) => Form::Json,
        Format::Tabs => Form::Tabs,
        Format::Commas => Form::Commas,
        Format::Json if !added.is_empty() => Form::Objects,
        Format::Json | Format::Lines | Format::Nul => Form::Lines,
    };
    let constraint = &ask.turn.constraint;
    Ok(Layout {
        form,
        shape,
        added,
        has_probability,
        answers_json: match decides {
            Some(decides) => !decides.has_probability(),
            None => matches!(
                constraint,
                OutputConstraint::Json | OutputConstraint::Schema(_)
            ),
        },
    })
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let MapArgs {
        mut source,
        layout,
        jobs,
        ask,
        decides,
        resume,
        retries,
        progress,
    } = MapArgs::read(parsed)?;
    if let Some(decides) = &decides {
        decides.note_unused(&ask.turn.model, out);
    }
    let journal = resume.map(Journal::open).transpose()?;
    let (backend, lease) = match context.model_server(parsed)? {
        Some(server) if decides.is_some() => {
            let text = format!(
                "--choose and --questions compute here: unset PUNA_HOST, which names {}",
                server.address()
            );
            return Err(Error::usage(text));
        }
        Some(server) => {
            // What fails here would fail every record.
            server.details(&ask.turn.model)?;
            (Backend::Remote(Arc::new(server)), None)
        }
        None => {
            let model = Arc::new(model::open(&context.store(), &ask.turn.model)?);
            model_notes::print(&model, &ask.turn.options, out);
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
    source.settings = key(&source.settings, config, &ask, &backend);
    let deadline = Deadline::new()?;
    let job = Job {
        backend,
        ask,
        decides,
        retries,
        shape: layout.shape.clone(),
        config: config.clone(),
        stop: AtomicBool::new(false),
        over: deadline.over.clone(),
    };
    let printer = Printer::new(layout, progress, out);
    let mapped = workers::map(job, source, (jobs, journal), printer);
    if let Some(lease) = &lease {
        lease.engine().leave_weights();
    }
    match deadline.check(mapped)? {
        0 => return Ok(()),
        count => out::complain(&format!("{} failed", out::counted(count, "record"))),
    }
    context.end_with(RECORDS_FAILED);
    Ok(())
}

fn load(pool: &Pool, model: &Model, ask: &Ask, out: &Out) -> Result<Lease> {
    model.must_generate()?;
    let options = options_in_force(model, &ask.turn.options);
    let stays = Some(KeepAlive::Forever);
    let cancel = AtomicBool::new(false);
    pool.acquire(model, &options, stays, &cancel, &mut out.loading())
}

fn format(parsed: &Parsed) -> Result<Format> {
    let given = parsed.only_one(&[
        (&JSONL, Format::Json),
        (&TSV, Format::Tabs),
        (&CSV, Format::Commas),
        (&NULL, Format::Nul),
    ])?;
    Ok(given.unwrap_or(Format::Lines))
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
        &STOP,
        &THINK,
        &SYSTEM,
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
