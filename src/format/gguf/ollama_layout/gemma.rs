//! The gemma family.

use std::io::{Read, Seek};

use super::edit::{SENSES, integers, rename_part};
use crate::format::gguf::plan::{Draft, Put};
use crate::format::gguf::{Header, Value};

/// The id of gemma3n's end-of-turn token.
const GEMMA3N_TURN_END: u32 = 106;
/// From this trained context length on, gemma3 scales its positions by eight.
const GEMMA3_STRETCHED: u64 = 131_072;

// llama.cpp's numbers for the types of tokens.
const NORMAL: i32 = 1;
const BYTE: i32 = 6;

/// True for embeddinggemma as Ollama publishes it: gemma3 followed by dense layers.
pub fn is_embedding(header: &Header) -> bool {
    header.architecture() == "gemma3" && header.tensor("dense.0.weight").is_some()
}

pub fn gemma3(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    let renamed = draft.rename("rope.global.freq_base", "rope.freq_base")
        | draft.rename("rope.local.freq_base", "rope.freq_base_swa");
    let cut = match draft.size("token_embd.weight", 1) {
        Some(rows) => draft.cut_vocabulary(file, rows)?,
        None => false,
    };
    let bare = draft.is_missing("attention.layer_norm_rms_epsilon");
    if !(draft.hide(&SENSES) | cut | renamed | bare) {
        return Ok(());
    }
    draft.default("attention.layer_norm_rms_epsilon", Put::Float(1e-6));
    draft.default("rope.freq_base", Put::Float(1e6));
    draft.default("rope.freq_base_swa", Put::Float(1e4));
    let trained = draft.header.context_length().unwrap_or(0);
    if trained >= GEMMA3_STRETCHED && draft.is_missing("rope.scaling.type") {
        draft.default("rope.scaling.type", Put::Text("linear".into()));
        draft.default("rope.scaling.factor", Put::Float(8.0));
    }
    Ok(())
}

pub fn embedding(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    gemma3(draft, file)?;
    draft.rename_architecture("gemma-embedding");
    for (index, name) in [(0, "dense_2"), (1, "dense_3")] {
        let tensor = draft.header.tensor(&format!("dense.{index}.weight"));
        let shape = tensor.map(|tensor| tensor.shape.clone());
        let [inputs, outputs] = shape.as_deref().unwrap_or_default() else {
            return Err(format!("dense.{index}.weight is not a matrix"));
        };
        draft.default(&format!("{name}_feat_in"), Put::Number(*inputs as u32));
        draft.default(&format!("{name}_feat_out"), Put::Number(*outputs as u32));
    }
    draft.default("pooling_type", Put::Number(1)); // The mean, as its maker says.
    draft.rename_tensors(|name| match name {
        "dense.0.weight" => Some("dense_2.weight".into()),
        "dense.1.weight" => Some("dense_3.weight".into()),
        "norm.weight" => Some("output_norm.weight".into()),
        _ => None,
    });
    Ok(())
}

/// Tokens of images and sounds follow those of text; the per-layer embedding has only those of text.
pub fn gemma3n(draft: &mut Draft, mut file: impl Read + Seek) -> Result<(), String> {
    let own = draft.size("per_layer_token_embd.weight", 1);
    let Some(tokens) = own.or(draft.size("token_embd.weight", 1)) else {
        return Ok(());
    };
    if !(draft.hide(&SENSES) | draft.cut_vocabulary(&mut file, tokens)?) {
        return Ok(());
    }
    draft.set("tokenizer.ggml.model", Put::Text("llama".into()));
    draft.default_everywhere("tokenizer.ggml.eot_token_id", Put::Number(GEMMA3N_TURN_END));
    name_bytes(draft, tokens as usize, file)
}

/// Sets the type of tokens that stand for a byte to byte, and of unused tokens to normal.
fn name_bytes(draft: &mut Draft, tokens: usize, mut file: impl Read + Seek) -> Result<(), String> {
    const KINDS: &str = "tokenizer.ggml.token_type";
    let header = draft.header;
    let (Some(Value::Array(texts)), Some(Value::Array(kinds))) =
        (header.value("tokenizer.ggml.tokens"), header.value(KINDS))
    else {
        return Ok(());
    };
    let texts = header.elements(&mut file, texts);
    let texts = texts.map_err(|error| error.to_string())?;
    let mut kinds = integers(header, kinds, file)?;
    kinds.truncate(tokens);
    for (kind, text) in kinds.iter_mut().zip(&texts) {
        let Value::Text(text) = text else { continue };
        if text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') {
            *kind = BYTE;
        } else if text.starts_with("<unused") {
            *kind = NORMAL;
        }
    }
    draft.set(KINDS, Put::Integers(kinds));
    Ok(())
}

pub fn gemma4(draft: &mut Draft) {
    let mut changed = draft.hide(&SENSES);
    changed |= rename_part(
        draft,
        ".ffn_gate_inp.per_expert_scale",
        ".ffn_down_exps.scale",
    );
    let model = draft.header.text("tokenizer.ggml.model");
    if changed && model == Some("llama") {
        draft.set("tokenizer.ggml.model", Put::Text("gemma4".into()));
    }
}
