//! Safetensors folders to one GGUF, as llama.cpp's own converter makes it.
//!
//! Weights are streamed: however large the model, a few megabytes of it are in memory.

mod family;
mod folder;
mod keys;
mod lora;
mod names;
mod weights;

use std::path::Path;

pub use folder::Folder;
pub use lora::adapter;

use crate::error::{Error, Result};
use crate::gguf::Writer;
use crate::vocabulary::{Files, Vocabulary};
use family::Family;
use keys::Keys;
use weights::Float;

/// GGUF's numbers of file types.
const F16: u32 = 1;
const BF16: u32 = 32;

/// Writes the model that lies in `folder` to `target`. `progress` gets the bytes of weights done, and
/// how many there are.
///
/// # Errors
/// `Usage` with what the folder lacks, or what is not known of it; a file that cannot be read or written.
pub fn model(folder: &Folder, target: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let config = folder.object("config.json")?;
    let config = config.ok_or_else(|| folder.wrong("there is no config.json"))?;
    let keys = Keys::new(config);
    if keys.config().contains_key("quantization_config") {
        return Err(folder
            .wrong("the weights are quantised: only F32, F16 and BF16 are turned into a GGUF"));
    }
    let family = Family::of(keys.architecture()).map_err(|why| folder.wrong(&why))?;
    let keys = keys.with_defaults(family);
    let source = folder.weights()?;
    let float = source.float();
    let mut writer = Writer::new(family.name);
    writer.text("general.type", "model");
    writer.text("general.name", folder.name());
    writer.unsigned(
        "general.file_type",
        if float == Float::BF16 { BF16 } else { F16 },
    );
    writer.unsigned("general.quantization_version", 2);
    keys.write(family, &mut writer)
        .map_err(|why| folder.wrong(&why))?;
    let vocabulary = vocabulary(folder, family, &keys, &mut writer)?;
    if let Some(pooling) = folder.pooling()? {
        writer.unsigned(&format!("{}.pooling_type", family.name), pooling);
    }
    let plan = weights::plan(family, &keys, &source, vocabulary.len() as u64);
    let plan = plan.map_err(|why| folder.wrong(&why))?;
    weights::write(&plan, &source, writer, target, progress)
}

/// The tokenizer, written.
fn vocabulary(
    folder: &Folder,
    family: &Family,
    keys: &Keys,
    writer: &mut Writer,
) -> Result<Vocabulary> {
    let template = match folder.text("chat_template.jinja")? {
        Some(text) => Some(text.into()),
        None => {
            let json = folder.object("chat_template.json")?;
            json.and_then(|mut json| json.remove("chat_template"))
        }
    };
    let files = Files {
        sentencepiece: folder.bytes("tokenizer.model")?,
        tokenizer: folder.object("tokenizer.json")?.map(Into::into),
        settings: folder.object("tokenizer_config.json")?,
        added: folder.object("added_tokens.json")?,
        config: keys.config().clone(),
        template,
    };
    let mut vocabulary = Vocabulary::read(&files).map_err(|why| folder.wrong(&why))?;
    if let Some(id) = family.ends_turn(vocabulary.len()) {
        vocabulary.set_special("eot", id);
    }
    let prefix = files
        .settings
        .as_ref()
        .and_then(|map| map.get("add_prefix_space")?.as_bool());
    match (family.name, prefix) {
        ("gemma" | "gemma2" | "gemma3", _) => {
            writer.bool("tokenizer.ggml.add_space_prefix", false);
        }
        ("llama", Some(prefix)) => {
            writer.bool("tokenizer.ggml.add_space_prefix", prefix);
        }
        _ => {}
    }
    if vocabulary.model == "bert" {
        let types = keys.integer(&["type_vocab_size"]).unwrap_or(1);
        writer.unsigned("tokenizer.ggml.token_type_count", types as u32);
    }
    // llama.cpp's converter knows these by their size; their files ask for a token that hurts.
    if family.name == "llama" && vocabulary.len() == 49152 {
        vocabulary.set_adds("bos", false);
    }
    vocabulary.write(writer);
    Ok(vocabulary)
}

/// The error that a folder is not what it should be.
fn wrong(folder: &str, why: &str) -> Error {
    Error::usage(format!("{folder}: {why}"))
}
