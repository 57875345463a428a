//! Converts the tokenizer files that accompany safetensors into the vocabulary of a GGUF.
//!
//! Pure: the caller passes the contents of the files.

mod bpe;
mod files;
mod sentencepiece;
mod special;
mod split;
mod vocabulary;

pub use files::Files;

use files::setting;
use special::Specials;

pub use vocabulary::Vocabulary;

impl Vocabulary {
    /// Reads the vocabulary: SentencePiece's if its model is present, otherwise that of `tokenizer.json`.
    ///
    /// # Errors
    /// A text of one line, if there is no tokenizer or llama.cpp does not know it.
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
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::format::tokenizer::vocabulary::Kind;
    use serde_json::Value as Json;

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
        assert!(why.contains("splits text"), "{why}");
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
