//! Converts LoRA adapters from PEFT's safetensors to GGUF.

use std::path::Path;

use super::weights::{self, Output};
use super::{Folder, family, names};
use crate::core::error::Result;
use crate::format::gguf::{Header, Writer};

/// PEFT's prefix of tensor names.
const PREFIX: &str = "base_model.model.";

/// Converts the adapter in `folder`, trained for weights with the header `base`, and writes it to `target`.
///
/// # Errors
/// `Usage` if a file is missing or its content is unsupported; a file that cannot be read or written.
pub fn adapter(folder: &Folder, base: &Header, target: &Path) -> Result<()> {
    let config = folder.object("adapter_config.json")?;
    let config = config.ok_or_else(|| folder.wrong("there is no adapter_config.json"))?;
    let number = |key: &str| config.get(key).and_then(serde_json::Value::as_f64);
    let alpha = number("lora_alpha");
    let alpha = alpha.ok_or_else(|| folder.wrong("adapter_config.json has no lora_alpha"))?;
    let ranked = config.get("use_rslora").is_some_and(|value| value == true);
    // llama.cpp scales by alpha / rank, rsLoRA by alpha / sqrt(rank).
    let alpha = match (ranked, number("r")) {
        (true, Some(rank)) => alpha * rank.sqrt(),
        _ => alpha,
    };
    let paths = folder.ending("adapter_model.safetensors");
    let [path] = paths[..] else {
        return Err(folder.wrong("there is no adapter_model.safetensors"));
    };
    let source = folder.located(&[path.to_path_buf()])?;
    let plan = plan(folder, base, &source)?;
    let mut writer = Writer::new(base.architecture());
    writer.text("general.type", "adapter");
    writer.text("general.name", folder.name());
    writer.unsigned("general.file_type", 0);
    writer.text("adapter.type", "lora");
    writer.float("adapter.lora.alpha", alpha as f32);
    weights::write(&plan, &source, writer, target, &mut |_, _| {})
}

fn plan(folder: &Folder, base: &Header, source: &weights::Source) -> Result<Vec<Output>> {
    let wrong = |why: String| folder.wrong(&why);
    let family = family::named(base.architecture()).ok_or_else(|| {
        wrong(format!(
            "adapters for {} are accepted as GGUF only",
            base.architecture()
        ))
    })?;
    let queries = base.arch_integer("attention.head_count").unwrap_or(0);
    let keys = base
        .arch_integer("attention.head_count_kv")
        .unwrap_or(queries);
    let mut plan = Vec::new();
    for located in source.tensors.values() {
        let theirs = &located.tensor.name;
        let unknown = || wrong(format!("unknown tensor in the adapter: {theirs}"));
        let stem = theirs.strip_prefix(PREFIX).unwrap_or(theirs);
        let parts = ["lora_A", "lora_B"].iter().find_map(|part| {
            let (stem, rest) = stem.split_once(&format!(".{part}"))?;
            let end = matches!(rest, ".weight" | ".default.weight");
            end.then_some((stem, *part))
        });
        let (stem, part) = parts.ok_or_else(unknown)?;
        let place = names::place_for_stem(family, stem).ok_or_else(unknown)?;
        let name = format!("{}.weight", place.name);
        let tensor = base.tensor(&name).ok_or_else(unknown)?;
        let second = part == "lora_B";
        // A maps the weights' input to the rank, B the rank to their output.
        let side = if second {
            tensor.shape.get(1)
        } else {
            tensor.shape.first()
        };
        let own = if second { 0 } else { 1 };
        if located.tensor.shape.len() != 2 || located.tensor.shape.get(own) != side {
            return Err(wrong(format!("the tensor {theirs} does not fit {name}")));
        }
        let heads = if second && family.rotates_neighbours {
            weights::heads(&name, queries, keys)
        } else {
            None
        };
        let rows = located.tensor.shape[0];
        let splits = heads.is_none_or(|heads| weights::splits(rows, heads));
        if !splits || !weights::is_float(located) {
            return Err(wrong(format!("the tensor {theirs} does not fit {name}")));
        }
        let end = if second { "lora_b" } else { "lora_a" };
        plan.push(weights::low_rank(format!("{name}.{end}"), located, heads));
    }
    Ok(plan)
}
