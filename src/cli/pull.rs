//! `puna pull` and `puna outdated`: fetch models from registries and compare them.

use std::sync::atomic::AtomicBool;

use super::context::{self, Context};
use super::failures::Failures;
use super::flag::{Flag, Group, HOST, JSON, QUIET, maybe, option, switch};
use super::out::Out;
use super::parsed::Parsed;
use super::stdin;
use super::table::{Command, MODELS, NEGATIVE, PLAIN, Section};
use super::transfer_display::Display;
use crate::core::error::{Error, Result};
use crate::core::name::Name;
use crate::format::lock_file;
use crate::format::wire::native::create::Progress as Record;
use crate::format::wire::native::transfer::TransferRequest;
use crate::ops::create::{Changes, Source, create};
use crate::ops::model;
use crate::ops::pull::{self, Request};
use crate::system::client::Client;
use crate::system::config::Config;
use crate::system::registry::Registry;
use crate::system::store::{Store, Take};

/// Largest lock file that is read.
const LOCK_BYTES_MAX: u64 = 1 << 20;
/// The lock file, where `--locked` names none.
const LOCK_FILE: &str = "models.lock";

pub const INSECURE: Flag = switch(
    "insecure",
    None,
    "plain http for the registry; https stays verified",
)
.in_group(Group::Where);

pub const COMMAND: Command = Command {
    name: "pull",
    summary: "fetch models from a registry",
    operands: "[MODEL...]",
    arity: (0, usize::MAX),
    flags: &[
        ALL, CHECK, REPLACE, NAME, LIMIT_RATE, LOCKED, INSECURE, HOST, JSON, QUIET,
    ],
    about: &[
        "Fetches models into the store. MODEL is [HOST/[NAMESPACE/]]NAME[:TAG], by default from \
         registry.ollama.ai/library with the tag latest; hf.co/USER/REPO:QUANT fetches a GGUF from Hugging Face. Its \
         shards, if it has several, are joined, which needs space for both. An https URL that ends in .gguf, or \
         file:PATH, names a plain file, which becomes a model with the name of the file or of --name. Blobs that are \
         in the store are not fetched again.",
        "An interrupted pull resumes where it stopped; two pulls of one model share the work. Every blob is hashed \
         while it arrives, and a model gets its name only when it is complete. The model then does not change until it \
         is pulled again: run never uses the network for it.",
        "With --all every model is fetched again that came from a registry. A model that was made here, copied or \
         changed is left alone by --all and by 'puna outdated'; a pull of its name is refused, unless --replace is \
         given. With --check nothing is fetched, and the status is 13 if the registry has another model under one of \
         the names.",
        "On a terminal bars show the progress; elsewhere a line on standard error reports every 10 %, or nothing with \
         -q. With --json the records of the API go to standard output.",
        "With --locked a model is fetched only with the digest that the lock file gives, even if its tag has moved on, \
         as long as the registry still has it; else the status is 8. 'puna ls | cut -f1,2' prints a lock file. Without \
         a MODEL all models of the file are fetched; models in the store need no network.",
        "If a registry requires authentication, puna signs with the key ~/.ollama/id_ed25519, or with a key of its \
         own, or sends the credentials of ~/.netrc; hf.co gets HF_TOKEN. Credentials go only to the registry they are \
         for. Proxies: HTTPS_PROXY, HTTP_PROXY, NO_PROXY; certificates: PUNA_CA_FILE; mirrors: PUNA_REGISTRY.",
    ],
    examples: &[
        ("puna pull llama3.2", "fetch a model"),
        (
            "puna pull hf.co/bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M",
            "fetch a model from Hugging Face",
        ),
        ("puna pull --all -q", "update every model from cron"),
    ],
    run,
    section: Section::Models,
    completes: MODELS,
    ..PLAIN
};

pub const OUTDATED: Command = Command {
    name: "outdated",
    summary: "list the models that differ from their registry",
    operands: "[MODEL...]",
    arity: (0, usize::MAX),
    flags: &[INSECURE, JSON, QUIET],
    about: &[
        "Compares the manifests of all models that were pulled, or of those named, with the registries and prints \
         the names of models that differ, one per line. Nothing is fetched. The status is 13 if any differ, else 0; \
         models that their registry does not have are skipped.",
    ],
    examples: &[(
        "puna outdated | xargs -r puna pull",
        "update outdated models",
    )],
    run: outdated,
    section: Section::Models,
    completes: MODELS,
    ..PLAIN
};

const ALL: Flag = switch("all", None, "fetch every model that was pulled before");
const CHECK: Flag = switch(
    "check",
    None,
    "fetch nothing; status 13 if a model is outdated",
);
pub const REPLACE: Flag = switch(
    "replace",
    None,
    "replace a model of that name that was made here",
);
const NAME: Flag = option(
    "name",
    None,
    "NAME",
    "name for a GGUF file that is fetched by its URL",
);
const LIMIT_RATE: Flag = option(
    "limit-rate",
    None,
    "RATE",
    "bytes per second at most, such as 500K or 5M",
);
const LOCKED: Flag = maybe(
    "locked",
    "FILE",
    "fetch the digests in FILE (default models.lock)",
);

