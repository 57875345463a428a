//! A vocabulary as a GGUF holds it.

use super::special::Specials;
use crate::format::gguf::Writer;

/// The type of a token, by GGUF's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// The tokenizer's algorithm and its tokens.
#[derive(Debug)]
pub struct Vocabulary {
    /// llama.cpp's name of the algorithm: `llama`, `gpt2` or `bert`.
    pub model: &'static str,
    /// llama.cpp's name of the pre-tokenizer.
    pub pre: &'static str,
    /// Ids of special tokens, and which of them are added to every text.
    pub(super) specials: Specials,
    pub(super) tokens: Vec<String>,
    pub(super) scores: Vec<f32>,
    pub(super) kinds: Vec<Kind>,
    pub(super) merges: Vec<String>,
}

/// Maximum tokens of a vocabulary; the largest known has 262 208.
pub const TOKENS_MAX: u64 = 1 << 22;

impl Vocabulary {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// True if there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Sets whether the token of this name, `bos` or `eos`, is added to every text.
    pub fn set_adds(&mut self, name: &'static str, adds: bool) {
        self.specials.set_adds(name, adds);
    }

    /// Sets the id of a special token, unless the tokenizer already gave one.
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

    /// A vocabulary of placeholders: `[PADn]`, unused.
    pub(super) fn blank(
        model: &'static str,
        pre: &'static str,
        count: u64,
    ) -> Result<Self, String> {
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
    pub(super) fn set(&mut self, id: u64, token: &str, kind: Kind) -> bool {
        let id = usize::try_from(id).unwrap_or(usize::MAX);
        let Some(place) = self.tokens.get_mut(id) else {
            return false;
        };
        *place = token.to_string();
        self.kinds[id] = kind;
        true
    }

    /// Sets a token that was added to the tokenizer's own: a special one, or a plain text that stays
    /// whole.
    pub(super) fn add(&mut self, id: u64, token: &str, special: bool) {
        if special || looks_special(token) {
            self.set(id, token, Kind::Control);
        } else {
            self.set(id, &token.replace('\u{2581}', " "), Kind::UserDefined);
        }
    }
}

/// True for tokens whose form makes them special in llama.cpp's list; some tokenizers do not mark them so.
pub fn looks_special(token: &str) -> bool {
    let within = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<\u{ff5c}", "\u{ff5c}>")
        || within("<unused", ">")
}
