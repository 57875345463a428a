//! Converts a folder of safetensors to one GGUF file with the keys and tensors of llama.cpp's own converter.
//!
//! Weights are streamed: a few megabytes are in memory at a time, whatever the size of the model.

mod family;
mod folder;
mod keys;
mod lora;
mod names;
mod weights;

use std::path::Path;

use crate::core::error::Result;
use crate::format::gguf::Writer;
use crate::format::tokenizer::{Files, Vocabulary};
use family::Family;
use keys::Keys;
use weights::Float;

pub use folder::Folder;
pub use lora::adapter;

/// GGUF's `general.file_type` numbers.
const F16: u32 = 1;
const BF16: u32 = 32;

/// Converts the model in `folder` and writes it to `target`. `progress` gets the bytes of weights
/// written and their total.
///
/// # Errors
/// `Usage` if a file is missing or its content is unsupported; a file that cannot be read or written.
pub fn model(folder: &Folder, target: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let config = folder.object("config.json")?;
    let config = config.ok_or_else(|| folder.wrong("there is no config.json"))?;
    let keys = Keys::new(config);
    if keys.config().contains_key("quantization_config") {
        return Err(folder
            .wrong("the weights are quantised; only F32, F16 and BF16 can be converted to GGUF"));
    }
    let family = Family::for_architecture(keys.architecture()).map_err(|why| folder.wrong(&why))?;
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

/// Reads the tokenizer and writes its keys.
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
    // llama.cpp's converter recognises these models by vocabulary size; their files ask for a BOS that hurts.
    if family.name == "llama" && vocabulary.len() == 49152 {
        vocabulary.set_adds("bos", false);
    }
    vocabulary.write(writer);
    Ok(vocabulary)
}
