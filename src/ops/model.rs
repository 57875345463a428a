//! Opens a model: finds it by name or path, reads its header and its layers.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::message::Message;
use crate::core::name::Name;
use crate::core::options::Options;
use crate::core::regular_file;
use crate::format::gguf::{self, Header, Value};
use crate::format::manifest::{Config, Layer};
use crate::format::template::named::{self, Named};
use crate::format::wire;
use crate::system::store::{Entry, Origin, Store};

/// A larger text layer is damaged: templates, system texts and licences are far smaller.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// The manifest's note for a TEMPLATE that came from a Modelfile of this store's owner. A pulled model
/// has none.
pub const TEMPLATE_GIVEN: &str = "modelfile";

/// A model and everything that belongs to it.
pub struct Model {
    /// The model, as the user named it.
    pub label: String,
    /// Its name in a store, unless it is a plain file.
    pub name: Option<Name>,
    /// Digest of its manifest, or none for a plain file.
    pub digest: Option<Digest>,
    /// The store that it is in.
    pub origin: Origin,
    /// When it was last modified.
    pub modified: SystemTime,
    /// The size of the whole model, in bytes.
    pub size_bytes: u64,
    /// The GGUF file.
    pub weights: PathBuf,
    /// Its header.
    pub header: Header,
    /// A LoRA adapter's GGUF file that goes with it.
    pub adapter: Option<PathBuf>,
    /// A projector's GGUF file that goes with it.
    pub projector: Option<PathBuf>,
    /// Its config.
    pub config: Config,
    /// The TEMPLATE of its Modelfile, as stored.
    pub go_template: Option<String>,
    /// True if that TEMPLATE comes from a Modelfile of this store's owner, so that it precedes all others.
    pub template_given: bool,
    /// The built-in template that its vocabulary indicates, if it has none of its own.
    pub detected: Option<&'static Named>,
    /// Its SYSTEM text.
    pub system: Option<String>,
    /// Its PARAMETERs.
    pub options: Options,
    /// Its MESSAGEs.
    pub messages: Vec<Message>,
    /// Its licences.
    pub licenses: Vec<String>,
    /// The model it was made from.
    pub parent: String,
    /// Its capabilities, once [`list::model_capabilities`](super::list::model_capabilities) has looked.
    pub capabilities: OnceLock<Vec<String>>,
}

impl Model {
    /// Checks that it generates text.
    ///
    /// # Errors
    /// `NoText` for an embedding model.
    pub fn must_generate(&self) -> Result<()> {
        if !self.header.is_embedding() {
            return Ok(());
        }
        let text = format!(
            "{} is an embedding model, which generates no text: use 'puna embed'",
            self.label
        );
        Err(Error::plain(Class::NoText, text))
    }

    /// Checks vocabulary, tensors and adapter before llama.cpp reads them, because some abort the process. `loaded` is
    /// the file that it reads.
    ///
    /// # Errors
    /// `Damaged` with the reason.
    pub fn check(&self, loaded: &Path) -> Result<()> {
        let path = &self.weights;
        let file = regular_file::named(path)?;
        let damaged = |path: &Path, why: String| Error::damaged(path, why);
        let checked = self.header.check_vocabulary(file);
        checked.map_err(|why| damaged(path, why))?;
        let derived = (loaded != path).then(|| header(loaded)).transpose()?;
        let read = derived.as_ref().unwrap_or(&self.header);
        read.check_assertions()
            .map_err(|why| damaged(loaded, why))?;
        if let Some(adapter) = &self.adapter {
            let checked = header(adapter)?.check_adapter();
            checked.map_err(|why| damaged(adapter, why))?;
        }
        Ok(())
    }
}

/// True if an operand names a file and not a model in the store.
pub fn is_path(operand: &str) -> bool {
    ["/", "./", "../"]
        .iter()
        .any(|start| operand.starts_with(start))
        || operand.ends_with(".gguf")
}

/// The name for a new model.
///
/// # Errors
/// `Usage` for what is no name, or means a file to every command.
pub fn new_name(operand: &str) -> Result<Name> {
    if is_path(operand) {
        let text = format!("'{operand}' means a file to every other command: choose another name");
        return Err(Error::usage(text));
    }
    if operand.trim() != operand {
        let text = format!("the name '{operand}' begins or ends with a blank");
        return Err(Error::usage(text));
    }
    Name::parse(operand)
}

/// Opens the model that an operand of the command line names.
///
/// # Errors
/// `NoModel`, `Damaged`, or if a file cannot be read.
pub fn open(store: &Store, operand: &str) -> Result<Model> {
    if is_path(operand) {
        return open_file(Path::new(operand));
    }
    open_name(store, operand, &Name::parse(operand)?)
}

