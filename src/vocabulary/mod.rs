//! Tokenizers as they lie beside safetensors, turned into the vocabulary that a GGUF holds.
//!
//! Pure: the files' contents are handed in.

mod bpe;
mod sentencepiece;
mod special;
mod split;

use serde_json::{Map, Value as Json};

use crate::gguf::Writer;
use special::Specials;

/// What lies beside the weights; what is not there is `None`.
#[derive(Debug, Default)]
pub struct Files {
    /// `tokenizer.model`, of SentencePiece.
    pub sentencepiece: Option<Vec<u8>>,
    /// `tokenizer.json`.
    pub tokenizer: Option<Json>,
    /// `tokenizer_config.json`.
    pub settings: Option<Map<String, Json>>,
    /// `added_tokens.json`.
    pub added: Option<Map<String, Json>>,
    /// `config.json`.
    pub config: Map<String, Json>,
    /// `chat_template.jinja`, or what `chat_template.json` holds.
    pub template: Option<Json>,
}

/// What a token is, by GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// How text becomes tokens, and what they are.
#[derive(Debug)]
pub struct Vocabulary {
    /// llama.cpp's name of the algorithm: `llama`, `gpt2` or `bert`.
    pub model: &'static str,
    /// llama.cpp's name of what cuts the text first.
    pub pre: &'static str,
    /// Ids of special tokens, and which are added to every text.
    specials: Specials,
    tokens: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    merges: Vec<String>,
}

/// Most tokens of a vocabulary; the largest known has 262 208.
const TOKENS_MAX: u64 = 1 << 22;

impl Vocabulary {
    /// Reads what is there: SentencePiece if there is a model of it, else `tokenizer.json`.
    ///
    /// # Errors
    /// A text of one line: no tokenizer, or none that llama.cpp knows.
    pub fn read(files: &Files) -> Result<Self, String> {
        let byte_level = setting(files, "tokenizer_class") == Some("GPT2Tokenizer");
        let pieces = match &files.sentencepiece {
            Some(bytes) if !byte_level => sentencepiece::pieces(bytes),
            _ => None,
        };
        let mut vocabulary = match (pieces, &files.tokenizer) {
            (Some(pieces), _) => sentencepiece::vocabulary(pieces, files)?,
            (None, Some(json)) => bpe::vocabulary(json, files)?,
            (None, None) => {
                return Err("there is no tokenizer.model or tokenizer.json".into());
            }
        };
        vocabulary.specials = Specials::read(files, vocabulary.tokens.len());
        Ok(vocabulary)
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Sets whether a token of this name, `bos` or `eos`, begins or ends every text.
    pub fn set_adds(&mut self, name: &'static str, adds: bool) {
        self.specials.set_adds(name, adds);
    }

    /// Sets the id of a special token, unless the tokenizer told another.
    pub fn set_special(&mut self, name: &'static str, id: u64) {
        self.specials.set_id(name, id, self.tokens.len());
    }

    /// Adds the keys to a GGUF.
    pub fn write(&self, writer: &mut Writer) {
        writer.text("tokenizer.ggml.model", self.model);
        writer.text("tokenizer.ggml.pre", self.pre);
        writer.texts("tokenizer.ggml.tokens", &self.tokens);
        if !self.scores.is_empty() {
            writer.floats("tokenizer.ggml.scores", &self.scores);
        }
        let kinds: Vec<i32> = self.kinds.iter().map(|kind| *kind as i32).collect();
        writer.integers("tokenizer.ggml.token_type", &kinds);
        if !self.merges.is_empty() {
            writer.texts("tokenizer.ggml.merges", &self.merges);
        }
        self.specials.write(writer);
    }

    /// A vocabulary of tokens that nothing is said of yet: `[PADn]`, unused.
    fn blank(model: &'static str, pre: &'static str, count: u64) -> Result<Self, String> {
        if count > TOKENS_MAX {
            return Err(format!("a vocabulary of {count} tokens is too large"));
        }
        Ok(Vocabulary {
            model,
            pre,
            specials: Specials::default(),
            tokens: (0..count).map(|id| format!("[PAD{id}]")).collect(),
            scores: Vec::new(),
            kinds: vec![Kind::Unused; count as usize],
            merges: Vec::new(),
        })
    }

    /// Sets a token; false if there is no such id.
    fn set(&mut self, id: u64, token: &str, kind: Kind) -> bool {
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(place) = self.tokens.get_mut(id) else {
            return false;
        };
        *place = token.to_string();
        self.kinds[id] = kind;
        true
    }

    /// Sets a token that was added to the tokenizer's own: one with a meaning, or a plain text that
    /// stays whole.
    fn add(&mut self, id: u64, token: &str, special: bool) {
        if special || looks_special(token) {
            self.set(id, token, Kind::Control);
        } else {
            self.set(id, &token.replace('\u{2581}', " "), Kind::UserDefined);
        }
    }
}

/// Some tokenizers do not mark as special what is: tokens of these forms are, in llama.cpp's list.
fn looks_special(token: &str) -> bool {
    let within = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<\u{ff5c}", "\u{ff5c}>")
        || within("<unused", ">")
}

/// A text of `tokenizer_config.json`.
fn setting<'a>(files: &'a Files, key: &str) -> Option<&'a str> {
    files.settings.as_ref()?.get(key)?.as_str()
}

