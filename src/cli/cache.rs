//! `puna cache`: lists and removes the saved sequences of the prefix cache.

use std::time::SystemTime;

use super::context::Context;
use super::flag::JSON;
use super::out::{Out, counted, human_bytes};
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::clock;
use crate::core::error::{Error, Result};
use crate::ops::prefix_cache::{self, Listed};
use crate::system::config::Config;

pub const COMMAND: Command = Command {
    name: "cache",
    summary: "list or remove the prompts in the prefix cache",
    operands: "ls|rm|stat [NAME...]",
    arity: (1, usize::MAX),
    flags: &[JSON],
    about: &[
        "A computed prompt of 512 tokens or more is saved in the cache directory. The next prompt that begins with the \
         same tokens, in any process, starts from the saved sequence instead of computing them again. A single run \
         saves its sequence after its answer is printed, a server when it unloads the model.",
        "ls prints name, model, tokens, bytes and time of last use of each saved sequence, the longest unused first. \
         rm removes those named, or all. stat prints their number, their bytes, and the limit in bytes; above the \
         limit the longest unused are removed first.",
        "A saved sequence contains the prompt and its answer as tokens, so only its owner can read the folder. \
         --no-cache, or PUNA_CACHE_MAX=0, turns the prefix cache off. A file is used only with the same weights, \
         adapter, KV cache type and llama.cpp, and only if its checksum matches.",
    ],
    examples: &[
        ("puna cache ls", "list the saved sequences"),
        ("puna cache rm", "remove all saved sequences"),
    ],
    run,
    section: Section::Store,
    completes: (
        Completes::Words(&["ls", "rm", "stat"]),
        Completes::SavedPrompts,
    ),
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let (way, names) = parsed.operands.split_first().expect("the arity is checked");
    if let Ok(cache) = prefix_cache::cache(config) {
        cache.check_readable()?;
    }
    match way.as_str() {
        "ls" | "list" => {
            check_names(config, names)?;
            list(parsed.has(&JSON), config, names, out)
        }
        "rm" => remove(config, names),
        "stat" if !names.is_empty() => Err(Error::usage("cache stat takes no names")),
        "stat" => stat(parsed.has(&JSON), config, out),
        other => Err(Error::usage(format!(
            "cache accepts ls, rm and stat, not '{other}'"
        ))),
    }
}

fn list(json: bool, config: &Config, names: &[String], out: &mut Out) -> Result<()> {
    let mut all = prefix_cache::list(config);
    all.retain(|listed| names.is_empty() || names.contains(&listed.name));
    if json {
        let record = |listed: &Listed| {
            serde_json::json!({ "name": listed.name, "model": listed.model, "tokens": listed.tokens,
                "size": listed.bytes, "used_at": clock::rfc3339_seconds(listed.used) })
        };
        return out.json(&all.iter().map(record).collect::<Vec<_>>());
    }
    let row = |listed: &Listed, bytes: fn(u64) -> String, used: fn(SystemTime) -> String| {
        vec![
            listed.name.clone(),
            listed.model.clone(),
            listed.tokens.to_string(),
            bytes(listed.bytes),
            used(listed.used),
        ]
    };
    if out.output_is_terminal {
        let ago = |time| {
            let age = SystemTime::now().duration_since(time).unwrap_or_default();
            format!("{} ago", clock::span(age))
        };
        let rows: Vec<_> = { all.iter() }
            .map(|one| row(one, human_bytes, ago))
            .collect();
        return out.table(&["NAME", "MODEL", ">TOKENS", ">SIZE", "USED"], &rows);
    }
    let exact = |bytes: u64| bytes.to_string();
    let rows: Vec<_> = { all.iter() }
        .map(|one| row(one, exact, clock::rfc3339_seconds))
        .collect();
    out.records(&rows)
}

/// The names of all saved sequences; all of `names` are among them.
fn check_names(config: &Config, names: &[String]) -> Result<Vec<String>> {
    let all: Vec<String> = prefix_cache::files(config)
        .iter()
        .map(|file| file.name())
        .collect();
    match names.iter().find(|name| !all.contains(name)) {
        Some(unknown) => Err(Error::failed(format!(
            "no saved sequence is called '{unknown}'"
        ))),
        None => Ok(all),
    }
}

fn remove(config: &Config, names: &[String]) -> Result<()> {
    let all = check_names(config, names)?;
    let cache = if all.is_empty() {
        return Ok(());
    } else {
        prefix_cache::cache(config)?
    };
    let wanted = |name: &&String| names.is_empty() || names.contains(name);
    all.iter()
        .filter(wanted)
        .for_each(|name| cache.remove(name));
    Ok(())
}

fn stat(json: bool, config: &Config, out: &mut Out) -> Result<()> {
    let cache = prefix_cache::cache(config)?;
    let files = cache.files();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let most = prefix_cache::bytes_max(config, &cache);
    if json {
        let record = serde_json::json!({ "count": files.len(), "size": bytes, "max": most });
        return out.json(&[record]);
    }
    if out.output_is_terminal {
        return out.write(&format!(
            "{}, {} of at most {}\n",
            counted(files.len(), "prompt"),
            human_bytes(bytes),
            human_bytes(most)
        ));
    }
    out.records(&[vec![
        files.len().to_string(),
        bytes.to_string(),
        most.to_string(),
    ]])
}
