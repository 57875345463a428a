//! The store commands: `verify`, `gc`, `du` and `path`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value as Json;

use super::context::Context;
use super::flag::{Flag, JSON, QUIET, option, switch};
use super::out::{self, Out, counted, human_bytes};
use super::parsed::Parsed;
use super::pull;
use super::table::{Command, MODELS, ONE_MODEL, PLAIN, Section};
use crate::core::digest::Digest;
use crate::core::duration::KeepAlive;
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::ops::{model, ollama_layout};
use crate::system::config::Config;
use crate::system::machine;
use crate::system::registry::Registry;
use crate::system::store::{Entry, GARBAGE_AGE, Origin, Store, Usage};

pub const VERIFY: Command = Command {
    name: "verify",
    summary: "hash the blobs of models and list the damaged ones",
    operands: "[MODEL...]",
    arity: (0, usize::MAX),
    flags: &[REPAIR, pull::INSECURE, JSON, QUIET],
    about: &[
        "Reads every blob of all models, or of those named, on all cores, and checks it against its digest. Each \
         missing or damaged blob is printed: digest, a tab, a model that uses it, a tab, and the error. The status is \
         then 8. With --repair such blobs of pulled models are fetched again; each stays as it is until then. Those of models that came \
         from no registry are named, and the status stays 8.",
    ],
    examples: &[(
        "puna verify -q || mail -s 'models are damaged' root < /dev/null",
        "check from cron",
    )],
    run: verify,
    section: Section::Store,
    completes: MODELS,
    ..PLAIN
};

pub const GC: Command = Command {
    name: "gc",
    summary: "remove what no model uses",
    operands: "",
    arity: (0, 0),
    flags: &[DRY_RUN, OLDER_THAN, REPLACED, JSON, QUIET],
    about: &[
        "Removes blobs that no model uses, partial downloads, files that a killed process left, and derived files in \
         the cache, if they were not changed or used for an hour. Each is printed: its kind (blob, partial, \
         unfinished, replaced or derived), a tab, its bytes, a tab, and its path. While another puna adds to the store \
         nothing is removed and the status is 9.",
        "Starting a server removes nothing. rm, and a create or pull that replaces a model, remove the blobs that only \
         that model used. But a model that was made here and that pull --replace replaced stays for a day, its manifest \
         in the folder replaced of the store; then gc removes it, or earlier with --replaced.",
    ],
    examples: &[("puna gc --dry-run", "see what would be removed")],
    run: gc,
    section: Section::Store,
    ..PLAIN
};

pub const DU: Command = Command {
    name: "du",
    summary: "show the disk usage of models",
    operands: "",
    arity: (0, 0),
    flags: &[JSON],
    about: &[
        "Lists each model of puna's own store, the largest first. In a pipe each line is the name, the bytes of all \
         its blobs, and the bytes that no other model shares, which rm would free, separated by tabs. (partial) and \
         (unused) are files that gc removes once they are old enough; (derived) are files in the cache from which \
         llama.cpp loads models that were laid out for another engine.",
    ],
    examples: &[("puna du | head -3", "show the three largest models")],
    run: du,
    section: Section::Store,
    ..PLAIN
};

pub const PATH: Command = Command {
    name: "path",
    summary: "print where a model's weights are",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[LOADED, PROJECTOR, JSON],
    about: &[
        "Prints the path of the GGUF file of a model, for other programs that read such files.",
        "With --loaded it is another file, if the model was laid out for another engine. With --projector it is the \
         projector, extracted from the model's file if it is stored there. Such derived files are created in the cache \
         on first use: du shows their size, gc removes them.",
    ],
    examples: &[(
        "llama-cli -m \"$(puna path smol)\"",
        "run a model with llama.cpp's own program",
    )],
    run: path,
    section: Section::Store,
    completes: ONE_MODEL,
    ..PLAIN
};

