//! Files that were laid out for Ollama's own engine: what to change so that llama.cpp loads them.
//!
//! Pure. The table of layouts is that of `spec/registry-and-store.md` §6.6; a row that would have to
//! compute tensor data is refused by name. Vision and audio parts are left out: puna reads none.

use std::io::{Read, Seek};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::plan::{Draft, Plan, Put};
use super::{Array, Header, Value};

/// Number of rules in force: a file derived by older ones is not used any more.
pub const RULES: u32 = 1;

/// Tokens of Llama 3, and the number of the one that ends a turn.
const LLAMA3_TOKENS: u64 = 128_256;
const LLAMA3_TURN_END: u32 = 128_009;
/// gemma3n's end of a turn.
const GEMMA3N_TURN_END: u32 = 106;
/// From this trained context on gemma3 stretches its positions eightfold.
const GEMMA3_STRETCHED: u64 = 131_072;

/// Tensors that only see or hear.
const SENSES: [&str; 3] = ["v.", "mm.", "a."];

/// Layouts whose tensor data would have to be computed anew, or that nobody described.
const REFUSED: [&str; 5] = [
    "deepseekocr",
    "glmocr",
    "glm4moelite",
    "nemotron_h_omni",
    "laguna",
];

/// True for embeddinggemma as Ollama publishes it: gemma3 with dense layers behind it.
pub fn is_embedding_gemma(header: &Header) -> bool {
    header.architecture() == "gemma3" && header.tensor("dense.0.weight").is_some()
}

/// What to change, or nothing.
///
/// # Errors
/// A layout that is not translated; a file that cannot be read.
pub fn plan(header: &Header, file: impl Read + Seek) -> Result<Option<Plan>, String> {
    let architecture = header.architecture();
    if REFUSED.contains(&architecture) {
        return Err(untranslated(architecture));
    }
    let mut draft = Draft::new(header);
    match architecture {
        "gemma3" if is_embedding_gemma(header) => embedding_gemma(&mut draft, file)?,
        "gemma3" => gemma3(&mut draft, file)?,
        "gemma3n" => gemma3n(&mut draft, file)?,
        "gemma4" => gemma4(&mut draft)?,
        "gptoss" => gptoss(&mut draft),
        "llama" => llama3(&mut draft, file)?,
        "llama4" => _ = draft.hide(&SENSES),
        "mistral3" => mistral3(&mut draft),
        "qwen25vl" => qwen25vl(&mut draft),
        "qwen3vl" | "qwen3vlmoe" => qwen3vl(&mut draft),
        "qwen35" | "qwen35moe" | "qwen3next" => qwen_next(&mut draft, file)?,
        "olmo3" => draft.rename_architecture("olmo2"),
        "lfm2" => lfm2(&mut draft),
        "bert" => bert(&mut draft)?,
        _ => {}
    }
    Ok(draft.finish())
}

fn untranslated(architecture: &str) -> String {
    format!(
        "its architecture {architecture} is laid out for Ollama's own engine in a way that puna does not translate: \
         take a newer tag or another publisher's GGUF"
    )
}