/// Opens a model of the store; `label` is the name that the user gave.
///
/// # Errors
/// As [`open`].
pub fn open_name(store: &Store, label: &str, name: &Name) -> Result<Model> {
    let entry = store.find(name)?;
    let layer = entry.manifest.layer("model");
    let layer = layer
        .ok_or_else(|| Error::failed(format!("model '{name}' has no weights that puna can run")))?;
    let weights = store.sound_layer(layer)?;
    let beside = |kind| {
        let layer = entry.manifest.layer(kind);
        layer.map(|layer| store.sound_layer(layer)).transpose()
    };
    let (adapter, projector) = (beside("adapter")?, beside("projector")?);
    let header = header(&weights)?;
    let template = template(store, &entry)?;
    let texts = Texts {
        store,
        entry: &entry,
    };
    let detected = match template {
        Some(_) => None,
        None => detected(&weights, &header, &[&name.to_string(), &layer.from])?,
    };
    Ok(Model {
        label: label.to_string(),
        name: Some(entry.name.clone()),
        digest: Some(entry.digest),
        origin: entry.origin,
        modified: entry.modified,
        size_bytes: entry.manifest.size_bytes(),
        config: config(store, &entry)?,
        template_given: template.as_ref().is_some_and(|(_, given)| *given),
        go_template: template.map(|(text, _)| text),
        detected,
        system: texts.first("system")?,
        options: texts.options()?,
        messages: texts.messages()?,
        licenses: texts.all("license")?,
        parent: layer.from.clone(),
        weights,
        adapter,
        projector,
        header,
        capabilities: OnceLock::new(),
    })
}

/// True if a file begins with printable text.
fn is_text(path: &Path) -> bool {
    let mut beginning = Vec::new();
    let read = regular_file::open(path).map(|file| file.take(512).read_to_end(&mut beginning));
    let text = String::from_utf8_lossy(&beginning);
    let is_printable = |c: char| !c.is_control() || c.is_whitespace();
    let is_cut = beginning.starts_with(b"GGUF");
    matches!(read, Ok(Ok(1..)))
        && !is_cut
        && text.trim_end_matches('\u{fffd}').chars().all(is_printable)
}

/// Opens a GGUF file.
///
/// # Errors
/// `NoModel`, `Damaged`; `Usage` for a text file.
pub fn open_file(path: &Path) -> Result<Model> {
    let meta = fs::metadata(path).map_err(|error| missing(path, error))?;
    if !meta.is_file() {
        let what = if meta.is_dir() {
            "a directory"
        } else {
            "a special file"
        };
        return Err(Error::damaged(path, format!("{what}, not a GGUF file")));
    }
    let header = header_of_named(path)?;
    Ok(Model {
        label: path.display().to_string(),
        name: None,
        digest: None,
        origin: Origin::Ours,
        modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        size_bytes: meta.len(),
        weights: path.to_path_buf(),
        adapter: None,
        projector: None,
        config: config_of(&header),
        go_template: None,
        template_given: false,
        detected: detected(path, &header, &[&path.to_string_lossy()])?,
        system: None,
        options: Options::default(),
        messages: Vec::new(),
        licenses: Vec::new(),
        parent: String::new(),
        header,
        capabilities: OnceLock::new(),
    })
}

fn missing(path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            let message = format!("no model at {}: no such file", path.display());
            Error::plain(Class::NoModel, message)
        }
        _ => Error::io("read", path, error),
    }
}

/// Reads and checks the header of a GGUF file.
///
/// # Errors
/// `Damaged` with the reason.
pub fn header(path: &Path) -> Result<Header> {
    let file = regular_file::named(path)?;
    let meta = file
        .metadata()
        .map_err(|error| Error::io("read", path, error))?;
    gguf::read(file, meta.len()).map_err(|why| Error::damaged(path, why))
}

/// The header of a GGUF file that the user named.
///
/// # Errors
/// As [`header`]; `Usage` for a text file.
pub fn header_of_named(path: &Path) -> Result<Header> {
    header(path).map_err(|error| match is_text(path) {
        true => Error::usage(format!("{} is a text file, not a model", path.display())),
        false => error,
    })
}

/// The well-known template whose tokens are in the vocabulary of an instruction-tuned model without a
/// template of its own; `names` are the model's names, besides those in its header.
///
/// # Errors
/// If the file cannot be read.
pub fn detected(path: &Path, header: &Header, names: &[&str]) -> Result<Option<&'static Named>> {
    const KEYS: [&str; 3] = ["general.finetune", "general.name", "general.basename"];
    let labels = KEYS.iter().filter_map(|key| header.text(key));
    let brings = header.chat_template().is_some() || header.is_embedding();
    if brings || !named::is_instruction_tuned(labels.chain(names.iter().copied())) {
        return Ok(None);
    }
    let Some(Value::Array(tokens)) = header.value("tokenizer.ggml.tokens") else {
        return Ok(None);
    };
    let file = regular_file::named(path)?;
    let tokens = header.elements(file, tokens)?;
    let texts = tokens.iter().filter_map(|token| match token {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    });
    Ok(named::detect(texts))
}

