//! Creates a model from a file or another model, with changes on top.

mod recipe;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::import::{self, Folder};
use super::pool::Pool;
use super::{model, shards};
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::name::Name;
use crate::core::options::Options;
use crate::core::regular_file;
use crate::format::gguf::{self, Header};
use crate::format::manifest::{Config, Layer, Manifest};
use crate::format::template::GoTemplate;
use crate::format::wire;
use crate::system::engine::quantize::{Quantize, quantize};
use crate::system::machine;
use crate::system::store::{Store, Take};

pub use recipe::{Places, is_projector, parse_recipe};

/// A progress event of creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The header of the weights is being read.
    Parsing,
    /// Bytes of the weights copied, and their total.
    Copied(u64, u64),
    /// Bytes of safetensors converted to GGUF, and their total.
    Converted(u64, u64),
    /// A note for the user; creation continues.
    Note(String),
    /// Quantisation: source type, target type, tensors done, and their total.
    Quantizing(String, String, u64, u64),
    /// The weights bring no template; the one of this name was detected from the vocabulary.
    Template(&'static str),
    /// A layer is stored; true if the store had it already.
    Layer(Digest, bool),
    /// All layers are stored and the manifest is being written.
    Naming,
}

/// The source of a model's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A GGUF file, and whether it is copied or linked.
    File(PathBuf, Take),
    /// A GGUF blob of the store, and its original file name.
    Blob(Digest, String),
    /// The shards of a GGUF, in order.
    Shards(Vec<PathBuf>),
    /// Weights in safetensors, with the config and tokenizer files beside them.
    Folder(Folder),
    /// Another model of the store.
    Model(Name),
}

/// Changes to the source. An empty field leaves the source's value.
#[derive(Clone, Default)]
pub struct Changes {
    /// Replaces the template.
    pub template: String,
    /// Replaces the system prompt.
    pub system: String,
    /// Licence texts, added to the source's.
    pub licenses: Vec<String>,
    /// Options, each of which overrides the source's.
    pub options: Options,
    /// Replace the source's messages: role and text.
    pub messages: Vec<(String, String)>,
    /// Replaces the LoRA adapter: a file, a folder or a blob of the store.
    pub adapter: Option<Source>,
    /// Replaces the projector, which turns images into embeddings: a GGUF file.
    pub projector: Option<Source>,
    /// Target type of quantisation.
    pub quantize: Option<Quantizing>,
    /// Config fields that override the source's.
    pub config: Config,
}

/// A target type of quantisation.
#[derive(Clone)]
pub struct Quantizing {
    /// llama.cpp's `llama_ftype` number.
    pub file_type: u64,
    /// The type's name, such as `Q4_K_M`.
    pub name: &'static str,
    /// Makes the error for weights that are quantised already, from their type; `None` allows
    /// quantising them again, though that loses precision twice.
    pub refusal: Option<fn(&str) -> Error>,
    /// The pool whose llama.cpp backend does the work.
    pub pool: Pool,
}

impl Quantizing {
    /// Parses a type's name, in any case.
    ///
    /// # Errors
    /// `Usage`, listing all names.
    pub fn parse(text: &str, refusal: Option<fn(&str) -> Error>, pool: &Pool) -> Result<Self> {
        let Some((file_type, name)) = gguf::file_type(text) else {
            let names = gguf::FILE_TYPE_NAMES.join(", ");
            return Err(Error::usage(format!(
                "unknown quantisation type '{text}': {names}"
            )));
        };
        Ok(Quantizing {
            file_type,
            name,
            refusal,
            pool: pool.clone(),
        })
    }
}

