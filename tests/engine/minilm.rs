//! The embedding model of the tests: all-MiniLM-L6-v2, converted from safetensors to GGUF here.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use puna::format::gguf::Writer;
use serde_json::Value as Json;

use crate::support::model;

/// Serialises the tests that need the file, since the first one creates it.
static MAKING: Mutex<()> = Mutex::new(());

/// Path of the GGUF, created once beside its source.
pub fn minilm() -> PathBuf {
    made("v1", 1)
}

/// The same model with an untrained head that scores pairs of texts.
pub fn ranker() -> PathBuf {
    made("rank.v1", 4)
}

fn made(name: &str, pooling: u32) -> PathBuf {
    let _one = MAKING
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let source = model("all-MiniLM-L6-v2.safetensors");
    let made = source.with_extension(format!("{name}.gguf"));
    if !made.exists() {
        let part = source.with_extension(format!("{}.part", std::process::id()));
        fs::write(&part, gguf(&fs::read(&source).unwrap(), pooling)).unwrap();
        fs::rename(&part, &made).unwrap();
    }
    made
}

fn gguf(safetensors: &[u8], pooling: u32) -> Vec<u8> {
    let mut writer = Writer::new("bert");
    for (key, value) in [
        ("context_length", 512),
        ("embedding_length", 384),
        ("feed_forward_length", 1536),
        ("block_count", 6),
        ("attention.head_count", 12),
        ("pooling_type", pooling),
    ] {
        writer.unsigned(&format!("bert.{key}"), value);
    }
    writer.float("bert.attention.layer_norm_epsilon", 1e-12);
    writer.bool("bert.attention.causal", false);
    vocabulary(&mut writer);
    let length = u64::from_le_bytes(safetensors[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&safetensors[8..8 + length]).unwrap();
    let data = &safetensors[8 + length..];
    for (name, entry) in header.as_object().unwrap() {
        let Some(ours) = tensor_name(name) else {
            continue;
        };
        let number = |json: &Json| json.as_u64().unwrap();
        let offsets = &entry["data_offsets"];
        let bytes = &data[number(&offsets[0]) as usize..number(&offsets[1]) as usize];
        let floats = bytes.chunks_exact(4);
        let floats: Vec<f32> = floats
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect();
        // GGUF lists the fastest dimension first.
        let shape = entry["shape"].as_array().unwrap().iter().rev();
        writer.tensor_f32(&ours, &shape.map(number).collect::<Vec<u64>>(), &floats);
    }
    if pooling == 4 {
        let waves =
            |count: u64| -> Vec<f32> { (0..count).map(|at| (at as f32).sin() / 20.0).collect() };
        for (name, shape) in [
            ("cls.weight", &[384, 384][..]),
            ("cls.bias", &[384]),
            ("cls.output.weight", &[384, 1]),
            ("cls.output.bias", &[1]),
        ] {
            writer.tensor_f32(name, shape, &waves(shape.iter().product()));
        }
    }
    writer.bytes()
}

/// WordPiece in llama.cpp's form: a prefix marks the first piece of a word, where BERT marks the
/// others.
fn vocabulary(writer: &mut Writer) {
    let text = fs::read_to_string(model("all-MiniLM-L6-v2.vocab.txt")).unwrap();
    let special = |token: &str| token.starts_with('[') && token.ends_with(']');
    let tokens: Vec<&str> = text.lines().collect();
    let pieces: Vec<String> = tokens
        .iter()
        .map(|token| match token.strip_prefix("##") {
            Some(rest) => rest.to_string(),
            None if special(token) => token.to_string(),
            None => format!("\u{2581}{token}"),
        })
        .collect();
    let kinds: Vec<i32> = tokens
        .iter()
        .map(|token| if special(token) { 3 } else { 1 })
        .collect();
    writer.text("tokenizer.ggml.model", "bert");
    writer.text("tokenizer.ggml.pre", "default");
    writer.unsigned("tokenizer.ggml.token_type_count", 2);
    writer.texts("tokenizer.ggml.tokens", &pieces);
    writer.integers("tokenizer.ggml.token_type", &kinds);
    for (name, token) in [
        ("bos", "[CLS]"),
        ("cls", "[CLS]"),
        ("seperator", "[SEP]"),
        ("eos", "[SEP]"),
        ("unknown", "[UNK]"),
        ("padding", "[PAD]"),
        ("mask", "[MASK]"),
    ] {
        let id = tokens.iter().position(|known| *known == token).unwrap();
        writer.unsigned(&format!("tokenizer.ggml.{name}_token_id"), id as u32);
    }
}

fn tensor_name(name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    let ours = match stem {
        "embeddings.word_embeddings" => "token_embd".to_string(),
        "embeddings.position_embeddings" => "position_embd".to_string(),
        "embeddings.token_type_embeddings" => "token_types".to_string(),
        "embeddings.LayerNorm" => "token_embd_norm".to_string(),
        _ => {
            let (layer, part) = stem.strip_prefix("encoder.layer.")?.split_once('.')?;
            let part = match part {
                "attention.self.query" => "attn_q",
                "attention.self.key" => "attn_k",
                "attention.self.value" => "attn_v",
                "attention.output.dense" => "attn_output",
                "attention.output.LayerNorm" => "attn_output_norm",
                "intermediate.dense" => "ffn_up",
                "output.dense" => "ffn_down",
                "output.LayerNorm" => "layer_output_norm",
                _ => return None,
            };
            format!("blk.{layer}.{part}")
        }
    };
    Some(format!("{ours}.{end}"))
}
