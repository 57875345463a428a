//! Commands that look after the store: `verify`, `gc`, `du` and `path`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value as Json;

use super::out::{self, Out, human_bytes};
use super::parse::Parsed;
use super::pull;
use super::spec::{Command, Completes, JSON, QUIET, option, switch};
use crate::config::Config;
use crate::derive;
use crate::duration::KeepAlive;
use crate::error::{Class, Error, Result};
use crate::machine;
use crate::model;
use crate::name::Name;
use crate::registry::Registry;
use crate::store::{Entry, Origin, Store, Usage};

/// Files younger than this may belong to work that goes on.
const AGE: Duration = Duration::from_secs(3600);

pub const VERIFY: Command = Command {
    name: "verify",
    alias: None,
    summary: "hash the blobs of models and tell which are damaged",
    operands: "[MODEL...]",
    arity: (0, usize::MAX),
    flags: &[
        switch(
            "repair",
            None,
            "fetch damaged blobs again from their registry",
        ),
        pull::INSECURE,
        JSON,
        QUIET,
    ],
    about: &[
        "Reads every blob of all models, or of those named, on all cores, and compares it with its digest. Each \
         blob that is missing or damaged is printed: digest, a tab, a model that uses it, a tab, and what is wrong. \
         The status is then 8. With --repair such blobs are removed and fetched again.",
    ],
    examples: &[(
        "puna verify -q || mail -s 'models are damaged' root < /dev/null",
        "check by cron",
    )],
    completes: Completes::Models,
    run: verify,
};

pub const GC: Command = Command {
    name: "gc",
    alias: None,
    summary: "remove what no model uses",
    operands: "",
    arity: (0, 0),
    flags: &[
        switch("dry-run", None, "remove nothing, only tell"),
        option(
            "older-than",
            None,
            "DURATION",
            "leave what is younger than this (default 1h)",
        ),
        JSON,
        QUIET,
    ],
    about: &[
        "Removes blobs that no model uses, partial downloads, files that a killed process left, and files that were \
         derived from others in the cache, if nobody has touched or used them for an hour. Each is printed: what it is \
         (blob, partial, unfinished or derived), a tab, its bytes, a tab, and its path. While another puna adds to the \
         store nothing is removed: status 9.",
        "Nothing is collected by starting a server; rm, and a create or pull that replaces a model, remove what that \
         model alone had used.",
    ],
    examples: &[("puna gc --dry-run", "see what would go")],
    completes: Completes::Nothing,
    run: gc,
};

pub const DU: Command = Command {
    name: "du",
    alias: None,
    summary: "tell what models take on the disk",
    operands: "",
    arity: (0, 0),
    flags: &[JSON],
    about: &[
        "Lists each model of puna's own store, the largest first. In a pipe a line holds the name, the bytes of all \
         its blobs, and the bytes that no other model shares, which rm would free. (partial) and (unused) stand for \
         what gc would remove some day, (derived) for files in the cache that were made so that llama.cpp can load a \
         model that was laid out for another engine.",
    ],
    examples: &[("puna du | head -3", "see the largest")],
    completes: Completes::Nothing,
    run: du,
};

pub const PATH: Command = Command {
    name: "path",
    alias: None,
    summary: "print where a model's weights are",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        switch(
            "loaded",
            None,
            "the file that llama.cpp is given: another one where the model was laid out for another engine",
        ),
        switch(
            "projector",
            None,
            "the projector of a model that sees, made of its own file where it is in there",
        ),
        JSON,
    ],
    about: &[
        "Prints the path of the GGUF file of a model, for other programs that read such files. What has to be made \
         first is kept in the cache: du tells its size, gc removes it.",
    ],
    examples: &[(
        "llama-cli -m \"$(puna path smol)\"",
        "run a model with llama.cpp's own program",
    )],
    completes: Completes::Models,
    run: path,
};

