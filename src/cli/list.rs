//! `puna list`: the models of the store.

use std::time::SystemTime;

use super::context::{self, Context};
use super::flag::{JSON, QUIET};
use super::out::{Out, human_bytes};
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::clock;
use crate::core::error::Result;
use crate::core::name::begins;
use crate::ops::list;
use crate::system::config::Config;
use crate::system::store::Entry;

pub const COMMAND: Command = Command {
    name: "list",
    alias: Some("ls"),
    summary: "list the models in the store",
    operands: "[PREFIX]",
    arity: (0, 1),
    flags: &[JSON, QUIET],
    about: &[
        "Lists the models whose names begin with PREFIX, newest first: those of puna's own store, then those of \
         Ollama's store that have other names.",
        "In a pipe each line is name, digest, bytes and modification time (RFC 3339, UTC), separated by tabs. On a \
         terminal the same is shown as a table, rounded. Broken manifests are named on standard error; all other \
         models are listed.",
    ],
    examples: &[
        ("puna ls", "list all models"),
        ("puna ls | cut -f1", "list only names"),
        (
            "puna ls --json | jq -r 'select(.size > 1e9) | .name'",
            "list the large ones",
        ),
    ],
    completes: Completes::Models,
    run,
    section: Section::Models,
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let prefix = parsed.operands.first().map_or("", String::as_str);
    if parsed.has(&JSON) {
        let (tags, broken) = list::tags(&context.store())?;
        broken.iter().for_each(|line| out.note(line));
        let tags: Vec<_> = tags
            .into_iter()
            .filter(|tag| begins(&tag.name, prefix))
            .collect();
        return out.json(&tags);
    }
    print(prefix, config, out)
}

/// Prints the models whose names begin with `prefix`, in any case.
///
/// # Errors
/// If the store cannot be read or the output cannot be written.
pub fn print(prefix: &str, config: &Config, out: &mut Out) -> Result<()> {
    let listing = context::store(config).list()?;
    listing.broken.iter().for_each(|line| out.note(line));
    let entries = listing.entries.iter();
    let entries: Vec<&Entry> = entries
        .filter(|entry| begins(&entry.name.to_string(), prefix))
        .collect();
    if out.output_is_terminal {
        let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry)).collect();
        return out.table(&["NAME", "ID", "SIZE", "MODIFIED"], &rows);
    }
    let records: Vec<Vec<String>> = entries.iter().map(|entry| record(entry)).collect();
    out.records(&records)
}

fn record(entry: &Entry) -> Vec<String> {
    vec![
        entry.name.to_string(),
        entry.digest.to_string(),
        entry.manifest.size_bytes().to_string(),
        clock::rfc3339_seconds(entry.modified),
    ]
}

fn row(entry: &Entry) -> Vec<String> {
    let age = SystemTime::now()
        .duration_since(entry.modified)
        .unwrap_or_default();
    vec![
        entry.name.to_string(),
        entry.digest.hex()[..12].to_string(),
        human_bytes(entry.manifest.size_bytes()),
        format!("{} ago", clock::span(age)),
    ]
}