/// Creates the model `name`.
///
/// # Errors
/// Whatever is wrong with the source or the changes; on failure no manifest is written.
pub fn create(
    store: &Store,
    name: &Name,
    source: &Source,
    changes: &Changes,
    report: &mut dyn FnMut(Step),
) -> Result<()> {
    let guard = store.share()?;
    if !changes.template.is_empty() {
        GoTemplate::compile(&changes.template)?;
    }
    let base = match source {
        Source::File(path, take) => Base::from_file(store, path, *take, report)?,
        Source::Blob(digest, file) => Base::from_blob(store, digest, file, report)?,
        Source::Shards(paths) => Base::from_shards(store, paths, report)?,
        Source::Folder(folder) => Base::from_folder(store, folder, report)?,
        Source::Model(name) => Base::from_model(store, name)?,
    };
    let base = match &changes.adapter {
        Some(adapter) => base.adapted(store, adapter, report)?,
        None => base,
    };
    let base = match &changes.projector {
        Some(projector) => base.projected(store, projector)?,
        None => base,
    };
    let base = match &changes.quantize {
        Some(to) => base.quantized(store, to, report)?,
        None => base,
    };
    let base = match source {
        Source::Model(_) => base,
        _ if !changes.template.is_empty() => base,
        _ => base.detected(store, name, report)?,
    };
    // A blob that was sent before may be meant for other models, too.
    let brought = base
        .quantized_from
        .filter(|_| !matches!(source, Source::Blob(..)));
    let manifest = base.with(store, changes, report)?;
    report(Step::Naming);
    store.write_manifest(guard, name, &manifest, &manifest.bytes())?;
    brought.map_or(Ok(()), |digest| store.release(&[digest]))
}

/// A model before the changes.
struct Base {
    config: Config,
    layers: Vec<Layer>,
    options: Options,
    /// The weights that this command quantised.
    quantized_from: Option<Digest>,
}

impl Base {
    fn from_file(
        store: &Store,
        path: &Path,
        take: Take,
        report: &mut dyn FnMut(Step),
    ) -> Result<Self> {
        report(Step::Parsing);
        let header = model::header_of_named(path)?;
        let paths = shards::beside(path, &header)?;
        if paths.len() > 1 {
            return Self::from_shards(store, &paths, report);
        }
        let total = header.file_bytes;
        let put = store.put_file(path, take, &mut |done| report(Step::Copied(done, total)));
        let digest = put?.0;
        if take == Take::Link && !store.is_linked(&digest) {
            let text = "the store has a copy of this file already: it is used, and not a link";
            report(Step::Note(text.to_string()));
        }
        let layer = Layer::new("model", digest, header.file_bytes);
        Ok(Self::new(&header, layer, &file_name(path)))
    }

    fn from_shards(store: &Store, paths: &[PathBuf], report: &mut dyn FnMut(Step)) -> Result<Self> {
        let mut copied = |done, total| report(Step::Copied(done, total));
        let (digest, header) = shards::put(store, paths, &mut copied)?;
        let layer = Layer::new("model", digest, header.file_bytes);
        let first = paths.first().map(|path| file_name(path));
        Ok(Self::new(&header, layer, &first.unwrap_or_default()))
    }

    fn from_blob(
        store: &Store,
        digest: &Digest,
        file: &str,
        report: &mut dyn FnMut(Step),
    ) -> Result<Self> {
        // The reference accepts a file if its name or its first bytes say that it is a GGUF.
        let unknown = || Error::usage("unknown type");
        let path = store.blob(digest).map_err(|_| unknown())?;
        let named = file.ends_with(".gguf");
        if !named && !starts_as_gguf(&path) {
            return Err(unknown());
        }
        report(Step::Parsing);
        if !starts_as_gguf(&path) {
            return Err(Error::usage("supplied file was not in GGUF format"));
        }
        store.adopt(digest)?;
        let header = model::header(&path)?;
        let layer = Layer::new("model", *digest, header.file_bytes);
        Ok(Self::new(&header, layer, file))
    }

    fn from_folder(store: &Store, folder: &Folder, report: &mut dyn FnMut(Step)) -> Result<Self> {
        report(Step::Converted(0, 0));
        let mut progress = |done, all| report(Step::Converted(done, all));
        let made = store.put_made(&mut |target| import::model(folder, target, &mut progress));
        let (digest, size_bytes) = made?;
        let header = model::header(&store.blob(&digest)?)?;
        let layer = Layer::new("model", digest, size_bytes);
        Ok(Self::new(&header, layer, folder.name()))
    }

    fn new(header: &Header, layer: Layer, file: &str) -> Self {
        let from = file.to_string();
        Base {
            config: model::config_of(header),
            layers: vec![Layer { from, ..layer }],
            options: Options::default(),
            quantized_from: None,
        }
    }

