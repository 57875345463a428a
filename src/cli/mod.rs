//! The command line: one file per command, each with its own table entry.

mod archive;
mod args;
mod bench;
mod cache;
mod chat;
mod choose;
mod commands;
mod config;
mod context;
mod copy;
mod create;
mod deadline;
mod decide;
mod docs;
mod doctor;
mod encoding;
mod env;
mod failures;
mod flag;
mod idle_exit;
mod list;
mod map;
mod model_notes;
mod out;
mod parsed;
mod ps;
mod pull;
mod push;
mod records;
mod reexec;
mod remove;
mod render;
mod repl;
mod replay;
mod rerank;
mod run;
mod run_limits;
mod send;
mod serve;
mod shape;
mod show;
mod signals;
mod silence;
mod stdin;
mod stop;
mod store_commands;
mod table;
mod tokenizer;
mod tokens;
mod transcript;
mod transfer_display;
mod trial;
mod vectors;
mod waiting;

use std::ffi::OsString;

use crate::core::error::{Class, Error, Result};
use crate::core::name;
use crate::ops::model::is_path;
use crate::ops::trial::WORD as TRIAL;
use crate::system::config::{Config, unknown_variables, variables};
use commands::COMMANDS;
use context::Context;
use flag::{HOST, QUIET};
use out::Out;
use parsed::Parsed;
use table::{Command, Section};

/// Runs the command that the arguments name and returns its exit status.
pub fn main(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    match run(&words) {
        Ok(status) => status,
        Err(error) => {
            if error.class() != Class::Closed {
                out::complain(&error.to_string());
            }
            failure_status(&words).unwrap_or(table::status(error.class()))
        }
    }
}

/// True if a word gives this flag, perhaps with a value.
fn is_flag(word: &OsString, flag: &str) -> bool {
    let rest = word.to_str().and_then(|word| word.strip_prefix(flag));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The one status of all failures of a command whose status is the answer. It holds for a command line that
/// cannot be parsed, too, so the words themselves are looked at.
fn failure_status(words: &[OsString]) -> Option<u8> {
    let command = table::find(COMMANDS, words.first()?.to_str()?)?;
    let (status, flags) = command.failure_status?;
    let decides = words
        .iter()
        .any(|word| flags.iter().any(|flag| is_flag(word, flag)));
    decides.then_some(status)
}

fn run(words: &[OsString]) -> Result<u8> {
    // Not for people: puna starts itself with it.
    if let [word, operands @ ..] = words
        && word == TRIAL
    {
        return trial::run(operands).map(|()| 0);
    }
    let args::Invocation {
        command,
        help,
        parsed,
    } = args::parse(words.iter().cloned(), COMMANDS)?;
    let mut out = Out::new();
    if help {
        out.write(&docs::help::command(command))?;
        return Ok(0);
    }
    out.set_quiet(parsed.has(&QUIET));
    let mut config = Config::from_environment()?;
    note_variables(&config, &out);
    check_place(command, &parsed, &config)?;
    // The lock is held until the command has ended.
    let Some(_lock) = run_limits::enter(command, &parsed, &mut config)? else {
        // Where the status is the answer, 0 would be one.
        return Ok(failure_status(words).unwrap_or(0));
    };
    let context = Context::new(config);
    run_limits::run(command, &parsed, &context, &mut out)?;
    Ok(context.status())
}

/// Tells of variables that look like ours and are none, and of values of Ollama's that mean nothing.
fn note_variables(config: &Config, out: &Out) {
    for unknown in unknown_variables() {
        let known = variables().flat_map(|(names, ..)| names.split(", "));
        match name::nearest(&unknown, known).first() {
            Some(near) => out.note(&format!("no setting is called {unknown}: is it {near}?")),
            None => out.note(&format!(
                "no setting is called {unknown}: see puna-config(5)"
            )),
        }
    }
    config.notes.iter().for_each(|note| out.note(note));
}

/// Refuses to do here what a server was named for: the settings name one, and this command cannot use it. A model in a
/// file is no server's.
fn check_place(command: &Command, parsed: &Parsed, config: &Config) -> Result<()> {
    let uses_models = matches!(
        command.section,
        Section::Prompts | Section::Models | Section::Store
    );
    let is_file = parsed.operands.first().is_some_and(|first| is_path(first));
    let goes = command.flags.iter().any(|flag| flag.long == HOST.long);
    if !config.address_named || !uses_models || is_file || goes {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{} works with the models of this machine only: unset PUNA_HOST and OLLAMA_HOST, which name {}",
        command.name, config.address
    )))
}