/// The models that are named, or all of our own store.
///
/// # Errors
/// `NoModel` for a name that is not there; if the store cannot be read.
pub fn entries(parsed: &Parsed, store: &Store) -> Result<Vec<Entry>> {
    if parsed.operands.is_empty() {
        let listing = store.list()?;
        listing.broken.iter().for_each(|line| out::complain(line));
        let ours = |entry: &Entry| entry.origin == Origin::Ours;
        return Ok(listing.entries.into_iter().filter(ours).collect());
    }
    let names = parsed.operands.iter();
    names.map(|text| store.find(&Name::parse(text)?)).collect()
}

fn verify(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let store = super::store(config);
    let entries = entries(parsed, &store)?;
    let mut damaged = 0;
    let mut models = Vec::new();
    for checked in store.check(&entries, machine::cores()) {
        let Some(wrong) = checked.wrong else { continue };
        damaged += 1;
        let digest = checked.digest.to_string();
        let fields = vec![
            digest.into(),
            checked.model.as_str().into(),
            wrong.to_string().into(),
        ];
        out.named(parsed.has("json"), &["digest", "name", "error"], &[fields])?;
        if parsed.has("repair") {
            store.discard(&checked.digest)?;
            models.push(checked.model);
        }
    }
    if damaged == 0 {
        return Ok(());
    }
    if !parsed.has("repair") {
        let text = format!("{damaged} of the blobs are damaged: --repair fetches them again");
        return Err(Error::plain(Class::Damaged, text));
    }
    models.dedup();
    let registry = Registry::new(config.network.clone())?;
    for model in models {
        let name = Name::parse(&model)?;
        pull::one(&store, &registry, (&name, None), parsed, out)?;
    }
    Ok(())
}

fn gc(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let age = match parsed.value("older-than").map(KeepAlive::parse_lenient) {
        None => AGE,
        Some(Ok(KeepAlive::For(age))) => age,
        Some(Ok(KeepAlive::Forever)) => return Err(Error::usage("--older-than is a time")),
        Some(Err(error)) => return Err(error),
    };
    let dry = parsed.has("dry-run");
    let garbage = super::store(config).gc(age, dry)?;
    let line = |what: &str, bytes: u64, path: &Path| {
        let path = path.display().to_string();
        vec![what.into(), bytes.into(), path.into()]
    };
    let mut lines: Vec<Vec<Json>> = garbage
        .iter()
        .map(|file| line(file.what, file.bytes, &file.path))
        .collect();
    if !derive::files(config).is_empty() {
        let since = SystemTime::now().checked_sub(age);
        let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
        let unused = derive::cache(config)?.remove_unused(since, dry)?;
        let unused = unused.iter();
        lines.extend(unused.map(|file| line("derived", file.bytes, &file.path)));
    }
    out.named(parsed.has("json"), &["what", "size", "path"], &lines)
}

fn du(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let mut all = super::store(config).usage()?;
    let derived = derive::files(config).iter().map(|file| file.bytes).sum();
    if derived > 0 {
        all.push(Usage {
            what: "(derived)".into(),
            bytes: derived,
            own_bytes: derived,
        });
    }
    let json = parsed.has("json");
    if out.output_is_terminal && !json {
        let row = |usage: &Usage| {
            let (all, own) = (human_bytes(usage.bytes), human_bytes(usage.own_bytes));
            vec![usage.what.clone(), all, own]
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        return out.table(&["NAME", "SIZE", "OWN"], &rows);
    }
    let row = |usage: &Usage| {
        let name = usage.what.as_str().into();
        vec![name, usage.bytes.into(), usage.own_bytes.into()]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    out.named(json, &["name", "size", "own_size"], &rows)
}

fn path(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let model = model::open(&super::store(config), &parsed.operands[0])?;
    let path = if parsed.has("projector") {
        let seeing = derive::projector(config, &model)?;
        seeing.ok_or_else(|| Error::failed(format!("{} has no projector", model.label)))?
    } else if parsed.has("loaded") {
        derive::weights(config, &model, &mut |_| true)?
    } else {
        model.weights
    };
    let path = path.display().to_string();
    out.named(parsed.has("json"), &["path"], &[vec![path.into()]])
}
