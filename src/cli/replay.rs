//! `run --record` and `puna replay`: records an answer with everything it depends on, and checks
//! whether it can be reproduced.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::context::Context;
use super::deadline::Deadline;
use super::flag::{Flag, Group, JSON, QUIET, option, switch};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::run::answer::{self, Printer};
use super::run::turn_args::Ask;
use super::run_limits;
use super::stdin;
use super::table::{Command, Completes, NEGATIVE, PLAIN};
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::message::{Message, Think};
use crate::core::regular_file;
use crate::core::turn::{Input, Overflow, Part, ToolChoice, TurnRequest};
use crate::format::wire::native::{self, decode};
use crate::format::wire::options::{from_json, to_json};
use crate::ops::backend::Backend;
use crate::ops::model::Model;
use crate::ops::pool::Policy;
use crate::system::config::Config;
use crate::system::engine::prefix::BUILD;
use crate::system::machine;

pub const RECORD: Flag = option(
    "record",
    None,
    "FILE",
    "record the answer for puna replay; uses no server",
)
.in_group(Group::Files);

pub const COMMAND: Command = Command {
    name: "replay",
    summary: "answer a recorded prompt again and compare the answers",
    operands: "FILE",
    arity: (1, 1),
    flags: &[PRINT, JSON, QUIET],
    about: &[
        "Reads a record of run --record, answers its prompt again in this process, and exits with status 0 if every \
         byte of the answer is the same, else with 13. The status is also 13 if the name now belongs to another model. \
         Another build, processor or number of threads is noted on standard error, because it can change the answer. \
         --json prints model, same, and response, the new answer.",
        "With the same build on the same machine the answer is the same, because the record contains the seed, and \
         neither the prefix cache nor concurrent answers are used.",
    ],
    examples: &[(
        "puna run smol 'Tell a joke' -n 30 --record joke.json && puna replay joke.json",
        "check that an answer can be reproduced",
    )],
    limits: run_limits::FLAGS,
    run,
    completes: (Completes::Files, Completes::Nothing),
    ..PLAIN
};

const PRINT: Flag = switch("print", None, "print the new answer").in_group(Group::Output);

/// Largest record that is read.
const BYTES_MAX: u64 = 64 << 20;

/// A recorded answer and everything it depends on.
#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    puna: String,
    build: String,
    processor: String,
    features: Vec<String>,
    threads: usize,
    model: String,
    digest: String,
    request: Recording,
    prompt_sha256: String,
    output: native::Message,
    output_sha256: String,
}

/// The request, with the API's field names.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Recording {
    messages: Vec<native::Message>,
    /// A prompt without the model's template.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
    options: Map<String, Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grammar: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    think: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overflow: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    bounded: bool,
}

/// Creates the file that `--record` writes; the request gets a fixed seed if it has none.
///
/// # Errors
/// If the file cannot be written; `Usage` with `--overflow=reduce`.
pub fn begin(path: &str, ask: &mut Ask) -> Result<RecordFile> {
    if ask.reduces {
        let text = "--record and --overflow=reduce cannot be used together";
        return Err(Error::usage(text));
    }
    if ask.turn.options.int("seed").is_none_or(|seed| seed < 0) {
        let mut bytes = [0; 4];
        let random = getrandom::fill(&mut bytes);
        random.map_err(|error| Error::failed(format!("no random seed: {error}")))?;
        let seed = u32::from_le_bytes(bytes) >> 1; // The largest u32 means "random" to llama.cpp.
        ask.turn.options.set_text("seed", &seed.to_string())?;
    }
    RecordFile::new(path)
}

/// A record that gets its name when it is complete: a run that fails leaves what is there.
pub struct RecordFile {
    path: String,
    /// Its name until then; `None` for a device or a pipe, which is written as it is.
    unfinished: Option<String>,
    file: File,
}

