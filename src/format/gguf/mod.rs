//! GGUF headers, read with hard caps so that a malformed file is refused before llama.cpp sees it.
//!
//! Pure over any `Read + Seek`; arrays stay in the file and are read only when asked for.

mod assertions;
mod header;
mod kinds;
mod ollama_layout;
mod plan;
mod projector;
mod read;
mod source;
mod split;
mod vocabulary;
mod write;

pub use header::{ALIGNMENT, Array, Header, Tensor, Value};
pub use kinds::{FILE_TYPE_NAMES, TensorKind, file_type, file_type_name};
pub use ollama_layout::RULES;
pub use plan::{Plan, Run};
pub use read::read;
pub use split::{Merged, Shard, merged};
pub use vocabulary::byte_of;
pub use write::Writer;

use std::io::{Read, Seek};

use crate::core::error::Result;

impl Header {
    /// True if the model makes embeddings instead of text.
    pub fn is_embedding(&self) -> bool {
        let key = |key: &str| self.value(&format!("{}.{key}", self.architecture()));
        // A BERT without a pooling type has no other use.
        let reads = key("attention.causal") == Some(&Value::Bool(false));
        let bert = reads && self.architecture().contains("bert");
        bert || key("pooling_type").is_some() || ollama_layout::is_embedding_gemma(self)
    }

    /// The elements of an array, read from the file this header came from.
    ///
    /// # Errors
    /// If the file cannot be read or has changed since.
    pub fn elements(&self, file: impl Read + Seek, array: &Array) -> Result<Vec<Value>> {
        source::elements(file, array)
    }

    /// Checks for what llama.cpp asserts of tensors and numbers, instead of returning an error.
    ///
    /// # Errors
    /// The problem, in one line.
    pub fn check_assertions(&self) -> Result<(), String> {
        assertions::check(self)
    }

    /// The same for the header of a LoRA adapter.
    ///
    /// # Errors
    /// The problem, in one line.
    pub fn check_adapter(&self) -> Result<(), String> {
        assertions::check_adapter(self)
    }

    /// Checks for errors that would make llama.cpp end the process: duplicate tokens, or missing bytes.
    ///
    /// # Errors
    /// The problem, in one line.
    pub fn check_vocabulary(&self, file: impl Read + Seek) -> Result<(), String> {
        vocabulary::check(self, file)
    }

    /// Returns the changes that let llama.cpp load a file in the layout of Ollama's own engine;
    /// `None` if it can load the file as it is.
    ///
    /// # Errors
    /// A text of one line, if the layout is not supported or the file cannot be read.
    pub fn plan(&self, file: impl Read + Seek) -> Result<Option<Plan>, String> {
        ollama_layout::plan(self, file)
    }

    /// Returns the plan of a projector from the vision part of this file; `None` if it has no such part.
    ///
    /// # Errors
    /// A text of one line, if the layout is not supported or the file cannot be read.
    pub fn projector_plan(&self, file: impl Read + Seek) -> Result<Option<Plan>, String> {
        projector::plan(self, file)
    }
}