/// The flags of `pull`, read once.
struct PullArgs<'a> {
    models: &'a [String],
    transfer: Transfer,
    /// All models of the store.
    all: bool,
    /// Fetch nothing, and end with the status that says whether a model is outdated.
    check: bool,
    /// The lock file.
    locked: Option<&'a str>,
    /// The name for a GGUF file that is fetched by its URL.
    name: Option<&'a str>,
    /// The server that fetches, if the user named one.
    server: Option<Client>,
}

impl<'a> PullArgs<'a> {
    fn read(parsed: &'a Parsed, context: &Context) -> Result<Self> {
        let locked = parsed.value(&LOCKED);
        Ok(PullArgs {
            models: &parsed.operands,
            transfer: Transfer {
                rate: parsed.value(&LIMIT_RATE).map(pull::rate).transpose()?,
                json: parsed.has(&JSON),
                replace: parsed.has(&REPLACE),
                ..Transfer::new(parsed)
            },
            all: parsed.has(&ALL),
            check: parsed.has(&CHECK),
            locked: locked.map(|path| if path.is_empty() { LOCK_FILE } else { path }),
            name: parsed.value(&NAME),
            server: context.named_server(parsed)?,
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let store = context.store();
    let args = PullArgs::read(parsed, context)?;
    let transfer = &args.transfer;
    if let [url] = args.models
        && let Some(name) = file_name(url, args.name)?
    {
        return file(url, &name, &args, config, out);
    }
    if let Some(path) = args.locked {
        return locked(&store, path, &args, config, out);
    }
    if let Some(url) = args.models.iter().find(|text| text.starts_with("file:")) {
        return Err(Error::usage(format!(
            "{url} is a file, which is fetched alone"
        )));
    }
    if args.models.is_empty() && !args.all && !args.check {
        return Err(Error::usage("no model given: name one, or give --all"));
    }
    if args.all && !args.models.is_empty() {
        return Err(Error::usage(
            "--all and the name of a model cannot be used together",
        ));
    }
    if args.check && transfer.replace {
        return Err(Error::usage(
            "--check and --replace cannot be used together",
        ));
    }
    let (names, known) = names(args.models, &store)?;
    if let Some(server) = &args.server {
        if args.check || transfer.rate.is_some() {
            let flag = if args.check { "check" } else { "limit-rate" };
            let text = format!(
                "--{flag} cannot be used with a server, and {} is named",
                server.address()
            );
            return Err(Error::usage(text));
        }
        return each(&names, known, |name| {
            by_server(server, "/api/pull", name, transfer, out)
        });
    }
    let registry = Registry::new(config.network.clone())?;
    if args.check {
        let mut differs = false;
        each(&names, known, |name| {
            differs |= pull::is_outdated(&store, &registry, name, transfer.insecure)?;
            Ok(())
        })?;
        return answer(context, differs);
    }
    each(&names, known, |name| {
        one(&store, &registry, name, transfer, out)
    })
}

/// Pulls the models that a lock file names.
fn locked(
    store: &Store,
    path: &str,
    args: &PullArgs,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    if args.all || args.check || args.server.is_some() {
        let text = "--locked cannot be used with a server, --all or --check";
        return Err(Error::usage(text));
    }
    let text = stdin::read_text(path, LOCK_BYTES_MAX)?;
    let wrong = |why| Error::usage(format!("{path}, {why}"));
    let mut locked = lock_file::parse(&text).map_err(wrong)?;
    if !args.models.is_empty() {
        let (names, _) = names(args.models, store)?;
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
        shown(name, &args.transfer, out, |request, report| {
            let request = Request {
                locked: digest,
                ..*request
            };
            pull::pull(store, &registry, &request, report)
        })
    })
}

/// How a command transfers models.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Plain HTTP, and certificates that cannot be checked, are allowed.
    pub insecure: bool,
    /// Bytes a second at most.
    pub rate: Option<u64>,
    /// Replace a model that was made here.
    pub replace: bool,
    /// Print the records of the transfer as JSON instead of showing progress.
    pub json: bool,
}

impl Transfer {
    /// At any speed, without records: as a command does for which fetching is not the purpose.
    pub fn new(parsed: &Parsed) -> Self {
        Transfer {
            insecure: parsed.has(&INSECURE),
            ..Transfer::default()
        }
    }
}

/// Pulls a model in this process and shows the progress.
///
/// # Errors
/// As [`pull::pull`].
pub fn one(
    store: &Store,
    registry: &Registry,
    name: &Name,
    transfer: &Transfer,
    out: &mut Out,
) -> Result<()> {
    shown(name, transfer, out, |request, report| {
        pull::pull(store, registry, request, report)
    })
}

/// Runs a transfer with the flags of a command and shows the progress.
fn shown(
    name: &Name,
    transfer: &Transfer,
    out: &mut Out,
    operation: impl FnOnce(&Request, &mut dyn FnMut(pull::Step)) -> Result<()>,
) -> Result<()> {
    let request = Request {
        name,
        insecure: transfer.insecure,
        rate: transfer.rate,
        locked: None,
        replace: transfer.replace,
        cancel: &AtomicBool::new(false),
    };
    let mut display = Display::new(name, transfer.json, out);
    operation(&request, &mut |step| display.add(step.record()))?;
    display.success()
}

/// Has a server run a transfer and shows the progress.
///
/// # Errors
/// The server's error, or `Network` if it cannot be reached.
pub fn by_server(
    server: &Client,
    path: &str,
    name: &Name,
    transfer: &Transfer,
    out: &mut Out,
) -> Result<()> {
    let body = TransferRequest {
        replace: transfer.replace,
        ..TransferRequest::new(name, transfer.insecure)
    };
    let mut display = Display::new(name, transfer.json, out);
    for record in server.follow::<Record>(path, &body)? {
        display.show(record?)?;
    }
    Ok(())
}

/// The model name for a plain GGUF file; `None` if `url` is not the address of one.
fn file_name(url: &str, given: Option<&str>) -> Result<Option<Name>> {
    let is_url = ["http://", "https://"]
        .iter()
        .any(|start| url.starts_with(start));
    let file = match is_url {
        true => url.split(['?', '#']).next().unwrap_or_default(),
        false => url,
    };
    let is_file = url.starts_with("file:");
    if !(is_file || is_url && file.ends_with(".gguf")) {
        return match given {
            Some(_) => Err(Error::usage("--name needs the URL of a GGUF file")),
            None => Ok(None),
        };
    }
    if let Some(name) = given {
        return model::new_name(name).map(Some);
    }
    let stem = file.rsplit(['/', ':']).next().unwrap_or_default();
    let stem = stem.trim_end_matches(".gguf").to_lowercase();
    let text = format!("'{stem}' is not a valid model name: give one with --name");
    Name::parse(&stem).map(Some).map_err(|_| Error::usage(text))
}

/// Pulls a GGUF file by its URL.
fn file(url: &str, name: &Name, args: &PullArgs, config: &Config, out: &mut Out) -> Result<()> {
    let store = context::store(config);
    if args.server.is_some() {
        let text = "a server cannot fetch a file by its URL: omit --host";
        return Err(Error::usage(text));
    }
    if args.check || args.all || args.locked.is_some() {
        let text = "--check, --all and --locked are for models of registries";
        return Err(Error::usage(text));
    }
    if let Some(path) = url.strip_prefix("file:") {
        if args.transfer.insecure || args.transfer.rate.is_some() {
            let text = "--insecure and --limit-rate have no effect on a file of this machine";
            return Err(Error::usage(text));
        }
        if !args.transfer.replace {
            store.check_replaceable(name, None)?;
        }
        store.keep_replaced(name)?;
        let path = path.strip_prefix("//").unwrap_or(path);
        let source = Source::File(path.into(), Take::Copy);
        create(&store, name, &source, &Changes::default(), &mut |_| {})?;
        return Display::new(name, args.transfer.json, out).success();
    }
    if url.starts_with("http:") && !args.transfer.insecure {
        return Err(Error::usage("plain http is used only with --insecure"));
    }
    let registry = Registry::new(config.network.clone())?;
    shown(name, &args.transfer, out, |request, report| {
        pull::pull_file(&store, &registry, (url, request), report)
    })
}

/// The names to pull, and whether they are all models of the store that were pulled before.
fn names(models: &[String], store: &Store) -> Result<(Vec<Name>, bool)> {
    if !models.is_empty() {
        let names = models.iter().map(|text| Name::parse(text));
        return Ok((names.collect::<Result<_>>()?, false));
    }
    let entries = store.list()?.entries.into_iter();
    let ours = entries.filter(|entry| store.is_pulled(entry));
    Ok((ours.map(|entry| entry.name).collect(), true))
}

/// Runs an operation for each name, whatever becomes of the others. With `known`, models that their registry does not
/// have are skipped.
fn each(names: &[Name], known: bool, mut operation: impl FnMut(&Name) -> Result<()>) -> Result<()> {
    let mut failures = Failures::default();
    for name in names {
        match operation(name) {
            Err(error) if known && error.is_not_found() => {}
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                let named = format!("{name}: {error}");
                failures.add(&Error::plain(error.class(), named));
            }
            Ok(()) => {}
        }
    }
    failures.outcome()
}

/// Ends with the status that reports whether a model differs from its registry's.
fn answer(context: &Context, differs: bool) -> Result<()> {
    if differs {
        context.end_with(NEGATIVE);
    }
    Ok(())
}

fn outdated(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let store = context.store();
    let registry = Registry::new(config.network.clone())?;
    let (names, known) = names(&parsed.operands, &store)?;
    let mut differs = false;
    each(&names, known, |name| {
        if pull::is_outdated(&store, &registry, name, parsed.has(&INSECURE))? {
            differs = true;
            let name = name.to_string();
            out.named(parsed.has(&JSON), &["name"], &[vec![name.into()]])?;
        }
        Ok(())
    })?;
    answer(context, differs)
}
