//! The body of `POST /api/create`, and its progress records.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{Message, null_is_default};

/// The body of `POST /api/create`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CreateRequest {
    /// The name of the new model.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// The same, from older clients.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// The base model.
    #[serde(deserialize_with = "null_is_default")]
    pub from: String,
    /// The uploaded files instead of a base model: paths to digests.
    pub files: Option<Map<String, Json>>,
    /// The files of an adapter: paths to digests.
    pub adapters: Option<Map<String, Json>>,
    /// The files of a draft model: paths to digests.
    pub draft_files: Option<Map<String, Json>>,
    /// The type to quantise to.
    #[serde(deserialize_with = "null_is_default")]
    pub quantize: String,
    /// The same, from older clients.
    #[serde(deserialize_with = "null_is_default")]
    pub quantization: String,
    /// The type to quantise the draft model to.
    #[serde(deserialize_with = "null_is_default")]
    pub draft_quantize: String,
    /// Replaces the TEMPLATE.
    #[serde(deserialize_with = "null_is_default")]
    pub template: String,
    /// Replaces the system text.
    #[serde(deserialize_with = "null_is_default")]
    pub system: String,
    /// A text or a list of texts.
    pub license: Json,
    /// The model's default options.
    #[serde(deserialize_with = "null_is_default")]
    pub parameters: Map<String, Json>,
    /// Replaces the messages.
    #[serde(deserialize_with = "null_is_default")]
    pub messages: Vec<Message>,
    /// A built-in renderer's name.
    #[serde(deserialize_with = "null_is_default")]
    pub renderer: String,
    /// A built-in parser's name.
    #[serde(deserialize_with = "null_is_default")]
    pub parser: String,
    /// The minimum version that runs the model.
    #[serde(deserialize_with = "null_is_default")]
    pub requires: String,
    /// Fields of the config.
    #[serde(deserialize_with = "null_is_default")]
    pub info: Map<String, Json>,
    /// The remote host that would run the model; puna refuses it.
    #[serde(deserialize_with = "null_is_default")]
    pub remote_host: String,
    /// Stream progress records; absent is true.
    pub stream: Option<bool>,
}

/// A record of progress.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The current step.
    pub status: String,
    /// The digest of the blob in progress.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// The blob's length in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// Bytes completed so far.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
}

impl Progress {
    /// A record with only a status.
    pub fn new(status: impl Into<String>) -> Self {
        Progress {
            status: status.into(),
            ..Progress::default()
        }
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}
