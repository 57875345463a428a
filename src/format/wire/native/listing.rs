//! The bodies of `/api/tags` and `/api/ps`, which `ls --json` and `ps --json` also print.

use serde::{Deserialize, Serialize};

/// Details of a model in listings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    /// The model it was created from.
    pub parent_model: String,
    /// `gguf`.
    pub format: String,
    /// The architecture, such as `llama`.
    pub family: String,
    /// All architectures; `null` when unknown.
    pub families: Option<Vec<String>>,
    /// The number of parameters, such as `134.52M`.
    pub parameter_size: String,
    /// The quantisation, such as `Q4_K_M`.
    pub quantization_level: String,
    /// Context length in tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub context_length: u64,
    /// Length of an embedding, in numbers.
    #[serde(skip_serializing_if = "is_zero")]
    pub embedding_length: u64,
}

/// A model in `/api/tags` and in `ls --json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Tag {
    /// The model's name.
    pub name: String,
    /// The same name, as the reference repeats it.
    pub model: String,
    /// When it was created, in RFC 3339.
    pub modified_at: String,
    /// Size in bytes.
    pub size: u64,
    /// Digest of its manifest, bare hex.
    pub digest: String,
    /// Format, architecture and size.
    pub details: Details,
    /// Capabilities, such as `completion` or `tools`.
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
    /// The same name, as the reference repeats it.
    pub model: String,
    /// Memory in bytes.
    pub size: u64,
    /// Digest of its manifest, bare hex.
    pub digest: String,
    /// Format, architecture and size.
    pub details: Details,
    /// When it is unloaded, in RFC 3339.
    pub expires_at: String,
    /// GPU memory in bytes.
    pub size_vram: u64,
    /// Context length in tokens.
    pub context_length: u32,
    /// Ours: the device that computes.
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
