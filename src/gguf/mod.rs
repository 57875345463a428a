//! GGUF headers, read with hard caps so that a malformed file is refused before llama.cpp sees it.
//!
//! Pure over any `Read + Seek`; arrays stay in the file and are read only when asked for.

mod derive;
mod kinds;
mod plan;
mod projector;
mod read;
mod source;
mod split;
mod vocabulary;
mod write;

pub use derive::RULES;
pub use kinds::{TensorKind, file_type, file_type_name, file_types};
pub use plan::{Plan, Run};
pub use read::read;
pub use split::{Merged, Shard, merged};
pub use vocabulary::byte_of;
pub use write::Writer;

use std::io::{Read, Seek};
use std::ops::Range;

use crate::error::Result;

/// What tensors' places in a file are multiples of, where it does not say otherwise.
pub const ALIGNMENT: u64 = 32;

/// A value of the header's key-value part.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer.
    Unsigned(u64),
    /// Any signed integer.
    Signed(i64),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
    /// A boolean.
    Bool(bool),
    /// A text; invalid UTF-8 was replaced.
    Text(String),
    /// An array, left in the file.
    Array(Array),
}

/// Where an array lies in its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// GGUF's number for the type of the elements.
    pub element: u32,
    /// How many elements.
    pub count: u64,
    /// Byte offset of the first element in the file.
    pub offset: u64,
}

/// One tensor's entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: TensorKind,
    /// Its dimensions, fastest first.
    pub shape: Vec<u64>,
    /// Byte offset from the start of the tensor data.
    pub offset: u64,
    /// Its length in bytes.
    pub size_bytes: u64,
}

impl Tensor {
    /// How many elements it has.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A checked header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Key-value pairs in file order, keys unique.
    pub values: Vec<(String, Value)>,
    /// Where each value lies in the file, its type's number first.
    pub spans: Vec<Range<u64>>,
    /// Tensor entries in file order.
    pub tensors: Vec<Tensor>,
    /// Where the tensor data begins.
    pub data_offset: u64,
    /// Length of the file in bytes.
    pub file_bytes: u64,
}

impl Header {
    /// The value under exactly this key.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value)
    }

    /// The architecture, `unknown` if the file names none.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or("unknown")
    }

    /// The text under this key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.value(key)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer under this key, whatever its stored width.
    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.value(key)? {
            Value::Unsigned(value) => Some(*value),
            Value::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The integer under `<architecture>.<key>`.
    pub fn arch_integer(&self, key: &str) -> Option<u64> {
        self.integer(&format!("{}.{key}", self.architecture()))
    }

    /// The context length the model was trained with.
    pub fn context_length(&self) -> Option<u64> {
        self.arch_integer("context_length")
    }

    /// The tensor of exactly this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The sum of all tensors' elements.
    pub fn parameter_count(&self) -> u64 {
        self.tensors
            .iter()
            .map(Tensor::elements)
            .fold(0, u64::saturating_add)
    }

    /// The chat template, if the file carries one.
    pub fn chat_template(&self) -> Option<&str> {
        self.text("tokenizer.chat_template")
    }

    /// True if the model turns text into vectors instead of text.
    pub fn is_embedding(&self) -> bool {
        let key = |key: &str| self.value(&format!("{}.{key}", self.architecture()));
        // A BERT that does not tell how it pools has no other use.
        let reads = key("attention.causal") == Some(&Value::Bool(false));
        let bert = reads && self.architecture().contains("bert");
        bert || key("pooling_type").is_some() || derive::is_embedding_gemma(self)
    }

    /// True if it reads a question and a text at once and scores the pair.
    pub fn is_ranker(&self) -> bool {
        /// llama.cpp's LLAMA_POOLING_TYPE_RANK.
        const RANK: u64 = 4;
        self.integer(&format!("{}.pooling_type", self.architecture())) == Some(RANK)
    }

    /// True if its WordPiece vocabulary knows no accents. A file that does not say follows its
    /// letters, and one that says nothing of these either has small ones only, as in llama.cpp.
    pub fn strips_accents(&self) -> bool {
        let says = |name: &str| match self.value(&format!("tokenizer.ggml.normalizer.{name}")) {
            Some(Value::Bool(says)) => Some(*says),
            _ => None,
        };
        self.text("tokenizer.ggml.model") == Some("bert")
            && says("strip_accents").or(says("lowercase")).unwrap_or(true)
    }

    /// The quantisation's name, `unknown` where the file does not tell.
    pub fn file_type(&self) -> &'static str {
        self.integer("general.file_type")
            .map_or("unknown", file_type_name)
    }

    /// True if no tensor is quantised.
    pub fn is_float(&self) -> bool {
        let float = |tensor: &Tensor| matches!(tensor.kind.name, "F32" | "F16" | "BF16" | "F64");
        self.tensors.iter().all(float)
    }

    /// The elements of an array, read from the file this header came from.
    ///
    /// # Errors
    /// If the file cannot be read or has changed since.
    pub fn elements(&self, file: impl Read + Seek, array: &Array) -> Result<Vec<Value>> {
        source::elements(file, array)
    }

    /// Checks what llama.cpp would end the process over: tokens that are there twice, or lack a byte.
    ///
    /// # Errors
    /// A text of one line: what is wrong.
    pub fn check_vocabulary(&self, file: impl Read + Seek) -> Result<(), String> {
        vocabulary::check(self, file)
    }

    /// What must change so that llama.cpp can load a file that was laid out for Ollama's own
    /// engine; `None` if it can load it as it is.
    ///
    /// # Errors
    /// A text of one line: a layout that is not translated, or a file that cannot be read.
    pub fn plan(&self, file: impl Read + Seek) -> Result<Option<Plan>, String> {
        derive::plan(self, file)
    }

    /// What makes a projector of the part of this file that sees; `None` if it has no such part.
    ///
    /// # Errors
    /// A text of one line: a layout that is not translated, or a file that cannot be read.
    pub fn projector_plan(&self, file: impl Read + Seek) -> Result<Option<Plan>, String> {
        projector::plan(self, file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accents_follow_the_letters_unless_the_file_says() {
        let strips = |model: &str, says: &[(&str, bool)]| {
            let model = ("tokenizer.ggml.model".to_owned(), Value::Text(model.into()));
            let says = says.iter().map(|(name, says)| {
                let key = format!("tokenizer.ggml.normalizer.{name}");
                (key, Value::Bool(*says))
            });
            let header = Header {
                values: [model].into_iter().chain(says).collect(),
                spans: Vec::new(),
                tensors: Vec::new(),
                data_offset: 0,
                file_bytes: 0,
            };
            header.strips_accents()
        };
        assert!(strips("bert", &[]));
        assert!(!strips("bert", &[("lowercase", false)]));
        assert!(!strips(
            "bert",
            &[("strip_accents", false), ("lowercase", true)]
        ));
        assert!(strips(
            "bert",
            &[("strip_accents", true), ("lowercase", false)]
        ));
        assert!(!strips("gpt2", &[]));
    }
}
