//! The files of a tokenizer, their contents handed in.

use serde_json::{Map, Value as Json};

/// The files beside the weights; a missing one is `None`.
#[derive(Debug, Default)]
pub struct Files {
    /// `tokenizer.model`, in SentencePiece's format.
    pub sentencepiece: Option<Vec<u8>>,
    /// `tokenizer.json`.
    pub tokenizer: Option<Json>,
    /// `tokenizer_config.json`.
    pub settings: Option<Map<String, Json>>,
    /// `added_tokens.json`.
    pub added: Option<Map<String, Json>>,
    /// `config.json`.
    pub config: Map<String, Json>,
    /// `chat_template.jinja`, or the content of `chat_template.json`.
    pub template: Option<Json>,
}

/// A text setting of `tokenizer_config.json`.
pub fn setting<'a>(files: &'a Files, key: &str) -> Option<&'a str> {
    files.settings.as_ref()?.get(key)?.as_str()
}

/// The number of tokens that the weights have rows for.
pub fn config_size(files: &Files) -> Option<u64> {
    files.config.get("vocab_size")?.as_u64()
}
