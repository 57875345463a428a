//! The Qwen family.

use std::io::{Read, Seek};

use super::edit::{SENSES, integers, pad_sections};
use crate::format::gguf::Value;
use crate::format::gguf::plan::{Draft, Put};

/// Layers that receive image features directly (deepstack), for models that do not give the number.
const DEEP_LAYERS: u32 = 3;
/// Key-value heads if the file gives no number.
const KEY_HEADS: u32 = 2;

pub fn qwen25vl(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    draft.rename_architecture("qwen2vl");
    draft.hide(&SENSES);
    pad_sections(draft, "rope.mrope_section", file)?;
    draft.default(
        "rope.dimension_sections",
        Put::Integers(vec![16, 24, 24, 0]),
    );
    Ok(())
}

pub fn qwen3vl(draft: &mut Draft) {
    let seen = draft.key("vision.deepstack_visual_indexes");
    let deep = match draft.header.value(&seen) {
        Some(Value::Array(array)) => array.count as u32,
        _ => DEEP_LAYERS,
    };
    if draft.hide(&SENSES) | draft.is_missing("rope.dimension_sections") {
        draft.default(
            "rope.dimension_sections",
            Put::Integers(vec![24, 20, 20, 0]),
        );
        draft.default("n_deepstack_layers", Put::Number(deep));
    }
}

/// The hybrid models. The part that predicts several tokens at once is left out.
pub fn next(draft: &mut Draft, mut file: impl Read + Seek) -> Result<(), String> {
    let renamed =
        draft.rename_tensors(|name| name.ends_with(".ssm_dt").then(|| format!("{name}.bias")));
    if !(draft.hide(&["v.", "mm.", "mtp."]) | renamed) {
        return Ok(());
    }
    draft.remove("nextn_predict_layers");
    let header = draft.header;
    let heads = draft.key("attention.head_count_kv");
    if let Some(Value::Array(array)) = header.value(&heads) {
        let most = integers(header, array, &mut file)?.into_iter().max();
        let most = most.and_then(|most| u32::try_from(most).ok());
        let most = most.filter(|most| *most > 0).unwrap_or(KEY_HEADS);
        draft.set(&heads, Put::Number(most));
    }
    pad_sections(draft, "rope.dimension_sections", file)?;
    Ok(())
}
