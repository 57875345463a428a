//! Reads a Modelfile's instructions as the source of a model and the changes to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{Changes, Source, Step};
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::core::options::{self, Kind, RETIRED};
use crate::core::reference;
use crate::format::gguf::{Header, Shard};
use crate::format::modelfile::{Instruction, Modelfile};
use crate::ops::import::Folder;
use crate::ops::model;
use crate::system::store::Take;

/// Folders against which a Modelfile's file names are resolved.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Base of relative paths: the Modelfile's folder.
    pub folder: &'a Path,
    /// Replaces `~/`; `None` leaves such paths relative.
    pub home: Option<&'a Path>,
    /// How the weights come into the store: copied or linked.
    pub take: Take,
}

/// The source and changes that a Modelfile describes. `report` gets notes about ignored parameters.
///
/// # Errors
/// A file or model name that is not valid, an option out of range, more than one adapter or projector.
pub fn parse_recipe(
    modelfile: &Modelfile,
    places: Places,
    report: &mut dyn FnMut(Step),
) -> Result<(Source, Changes)> {
    let mut changes = Changes::default();
    let mut sources = Vec::new();
    for name in repeated(modelfile) {
        let text = format!("{name} stands more than once: the last one holds");
        report(Step::Note(text));
    }
    for instruction in &modelfile.instructions {
        match instruction {
            Instruction::From(value) => sources.push(value),
            Instruction::Adapter(_) if changes.adapter.is_some() => {
                return Err(Error::usage("only one adapter is currently supported"));
            }
            Instruction::Adapter(value) => changes.adapter = Some(file("ADAPTER", value, places)?),
            Instruction::Template(text) => changes.template = text.clone(),
            Instruction::System(text) => {
                if text.is_empty() {
                    let text =
                        "an empty SYSTEM changes nothing: the text of the model in FROM stays";
                    report(Step::Note(text.to_string()));
                }
                changes.system = text.clone();
            }
            Instruction::License(text) => changes.licenses.push(text.clone()),
            Instruction::Message(role, text) => changes.messages.push((role.clone(), text.clone())),
            Instruction::Renderer(name) => changes.config.renderer = name.clone(),
            Instruction::Parser(name) => changes.config.parser = name.clone(),
            Instruction::Requires(version) => {
                changes.config.requires = checked_version(version)?;
                if let Some(text) = reference::note("the model", version) {
                    report(Step::Note(text));
                }
            }
            Instruction::Parameter(key, _) if RETIRED.contains(&key.as_str()) => {
                report(Step::Note(format!(
                    "parameter {key} is no longer used and was left out"
                )));
            }
            Instruction::Parameter(key, text) if key == "stop" && text.is_empty() => {
                return Err(Error::usage("PARAMETER stop needs a text"));
            }
            Instruction::Parameter(key, text) => changes.options.set_text(key, text)?,
        }
    }
    let sources: Vec<Source> = sources
        .into_iter()
        .map(|value| source(value, places))
        .collect::<Result<_>>()?;
    let (source, projector) = sorted(sources)?;
    changes.projector = projector;
    Ok((source, changes))
}

/// The instructions and parameters that stand more than once though only one can hold.
fn repeated(modelfile: &Modelfile) -> BTreeSet<String> {
    let single = |instruction: &Instruction| match instruction {
        Instruction::System(_) => Some("SYSTEM".to_string()),
        Instruction::Template(_) => Some("TEMPLATE".to_string()),
        Instruction::Renderer(_) => Some("RENDERER".to_string()),
        Instruction::Parser(_) => Some("PARSER".to_string()),
        Instruction::Requires(_) => Some("REQUIRES".to_string()),
        Instruction::Parameter(key, _) if options::kind(key) != Some(Kind::Texts) => {
            Some(format!("PARAMETER {key}"))
        }
        _ => None,
    };
    let mut seen = BTreeSet::new();
    let names = modelfile.instructions.iter().filter_map(single);
    names.filter(|name| !seen.insert(name.clone())).collect()
}

