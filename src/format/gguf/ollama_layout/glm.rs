//! The GLM family.

use std::io::{Read, Seek};

use super::edit::{PRE, SENSES, integers, pad_sections, rename_part};
use crate::format::gguf::Value;
use crate::format::gguf::plan::{Draft, Put};

/// GLM-OCR's text part: llama.cpp expects a block's gate and up projection as one tensor.
pub fn ocr(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    draft.rename_architecture("glm4");
    draft.hide(&SENSES);
    pad_sections(draft, "rope.mrope_section", file)?;
    if let Some(length) = draft.header.arch_integer("attention.key_length") {
        draft.default("rope.dimension_count", Put::Number(length as u32));
    }
    draft.set(PRE, Put::Text("chatglm-bpe".into()));
    for (old, new) in [
        (".attn_out.", ".attn_output."),
        (".post_attn_norm.", ".post_attention_norm."),
        (".post_ffn_norm.", ".post_ffw_norm."),
    ] {
        rename_part(draft, old, new);
    }
    let gates = draft.header.tensors.iter().map(|tensor| &tensor.name);
    let gates: Vec<_> = gates
        .filter(|name| name.ends_with(".ffn_gate.weight"))
        .collect();
    for gate in gates {
        draft.join(gate, &gate.replace("ffn_gate", "ffn_up"))?;
    }
    Ok(())
}

/// GLM 4.7 Flash: llama.cpp computes its attention like DeepSeek 2's, with one key head for all.
pub fn lite(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    draft.rename_architecture("deepseek2");
    let own = |key: &str| draft.header.arch_integer(key).map(|number| number as u32);
    let rank = own("attention.kv_lora_rank");
    let turned = own("rope.dimension_count");
    let head = own("attention.key_length");
    let mut set = |key: &str, number: u32| {
        let key = draft.key(key);
        draft.set(&key, Put::Number(number));
    };
    set("attention.head_count_kv", 1);
    if let (Some(rank), Some(turned)) = (rank, turned) {
        set("attention.key_length", rank.saturating_add(turned));
        set("attention.value_length", rank);
    }
    if let Some(head) = head {
        set("attention.key_length_mla", head);
        set("attention.value_length_mla", head);
    }
    draft.default("expert_group_count", Put::Number(1));
    draft.default("expert_group_used_count", Put::Number(1));
    draft.set(PRE, Put::Text("glm4".into()));
    // The end tokens of a text, a turn and a message, in this order.
    if let Some(Value::Array(array)) = draft.header.value("tokenizer.ggml.eos_token_ids") {
        let ends = integers(draft.header, array, file)?;
        for (key, end) in ["eot", "eom"].iter().zip(ends.iter().skip(1)) {
            let key = format!("tokenizer.ggml.{key}_token_id");
            draft.default_everywhere(&key, Put::Number(*end as u32));
        }
    }
    Ok(())
}
