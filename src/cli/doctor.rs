//! `puna doctor`: what puna finds on this machine, and the command that fixes each problem.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::context::{self, Context};
use super::flag::{HOST, JSON};
use super::out::{Out, counted, human_bytes};
use super::parsed::Parsed;
use super::table::{Command, NEGATIVE, PLAIN, Section};
use crate::core::error::Result;
use crate::ops::pool::{Policy, Pool};
use crate::ops::{ollama_layout, prefix_cache};
use crate::system::cache_dir::is_writable;
use crate::system::client::Client;
use crate::system::config::{self, Config};
use crate::system::engine::{BUILT_FOR_GPU, Level};
use crate::system::machine;
use crate::system::store::Origin;

pub const COMMAND: Command = Command {
    name: "doctor",
    summary: "check this machine and print a fix for each problem",
    operands: "",
    arity: (0, 0),
    flags: &[JSON, HOST],
    about: &[
        "Checks processor, GPU, memory, store, cache, configuration and server. Each line is the name of the check, \
         a tab, ok, note or bad, a tab, the finding, and, if something can be improved, a tab and the command that \
         fixes it. The status is 13 if anything is bad.",
        "The findings explain why a GPU is not used, why a connection is refused and why answers are slow, as far as \
         the machine shows it; puna bench measures how fast a model runs.",
    ],
    examples: &[
        ("puna doctor", "check everything"),
        (
            "puna doctor | awk -F '\\t' '$2 != \"ok\"'",
            "see only what can be improved",
        ),
    ],
    run,
    section: Section::Machine,
    ..PLAIN
};

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Note,
    Bad,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Note => "note",
            State::Bad => "bad",
        }
    }
}

/// The finding of one check.
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    /// The command that fixes it; empty if there is nothing to fix.
    fix: String,
}