/// Reads the config blob of a model; a missing one is empty.
///
/// # Errors
/// `Damaged` if it exists and is invalid.
pub fn config(store: &Store, entry: &Entry) -> Result<Config> {
    if entry.manifest.config.digest.is_empty() {
        return Ok(Config::default());
    }
    let digest = entry.manifest.config.digest()?;
    let bytes = store.blob_bytes(&digest, TEXT_BYTES_MAX)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::damaged(store.root(), format!("config {digest}: {error}")))
}

/// The TEMPLATE of a model, and whether it comes from a Modelfile of this store's owner.
///
/// # Errors
/// If its blob is missing or too large.
pub fn template(store: &Store, entry: &Entry) -> Result<Option<(String, bool)>> {
    let Some(layer) = entry.manifest.layer("template") else {
        return Ok(None);
    };
    let bytes = store.blob_bytes(&layer.digest()?, TEXT_BYTES_MAX)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(Some((text, layer.from == TEMPLATE_GIVEN)))
}

/// The config derived from a GGUF's header.
pub fn config_of(header: &Header) -> Config {
    let family = header.architecture().to_string();
    Config {
        model_format: "gguf".into(),
        model_families: Some(vec![family.clone()]),
        model_family: family,
        model_type: human_count(header.parameter_count()),
        file_type: header.file_type().into(),
        architecture: "amd64".into(),
        os: "linux".into(),
        ..Config::default()
    }
}

/// A count as display text: `134.52M`, `8.0B`.
pub fn human_count(count: u64) -> String {
    let scaled = |unit: u64, digits: usize, letter: char| {
        if count.is_multiple_of(unit) {
            format!("{}{letter}", count / unit)
        } else {
            format!("{:.digits$}{letter}", count as f64 / unit as f64)
        }
    };
    match count {
        0..1_000 => count.to_string(),
        1_000..1_000_000 => format!("{:.0}K", count as f64 / 1e3),
        1_000_000..1_000_000_000 => scaled(1_000_000, 2, 'M'),
        _ => scaled(1_000_000_000, 1, 'B'),
    }
}

/// The small layers of a model.
struct Texts<'a> {
    store: &'a Store,
    entry: &'a Entry,
}

impl Texts<'_> {
    fn bytes(&self, layer: &Layer) -> Result<Vec<u8>> {
        self.store.blob_bytes(&layer.digest()?, TEXT_BYTES_MAX)
    }

    fn all(&self, kind: &str) -> Result<Vec<String>> {
        let layers = self
            .entry
            .manifest
            .layers
            .iter()
            .filter(|layer| layer.kind() == kind);
        layers
            .map(|layer| Ok(String::from_utf8_lossy(&self.bytes(layer)?).into_owned()))
            .collect()
    }

    fn first(&self, kind: &str) -> Result<Option<String>> {
        let layer = self.entry.manifest.layer(kind);
        layer
            .map(|layer| Ok(String::from_utf8_lossy(&self.bytes(layer)?).into_owned()))
            .transpose()
    }

    fn options(&self) -> Result<Options> {
        let Some(layer) = self.entry.manifest.layer("params") else {
            return Ok(Options::default());
        };
        let map: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&self.bytes(layer)?)
                .map_err(|error| self.broken("params", &error))?;
        wire::options::from_json(&map)
    }

    fn messages(&self) -> Result<Vec<Message>> {
        let Some(layer) = self.entry.manifest.layer("messages") else {
            return Ok(Vec::new());
        };
        let bytes = self.bytes(layer)?;
        let wire: Vec<wire::native::Message> =
            serde_json::from_slice(&bytes).map_err(|error| self.broken("messages", &error))?;
        Ok(wire.into_iter().map(Into::into).collect())
    }

    fn broken(&self, what: &str, error: &serde_json::Error) -> Error {
        Error::damaged(
            self.entry.name.to_string(),
            format!("its {what} layer: {error}"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_names_are_distinguished() {
        for path in ["./m", "../m", "/m", "m.gguf", "a/b.gguf"] {
            assert!(is_path(path), "{path}");
        }
        for name in ["m", "a/b", "m:q4", ".m", "m.ggufx"] {
            assert!(!is_path(name), "{name}");
        }
    }

    #[test]
    fn counts_are_short() {
        for (count, text) in [
            (999, "999"),
            (1999, "2K"),
            (134_515_008, "134.52M"),
            (135_000_000, "135M"),
            (7_000_000_000, "7B"),
            (8_030_000_000, "8.0B"),
        ] {
            assert_eq!(human_count(count), text);
        }
    }
}