    fn from_model(store: &Store, name: &Name) -> Result<Self> {
        let entry = store.find(name)?;
        let model = model::open_name(store, &name.to_string(), name)?;
        let mut layers = entry.manifest.layers.clone();
        for layer in &mut layers {
            store.adopt(&layer.digest()?)?;
            if layer.kind() != "template" {
                layer.from = entry.name.to_string();
            }
        }
        let config = Config {
            renderer: model.config.renderer.clone(),
            parser: model.config.parser.clone(),
            requires: model.config.requires.clone(),
            capabilities: model.config.capabilities.clone(),
            ..model::config_of(&model.header)
        };
        Ok(Base {
            config,
            layers,
            options: model.options,
            quantized_from: None,
        })
    }

    /// Quantises the weights; leaves them unchanged if they have the type already.
    fn quantized(
        mut self,
        store: &Store,
        to: &Quantizing,
        report: &mut dyn FnMut(Step),
    ) -> Result<Self> {
        let layer = self.layers.iter_mut().find(|layer| layer.kind() == "model");
        let layer = layer.ok_or_else(|| Error::usage("the model has no weights to quantise"))?;
        let source = store.sound_layer(layer)?;
        let header = model::header(&source)?;
        let from = header.file_type();
        if from == to.name {
            return Ok(self);
        }
        if let Some(refusal) = to.refusal.filter(|_| !header.is_float()) {
            return Err(refusal(from));
        }
        to.pool.try_file(&source)?;
        let backend = to.pool.backend()?;
        let (digest, size_bytes) = store.put_made(&mut |target| {
            let job = Quantize {
                source: &source,
                target,
                file_type: to.file_type as u32,
                requantize: to.refusal.is_none(),
                threads: machine::cores(),
            };
            let mut progress = |done, all| {
                report(Step::Quantizing(from.into(), to.name.into(), done, all));
            };
            quantize(&backend, &job, &mut progress)
        })?;
        self.quantized_from = layer.digest().ok();
        let from = layer.from.clone();
        *layer = Layer {
            from,
            ..Layer::new("model", digest, size_bytes)
        };
        let made_config = model::config_of(&model::header(&store.blob(&digest)?)?);
        self.config.file_type = made_config.file_type;
        Ok(self)
    }

    /// Adds the template that the vocabulary suggests, if the weights bring none.
    fn detected(
        mut self,
        store: &Store,
        name: &Name,
        report: &mut dyn FnMut(Step),
    ) -> Result<Self> {
        let Some(layer) = self.layers.iter().find(|layer| layer.kind() == "model") else {
            return Ok(self);
        };
        let path = store.sound_layer(layer)?;
        let names = [&name.to_string(), layer.from.as_str()];
        if let Some(named) = model::detected(&path, &model::header(&path)?, &names)? {
            report(Step::Template(named.name));
            let (digest, size_bytes) = store.put_bytes(named.template.as_bytes())?;
            self.layers.push(Layer::new("template", digest, size_bytes));
            for stop in named.stops {
                self.options.set_text("stop", stop)?;
            }
        }
        Ok(self)
    }

    /// Adds an adapter and replaces the previous one.
    fn adapted(
        mut self,
        store: &Store,
        adapter: &Source,
        report: &mut dyn FnMut(Step),
    ) -> Result<Self> {
        report(Step::Parsing);
        let layer = match adapter {
            Source::Folder(folder) => self.converted(store, folder)?,
            adapter => part(store, "adapter", adapter, &|header| self.must_fit(header))?,
        };
        set(&mut self.layers, layer);
        Ok(self)
    }

    /// Converts an adapter from safetensors and stores it as a layer.
    fn converted(&self, store: &Store, folder: &Folder) -> Result<Layer> {
        let weights = self.layers.iter().find(|layer| layer.kind() == "model");
        let weights = weights.ok_or_else(|| Error::usage("the model has no weights to adapt"))?;
        let base = model::header(&store.sound_layer(weights)?)?;
        let make = &mut |target: &Path| import::adapter(folder, &base, target);
        let (digest, size_bytes) = store.put_made(make)?;
        Ok(Layer::new("adapter", digest, size_bytes))
    }

