//! Maps tensor names from safetensors to GGUF.

use super::family::{Family, Layout};

/// The GGUF name of a tensor, and its place in the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The name in the GGUF.
    pub name: String,
    /// The layer's number, if the tensor belongs to a layer.
    pub block: Option<u32>,
    /// The expert's number, if the tensor is one of the experts stacked under this name.
    pub expert: Option<usize>,
}

/// Names outside of layers, and names inside: safetensors, then GGUF.
type Table = (
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

const DECODER: Table = (
    &[
        ("embed_tokens", "token_embd"),
        ("norm", "output_norm"),
        ("lm_head", "output"),
    ],
    &[
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
        ("block_sparse_moe.experts.w1", "ffn_gate_exps"),
        ("block_sparse_moe.experts.w2", "ffn_down_exps"),
        ("block_sparse_moe.experts.w3", "ffn_up_exps"),
    ],
);

/// The differences where each part of a layer has a norm before it and one after it.
const SANDWICH: &[(&str, &str)] = &[
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

const BERT: Table = (
    &[
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.LayerNorm", "token_embd_norm"),
    ],
    &[
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
    ],
);

const NOMIC: Table = (
    &[
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("emb_ln", "token_embd_norm"),
    ],
    &[
        ("attn.Wqkv", "attn_qkv"),
        ("attn.out_proj", "attn_output"),
        ("norm1", "attn_output_norm"),
        ("mlp.fc11", "ffn_up"),
        ("mlp.fc12", "ffn_gate"),
        ("mlp.fc2", "ffn_down"),
        ("norm2", "layer_output_norm"),
    ],
);

/// Parts of tensor names that a text-only GGUF does not contain.
const LEFT_OUT: &[&str] = &[
    "rotary_emb.inv_freq",
    "attention.masked_bias",
    "embeddings.position_ids",
    "pooler.",
    "cls.predictions",
    "cls.seq_relationship",
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
];
/// Prefixes that may precede a name.
const PREFIXES: &[&str] = &["language_model.", "model.", "bert.", "encoder."];

/// The GGUF name of a tensor; `None` if it is left out.
///
/// # Errors
/// If the name is unknown: a model without that tensor would give wrong answers.
pub fn place(family: &Family, name: &str) -> Result<Option<Place>, String> {
    let gemma = family.norms_above_one;
    if LEFT_OUT.iter().any(|part| name.contains(part)) || (gemma && name == "lm_head.weight") {
        return Ok(None);
    }
    let unknown = || format!("unknown tensor {name} in a model of {}", family.name);
    let (stem, kind) = name.rsplit_once('.').ok_or_else(unknown)?;
    let kind = match kind {
        "weight" | "gamma" => "weight",
        "bias" | "beta" => "bias",
        _ => return Err(unknown()),
    };
    let place = place_for_stem(family, stem).ok_or_else(unknown)?;
    Ok(Some(Place {
        name: format!("{}.{kind}", place.name),
        ..place
    }))
}

/// The place of a tensor by its name without `.weight` or `.bias`.
pub fn place_for_stem(family: &Family, stem: &str) -> Option<Place> {
    let mut stem = stem;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| stem.strip_prefix(prefix)) {
        stem = rest;
    }
    let (outside, inside) = match family.layout {
        Layout::Decoder | Layout::Sandwich => DECODER,
        Layout::Bert => BERT,
        Layout::Nomic => NOMIC,
    };
    let find = |table: &[(&str, &'static str)], stem: &str| {
        let row = table.iter().find(|(theirs, _)| *theirs == stem);
        row.map(|(_, ours)| *ours)
    };
    let layers = ["layers.", "layer."];
    let Some(rest) = layers.iter().find_map(|prefix| stem.strip_prefix(prefix)) else {
        let name = find(outside, stem)?.to_string();
        return Some(Place {
            name,
            block: None,
            expert: None,
        });
    };
    let (block, rest) = rest.split_once('.')?;
    let block: u32 = block.parse().ok()?;
    let (rest, expert) = expert(rest);
    let own = match family.layout {
        Layout::Sandwich => find(SANDWICH, &rest),
        _ => None,
    };
    let name = own.or_else(|| find(inside, &rest))?;
    Some(Place {
        name: format!("blk.{block}.{name}"),
        block: Some(block),
        expert,
    })
}

/// A name without its expert number, and that number.
fn expert(stem: &str) -> (String, Option<usize>) {
    let number = stem.split_once(".experts.").and_then(|(before, rest)| {
        let (number, after) = rest.split_once('.')?;
        Some((format!("{before}.experts.{after}"), number.parse().ok()?))
    });
    match number {
        Some((stem, number)) => (stem, Some(number)),
        None => (stem.to_string(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gguf_name(architecture: &str, name: &str) -> Option<String> {
        let family = Family::for_architecture(Some(architecture)).unwrap();
        let place = place(family, name).unwrap()?;
        let expert = place.expert.map(|expert| format!("[{expert}]"));
        Some(place.name + &expert.unwrap_or_default())
    }

    #[test]
    fn names_are_llama_cpps() {
        let cases = [
            (
                "LlamaForCausalLM",
                "model.layers.11.self_attn.q_proj.bias",
                "blk.11.attn_q.bias",
            ),
            ("LlamaForCausalLM", "lm_head.weight", "output.weight"),
            (
                "MixtralForCausalLM",
                "model.layers.0.block_sparse_moe.experts.7.w2.weight",
                "blk.0.ffn_down_exps.weight[7]",
            ),
            (
                "Gemma3ForConditionalGeneration",
                "language_model.model.layers.0.post_attention_layernorm.weight",
                "blk.0.post_attention_norm.weight",
            ),
            (
                "BertModel",
                "bert.embeddings.LayerNorm.gamma",
                "token_embd_norm.weight",
            ),
            (
                "NomicBertModel",
                "encoder.layers.3.mlp.fc12.weight",
                "blk.3.ffn_gate.weight",
            ),
        ];
        for (architecture, name, ours) in cases {
            assert_eq!(gguf_name(architecture, name).as_deref(), Some(ours));
        }
        assert_eq!(gguf_name("GemmaForCausalLM", "lm_head.weight"), None);
        let llama = Family::for_architecture(Some("LlamaForCausalLM")).unwrap();
        assert!(place(llama, "model.layers.0.self_attn.sinks.weight").is_err());
        assert!(place(llama, "model.layers.x.input_layernorm.weight").is_err());
    }
}