fn gemma3(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    let renamed = draft.rename("rope.global.freq_base", "rope.freq_base")
        | draft.rename("rope.local.freq_base", "rope.freq_base_swa");
    if !(draft.hide(&SENSES) | draft.cut_vocabulary(file)? | renamed) {
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

fn embedding_gemma(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    gemma3(draft, file)?;
    draft.rename_architecture("gemma-embedding");
    for (index, name) in [(0, "dense_2"), (1, "dense_3")] {
        let tensor = draft.header.tensor(&format!("dense.{index}.weight"));
        let shape = tensor.map(|tensor| tensor.shape.clone());
        let [inputs, outputs] = shape.as_deref().unwrap_or_default() else {
            return Err(format!("dense.{index}.weight is no matrix"));
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

fn gemma3n(draft: &mut Draft, file: impl Read + Seek) -> Result<(), String> {
    if draft.hide(&SENSES) | draft.cut_vocabulary(file)? {
        draft.set("tokenizer.ggml.model", Put::Text("llama".into()));
        draft.set("tokenizer.ggml.eos_token_id", Put::Number(GEMMA3N_TURN_END));
    }
    Ok(())
}

fn gemma4(draft: &mut Draft) -> Result<(), String> {
    let is_split = |name: &str| name.ends_with(".ffn_gate_exps.weight");
    if draft
        .header
        .tensors
        .iter()
        .any(|tensor| is_split(&tensor.name))
    {
        return Err(untranslated("gemma4 with experts in two parts"));
    }
    if draft.hide(&SENSES) && draft.header.text("tokenizer.ggml.model") == Some("llama") {
        draft.set("tokenizer.ggml.model", Put::Text("gemma4".into()));
    }
    Ok(())
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
    let expert = draft.header.tensor("blk.0.ffn_up_exps.weight");
    if let Some(width) = expert.and_then(|tensor| tensor.shape.get(1)) {
        draft.default("expert_feed_forward_length", Put::Number(*width as u32));
    }
    draft.set("tokenizer.ggml.pre", Put::Text("gpt-4o".into()));
    draft.default("rope.scaling.type", Put::Text("yarn".into()));
    draft.default("rope.scaling.factor", Put::Float(32.0));
    draft.default("rope.scaling.original_context_length", Put::Number(4096));
}

/// Llama 3 from before tokenizers had names.
fn llama3(draft: &mut Draft, mut file: impl Read + Seek) -> Result<(), String> {
    let header = draft.header;
    let old = header.text("tokenizer.ggml.model") == Some("gpt2")
        && header.value("tokenizer.ggml.pre").is_none();
    let Some(Value::Array(tokens)) = header.value("tokenizer.ggml.tokens") else {
        return Ok(());
    };
    if !old || tokens.count != LLAMA3_TOKENS {
        return Ok(());
    }
    let texts = header.elements(&mut file, tokens);
    let texts = texts.map_err(|error| error.to_string())?;
    if texts[LLAMA3_TURN_END as usize] == Value::Text("<|eot_id|>".into()) {
        draft.set("tokenizer.ggml.pre", Put::Text("llama-bpe".into()));
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
        draft.default_everywhere("tokenizer.ggml.pre", Put::Text("tekken".into()));
    }
}

fn qwen25vl(draft: &mut Draft) {
    draft.rename_architecture("qwen2vl");
    draft.hide(&SENSES);
    draft.default(
        "rope.dimension_sections",
        Put::Integers(vec![16, 24, 24, 0]),
    );
}

fn qwen3vl(draft: &mut Draft) {
    let deep = match draft
        .header
        .value(&draft.key("vision.deepstack_visual_indexes"))
    {
        Some(Value::Array(array)) => array.count as u32,
        _ => 3,
    };
    if draft.hide(&SENSES) {
        draft.default(
            "rope.dimension_sections",
            Put::Integers(vec![24, 20, 20, 0]),
        );
        draft.default("n_deepstack_layers", Put::Number(deep));
    }
}

fn qwen_next(draft: &mut Draft, mut file: impl Read + Seek) -> Result<(), String> {
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
        draft.set(&heads, Put::Number(most.unwrap_or(0).max(0) as u32));
    }
    let sections = draft.key("rope.dimension_sections");
    if let Some(Value::Array(array)) = header.value(&sections)
        && array.count < 4
    {
        let mut padded = integers(header, array, &mut file)?;
        padded.resize(4, 0);
        draft.set(&sections, Put::Integers(padded));
    }
    Ok(())
}

fn integers(header: &Header, array: &Array, file: impl Read + Seek) -> Result<Vec<i32>, String> {
    let values = header.elements(file, array);
    let values = values.map_err(|error| error.to_string())?;
    let integer = |value| match value {
        Value::Unsigned(value) => i32::try_from(value).ok(),
        Value::Signed(value) => i32::try_from(value).ok(),
        _ => None,
    };
    Ok(values.into_iter().filter_map(integer).collect())
}

fn lfm2(draft: &mut Draft) {
    let renamed = draft.rename_tensors(|name| {
        (name == "output_norm.weight").then(|| "token_embd_norm.weight".into())
    });
    let gate = draft.header.tensor("blk.0.ffn_gate.weight");
    if let Some(width) = gate.and_then(|tensor| tensor.shape.get(1))
        && renamed
    {
        let key = draft.key("feed_forward_length");
        draft.set(&key, Put::Number(*width as u32));
    }
}

/// A normaliser's table that was stored as text.
fn bert(draft: &mut Draft) -> Result<(), String> {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    if let Some(text) = draft.header.text(KEY) {
        let bytes = BASE64.decode(text);
        let bytes = bytes.map_err(|_| format!("{KEY} is neither bytes nor base64"))?;
        draft.set(KEY, Put::Bytes(bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::gguf::{Writer, read};

    /// The header that llama.cpp would see, if another than this file's.
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
    fn what_llama_cpp_loads_stays_as_it_is() {
        for architecture in [
            "gemma3", "llama", "llama4", "qwen35", "lfm2", "bert", "gpt-oss",
        ] {
            let bytes = with(architecture, &[("token_embd.weight", &[4, 2])]).bytes();
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
    fn tables_stored_as_text_become_bytes() {
        const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
        let mut bert = with("bert", &[("token_embd.weight", &[4, 2])]);
        bert.text(KEY, "AAEC");
        let header = derived(&bert.bytes()).unwrap().unwrap();
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
