//! `puna list`: the models of the store.

use std::time::SystemTime;

use super::context::{self, Context};
use super::flag::{HOST, JSON, QUIET};
use super::out::{Out, human_bytes};
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::clock;
use crate::core::error::Result;
use crate::core::name::begins;
use crate::format::wire::native::listing::Tags;
use crate::ops::list;
use crate::system::client::Client;
use crate::system::config::Config;
use crate::system::store::Entry;

pub const COMMAND: Command = Command {
    name: "list",
    alias: Some("ls"),
    summary: "list the models in the store",
    operands: "[PREFIX]",
    arity: (0, 1),
    flags: &[JSON, HOST, QUIET],
    about: &[
        "Lists the models whose names begin with PREFIX, newest first: those of puna's own store, then those of \
         Ollama's store that have other names.",
        "In a pipe each line is name, digest, bytes and modification time (RFC 3339, UTC), separated by tabs. On a \
         terminal the same is shown as a table, rounded. Broken manifests are named on standard error; all other \
         models are listed.",
        "With --host, or a server in PUNA_HOST, the models of that server are listed.",
    ],
    examples: &[
        ("puna ls", "list all models"),
        ("puna ls | cut -f1", "list only names"),
        (
            "puna ls --json | jq -r 'select(.size > 1e9) | .name'",
            "list the large ones",
        ),
    ],
    run,
    section: Section::Models,
    completes: (Completes::Models, Completes::Nothing),
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let prefix = parsed.operands.first().map_or("", String::as_str);
    let server = context.named_server(parsed)?;
    if parsed.has(&JSON) {
        let tags = match &server {
            Some(server) => server.get::<Tags>("/api/tags")?.models,
            None => {
                let (tags, broken) = list::tags(&context.store())?;
                broken.iter().for_each(|line| out.note(line));
                tags
            }
        };
        let tags: Vec<_> = tags
            .into_iter()
            .filter(|tag| begins(&tag.name, prefix))
            .collect();
        return out.json(&tags);
    }
    match server {
        Some(server) => print_theirs(prefix, &server, out),
        None => print(prefix, &context.config, out),
    }
}

/// Prints the models of a server whose names begin with `prefix`, in any case.
///
/// # Errors
/// As [`Client::get`], or if the output cannot be written.
pub fn print_theirs(prefix: &str, server: &Client, out: &mut Out) -> Result<()> {
    let tags = server.get::<Tags>("/api/tags")?.models.into_iter();
    let tags = tags.filter(|tag| begins(&tag.name, prefix));
    if out.output_is_terminal {
        let rows = tags.map(|tag| {
            let digest = tag.digest.chars().take(12).collect();
            let day = tag.modified_at.chars().take(10).collect();
            vec![tag.name, digest, human_bytes(tag.size), day]
        });
        return out.table(
            &["NAME", "ID", ">SIZE", "MODIFIED"],
            &rows.collect::<Vec<_>>(),
        );
    }
    let records = tags.map(|tag| {
        let digest = format!("sha256:{}", tag.digest);
        let time = to_the_second(&tag.modified_at);
        vec![tag.name, digest, tag.size.to_string(), time]
    });
    out.records(&records.collect::<Vec<_>>())
}

/// A time without the fraction of its second; its zone stays.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, rest)) => {
            let zone = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{seconds}{zone}")
        }
        None => time.to_string(),
    }
}

/// Prints the models whose names begin with `prefix`, in any case.
///
/// # Errors
/// If the store cannot be read or the output cannot be written.
pub fn print(prefix: &str, config: &Config, out: &mut Out) -> Result<()> {
    let store = context::store(config);
    let listing = store.list()?;
    // Before the first model there is no folder either, so that only one that the user named is worth a word.
    if listing.entries.is_empty() && !store.root().exists() && config.names("models") {
        out.note(&format!("{} does not exist", store.root().display()));
    }
    listing.broken.iter().for_each(|line| out.note(line));
    let entries = listing.entries.iter();
    let entries: Vec<&Entry> = entries
        .filter(|entry| begins(&entry.name.to_string(), prefix))
        .collect();
    if out.output_is_terminal {
        let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry)).collect();
        return out.table(&["NAME", "ID", ">SIZE", "MODIFIED"], &rows);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_keeps_its_zone() {
        for (given, shown) in [
            ("2026-12-01T04:09:12.767Z", "2026-12-01T04:09:12Z"),
            ("2026-12-01T04:09:12.767+01:00", "2026-12-01T04:09:12+01:00"),
            ("2026-12-01T04:09:12Z", "2026-12-01T04:09:12Z"),
        ] {
            assert_eq!(to_the_second(given), shown);
        }
    }
}
