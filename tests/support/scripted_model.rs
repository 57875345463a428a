//! A scripted model: its weights map each token of a script to the next one.
//!
//! Embeddings are unit vectors, the layer adds nothing to them, and the output matrix has a large
//! value at the next token of the script. The last token of the prompt selects the script.

use puna::format::gguf::Writer;

use crate::support::tiny_models::tensors;

const BYTES: usize = 256;
/// Output weight of the next token; its logit is this times the square root of the width.
const SURE: f32 = 2.0;

/// Each byte of a prompt is a token, and agents send a hundred thousand.
const CONTEXT_TOKENS: u32 = 1 << 18;
/// One small head: attention decides nothing here, and its cost grows with the square of the prompt.
const HEAD_WIDTH: u32 = 16;

/// The control token that starts script `index`.
pub fn cue(index: usize) -> String {
    format!("<|cue{index}|>")
}

/// Splits a script into pieces that no other script has, of four characters where possible.
fn pieces(script: &str, known: &[String]) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut piece = String::new();
    for letter in script.chars() {
        piece.push(if letter == ' ' { '\u{2581}' } else { letter });
        let is_new = !known.contains(&piece) && !pieces.contains(&piece);
        if piece.chars().count() >= 4 && is_new {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    let last = pieces.pop().expect("a script of four letters") + &piece;
    assert!(!known.contains(&last) && !pieces.contains(&last), "{last}");
    pieces.push(last);
    pieces
}

/// A GGUF that generates the scripts.
pub fn scripted_gguf(scripts: &[&str]) -> Vec<u8> {
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).into();
    texts.extend((0..BYTES).map(|byte| format!("<0x{byte:02X}>")));
    let mut kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; BYTES]).collect();
    for tag in ["<|im_start|>", "<|im_end|>"] {
        texts.push(tag.into());
        kinds.push(3);
    }
    let first = texts.len();
    let mut next = Vec::new();
    for (index, script) in scripts.iter().enumerate() {
        texts.push(cue(index));
        kinds.push(3);
        for piece in pieces(script, &texts) {
            next.push(texts.len());
            texts.push(piece);
            kinds.push(1);
        }
        next.push(2); // The end-of-text token.
    }
    let width = next.len().next_multiple_of(64);
    let count = texts.len();
    let mut embeddings = vec![0.0; width * count];
    let mut output = vec![0.0; width * count];
    for (at, next) in next.into_iter().enumerate() {
        embeddings[width * (first + at) + at] = 1.0;
        output[width * next + at] = SURE;
    }
    let mut writer = Writer::new("llama");
    let wide = width as u32;
    for (key, value) in [
        ("context_length", CONTEXT_TOKENS),
        ("embedding_length", wide),
        ("block_count", 1),
        ("feed_forward_length", 64),
        ("attention.head_count", 1),
        ("attention.key_length", HEAD_WIDTH),
        ("attention.value_length", HEAD_WIDTH),
    ] {
        writer.unsigned(&format!("llama.{key}"), value);
    }
    writer.float("llama.attention.layer_norm_rms_epsilon", 1e-9);
    writer.text("tokenizer.ggml.model", "llama");
    writer.texts("tokenizer.ggml.tokens", &texts);
    writer.floats("tokenizer.ggml.scores", &vec![-1e3; count]);
    writer.integers("tokenizer.ggml.token_type", &kinds);
    writer.bool("tokenizer.ggml.add_bos_token", false);
    writer.bool("tokenizer.ggml.add_space_prefix", false);
    let (width, count) = (width as u64, count as u64);
    writer.tensor_f32("token_embd.weight", &[width, count], &embeddings);
    writer.tensor_f32("output.weight", &[width, count], &output);
    let norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"];
    for name in norms {
        tensors(&mut writer, "", 1, &[(&format!("{name}.weight"), &[width])]);
    }
    let head_width = u64::from(HEAD_WIDTH);
    for name in ["attn_q", "attn_k", "attn_v"] {
        zeros(&mut writer, name, width, head_width);
    }
    zeros(&mut writer, "attn_output", head_width, width);
    zeros(&mut writer, "ffn_gate", width, 64);
    zeros(&mut writer, "ffn_up", width, 64);
    zeros(&mut writer, "ffn_down", 64, width);
    writer.bytes()
}

fn zeros(writer: &mut Writer, name: &str, columns: u64, rows: u64) {
    let data = vec![0.0; (columns * rows) as usize];
    writer.tensor_f32(&format!("blk.0.{name}.weight"), &[columns, rows], &data);
}

/// A Modelfile for script `index`: ChatML with tools and thinking, then the cue.
pub fn modelfile(file: &str, index: usize) -> String {
    let template = crate::api::structured_output::TEMPLATE.trim_end();
    format!(
        "FROM {file}\nTEMPLATE \"\"\"{template}\n{}\"\"\"\n",
        cue(index)
    )
}
