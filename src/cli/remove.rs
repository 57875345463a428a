//! `puna rm`: models out of the store.

use super::out::{self, Out};
use super::parse::Parsed;
use super::spec::{Command, Completes, switch};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::name::Name;
use crate::store::Store;

pub const COMMAND: Command = Command {
    name: "rm",
    alias: None,
    summary: "remove models from the store",
    operands: "MODEL...",
    arity: (1, usize::MAX),
    flags: &[switch(
        "force",
        Some('f'),
        "do not mind models that are not there",
    )],
    about: &[
        "Removes models and the blobs that no other model uses. If one cannot be removed the others still are, and \
         the exit status is that of the first failure. Models of Ollama's store are never removed.",
    ],
    examples: &[("puna rm smol:backup", "remove a model")],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, _: &mut Out) -> Result<()> {
    let store = super::store(config);
    let mut first: Option<Error> = None;
    for operand in &parsed.operands {
        match remove(&store, operand) {
            Err(error) if error.is_not_found() && parsed.has("force") => {}
            Err(error) => match first {
                None => first = Some(error),
                Some(_) => out::complain(&error.to_string()),
            },
            Ok(()) => {}
        }
    }
    first.map_or(Ok(()), Err)
}

fn remove(store: &Store, operand: &str) -> Result<()> {
    store.remove(&Name::parse(operand)?)
}
