//! The header of a GGUF file as values: keys, tensors, and where the arrays lie.

use std::ops::Range;

use super::kinds::{TensorKind, file_type_name};

/// Default alignment of tensors in a file, in bytes.
pub const ALIGNMENT: u64 = 32;

/// A value in the header's key-value section.
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
    /// An array, whose elements stay in the file.
    Array(Array),
}

/// The location of an array in its file.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// GGUF's number for the type of the elements.
    pub element: u32,
    /// The number of elements.
    pub count: u64,
    /// Byte offset of the first element in the file.
    pub offset: u64,
}

/// The header entry of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// The name, unique in the file.
    pub name: String,
    /// The type of the elements.
    pub kind: TensorKind,
    /// The dimensions in elements, fastest first.
    pub shape: Vec<u64>,
    /// Byte offset from the start of the tensor data.
    pub offset: u64,
    /// Length of the data in bytes.
    pub size_bytes: u64,
}

impl Tensor {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A checked header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Key-value pairs in file order, keys unique.
    pub values: Vec<(String, Value)>,
    /// The byte range of each value in the file, which starts with the number of its type.
    pub spans: Vec<Range<u64>>,
    /// Tensor entries in file order.
    pub tensors: Vec<Tensor>,
    /// Byte offset of the tensor data in the file.
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

    /// The architecture; `unknown` if the file does not name it.
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

    /// True if the model is a reranker: it reads a question and a text at once and scores the pair.
    pub fn is_ranker(&self) -> bool {
        /// llama.cpp's LLAMA_POOLING_TYPE_RANK.
        const RANK: u64 = 4;
        self.integer(&format!("{}.pooling_type", self.architecture())) == Some(RANK)
    }

    /// True if the WordPiece vocabulary strips accents. If the file does not say, its lowercase setting
    /// decides; if that is missing too, accents are stripped, as in llama.cpp.
    pub fn strips_accents(&self) -> bool {
        let says = |name: &str| match self.value(&format!("tokenizer.ggml.normalizer.{name}")) {
            Some(Value::Bool(says)) => Some(*says),
            _ => None,
        };
        self.text("tokenizer.ggml.model") == Some("bert")
            && says("strip_accents").or(says("lowercase")).unwrap_or(true)
    }

    /// The name of the quantisation; `unknown` if the file does not say.
    pub fn file_type(&self) -> &'static str {
        self.integer("general.file_type")
            .map_or("unknown", file_type_name)
    }

    /// True if no tensor is quantised.
    pub fn is_float(&self) -> bool {
        let float = |tensor: &Tensor| matches!(tensor.kind.name, "F32" | "F16" | "BF16" | "F64");
        self.tensors.iter().all(float)
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