const REPAIR: Flag = switch(
    "repair",
    None,
    "fetch damaged blobs again from their registry",
);
const DRY_RUN: Flag = switch("dry-run", None, "remove nothing, only list");
const OLDER_THAN: Flag = option(
    "older-than",
    None,
    "DURATION",
    "keep files younger than this (default 1h)",
);
const REPLACED: Flag = switch(
    "replaced",
    None,
    "also remove what was replaced within a day",
);
const LOADED: Flag = switch("loaded", None, "print the file that llama.cpp loads");
const PROJECTOR: Flag = switch("projector", None, "print the projector of a vision model");

/// The models with these names, or all models of our own store if there are none.
///
/// # Errors
/// `NoModel` for an unknown name; if the store cannot be read.
pub fn entries(names: &[String], store: &Store) -> Result<Vec<Entry>> {
    entries_and_broken(names, store).map(|(entries, _)| entries)
}

/// The same, and how many manifests cannot be read.
fn entries_and_broken(names: &[String], store: &Store) -> Result<(Vec<Entry>, usize)> {
    if names.is_empty() {
        let listing = store.list()?;
        listing.broken.iter().for_each(|line| out::complain(line));
        let broken = listing.broken.len();
        let ours = |entry: &Entry| entry.origin == Origin::Ours;
        return Ok((listing.entries.into_iter().filter(ours).collect(), broken));
    }
    let found = names.iter().map(|text| store.find(&Name::parse(text)?));
    found.collect::<Result<_>>().map(|found| (found, 0))
}

/// The flags of `verify`, read once.
struct VerifyArgs {
    repair: bool,
    json: bool,
    /// How a damaged blob is fetched.
    transfer: pull::Transfer,
}

impl VerifyArgs {
    fn read(parsed: &Parsed) -> Result<Self> {
        let repair = parsed.has(&REPAIR);
        if parsed.has(&pull::INSECURE) && !repair {
            return Err(Error::usage("--insecure has no effect without --repair"));
        }
        Ok(VerifyArgs {
            repair,
            json: parsed.has(&JSON),
            transfer: pull::Transfer::new(parsed),
        })
    }
}

fn verify(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let store = context.store();
    let args = VerifyArgs::read(parsed)?;
    let (entries, broken) = entries_and_broken(&parsed.operands, &store)?;
    let mut damaged = 0;
    let mut own: Vec<String> = Vec::new();
    for checked in store.check(&entries, machine::cores()) {
        let Some(wrong) = checked.wrong else { continue };
        damaged += 1;
        let digest = checked.digest.to_string();
        let fields = vec![
            digest.into(),
            checked.model.as_str().into(),
            wrong.to_string().into(),
        ];
        out.named(args.json, &["digest", "name", "error"], &[fields])?;
        if args.repair {
            match pulled_with(&entries, &store, &checked.digest) {
                Some(name) => {
                    let damaged = (&name, &checked.digest);
                    fetch_again(&store, damaged, &args.transfer, config, out)?
                }
                None => own.push(checked.model),
            }
        }
    }
    if damaged > 0 && !args.repair {
        let text = format!("damaged blobs: {damaged}; --repair fetches again what was pulled");
        return Err(Error::plain(Class::Damaged, text));
    }
    own.dedup();
    if !own.is_empty() {
        let text = format!("{} came from no registry: create it again", own.join(", "));
        return Err(Error::plain(Class::Damaged, text));
    }
    if broken > 0 {
        let text = format!(
            "{}: remove and pull them again",
            counted(broken, "damaged manifest")
        );
        return Err(Error::plain(Class::Damaged, text));
    }
    Ok(())
}

/// The name of a model that was pulled and has this blob.
fn pulled_with(entries: &[Entry], store: &Store, digest: &Digest) -> Option<Name> {
    let has = |entry: &&Entry| {
        let mut blobs = entry.manifest.blobs();
        blobs.any(|layer| layer.digest().is_ok_and(|known| known == *digest))
    };
    let mut pulled = entries.iter().filter(|entry| store.is_pulled(entry));
    pulled.find(has).map(|entry| entry.name.clone())
}