fn finding(what: &'static str, state: State, found: impl Into<String>, fix: &str) -> Finding {
    Finding {
        what,
        state,
        found: found.into(),
        fix: fix.to_string(),
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let mut findings = processor(config);
    findings.push(gpu(config)?);
    findings.push(memory());
    findings.extend(store(config));
    findings.push(cache(config));
    findings.push(settings(config));
    findings.push(server(context.named_server(parsed)?, config));
    if parsed.has(&JSON) {
        let json = |finding: &Finding| {
            serde_json::json!({
                "what": finding.what,
                "state": finding.state.word(),
                "found": finding.found,
                "fix": finding.fix,
            })
        };
        out.json(&findings.iter().map(json).collect::<Vec<_>>())?;
    } else {
        let row = |finding: &Finding| {
            let mut row = vec![
                finding.what.to_string(),
                finding.state.word().to_string(),
                finding.found.clone(),
            ];
            row.extend((!finding.fix.is_empty()).then(|| finding.fix.clone()));
            row
        };
        let rows: Vec<Vec<String>> = findings.iter().map(row).collect();
        if out.output_is_terminal {
            out.table(&["WHAT", "STATE", "FOUND", "FIX"], &rows)?
        } else {
            out.records(&rows)?
        }
    }
    if findings.iter().any(|finding| finding.state == State::Bad) {
        context.end_with(NEGATIVE);
    }
    Ok(())
}

fn processor(config: &Config) -> Vec<Finding> {
    let name = machine::processor().unwrap_or("unknown");
    let cores = machine::cores();
    let mut found = vec![finding(
        "processor",
        State::Ok,
        format!("{name}, {cores} cores"),
        "",
    )];
    let features = machine::features();
    let words = |wanted: fn(&(&str, bool, bool)) -> bool| -> String {
        let names = features
            .iter()
            .filter(|feature| wanted(feature))
            .map(|(name, ..)| *name);
        names.collect::<Vec<_>>().join(" ")
    };
    let (used, idle) = (
        words(|(_, has, used)| *has && *used),
        words(|(_, has, used)| *has && !*used),
    );
    let missing = words(|(_, has, used)| !*has && *used);
    found.push(
        match (
            missing.is_empty(),
            idle.is_empty(),
            cfg!(feature = "portable"),
        ) {
            (false, ..) => {
                let text = format!("built for {missing}, which this processor lacks");
                finding("build", State::Bad, text, "make build")
            }
            (true, _, true) => finding(
                "build",
                State::Ok,
                "for every processor; the code is chosen at startup",
                "",
            ),
            (true, false, false) => {
                let text = format!("does not use {idle}, which this processor has");
                finding("build", State::Note, text, "make build")
            }
            (true, true, false) => finding("build", State::Ok, format!("uses {used}"), ""),
        },
    );
    if let Some(threads) = config.threads.filter(|threads| *threads > cores) {
        let text =
            format!("{threads} threads on {cores} cores are slower than one thread per core");
        found.push(finding(
            "threads",
            State::Note,
            text,
            "unset PUNA_NUM_THREADS",
        ));
    }
    found
}

/// Why a GPU is used or not.
fn gpu(config: &Config) -> Result<Finding> {
    let pool = Pool::new(config.clone(), Policy::OneShot, (Level::Off, |_| {}));
    let devices: Vec<String> = pool.devices()?;
    let usable: Vec<&String> = devices
        .iter()
        .filter(|name| !name.starts_with("CPU"))
        .collect();
    let seen = machine::gpus();
    Ok(match (usable.first(), seen.first()) {
        (Some(device), _) => finding("gpu", State::Ok, (*device).clone(), ""),
        (None, Some(maker)) => {
            let (what, make) = match *maker {
                "AMD" => ("rocm", "make rocm"),
                _ => ("cuda", "make cuda"),
            };
            let text = if BUILT_FOR_GPU {
                format!("found a GPU by {maker}, but its driver does not answer")
            } else {
                format!("found a GPU by {maker}, but this build has no {what}")
            };
            finding("gpu", State::Note, text, make)
        }
        (None, None) => finding("gpu", State::Ok, "no GPU found; the processor computes", ""),
    })
}

fn memory() -> Finding {
    let (free, total) = (machine::free_bytes(), machine::total_bytes());
    let text = format!("{} free of {}", human_bytes(free), human_bytes(total));
    if free < total / 10 {
        finding("memory", State::Note, text, "puna ps; puna stop MODEL")
    } else {
        finding("memory", State::Ok, text, "")
    }
}

fn store(config: &Config) -> Vec<Finding> {
    let store = context::store(config);
    let root = store.root().display().to_string();
    let listing = match store.list() {
        Ok(listing) => listing,
        Err(error) => {
            return vec![finding(
                "store",
                State::Bad,
                error.to_string(),
                "puna config models",
            )];
        }
    };
    let count = |origin: Origin| {
        let entries = listing.entries.iter();
        entries.filter(|entry| entry.origin == origin).count()
    };
    let ours = count(Origin::Ours);
    let mut text = format!("{} in {root}", counted(ours, "model"));
    if count(Origin::Ollama) > 0 {
        text += &format!(", {} more of Ollama's", count(Origin::Ollama));
    }
    let mut found = vec![if !is_writable(store.root()) {
        finding(
            "store",
            State::Bad,
            format!("{root} cannot be written"),
            "export PUNA_MODELS=/path/to/a/folder",
        )
    } else if listing.entries.is_empty() {
        finding("store", State::Note, text, "puna pull MODEL")
    } else {
        finding("store", State::Ok, text, "")
    }];
    found.extend(open_to_all(store.root()));
    let broken = listing.broken.iter();
    found.extend(
        broken.map(|line| finding("store", State::Bad, line.as_str(), "puna verify --repair")),
    );
    let usage = store.usage().unwrap_or_default();
    let unused = usage.iter().filter(|usage| usage.what.starts_with('('));
    let bytes: u64 = unused.map(|usage| usage.bytes).sum();
    if bytes > 0 {
        let text = format!("{} are used by no model", human_bytes(bytes));
        found.push(finding("store", State::Note, text, "puna gc"));
    }
    found
}

/// A folder of the store in which every user may write, and so put another model in a name's place.
fn open_to_all(root: &Path) -> Option<Finding> {
    let folders = [
        root.to_path_buf(),
        root.join("blobs"),
        root.join("manifests"),
    ];
    let mode = |folder: &Path| fs::metadata(folder).map_or(0, |meta| meta.permissions().mode());
    let open = folders.iter().find(|folder| mode(folder) & 0o002 != 0)?;
    let text = format!("{}: every user may replace models", open.display());
    let fix = format!("chmod -R o-w {}", root.display());
    Some(finding("store", State::Bad, text, &fix))
}

fn cache(config: &Config) -> Finding {
    let Ok(root) = config.cache() else {
        let text = "no cache folder is known";
        return finding(
            "cache",
            State::Note,
            text,
            "export PUNA_CACHE=/path/to/a/folder",
        );
    };
    let prompts = prefix_cache::cache(config).map(|cache| cache.files());
    let prompts = prompts.unwrap_or_default();
    let derived = ollama_layout::files(config);
    let bytes: u64 = { derived.iter().chain(&prompts) }
        .map(|file| file.bytes)
        .sum();
    let text = format!("{} in {}", human_bytes(bytes), root.display());
    if is_writable(root) {
        finding("cache", State::Ok, text, "")
    } else {
        finding(
            "cache",
            State::Note,
            format!("{} cannot be written", root.display()),
            "export PUNA_CACHE=/path/to/a/folder",
        )
    }
}

fn settings(config: &Config) -> Finding {
    let settings = config.settings();
    let set = settings
        .iter()
        .filter(|setting| setting.origin != "default");
    let set: Vec<&str> = set.map(|setting| setting.key).collect();
    let set = match set.as_slice() {
        [] => "nothing is set".to_string(),
        keys => format!("set: {}", keys.join(" ")),
    };
    let text = match &config.file {
        Some(file) if fs::metadata(file).is_ok() => format!("{set}; {} is read", file.display()),
        Some(file) => format!("{set}; there is no file {}", file.display()),
        None => format!("{set}; no configuration file"),
    };
    let unknown = config::unknown_variables();
    if let Some(first) = unknown.first() {
        let text = format!("{text}; unknown: {}", unknown.join(" "));
        return finding(
            "configuration",
            State::Note,
            text,
            &format!("unset {first}"),
        );
    }
    finding("configuration", State::Ok, text, "")
}

/// Whether a server answers, and which; `named` is the one that the user named.
fn server(named: Option<Client>, config: &Config) -> Finding {
    if let Some(client) = named {
        return match client.greeting() {
            Some(line) if line.trim_end().ends_with(" is running") => finding(
                "server",
                State::Ok,
                format!("the named server answers: {line}"),
                "",
            ),
            Some(_) => finding(
                "server",
                State::Bad,
                "what answers there is neither puna nor Ollama",
                "puna serve, or unset PUNA_HOST and OLLAMA_HOST",
            ),
            None => {
                let text = "the named server does not answer";
                finding(
                    "server",
                    State::Bad,
                    text,
                    "puna serve, or unset PUNA_HOST and OLLAMA_HOST",
                )
            }
        };
    }
    if context::own_server(config).is_some() {
        return finding(
            "server",
            State::Ok,
            "puna's own server runs and reads this store",
            "",
        );
    }
    let other = Client::at(&config.address).greeting();
    match other {
        Some(line) => {
            let text = format!("another server answers at {}: {line}", config.address);
            finding(
                "server",
                State::Note,
                text,
                "puna serve --host 127.0.0.1:11435",
            )
        }
        None => {
            let text = "no server runs; 'puna run' does not need one";
            finding("server", State::Ok, text, "")
        }
    }
}