impl RecordFile {
    fn new(path: &str) -> Result<Self> {
        let wrong = |error| Error::io("write", path, error);
        let is_special = std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        let unfinished = (!is_special).then(|| format!("{path}.{}", std::process::id()));
        let file = match &unfinished {
            None => File::create(path),
            Some(name) => {
                no_record(path)?;
                File::create_new(name)
            }
        };
        Ok(RecordFile {
            file: file.map_err(wrong)?,
            path: path.to_string(),
            unfinished,
        })
    }

    fn finish(&mut self, line: &str) -> Result<()> {
        if self.unfinished.is_some() {
            no_record(&self.path)?;
        }
        let written =
            self.file
                .write_all(line.as_bytes())
                .and_then(|()| match self.unfinished.take() {
                    Some(name) => std::fs::rename(name, &self.path),
                    None => Ok(()),
                });
        written.map_err(|error| Error::io("write", &self.path, error))
    }
}

/// Refuses a file that is there already: a record is written once. An empty one, as of `mktemp`, holds nothing.
fn no_record(path: &str) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > 0 => Err(Error::usage(format!(
            "{path} exists: a record is not written over another file"
        ))),
        _ => Ok(()),
    }
}

impl Drop for RecordFile {
    fn drop(&mut self) {
        if let Some(name) = &self.unfinished {
            // A file that cannot be removed was not made.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Writes the request and its answer.
///
/// # Errors
/// If the weights cannot be read or the file cannot be written.
pub fn write(
    record: &mut RecordFile,
    ask: &Ask,
    model: &Model,
    reply: &Message,
    config: &Config,
) -> Result<()> {
    let request = Recording::from_ask(ask);
    let recorded = Recorded {
        puna: env!("CARGO_PKG_VERSION").into(),
        build: BUILD.into(),
        processor: processor(),
        features: features(),
        threads: threads(config),
        model: ask.turn.model.clone(),
        digest: digest(model)?,
        prompt_sha256: sum(&request),
        output_sha256: sum(&without_ids(reply)),
        output: without_ids(reply),
        request,
    };
    record.finish(&(json::line(&recorded) + "\n"))
}

fn processor() -> String {
    machine::processor().unwrap_or_default().to_string()
}

fn features() -> Vec<String> {
    let features = machine::features().into_iter();
    let there = features.filter(|(_, there, _)| *there);
    there.map(|(name, _, _)| name.to_string()).collect()
}

fn threads(config: &Config) -> usize {
    config.threads.unwrap_or_else(machine::cores)
}

fn sum(value: &impl Serialize) -> String {
    Digest::compute(json::line(value).as_bytes()).hex()
}

/// A message without the random ids of its tool calls.
fn without_ids(reply: &Message) -> native::Message {
    let mut reply = reply.clone();
    reply.tool_calls.iter_mut().for_each(|call| call.id = None);
    (&reply).into()
}

/// The digest of a model's manifest, or of its file.
fn digest(model: &Model) -> Result<String> {
    if let Some(digest) = &model.digest {
        return Ok(digest.to_string());
    }
    let path = &model.weights;
    let file = regular_file::open(path).and_then(Digest::read_from);
    let (digest, _) = file.map_err(|error| Error::io("read", path, error))?;
    Ok(digest.to_string())
}

impl Recording {
    fn from_ask(ask: &Ask) -> Self {
        let turn = &ask.turn;
        let (format, grammar) = decode::constraint_json(&turn.constraint);
        let messages = if ask.raw {
            Vec::new()
        } else {
            ask.conversation()
        };
        Recording {
            messages: messages.iter().map(Into::into).collect(),
            raw: ask.raw.then(|| ask.prompt.clone()),
            options: to_json(&turn.options),
            format,
            grammar: (!grammar.is_empty()).then_some(grammar),
            think: turn.think.map(|think| match think {
                Think::On | Think::Off => think.is_on().to_string(),
                Think::Level(_) => think.level().to_string(),
            }),
            tools: turn.tools.iter().map(decode::tool_json).collect(),
            tool_choice: decode::tool_choice_json(&turn.tool_choice),
            overflow: match turn.overflow {
                Overflow::Keep(part) => Some(part.word().to_string()),
                _ => None,
            },
            bounded: turn.bounded,
        }
    }

    fn turn(self, model: &str) -> Result<TurnRequest> {
        let messages = self.messages.into_iter().map(Into::into);
        let input = match self.raw {
            Some(prompt) => Input::Raw(prompt),
            None => Input::Chat(messages.collect()),
        };
        let overflow = self.overflow.as_deref().and_then(Part::parse);
        Ok(TurnRequest {
            options: from_json(&self.options)?,
            tools: self.tools.iter().map(native::tool).collect::<Result<_>>()?,
            tool_choice: ToolChoice::from_json(self.tool_choice.as_ref())?,
            think: self.think.as_deref().and_then(Think::parse),
            constraint: decode::constraint(
                self.format.as_ref(),
                self.grammar.as_deref().unwrap_or_default(),
            )?,
            overflow: overflow.map_or(Overflow::Error, Overflow::Keep),
            bounded: self.bounded,
            ..TurnRequest::new(model, Some(input))
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let path = &parsed.operands[0];
    let text = stdin::read_text(path, BYTES_MAX)?;
    let recorded: Recorded = serde_json::from_str(&text)
        .map_err(|error| Error::usage(format!("{path} is not a record of run: {error}")))?;
    if sum(&recorded.output) != recorded.output_sha256 {
        let text = "its answer is not the one that was recorded";
        return Err(Error::damaged(path, text));
    }
    for (what, then, now) in [
        ("build", recorded.build.clone(), BUILD.to_string()),
        ("processor", recorded.processor.clone(), processor()),
        (
            "features",
            recorded.features.join(" "),
            features().join(" "),
        ),
        (
            "threads",
            recorded.threads.to_string(),
            threads(config).to_string(),
        ),
    ] {
        if then != now {
            out.note(&format!(
                "{what} differs from the record: {then} then, {now} now"
            ));
        }
    }
    let mut config = config.clone();
    config.deterministic = true;
    let no = |out: &Out, why: &str| {
        out.note(why);
        context.end_with(NEGATIVE);
        Ok(())
    };
    let local = answer::open(&recorded.model, Policy::OneShot, out::log(None)?, &config)?;
    if digest(local.model())? != recorded.digest {
        return no(
            out,
            &format!("{} is not the model that was recorded", recorded.model),
        );
    }
    let turn = recorded.request.turn(&recorded.model)?;
    let backend = Backend::Local(Box::new(local));
    let deadline = Deadline::new()?;
    let prints = parsed.has(&PRINT) && !parsed.has(&JSON);
    let reply = deadline.check(answer_again(&backend, turn, &deadline.flag(), prints, out))?;
    let same = sum(&without_ids(&reply)) == recorded.output_sha256;
    if parsed.has(&JSON) {
        let fields = vec![recorded.model.into(), same.into(), reply.content.into()];
        out.named(true, &["model", "same", "response"], &[fields])?;
    }
    if same {
        Ok(())
    } else {
        no(out, "the answer is not the same")
    }
}

/// Answers again; with `prints` it prints the answer as `run` does.
fn answer_again(
    backend: &Backend,
    turn: TurnRequest,
    cancel: &Arc<AtomicBool>,
    prints: bool,
    out: &mut Out,
) -> Result<Message> {
    let mut reply = Message::new("assistant", "");
    let model = turn.model.clone();
    let deltas = answer::start(backend, turn, cancel, Instant::now(), out)?;
    let mut printer = prints.then(|| Printer::new(out, &model, false, false));
    for delta in deltas {
        let delta = delta?;
        reply.add(&delta);
        if let Some(printer) = &mut printer {
            printer.print(delta)?;
        }
    }
    if let Some(printer) = printer {
        printer.finish()?;
    }
    Ok(reply)
}