/// Fetches a damaged blob again. It stays where it is if that fails.
fn fetch_again(
    store: &Store,
    (name, digest): (&Name, &Digest),
    transfer: &pull::Transfer,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    let registry = Registry::new(config.network.clone())?;
    let _aside = store.put_aside(digest)?;
    pull::one(store, &registry, name, transfer, out)
}

/// The flags of `gc`, read once.
struct GcArgs {
    /// Younger files stay.
    age: Duration,
    dry_run: bool,
    /// Also removes what was replaced within a day.
    replaced: bool,
    json: bool,
}

impl GcArgs {
    fn read(parsed: &Parsed) -> Result<Self> {
        let age = match parsed.duration(&OLDER_THAN)? {
            None => GARBAGE_AGE,
            Some(KeepAlive::For(age)) => age,
            Some(KeepAlive::Forever) => {
                return Err(Error::usage(
                    "--older-than must be a duration, such as 90s or 5m, and not negative",
                ));
            }
        };
        Ok(GcArgs {
            age,
            dry_run: parsed.has(&DRY_RUN),
            replaced: parsed.has(&REPLACED),
            json: parsed.has(&JSON),
        })
    }
}

fn gc(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let args = GcArgs::read(parsed)?;
    if !context.store().root().exists() {
        return Ok(()); // Nothing is made to be cleaned.
    }
    let store = context.store();
    let garbage = store.gc(args.age, args.replaced, args.dry_run)?;
    let line = |what: &str, bytes: u64, path: &Path| {
        let path = path.display().to_string();
        vec![what.into(), bytes.into(), path.into()]
    };
    let mut lines: Vec<Vec<Json>> = garbage
        .iter()
        .map(|file| line(file.what, file.bytes, &file.path))
        .collect();
    if !ollama_layout::files(config).is_empty() {
        let since = SystemTime::now().checked_sub(args.age);
        let since = since.unwrap_or(SystemTime::UNIX_EPOCH);
        let unused = ollama_layout::cache(config)?.remove_unused(since, args.dry_run)?;
        let unused = unused.iter();
        lines.extend(unused.map(|file| line("derived", file.bytes, &file.path)));
    }
    out.named(args.json, &["what", "size", "path"], &lines)
}

fn du(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let mut all = context.store().usage()?;
    let derived = ollama_layout::files(config)
        .iter()
        .map(|file| file.bytes)
        .sum();
    if derived > 0 {
        all.push(Usage {
            what: "(derived)".into(),
            bytes: derived,
            own_bytes: derived,
        });
    }
    let json = parsed.has(&JSON);
    if out.output_is_terminal && !json {
        let row = |usage: &Usage| {
            let (all, own) = (human_bytes(usage.bytes), human_bytes(usage.own_bytes));
            vec![usage.what.clone(), all, own]
        };
        let rows: Vec<_> = all.iter().map(row).collect();
        return out.table(&["NAME", ">SIZE", ">OWN"], &rows);
    }
    let row = |usage: &Usage| {
        let name = usage.what.as_str().into();
        vec![name, usage.bytes.into(), usage.own_bytes.into()]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    out.named(json, &["name", "size", "own_size"], &rows)
}

/// The file that `path` prints.
#[derive(Debug, Clone, Copy)]
enum Which {
    /// The file of the weights in the store.
    Weights,
    /// The file that llama.cpp loads.
    Loaded,
    /// The projector of a vision model.
    Projector,
}

fn path(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let model = model::open(&context.store(), &parsed.operands[0])?;
    let which = parsed.only_one(&[(&LOADED, Which::Loaded), (&PROJECTOR, Which::Projector)])?;
    let path = match which.unwrap_or(Which::Weights) {
        Which::Weights => model.weights,
        Which::Loaded => ollama_layout::weights(config, &model, &mut |_| true)?,
        Which::Projector => {
            let seeing = ollama_layout::projector(config, &model)?;
            seeing.ok_or_else(|| Error::failed(format!("{} has no projector", model.label)))?
        }
    };
    let path = path.display().to_string();
    out.named(parsed.has(&JSON), &["path"], &[vec![path.into()]])
}
