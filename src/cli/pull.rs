//! `puna pull` and `puna outdated`: models from registries.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use super::out::{self, Bars, Out, human_bytes};
use super::parse::Parsed;
use super::spec::{Command, Completes, Flag, HOST, JSON, QUIET, maybe, option, switch};
use crate::api::create::Progress as Record;
use crate::api::transfer::TransferRequest;
use crate::client::Client;
use crate::config::Config;
use crate::create::{Changes, Source, create};
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::name::Name;
use crate::pull::{self, Request};
use crate::registry::Registry;
use crate::store::{Origin, Store, Take};

/// Largest lock file.
const LOCK_BYTES_MAX: u64 = 1 << 20;

pub const INSECURE: Flag = switch(
    "insecure",
    None,
    "use plain http for the registry; certificates are always checked with https",
);

pub const COMMAND: Command = Command {
    name: "pull",
    alias: None,
    summary: "fetch models from a registry",
    operands: "[MODEL...]",
    arity: (0, usize::MAX),
    flags: &[
        switch(
            "all",
            None,
            "fetch every model of the store that a registry has",
        ),
        switch(
            "check",
            None,
            "fetch nothing: status 13 if the registry has another model under one of the names",
        ),
        option(
            "name",
            None,
            "NAME",
            "the name for a GGUF file that is fetched by its address",
        ),
        option(
            "limit-rate",
            None,
            "RATE",
            "bytes a second at most, such as 500K or 5M",
        ),
        maybe(
            "locked",
            "FILE",
            "fetch exactly what FILE (default models.lock) names, as 'puna ls | cut -f1,2' prints it",
        ),
        INSECURE,
        HOST,
        JSON,
        QUIET,
    ],
    about: &[
        "Fetches models into the store: MODEL is [HOST/[NAMESPACE/]]NAME[:TAG], by default from \
         registry.ollama.ai/library with the tag latest; hf.co/USER/REPO:QUANT takes a GGUF from Hugging Face, also one in \
         shards, which are joined (that needs room for both). An \
         address of https that ends in .gguf, or file:PATH, names a plain file, which becomes a model of its own name. \
         What is there already is not fetched again.",
        "A pull that was interrupted, at any moment, goes on where it was; two pulls of one model share the work. \
         Every blob is hashed while it comes, and a model gets its name only when all of it is there. A model then \
         stays as it is until it is pulled again: run never touches the network for it.",
        "On a terminal bars show the progress; elsewhere a line on standard error tells of every tenth, or nothing \
         with -q. With --json the records of the API go to standard output.",
        "With --locked a model is fetched only if its manifest has the digest that the file gives, also where its tag \
         has moved on, if the registry still has it; else the status is 8. Without a MODEL all of the file are \
         fetched, and what is there already needs no network.",
        "A registry that asks who you are gets a signature by the key ~/.ollama/id_ed25519, or by one of puna's own, \
         or the credentials of ~/.netrc; hf.co gets HF_TOKEN. Credentials go only to the registry they are for. \
         Proxies: HTTPS_PROXY, HTTP_PROXY, NO_PROXY; certificates: PUNA_CA_FILE; mirrors: PUNA_REGISTRY.",
    ],
    examples: &[
        ("puna pull llama3.2", "fetch a model"),
        (
            "puna pull hf.co/bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M",
            "fetch one from Hugging Face",
        ),
        (
            "puna pull --all -q",
            "bring every model up to date, from cron",
        ),
    ],
    completes: Completes::Models,
    run,
};

pub const OUTDATED: Command = Command {
    name: "outdated",
    alias: None,
    summary: "list the models of which a registry has another version",
    operands: "[MODEL...]",
    arity: (0, usize::MAX),
    flags: &[INSECURE, JSON, QUIET],
    about: &[
        "Asks the registries for the manifests of all models of puna's own store, or of those named, and prints the \
         names of those that differ, one a line. Fetches nothing. The status is 13 if there are any, 0 if not; models \
         that their registry does not have are left out.",
    ],
    examples: &[("puna outdated | xargs -r puna pull", "fetch what is newer")],
    completes: Completes::Models,
    run: outdated,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let store = super::store(config);
    let rate = parsed.value("limit-rate").map(pull::rate).transpose()?;
    if let [url] = &parsed.operands[..]
        && let Some(name) = file_name(url, parsed)?
    {
        return file(url, (&name, rate), parsed, config, out);
    }
    if parsed.has("locked") {
        return locked(&store, rate, parsed, config, out);
    }
    let (names, known) = names(parsed, &store)?;
    if names.is_empty() && !parsed.has("all") {
        return Err(Error::usage("no model: name one, or give --all"));
    }
    if let Some(server) = super::named_server(parsed, config)? {
        if parsed.has("check") || rate.is_some() {
            let text = "--check and --limit-rate work in this process only: leave --host out";
            return Err(Error::usage(text));
        }
        return each(&names, known, |name| {
            by_server(&server, "/api/pull", name, parsed, out)
        });
    }
    let registry = Registry::new(config.network.clone())?;
    if parsed.has("check") {
        let mut differs = false;
        each(&names, known, |name| {
            differs |= pull::is_outdated(&store, &registry, name, parsed.has("insecure"))?;
            Ok(())
        })?;
        return answer(differs);
    }
    each(&names, known, |name| {
        one(&store, &registry, (name, rate), parsed, out)
    })
}

