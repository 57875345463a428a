//! What a Modelfile asks for: the source of a model and what is laid over it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Changes, Source, Step};
use crate::convert::Folder;
use crate::error::{Class, Error, Result};
use crate::gguf::{Header, Shard};
use crate::model;
use crate::modelfile::{Instruction, Modelfile};
use crate::name::Name;
use crate::options::RETIRED;
use crate::store::Take;

/// Where the files that a Modelfile names are looked for.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// Where relative paths start: the Modelfile's folder.
    pub folder: &'a Path,
    /// What `~/` stands for.
    pub home: Option<&'a Path>,
    /// How the weights come into the store.
    pub take: Take,
}

/// What a Modelfile asks for.
///
/// # Errors
/// What is wrong with it.
pub fn of_modelfile(
    modelfile: &Modelfile,
    places: Places,
    report: &mut dyn FnMut(Step),
) -> Result<(Source, Changes)> {
    let mut changes = Changes::default();
    let mut sources = Vec::new();
    for instruction in &modelfile.instructions {
        match instruction {
            Instruction::From(value) => sources.push(value),
            Instruction::Adapter(_) if changes.adapter.is_some() => {
                return Err(Error::usage("only one adapter is currently supported"));
            }
            Instruction::Adapter(value) => changes.adapter = Some(file("ADAPTER", value, places)?),
            Instruction::Template(text) => changes.template = text.clone(),
            Instruction::System(text) => changes.system = text.clone(),
            Instruction::License(text) => changes.licenses.push(text.clone()),
            Instruction::Message(role, text) => changes.messages.push((role.clone(), text.clone())),
            Instruction::Renderer(name) => changes.config.renderer = name.clone(),
            Instruction::Parser(name) => changes.config.parser = name.clone(),
            Instruction::Requires(version) => changes.config.requires = version.clone(),
            Instruction::Parameter(key, _) if RETIRED.contains(&key.as_str()) => {
                report(Step::Note(format!(
                    "parameter {key} is no longer used and left out"
                )));
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

/// The weights and the projector among what the FROM lines name: several may name the shards of
/// one model.
fn sorted(sources: Vec<Source>) -> Result<(Source, Option<Source>)> {
    let (mut weights, mut projectors) = (Vec::new(), Vec::new());
    let several = sources.len() > 1;
    for source in sources {
        match &source {
            Source::File(path, _) if several && is_projector(&model::header(path)?) => {
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
            "more than one FROM: they may name the shards of one model, and a projector",
        ));
    }
    Ok((first, projectors.pop()))
}

/// True if a file turns images into what the weights read.
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

/// A file that an instruction names.
fn file(word: &str, value: &str, places: Places) -> Result<Source> {
    let path = path(value, places);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(Source::File(path, places.take)),
        Ok(meta) if meta.is_dir() => folder(word, value, &path, places.take),
        Ok(_) => Err(Error::usage(format!("{word} {value} is no regular file"))),
        Err(_) => Err(Error::plain(
            Class::NoModel,
            format!("{word} {value}: no such file"),
        )),
    }
}

/// A folder that an instruction names: safetensors, else the one GGUF in it.
fn folder(word: &str, value: &str, path: &Path, take: Take) -> Result<Source> {
    let folder = Folder::open(path)?;
    if folder.has_weights() {
        return Ok(Source::Folder(folder));
    }
    let mut files = folder.ending(".gguf").into_iter();
    let first = files.next().map(|path| Source::File(path.into(), take));
    let first = first.ok_or_else(|| {
        Error::usage(format!(
            "{word} {value} holds neither safetensors nor a GGUF"
        ))
    })?;
    match files.all(|path| are_shards(&first, &Source::File(path.into(), take))) {
        true => Ok(first),
        false => Err(Error::usage(format!(
            "{word} {value} holds several GGUF files: name one of them"
        ))),
    }
}

fn path(value: &str, places: Places) -> PathBuf {
    match (value.strip_prefix("~/"), places.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => places.folder.join(value),
    }
}
