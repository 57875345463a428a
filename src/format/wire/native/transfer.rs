//! The body of `POST /api/pull` and `/api/push`, and the records of a transfer.

use serde::{Deserialize, Serialize};

use super::create::Progress;
use super::null_is_default;
use crate::core::digest::Digest;
use crate::core::name::Name;

/// The body of `POST /api/pull` and `/api/push`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TransferRequest {
    /// The model's name.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// The same, from older clients.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub name: String,
    /// Allow plain HTTP.
    #[serde(deserialize_with = "null_is_default")]
    pub insecure: bool,
    /// Ours: replace a model of that name that was made here.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub replace: bool,
    /// Stream progress records; absent is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
}

impl TransferRequest {
    /// A request for a model, streamed.
    pub fn new(name: &Name, insecure: bool) -> Self {
        TransferRequest {
            model: name.full(),
            insecure,
            ..TransferRequest::default()
        }
    }

    /// The name as it was given.
    pub fn text(&self) -> &str {
        if self.model.is_empty() {
            &self.name
        } else {
            &self.model
        }
    }
}

/// The progress record of a blob: `verb`, its total bytes, and those completed.
pub fn blob(verb: &str, digest: &Digest, (total, completed): (u64, u64)) -> Progress {
    Progress {
        status: format!("{verb} {}", &digest.hex()[..12]),
        digest: digest.to_string(),
        total,
        completed,
    }
}
