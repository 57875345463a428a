//! Ollama layouts: what to change in a file written for Ollama's own engine so that llama.cpp loads it.
//!
//! Pure. The table of layouts is that of `spec/registry-and-store.md` §6.6; where it says nothing, the facts
//! come from Ollama's `llama/compat`. Vision and audio parts are left out: puna reads none.

mod edit;
mod gemma;
mod glm;
mod qwen;

use std::io::{Read, Seek};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::plan::{Draft, Plan, Put};
use super::{Header, Value};
use edit::{PRE, SENSES, rename_part};

pub use gemma::is_embedding as is_embedding_gemma;

/// Version of the rules: a file derived with an older version is no longer used.
pub const RULES: u32 = 2;

/// The number of tokens of Llama 3, and the id of its end-of-turn token.
const LLAMA3_TOKENS: u64 = 128_256;
const LLAMA3_TURN_END: u32 = 128_009;

/// Returns the changes that the file needs; `None` if it needs none.
///
/// # Errors
/// If the layout does not fit its architecture, or the file cannot be read.
pub fn plan(header: &Header, file: impl Read + Seek) -> Result<Option<Plan>, String> {
    let mut draft = Draft::new(header);
    match header.architecture() {
        "gemma3" if is_embedding_gemma(header) => gemma::embedding(&mut draft, file)?,
        "gemma3" => gemma::gemma3(&mut draft, file)?,
        "gemma3n" => gemma::gemma3n(&mut draft, file)?,
        "gemma4" => gemma::gemma4(&mut draft),
        "glmocr" => glm::ocr(&mut draft, file)?,
        "glm4moelite" => glm::lite(&mut draft, file)?,
        "qwen25vl" => qwen::qwen25vl(&mut draft, file)?,
        "qwen3vl" | "qwen3vlmoe" => qwen::qwen3vl(&mut draft),
        "qwen35" | "qwen35moe" | "qwen3next" => qwen::next(&mut draft, file)?,
        "gptoss" => gptoss(&mut draft),
        "llama" => llama3(&mut draft, file)?,
        "llama4" => _ = draft.hide(&SENSES),
        "mistral3" => mistral3(&mut draft),
        "deepseekocr" => deepseek_ocr(&mut draft),
        "nemotron_h_moe" => nemotron(&mut draft),
        "nemotron_h_omni" => nemotron_omni(&mut draft),
        "laguna" => laguna(&mut draft),
        "olmo3" => draft.rename_architecture("olmo2"),
        "lfm2" => lfm2(&mut draft),
        "bert" => bert(&mut draft, file)?,
        _ => {}
    }
    Ok(draft.finish())
}

/// Sets the pre-tokenizer if the file names none, or only the default one.
fn default_pre(draft: &mut Draft, name: &str) {
    if matches!(draft.header.text(PRE), None | Some("" | "default")) {
        draft.set(PRE, Put::Text(name.into()));
    }
}

fn gptoss(draft: &mut Draft) {
    draft.rename_architecture("gpt-oss");
    draft.rename_tensors(|name| {
        if name.ends_with(".attn_sinks") {
            return Some(format!("{name}.weight"));
        }
        let named = name.replace(".attn_out.", ".attn_output.");
        let named = match named.strip_suffix(".ffn_norm.weight") {
            Some(block) => format!("{block}.post_attention_norm.weight"),
            None => named,
        };
        (named != name).then_some(named)
    });
    if let Some(width) = draft.size("blk.0.ffn_up_exps.weight", 1) {
        draft.default("expert_feed_forward_length", Put::Number(width as u32));
    }
    draft.set(PRE, Put::Text("gpt-4o".into()));
    draft.default("rope.scaling.type", Put::Text("yarn".into()));
    draft.default("rope.scaling.factor", Put::Float(32.0));
    draft.default("rope.scaling.original_context_length", Put::Number(4096));
}