/// How many tokens the weights have rows for.
fn config_size(files: &Files) -> Option<u64> {
    files.config.get("vocab_size")?.as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(tokenizer: Json) -> Files {
        Files {
            tokenizer: Some(tokenizer),
            config: json!({"vocab_size": 5}).as_object().unwrap().clone(),
            ..Files::default()
        }
    }

    fn byte_level(split: Json) -> Json {
        json!({
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
            "added_tokens": [{"id": 3, "content": "<|end|>", "special": false}],
            "pre_tokenizer": split,
        })
    }

    #[test]
    fn bytes_merged_in_pairs_are_gpt2s() {
        let read = Vocabulary::read(&files(byte_level(json!({"type": "ByteLevel"})))).unwrap();
        assert_eq!((read.model, read.pre), ("gpt2", "gpt-2"));
        assert_eq!(read.tokens, ["a", "b", "ab", "<|end|>", "[PAD4]"]);
        assert_eq!(read.kinds[3..], [Kind::Control, Kind::Unused]);
        assert_eq!(read.merges, ["a b"]);
    }

    #[test]
    fn an_unknown_way_to_cut_text_is_an_error() {
        let split = json!({"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated"});
        let why = Vocabulary::read(&files(byte_level(split))).unwrap_err();
        assert!(why.contains("cuts text"), "{why}");
        let unigram = json!({"model": {"type": "Unigram", "vocab": []}});
        assert!(Vocabulary::read(&files(unigram)).is_err());
        assert!(Vocabulary::read(&Files::default()).is_err());
    }

    #[test]
    fn pieces_of_words_are_marked_where_a_word_begins() {
        let words = json!({
            "model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "play": 1, "##ing": 2}},
            "added_tokens": [{"id": 0, "content": "[UNK]", "special": true}],
        });
        let read = Vocabulary::read(&files(words)).unwrap();
        assert_eq!(read.model, "bert");
        let tokens = [
            "[UNK]",
            "\u{2581}play",
            "ing",
            "\u{2581}[PAD3]",
            "\u{2581}[PAD4]",
        ];
        assert_eq!(read.tokens, tokens);
    }

    #[test]
    fn merges_of_sentencepiece_become_scores() {
        let pairs = json!({
            "model": {
                "type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
                "vocab": {"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4},
                "merges": [["a", "b"]],
            },
        });
        let read = Vocabulary::read(&files(pairs)).unwrap();
        assert_eq!(read.model, "llama");
        assert_eq!(read.kinds[..2], [Kind::Unknown, Kind::Byte]);
        assert!(read.scores[4] > read.scores[2]);
    }
}
