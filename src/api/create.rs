//! The body of `POST /api/create`, and the records that tell how a model comes about.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::native::{Message, null_is_default};

/// The body.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CreateRequest {
    /// The name to make.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// The same, in older clients.
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// The model that it is made of.
    #[serde(deserialize_with = "null_is_default")]
    pub from: String,
    /// Or the files, by their digests.
    pub files: Option<Map<String, Json>>,
    /// Adapters, by their digests.
    pub adapters: Option<Map<String, Json>>,
    /// A draft model, by its digests.
    pub draft_files: Option<Map<String, Json>>,
    /// The type to quantise to.
    #[serde(deserialize_with = "null_is_default")]
    pub quantize: String,
    /// The same, in older clients.
    #[serde(deserialize_with = "null_is_default")]
    pub quantization: String,
    /// The same for the draft model.
    #[serde(deserialize_with = "null_is_default")]
    pub draft_quantize: String,
    /// Replaces the TEMPLATE.
    #[serde(deserialize_with = "null_is_default")]
    pub template: String,
    /// Replaces the system text.
    #[serde(deserialize_with = "null_is_default")]
    pub system: String,
    /// A text or a list of them.
    pub license: Json,
    /// Options.
    #[serde(deserialize_with = "null_is_default")]
    pub parameters: Map<String, Json>,
    /// Replace the messages.
    #[serde(deserialize_with = "null_is_default")]
    pub messages: Vec<Message>,
    /// A built-in renderer's name.
    #[serde(deserialize_with = "null_is_default")]
    pub renderer: String,
    /// A built-in parser's name.
    #[serde(deserialize_with = "null_is_default")]
    pub parser: String,
    /// The least version that runs the model.
    #[serde(deserialize_with = "null_is_default")]
    pub requires: String,
    /// Fields of the config.
    #[serde(deserialize_with = "null_is_default")]
    pub info: Map<String, Json>,
    /// Where the model runs: never here.
    #[serde(deserialize_with = "null_is_default")]
    pub remote_host: String,
    /// Records as they come; absent is true.
    pub stream: Option<bool>,
}

/// A record of progress.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// What happens.
    pub status: String,
    /// The blob that it happens to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Its length in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// How much of it is done.
    #[serde(skip_serializing_if = "is_zero")]
    pub completed: u64,
}

impl Progress {
    /// A record with a status only.
    pub fn of(status: impl Into<String>) -> Self {
        Progress {
            status: status.into(),
            ..Progress::default()
        }
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}
