//! The bodies of `/api/tags` and `/api/ps`, which `ls --json` and `ps --json` print too.

use serde::{Deserialize, Serialize};

/// Details of a model in listings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// The model it was made from.
    pub parent_model: String,
    /// `gguf`.
    pub format: String,
    /// The architecture.
    pub family: String,
    /// All architectures; `null` when unknown.
    pub families: Option<Vec<String>>,
    /// `134.52M`.
    pub parameter_size: String,
    /// `Q4_K_M`.
    pub quantization_level: String,
    /// Context length in tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub context_length: u64,
    /// Embedding length.
    #[serde(skip_serializing_if = "is_zero")]
    pub embedding_length: u64,
}

/// A model in `/api/tags` and in `ls --json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// Its name again.
    pub model: String,
    /// When it was made.
    pub modified_at: String,
    /// Its bytes.
    pub size: u64,
    /// Digest of its manifest, bare hex.
    pub digest: String,
    /// More.
    pub details: Details,
    /// What it can do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// The body of `/api/tags`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tags {
    /// The models.
    pub models: Vec<Tag>,
}

/// A model in `/api/ps`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// The name that loaded it.
    pub name: String,
    /// The name again.
    pub model: String,
    /// Memory in bytes.
    pub size: u64,
    /// Digest of its manifest, bare hex.
    pub digest: String,
    /// More.
    pub details: Details,
    /// When it goes.
    pub expires_at: String,
    /// Memory on GPUs, in bytes.
    pub size_vram: u64,
    /// Tokens of context.
    pub context_length: u32,
    /// Ours: where it computes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
}

/// The body of `/api/ps`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Processes {
    /// The models.
    pub models: Vec<Process>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}