/// The version of a REQUIRES line: numbers between dots.
fn checked_version(version: &str) -> Result<String> {
    let bare = version.strip_prefix('v').unwrap_or(version);
    let mut numbers = bare.split('.');
    if numbers.all(|number| number.parse::<u32>().is_ok()) {
        return Ok(version.to_string());
    }
    let text = format!("REQUIRES needs a version, such as 0.14.0, not '{version}'");
    Err(Error::usage(text))
}

/// Splits the sources of the FROM lines into weights and projector; several lines may name the shards
/// of one model.
fn sorted(sources: Vec<Source>) -> Result<(Source, Option<Source>)> {
    let (mut weights, mut projectors) = (Vec::new(), Vec::new());
    let several = sources.len() > 1;
    for source in sources {
        match &source {
            Source::File(path, _) if several && is_projector(&model::header_of_named(path)?) => {
                projectors.push(source);
            }
            _ => weights.push(source),
        }
    }
    let mut weights = weights.into_iter();
    let Some(first) = weights.next() else {
        return Err(Error::usage("no FROM line of the Modelfile names weights"));
    };
    if projectors.len() > 1 {
        return Err(Error::usage("only one projector is currently supported"));
    }
    if !weights.all(|other| are_shards(&first, &other)) {
        return Err(Error::usage(
            "more than one FROM: only the shards of one model, and a projector, may be combined",
        ));
    }
    Ok((first, projectors.pop()))
}

/// True if the file is a projector, which turns images into embeddings for the model.
pub fn is_projector(header: &Header) -> bool {
    let kind = header.text("general.type").unwrap_or_default();
    matches!(kind, "projector" | "mmproj") || header.architecture() == "clip"
}

/// True if two files are shards of one model.
fn are_shards(one: &Source, other: &Source) -> bool {
    let (Source::File(one, _), Source::File(other, _)) = (one, other) else {
        return false;
    };
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let (first, second) = (name(one), name(other));
    let pair = Shard::parse(&first).zip(Shard::parse(&second));
    one.parent() == other.parent()
        && pair.is_some_and(|(a, b)| (a.prefix, a.count) == (b.prefix, b.count))
}

fn source(value: &str, places: Places) -> Result<Source> {
    match fs::metadata(path(value, places)) {
        Err(_) if !model::is_path(value) => Ok(Source::Model(Name::parse(value)?)),
        _ => file("FROM", value, places),
    }
}

/// The file or folder that an instruction names.
fn file(word: &str, value: &str, places: Places) -> Result<Source> {
    let path = path(value, places);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(Source::File(path, places.take)),
        Ok(meta) if meta.is_dir() => folder(word, value, &path, places.take),
        Ok(_) => Err(Error::usage(format!(
            "{word} {value} is not a regular file"
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::plain(
            Class::NoModel,
            format!("{word} {value}: no such file"),
        )),
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

/// The source in a folder that an instruction names: safetensors, otherwise the only GGUF.
fn folder(word: &str, value: &str, path: &Path, take: Take) -> Result<Source> {
    let folder = Folder::open(path)?;
    if folder.has_weights() {
        return Ok(Source::Folder(folder));
    }
    let mut files = folder.ending(".gguf").into_iter();
    let first = files.next().map(|path| Source::File(path.into(), take));
    let first = first.ok_or_else(|| {
        Error::usage(format!(
            "{word} {value} contains neither safetensors nor a GGUF"
        ))
    })?;
    if files.all(|path| are_shards(&first, &Source::File(path.into(), take))) {
        Ok(first)
    } else {
        Err(Error::usage(format!(
            "{word} {value} contains several GGUF files; name one of them"
        )))
    }
}

fn path(value: &str, places: Places) -> PathBuf {
    match (value.strip_prefix("~/"), places.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => places.folder.join(value),
    }
}
