//! `puna cache`: the computed prompts that are kept for later runs.

use std::time::SystemTime;

use super::out::{Out, human_bytes};
use super::parse::Parsed;
use super::spec::{Command, Completes, JSON};
use crate::clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::kept::{self, Listed};

pub const COMMAND: Command = Command {
    name: "cache",
    alias: None,
    summary: "list or remove computed prompts that are kept for later runs",
    operands: "ls|rm|stat [NAME...]",
    arity: (1, usize::MAX),
    flags: &[JSON],
    about: &[
        "A prompt of 512 tokens or more is kept once it was computed, in the cache directory: the next prompt that \
         begins with the same tokens, in whatever process, goes on from there instead of computing them again. That \
         is done for a one-shot when its answer is out, and for a server when it lets the model go.",
        "ls prints name, model, tokens, bytes and time of last use of each, the longest unused first. rm removes those \
         named, or all. stat prints how many there are, their bytes, and the most that they may have: the longest \
         unused go first.",
        "What is kept holds the text of the prompt and its answer in the model's terms: the folder can be read by its \
         owner alone. --no-cache, or PUNA_CACHE_MAX=0, keeps and uses nothing. A file is used only for the same \
         weights, adapter, kind of cache and llama.cpp, and only if its checksum holds.",
    ],
    examples: &[
        ("puna cache ls", "see what is kept"),
        ("puna cache rm", "remove all of it"),
    ],
    completes: Completes::Nothing,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let (way, names) = parsed.operands.split_first().expect("the arity is checked");
    match way.as_str() {
        "ls" | "list" => list(parsed, config, names, out),
        "rm" => remove(config, names),
        "stat" => stat(parsed, config, out),
        other => Err(Error::usage(format!(
            "cache knows ls, rm and stat, not '{other}'"
        ))),
    }
}

fn list(parsed: &Parsed, config: &Config, names: &[String], out: &mut Out) -> Result<()> {
    let mut all = kept::list(config);
    all.retain(|listed| names.is_empty() || names.contains(&listed.name));
    if parsed.has("json") {
        let json = |listed: &Listed| {
            serde_json::json!({ "name": listed.name, "model": listed.model, "tokens": listed.tokens,
                "size": listed.bytes, "used_at": clock::rfc3339_seconds(listed.used) })
        };
        return out.json(&all.iter().map(json).collect::<Vec<_>>());
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
        return out.table(&["NAME", "MODEL", "TOKENS", "SIZE", "USED"], &rows);
    }
    let exact = |bytes: u64| bytes.to_string();
    let rows: Vec<_> = { all.iter() }
        .map(|one| row(one, exact, clock::rfc3339_seconds))
        .collect();
    out.records(&rows)
}

fn remove(config: &Config, names: &[String]) -> Result<()> {
    let all: Vec<String> = kept::files(config).iter().map(|file| file.name()).collect();
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        return Err(Error::failed(format!(
            "nothing is kept under the name '{unknown}'"
        )));
    }
    let cache = match all.is_empty() {
        true => return Ok(()),
        false => kept::cache(config)?,
    };
    let wanted = |name: &&String| names.is_empty() || names.contains(name);
    all.iter()
        .filter(wanted)
        .for_each(|name| cache.remove(name));
    Ok(())
}

fn stat(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let cache = kept::cache(config)?;
    let files = cache.files();
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let most = kept::bytes_max(config, &cache);
    if parsed.has("json") {
        let json = serde_json::json!({ "count": files.len(), "size": bytes, "max": most });
        return out.json(&[json]);
    }
    out.records(&[vec![
        files.len().to_string(),
        bytes.to_string(),
        most.to_string(),
    ]])
}
