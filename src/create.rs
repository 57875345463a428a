//! A Modelfile to a model in the store.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::json;
use crate::manifest::{Config, Layer, Manifest};
use crate::model;
use crate::modelfile::{Instruction, Modelfile};
use crate::name::Name;
use crate::options::{Options, RETIRED};
use crate::prompt::GoTemplate;
use crate::store::{Store, Take};

/// What creation tells about its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// So many bytes of the weights are in, of so many.
    Copied(u64, u64),
    /// Something the user should know; creation goes on.
    Note(String),
}

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

/// Makes `name` of a Modelfile.
///
/// # Errors
/// What is wrong with the Modelfile or the files it names; nothing is left under a final name.
pub fn create(
    store: &Store,
    name: &Name,
    modelfile: &Modelfile,
    places: Places,
    report: &mut dyn FnMut(Step),
) -> Result<()> {
    let guard = store.share()?;
    let mut base = match base(modelfile, places)? {
        Source::File(path) => from_file(store, &path, places.take, report)?,
        Source::Name(name) => from_model(store, &name)?,
    };
    for instruction in &modelfile.instructions {
        base.apply(instruction, report)?;
    }
    let manifest = base.write(store)?;
    store.write_manifest(guard, name, &manifest)
}

enum Source {
    File(PathBuf),
    Name(Name),
}

fn base(modelfile: &Modelfile, places: Places) -> Result<Source> {
    let mut sources = modelfile
        .instructions
        .iter()
        .filter_map(|instruction| match instruction {
            Instruction::From(value) => Some(value),
            _ => None,
        });
    let value = sources
        .next()
        .ok_or_else(|| Error::usage("the Modelfile has no FROM line"))?;
    if sources.next().is_some() {
        return Err(Error::usage(
            "more than one FROM: split files and projectors cannot be created yet",
        ));
    }
    let path = match (value.strip_prefix("~/"), places.home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => places.folder.join(value),
    };
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() => Ok(Source::File(path)),
        Ok(meta) if meta.is_dir() => Err(Error::usage(format!(
            "FROM {value} is a directory: name a GGUF file in it"
        ))),
        Ok(_) => Err(Error::usage(format!("FROM {value} is no regular file"))),
        Err(_) if model::is_path(value) => Err(Error::plain(
            crate::error::Class::NoModel,
            format!("FROM {value}: no such file"),
        )),
        Err(_) => Ok(Source::Name(Name::parse(value)?)),
    }
}

/// A model in the making.
struct Draft {
    config: Config,
    layers: Vec<Layer>,
    options: Options,
    options_given: Options,
    template: Option<String>,
    system: Option<String>,
    licenses: Vec<String>,
    messages: Vec<(String, String)>,
}

fn from_file(
    store: &Store,
    path: &Path,
    take: Take,
    report: &mut dyn FnMut(Step),
) -> Result<Draft> {
    let header = model::header(path)?;
    let total = header.file_bytes;
    let (digest, size_bytes) =
        store.put_file(path, take, &mut |done| report(Step::Copied(done, total)))?;
    let mut layer = Layer::new("model", digest, size_bytes);
    layer.from = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Draft::new(model::config_of(&header), vec![layer]))
}

fn from_model(store: &Store, name: &Name) -> Result<Draft> {
    let entry = store.find(name)?;
    let model = model::of_name(store, &name.to_string(), name)?;
    let mut layers = entry.manifest.layers.clone();
    for layer in &mut layers {
        store.adopt(&layer.digest()?)?;
        if layer.kind() != "template" {
            layer.from = entry.name.to_string();
        }
    }
    let inherited = Config {
        renderer: model.config.renderer.clone(),
        parser: model.config.parser.clone(),
        requires: model.config.requires.clone(),
        capabilities: model.config.capabilities.clone(),
        ..model::config_of(&model.header)
    };
    Ok(Draft {
        options: model.options,
        ..Draft::new(inherited, layers)
    })
}

impl Draft {
    fn new(config: Config, layers: Vec<Layer>) -> Self {
        Draft {
            config,
            layers,
            options: Options::default(),
            options_given: Options::default(),
            template: None,
            system: None,
            licenses: Vec::new(),
            messages: Vec::new(),
        }
    }

    fn apply(&mut self, instruction: &Instruction, report: &mut dyn FnMut(Step)) -> Result<()> {
        match instruction {
            Instruction::From(_) => {}
            Instruction::Adapter(_) => {
                return Err(Error::usage("ADAPTER: adapters cannot be created yet"));
            }
            Instruction::Template(text) => {
                GoTemplate::compile(text)?;
                self.template = Some(text.clone());
            }
            Instruction::System(text) => self.system = Some(text.clone()),
            Instruction::License(text) => self.licenses.push(text.clone()),
            Instruction::Message(role, text) => self.messages.push((role.clone(), text.clone())),
            Instruction::Renderer(name) => self.config.renderer = name.clone(),
            Instruction::Parser(name) => self.config.parser = name.clone(),
            Instruction::Requires(version) => self.config.requires = version.clone(),
            Instruction::Parameter(key, _) if RETIRED.contains(&key.as_str()) => {
                report(Step::Note(format!(
                    "parameter {key} is no longer used and left out"
                )));
            }
            Instruction::Parameter(key, text) => self.options_given.set_text(key, text)?,
        }
        Ok(())
    }

    /// Stores the small layers and the config; the order is the reference's.
    fn write(mut self, store: &Store) -> Result<Manifest> {
        let put = |kind: &str, bytes: &[u8]| {
            let (digest, size_bytes) = store.put_bytes(bytes)?;
            Ok::<Layer, Error>(Layer::new(kind, digest, size_bytes))
        };
        if let Some(text) = self.template.filter(|text| !text.is_empty()) {
            self.layers.retain(|layer| layer.kind() != "template");
            let from = model::TEMPLATE_GIVEN.to_string();
            let layer = put("template", text.as_bytes())?;
            self.layers.push(Layer { from, ..layer });
        }
        if let Some(text) = self.system.filter(|text| !text.is_empty()) {
            self.layers.retain(|layer| layer.kind() != "system");
            self.layers.push(put("system", text.as_bytes())?);
        }
        for text in &self.licenses {
            self.layers.push(put("license", text.as_bytes())?);
        }
        self.options.overlay(&self.options_given);
        if !self.options.is_empty() {
            self.layers.retain(|layer| layer.kind() != "params");
            let text = json::line(&api::options::to_json(&self.options)) + "\n";
            self.layers.push(put("params", text.as_bytes())?);
        }
        if !self.messages.is_empty() {
            self.layers.retain(|layer| layer.kind() != "messages");
            let messages: Vec<api::native::Message> = self
                .messages
                .iter()
                .map(|(role, text)| api::native::Message::new(role, text))
                .collect();
            self.layers
                .push(put("messages", (json::line(&messages) + "\n").as_bytes())?);
        }
        let config: (Digest, u64) = store.put_bytes(&self.config.bytes())?;
        Ok(Manifest::new(config, self.layers))
    }
}