/// Pulls what a lock file names.
fn locked(
    store: &Store,
    rate: Option<u64>,
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    if ["all", "check"].iter().any(|flag| parsed.has(flag))
        || super::named_server(parsed, config)?.is_some()
    {
        let text = "--locked works in this process, and without --all and --check";
        return Err(Error::usage(text));
    }
    let path = parsed.value("locked").filter(|path| !path.is_empty());
    let path = path.unwrap_or("models.lock");
    let mut locked = lock(path)?;
    if !parsed.operands.is_empty() {
        let (names, _) = names(parsed, store)?;
        let there = |name: &Name| locked.iter().any(|(known, _)| known == name);
        if let Some(name) = names.iter().find(|name| !there(name)) {
            return Err(Error::usage(format!("{name} is not in {path}")));
        }
        locked.retain(|(known, _)| names.contains(known));
    }
    let registry = Registry::new(config.network.clone())?;
    let names: Vec<Name> = locked.iter().map(|(name, _)| name.clone()).collect();
    let mut digests = locked.into_iter().map(|(_, digest)| digest);
    each(&names, false, |name| {
        let digest = digests.next();
        if store
            .find(name)
            .is_ok_and(|entry| Some(entry.digest) == digest)
        {
            return Ok(());
        }
        shown((name, rate), parsed, out, |request, report| {
            let request = Request {
                locked: digest,
                ..*request
            };
            pull::pull(store, &registry, &request, report)
        })
    })
}

/// The lines of a lock file: a name, a tab, a digest.
fn lock(path: &str) -> Result<Vec<(Name, Digest)>> {
    let text = super::read_text(path, LOCK_BYTES_MAX)?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let one = |(at, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        let wrong = |why: &str| Error::usage(format!("{path}, line {}: {why}", at + 1));
        let name = words.next().and_then(|name| Name::parse(name).ok());
        let digest = words.next().and_then(|digest| Digest::parse(digest).ok());
        name.zip(digest)
            .ok_or_else(|| wrong("a line is a name, a tab and a digest"))
    };
    lines.map(one).collect()
}

/// Pulls a model in this process, showing how far it is.
///
/// # Errors
/// As [`pull::pull`].
pub fn one(
    store: &Store,
    registry: &Registry,
    what: (&Name, Option<u64>),
    parsed: &Parsed,
    out: &mut Out,
) -> Result<()> {
    shown(what, parsed, out, |request, report| {
        pull::pull(store, registry, request, report)
    })
}

/// Pulls something at a rate, showing how far it is.
fn shown(
    (name, rate): (&Name, Option<u64>),
    parsed: &Parsed,
    out: &mut Out,
    deed: impl FnOnce(&Request, &mut dyn FnMut(pull::Step)) -> Result<()>,
) -> Result<()> {
    let request = Request {
        name,
        insecure: parsed.has("insecure"),
        rate,
        locked: None,
        cancel: &AtomicBool::new(false),
    };
    let mut display = Display::new(parsed, out);
    deed(&request, &mut |step| display.take(step.record()))?;
    display.success()
}

/// Lets a server do a transfer, showing how far it is.
///
/// # Errors
/// What the server says.
pub fn by_server(
    server: &Client,
    path: &str,
    name: &Name,
    parsed: &Parsed,
    out: &mut Out,
) -> Result<()> {
    let body = TransferRequest::new(name, parsed.has("insecure"));
    let mut display = Display::new(parsed, out);
    for record in server.post::<Record>(path, &body)? {
        display.show(record?)?;
    }
    Ok(())
}

/// The name for the model of a plain file, if that is what is to be pulled.
fn file_name(url: &str, parsed: &Parsed) -> Result<Option<Name>> {
    let file = url.split(['?', '#']).next().unwrap_or_default();
    let plain = ["http://", "https://", "file:"];
    if !plain.iter().any(|start| url.starts_with(start)) || !file.ends_with(".gguf") {
        return match parsed.has("name") {
            true => Err(Error::usage("--name is for a GGUF file by its address")),
            false => Ok(None),
        };
    }
    if let Some(name) = parsed.value("name") {
        return Name::parse(name).map(Some);
    }
    let stem = file.rsplit('/').next().unwrap_or_default();
    let stem = stem.trim_end_matches(".gguf").to_lowercase();
    let name = Name::parse(&stem);
    name.map(Some).map_err(|_| {
        Error::usage(format!(
            "'{stem}' is no name for a model: give one by --name"
        ))
    })
}

