//! How a byte-level tokenizer splits text before it merges, by llama.cpp's name for it.

use serde_json::Value as Json;

use super::Files;

/// Regular expressions of `Split` steps as tokenizers write them, with llama.cpp's name for each. The
/// names are from its list of tokenizers; two of them merge differently and are distinguished below.
const KNOWN: &[(&str, &str)] = &[
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen35",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "tekken",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "gpt-4o",
    ),
    (
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        "deepseek-v3",
    ),
];

/// llama.cpp's name for the way this tokenizer splits text.
///
/// # Errors
/// If the way is unknown: another one would give other tokens than the model was trained with.
pub fn name(json: &Json, files: &Files) -> Result<&'static str, String> {
    let steps = steps(&json["pre_tokenizer"]);
    let kind = |step: &&Json| step["type"].as_str().unwrap_or_default().to_string();
    let splits = steps.iter().filter(|step| kind(step) == "Split");
    let mut patterns = splits.filter_map(|step| step["pattern"]["Regex"].as_str());
    // If several splits follow each other, the last one distinguishes the tokenizers.
    if let Some(pattern) = patterns.next_back() {
        // A carriage return may be literal or escaped.
        let pattern = pattern.replace('\r', "\\r").replace('\n', "\\n");
        let known = KNOWN.iter().find(|(text, _)| *text == pattern);
        let whole = json["model"]["ignore_merges"].as_bool().unwrap_or(false);
        return match known {
            // The same split; llama.cpp keeps a word that is a token whole only under the first name.
            Some((_, "llama-bpe")) if !whole => Ok("dbrx"),
            Some((_, name)) => Ok(name),
            None => Err(format!(
                "the tokenizer splits text in an unknown way: {pattern}"
            )),
        };
    }
    let cohere = files
        .config
        .get("model_type")
        .is_some_and(|kind| kind == "cohere");
    let kinds: Vec<String> = steps.iter().map(kind).collect();
    match kinds.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ByteLevel"] => Ok("gpt-2"),
        ["Digits", "ByteLevel"] if cohere => Ok("command-r"),
        ["Digits", "ByteLevel"] => Ok("smollm"),
        _ => Err(format!(
            "the tokenizer splits text in an unknown way: {}",
            kinds.join(", ")
        )),
    }
}

/// The steps of a pre-tokenizer.
fn steps(json: &Json) -> Vec<&Json> {
    match json["pretokenizers"].as_array() {
        Some(steps) => steps.iter().collect(),
        None => vec![json],
    }
}