/// Llama 3 files from before pre-tokenizers had names.
fn llama3(draft: &mut Draft, mut file: impl Read + Seek) -> Result<(), String> {
    let header = draft.header;
    let old = header.text("tokenizer.ggml.model") == Some("gpt2")
        && matches!(header.text(PRE), None | Some("" | "default"));
    let Some(Value::Array(tokens)) = header.value("tokenizer.ggml.tokens") else {
        return Ok(());
    };
    if !old || tokens.count != LLAMA3_TOKENS {
        return Ok(());
    }
    let texts = header.elements(&mut file, tokens);
    let texts = texts.map_err(|error| error.to_string())?;
    if texts[LLAMA3_TURN_END as usize] == Value::Text("<|eot_id|>".into()) {
        draft.set(PRE, Put::Text("llama-bpe".into()));
        draft.set("tokenizer.ggml.eos_token_id", Put::Number(LLAMA3_TURN_END));
        draft.set("tokenizer.ggml.eot_token_id", Put::Number(LLAMA3_TURN_END));
    }
    Ok(())
}

fn mistral3(draft: &mut Draft) {
    let yarn = [
        ("rope.scaling.beta_fast", "rope.scaling.yarn_beta_fast"),
        ("rope.scaling.beta_slow", "rope.scaling.yarn_beta_slow"),
        (
            "rope.scaling.mscale_all_dim",
            "rope.scaling.yarn_log_multiplier",
        ),
        ("rope.scaling_beta", "attention.temperature_scale"),
    ];
    let renamed = yarn.map(|(old, new)| draft.rename(old, new));
    if draft.hide(&SENSES) || renamed.contains(&true) {
        default_pre(draft, "tekken");
    }
}

/// DeepSeek-OCR's text part: the sizes of its experts are those of its first block with experts.
fn deepseek_ocr(draft: &mut Draft) {
    draft.rename_architecture("deepseek2-ocr");
    draft.hide(&SENSES);
    draft.default("attention.layer_norm_rms_epsilon", Put::Float(1e-6));
    let Some(width) = draft.size("blk.1.ffn_down_exps.weight", 0) else {
        return;
    };
    draft.default("expert_feed_forward_length", Put::Number(width as u32));
    let shared = draft.size("blk.1.ffn_down_shexp.weight", 0);
    if let Some(count) = shared.and_then(|all| all.checked_div(width)) {
        draft.default("expert_shared_count", Put::Number(count as u32));
    }
}

/// Experts that work in a narrower space than the model.
fn nemotron(draft: &mut Draft) {
    let narrow = draft.header.tensors.iter();
    let mut narrow = narrow.filter(|tensor| tensor.name.ends_with(".ffn_latent_in.weight"));
    let width = narrow.next().and_then(|tensor| tensor.shape.get(1));
    if let Some(&width) = width {
        draft.default("moe_latent_size", Put::Number(width as u32));
    }
    rename_part(draft, ".ffn_latent_in", ".ffn_latent_down");
    rename_part(draft, ".ffn_latent_out", ".ffn_latent_up");
    draft.hide(&["mtp."]);
}

fn nemotron_omni(draft: &mut Draft) {
    let has_experts = ["expert_count", "expert_used_count"]
        .map(|key| draft.header.arch_integer(key))
        .iter()
        .any(|count| count.is_some_and(|count| count > 0));
    draft.rename_architecture(if has_experts {
        "nemotron_h_moe"
    } else {
        "nemotron_h"
    });
    draft.hide(&SENSES);
    nemotron(draft);
}

fn laguna(draft: &mut Draft) {
    draft.rename("rope.swa.dimension_count", "rope.dimension_count_swa");
    draft.rename("rope.swa.freq_base", "rope.freq_base_swa");
    rename_part(draft, ".attn_g.weight", ".attn_gate.weight");
}

fn lfm2(draft: &mut Draft) {
    let renamed = draft.rename_tensors(|name| {
        (name == "output_norm.weight").then(|| "token_embd_norm.weight".into())
    });
    if !renamed {
        return;
    }
    draft.set(PRE, Put::Text("lfm2".into()));
    if let Some(width) = draft.size("blk.0.ffn_gate.weight", 1) {
        let key = draft.key("feed_forward_length");
        draft.set(&key, Put::Number(width as u32));
    }
}