/// Pulls a GGUF file by its address.
fn file(
    url: &str,
    what: (&Name, Option<u64>),
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    let store = super::store(config);
    if super::named_server(parsed, config)?.is_some() {
        let text = "a server cannot fetch a file by its address: leave --host out";
        return Err(Error::usage(text));
    }
    if let Some(path) = url.strip_prefix("file:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        let source = Source::File(path.into(), Take::Copy);
        return create(&store, what.0, &source, &Changes::default(), &mut |_| {});
    }
    if url.starts_with("http:") && !parsed.has("insecure") {
        return Err(Error::usage("plain http is used only with --insecure"));
    }
    let registry = Registry::new(config.network.clone())?;
    shown(what, parsed, out, |request, report| {
        pull::pull_file(&store, &registry, (url, request), report)
    })
}

/// The names to pull, and whether they are those of the store.
fn names(parsed: &Parsed, store: &Store) -> Result<(Vec<Name>, bool)> {
    if !parsed.operands.is_empty() {
        let names = parsed.operands.iter().map(|text| Name::parse(text));
        return Ok((names.collect::<Result<_>>()?, false));
    }
    let entries = store.list()?.entries.into_iter();
    let ours = entries.filter(|entry| entry.origin == Origin::Ours);
    Ok((ours.map(|entry| entry.name).collect(), true))
}

/// Does it for each name, and fails with the first failure at the end. Names of the store that no
/// registry has are no failure.
fn each(names: &[Name], known: bool, mut deed: impl FnMut(&Name) -> Result<()>) -> Result<()> {
    let mut first = None;
    for name in names {
        match deed(name) {
            Err(error) if known && error.is_not_found() => {}
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => match first {
                None => first = Some(error),
                Some(_) => out::complain(&format!("{name}: {error}")),
            },
            Ok(()) => {}
        }
    }
    first.map_or(Ok(()), Err)
}

fn answer(differs: bool) -> Result<()> {
    match differs {
        true => Err(Error::plain(Class::No, "")),
        false => Ok(()),
    }
}

fn outdated(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let store = super::store(config);
    let registry = Registry::new(config.network.clone())?;
    let (names, known) = names(parsed, &store)?;
    let mut differs = false;
    each(&names, known, |name| {
        if pull::is_outdated(&store, &registry, name, parsed.has("insecure"))? {
            differs = true;
            let name = name.to_string();
            out.named(parsed.has("json"), &["name"], &[vec![name.into()]])?;
        }
        Ok(())
    })?;
    answer(differs)
}

/// Shows records as they come: as bars, as lines, or as they are.
pub struct Display<'a> {
    out: &'a mut Out,
    json: bool,
    bars: Option<Bars>,
    tenths: HashMap<String, u64>,
    failed: Option<Error>,
}

impl<'a> Display<'a> {
    /// By the flags of a command.
    pub fn new(parsed: &Parsed, out: &'a mut Out) -> Self {
        Display {
            // Of other commands that fetch, `--json` is about what they are for.
            json: parsed.has("json") && ["pull", "push"].contains(&parsed.command.name),
            out,
            bars: None,
            tenths: HashMap::new(),
            failed: None,
        }
    }

    /// Shows one; that it cannot be shown is told at the end.
    pub fn take(&mut self, record: Record) {
        if let Err(error) = self.show(record) {
            self.failed.get_or_insert(error);
        }
    }

    /// Shows that all went well.
    ///
    /// # Errors
    /// As [`Display::show`], of this record or of any before it.
    pub fn success(mut self) -> Result<()> {
        self.take(Record::of("success"));
        self.failed.map_or(Ok(()), Err)
    }

    /// Shows one.
    ///
    /// # Errors
    /// With `--json`: `Closed` if the reader has gone, else what the system says.
    pub fn show(&mut self, record: Record) -> Result<()> {
        if self.json {
            return self.out.json(&[record]);
        }
        if record.digest.is_empty() {
            if record.status == "success" {
                self.bars = None;
            }
            return Ok(());
        }
        if self.out.shows_progress() {
            let bars = self.bars.get_or_insert_with(Bars::default);
            bars.show(
                &record.digest,
                &record.status,
                record.completed,
                record.total,
            );
            return Ok(());
        }
        let tenth = (record.completed * 10)
            .checked_div(record.total)
            .unwrap_or(10);
        let before = self.tenths.insert(record.digest, tenth);
        if tenth > before.unwrap_or(0) && before.is_some_and(|before| before < 10) {
            let total = human_bytes(record.total);
            self.out
                .note(&format!("{}: {}% of {total}", record.status, tenth * 10));
        }
        Ok(())
    }
}