    /// Adds a projector and replaces the previous one.
    fn projected(mut self, store: &Store, projector: &Source) -> Result<Self> {
        let layer = part(store, "projector", projector, &|_| Ok(()))?;
        set(&mut self.layers, layer);
        let families = self.config.model_families.get_or_insert_default();
        families.push("clip".into());
        Ok(self)
    }

    /// Rejects a file that is not an adapter for these weights.
    fn must_fit(&self, adapter: &Header) -> Result<()> {
        if adapter.text("general.type") != Some("adapter") {
            return Err(Error::usage("the adapter file contains no LoRA adapter"));
        }
        if adapter.architecture() == self.config.model_family {
            Ok(())
        } else {
            Err(Error::usage(format!(
                "the adapter is for {}, the model is {}",
                adapter.architecture(),
                self.config.model_family
            )))
        }
    }

    /// Stores the small layers and the config, in the reference's order.
    fn with(
        mut self,
        store: &Store,
        changes: &Changes,
        report: &mut dyn FnMut(Step),
    ) -> Result<Manifest> {
        for layer in &self.layers {
            report(Step::Layer(layer.digest()?, true));
        }
        let mut put = |kind: &str, bytes: &[u8]| {
            let known = store.blob(&Digest::compute(bytes)).is_ok();
            let (digest, size_bytes) = store.put_bytes(bytes)?;
            report(Step::Layer(digest, known));
            Ok::<Layer, Error>(Layer::new(kind, digest, size_bytes))
        };
        let layers = &mut self.layers;
        if !changes.template.is_empty() {
            let from = model::TEMPLATE_GIVEN.to_string();
            let layer = put("template", changes.template.as_bytes())?;
            set(layers, Layer { from, ..layer });
        }
        if !changes.system.is_empty() {
            set(layers, put("system", changes.system.as_bytes())?);
        }
        for text in &changes.licenses {
            layers.push(put("license", text.as_bytes())?);
        }
        self.options.overlay(&changes.options);
        if !self.options.is_empty() {
            let text = json::line(&wire::options::to_json(&self.options)) + "\n";
            set(layers, put("params", text.as_bytes())?);
        }
        if !changes.messages.is_empty() {
            let messages = changes.messages.iter();
            let messages: Vec<_> = messages
                .map(|(role, text)| wire::native::Message::new(role, text))
                .collect();
            let text = json::line(&messages) + "\n";
            set(layers, put("messages", text.as_bytes())?);
        }
        self.config.overlay(&changes.config);
        let config = put("", &self.config.bytes())?;
        Ok(Manifest::new(
            (config.digest()?, config.size_bytes()),
            self.layers,
        ))
    }
}

/// Adds a layer and removes others of its kind.
fn set(layers: &mut Vec<Layer>, layer: Layer) {
    layers.retain(|known| known.kind() != layer.kind());
    layers.push(layer);
}

/// Stores an additional GGUF file as a layer, if `check` accepts its header.
fn part(
    store: &Store,
    kind: &str,
    source: &Source,
    check: &dyn Fn(&Header) -> Result<()>,
) -> Result<Layer> {
    let (digest, size_bytes) = match source {
        Source::File(path, take) => {
            check(&model::header_of_named(path)?)?;
            store.put_file(path, *take, &mut |_| {})?
        }
        Source::Blob(digest, _) => {
            let header = model::header(&store.blob(digest)?)?;
            check(&header)?;
            store.adopt(digest)?;
            (*digest, header.file_bytes)
        }
        Source::Folder(folder) => {
            return Err(folder.wrong(&format!("the {kind} must be a GGUF file")));
        }
        Source::Shards(_) => {
            return Err(Error::usage(format!(
                "the {kind} must be one file, not shards"
            )));
        }
        Source::Model(name) => {
            return Err(Error::usage(format!(
                "the {kind} must be a file, not the model {name}"
            )));
        }
    };
    Ok(Layer::new(kind, digest, size_bytes))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn starts_as_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = regular_file::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"GGUF"
}