/// Decodes a normaliser's table that was stored as base64 text, whole or one letter per element.
fn bert(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    let text = match draft.header.value(KEY) {
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Array(array)) if array.element == super::source::TEXT => {
            let letters = draft.header.elements(file, array);
            let letters = letters.map_err(|error| error.to_string())?;
            let letter = |value| match value {
                Value::Text(letter) => letter,
                _ => String::new(),
            };
            letters.into_iter().map(letter).collect()
        }
        _ => return Ok(()),
    };
    let bytes = BASE64.decode(text);
    let bytes = bytes.map_err(|_| format!("{KEY} is neither bytes nor base64"))?;
    draft.set(KEY, Put::Bytes(bytes));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::format::gguf::ollama_layout::edit::integers;
    use crate::format::gguf::{Writer, read};

    /// The header that llama.cpp would see; `None` if it is this file's own.
    fn derived(bytes: &[u8]) -> Result<Option<Header>, String> {
        let old = read(Cursor::new(bytes), bytes.len() as u64).unwrap();
        let Some(plan) = old.plan(Cursor::new(bytes))? else {
            return Ok(None);
        };
        let (mut new, runs) = plan.header(&old, Cursor::new(bytes)).unwrap();
        for run in runs {
            new.resize(run.target as usize, 0);
            let (start, end) = (run.source as usize, (run.source + run.bytes) as usize);
            new.extend(&bytes[start..end]);
        }
        read(Cursor::new(&new), new.len() as u64).map(Some)
    }

    fn with(architecture: &str, tensors: &[(&str, &[u64])]) -> Writer {
        let mut writer = Writer::new(architecture);
        for (name, shape) in tensors {
            let count = shape.iter().product::<u64>() as usize;
            writer.tensor_f32(name, shape, &vec![1.0; count]);
        }
        writer
    }

    fn names(header: &Header) -> Vec<&str> {
        header
            .tensors
            .iter()
            .map(|tensor| tensor.name.as_str())
            .collect()
    }

    #[test]
    fn layouts_of_llama_cpp_stay_unchanged() {
        for architecture in [
            "gemma3", "llama", "llama4", "qwen35", "lfm2", "bert", "gpt-oss",
        ] {
            let mut writer = with(architecture, &[("token_embd.weight", &[4, 2])]);
            let epsilon = format!("{architecture}.attention.layer_norm_rms_epsilon");
            let bytes = writer.float(&epsilon, 1e-6).bytes();
            assert_eq!(derived(&bytes), Ok(None), "{architecture}");
        }
    }

    #[test]
    fn names_and_keys_become_llama_cpps() {
        let mut qwen = with(
            "qwen35",
            &[("blk.0.ssm_dt", &[4]), ("mtp.x", &[4]), ("v.y", &[4])],
        );
        qwen.integers("qwen35.attention.head_count_kv", &[0, 2, 0])
            .integers("qwen35.rope.dimension_sections", &[11, 11, 10])
            .unsigned("qwen35.nextn_predict_layers", 1);
        let header = derived(&qwen.bytes()).unwrap().unwrap();
        assert_eq!(names(&header), ["blk.0.ssm_dt.bias"]);
        assert_eq!(header.arch_integer("attention.head_count_kv"), Some(2));
        assert!(header.value("qwen35.nextn_predict_layers").is_none());
        let Some(Value::Array(sections)) = header.value("qwen35.rope.dimension_sections") else {
            panic!("no sections")
        };
        assert_eq!(sections.count, 4);

        let lfm = with(
            "lfm2",
            &[
                ("output_norm.weight", &[4]),
                ("blk.0.ffn_gate.weight", &[4, 6]),
            ],
        );
        let header = derived(&lfm.bytes()).unwrap().unwrap();
        assert_eq!(names(&header)[0], "token_embd_norm.weight");
        assert_eq!(header.arch_integer("feed_forward_length"), Some(6));

        let mut vision = with("qwen3vl", &[("v.x", &[4]), ("output_norm.weight", &[4])]);
        vision.integers("qwen3vl.vision.deepstack_visual_indexes", &[5, 11, 17, 23]);
        let header = derived(&vision.bytes()).unwrap().unwrap();
        assert_eq!(header.arch_integer("n_deepstack_layers"), Some(4));
    }

    #[test]
    fn narrow_experts_and_audio_are_detected_by_their_tensors() {
        let mut omni = with(
            "nemotron_h_omni",
            &[
                ("blk.1.ffn_latent_in.weight", &[4, 3]),
                ("blk.1.ffn_latent_out.weight", &[3, 4]),
                ("mtp.layers.0.x", &[4]),
                ("a.x", &[4]),
            ],
        );
        omni.unsigned("nemotron_h_omni.expert_count", 8);
        let header = derived(&omni.bytes()).unwrap().unwrap();
        assert_eq!(header.architecture(), "nemotron_h_moe");
        assert_eq!(header.arch_integer("moe_latent_size"), Some(3));
        assert_eq!(
            names(&header),
            ["blk.1.ffn_latent_down.weight", "blk.1.ffn_latent_up.weight"]
        );

        let experts = with("gemma4", &[("blk.0.ffn_gate_inp.per_expert_scale", &[4])]);
        let header = derived(&experts.bytes()).unwrap().unwrap();
        assert_eq!(names(&header), ["blk.0.ffn_down_exps.scale"]);
    }

    #[test]
    fn tokens_of_images_are_cut_with_their_rows() {
        let mut writer = with(
            "gemma3n",
            &[
                ("token_embd.weight", &[2, 5]),
                ("per_layer_token_embd.weight", &[2, 4]),
            ],
        );
        writer.texts(
            "tokenizer.ggml.tokens",
            &["a", "<0x0A>", "<unused1>", "b", "<image>"],
        );
        writer.integers("tokenizer.ggml.token_type", &[1, 1, 3, 3, 3]);
        let bytes = writer.bytes();
        let old = read(Cursor::new(&bytes), bytes.len() as u64).unwrap();
        let plan = old.plan(Cursor::new(&bytes)).unwrap().unwrap();
        let (new, runs) = plan.header(&old, Cursor::new(&bytes)).unwrap();
        assert_eq!(
            runs.iter().map(|run| run.bytes).collect::<Vec<_>>(),
            [32, 32]
        );
        let header = derived(&bytes).unwrap().unwrap();
        assert_eq!(header.tensor("token_embd.weight").unwrap().shape, [2, 4]);
        assert_eq!(header.integer("tokenizer.ggml.eot_token_id"), Some(106));
        let Some(Value::Array(kinds)) = header.value("tokenizer.ggml.token_type") else {
            panic!("no kinds")
        };
        let kinds = integers(&header, kinds, Cursor::new(&new));
        assert_eq!(kinds, Ok(vec![1, 6, 1, 3]));
    }

    #[test]
    fn tables_stored_as_text_become_bytes() {
        const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
        let mut bert = with("bert", &[("token_embd.weight", &[4, 2])]);
        bert.text(KEY, "AAEC");
        let header = derived(&bert.bytes()).unwrap().unwrap();
        assert!(matches!(header.value(KEY), Some(Value::Array(array)) if array.count == 3));
        let mut letters = with("bert", &[("token_embd.weight", &[4, 2])]);
        letters.texts(KEY, &["A", "A", "E", "C"]);
        let header = derived(&letters.bytes()).unwrap().unwrap();
        assert!(matches!(header.value(KEY), Some(Value::Array(array)) if array.count == 3));
        let mut broken = with("bert", &[]);
        broken.text(KEY, "no base64!");
        assert!(derived(&broken.bytes()).is_err());
    }

    #[test]
    fn llama_3_without_a_tokenizers_name_gets_one() {
        let mut tokens: Vec<String> = (0..LLAMA3_TOKENS).map(|id| format!("t{id}")).collect();
        tokens[LLAMA3_TURN_END as usize] = "<|eot_id|>".into();
        let mut llama = with("llama", &[("token_embd.weight", &[4, 2])]);
        llama.text("tokenizer.ggml.model", "gpt2");
        llama.texts("tokenizer.ggml.tokens", &tokens);
        let header = derived(&llama.bytes()).unwrap().unwrap();
        assert_eq!(header.text("tokenizer.ggml.pre"), Some("llama-bpe"));
        assert_eq!(header.integer("tokenizer.ggml.eos_token_id"), Some(128_009));
    }
}
