//! Whether flash attention and copies of the weights in the processor's own layout are faster on this machine for models of a
//! shape, as `puna bench --tune` measured it. What nobody measured is left to
//! [`tune::attention`](crate::system::engine::tune::attention) and [`repack::pays`](crate::system::engine::repack::pays).
//!
//! Each shape has a file of JSON in the cache directory, so that one may look.

use std::collections::HashMap;
use std::io::Read;

use serde::{Deserialize, Serialize};

use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::format::gguf::Header;
use crate::system::cache_dir::Cache;
use crate::system::config::Config;
use crate::system::engine::prefix::BUILD;
use crate::system::machine;

/// The folder in the cache.
const FOLDER: &str = "measured";
/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 4096;
/// The keys of a model's header that decide how long attention takes compared with the rest.
const SHAPE: [&str; 6] = [
    "block_count",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.sliding_window",
];

/// The settings that are faster for models of a shape.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Faster {
    /// Flash attention.
    pub flash_attention: bool,
    /// Copies of the weights; `None` if none can be made of them, or if that was not measured.
    #[serde(default)]
    pub repacked: Option<bool>,
}

/// The content of one file.
#[derive(Serialize, Deserialize)]
struct Entry {
    shape: String,
    #[serde(flatten)]
    faster: Faster,
}

/// All measured settings of this machine.
#[derive(Debug, Default)]
pub struct MeasuredSettings(HashMap<String, Faster>);

impl MeasuredSettings {
    /// Reads the measured settings; skips files of any other content.
    pub fn read(config: &Config) -> Self {
        let Ok(root) = config.cache() else {
            return MeasuredSettings::default();
        };
        let cache = Cache::new(root, FOLDER);
        let read = |name: &str| {
            let mut text = String::new();
            let file = cache.open(name, false)?;
            file.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
            let entry: Entry = serde_json::from_str(&text).ok()?;
            Some((entry.shape, entry.faster))
        };
        let files = cache.files().into_iter();
        MeasuredSettings(files.filter_map(|file| read(&file.name())).collect())
    }

    /// The measured settings for models of this one's shape, on a GPU or without.
    pub fn for_model(&self, header: &Header, gpu: bool) -> Option<Faster> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&shape(header, gpu)).copied()
    }
}

/// Stores measured settings, in place of earlier ones.
///
/// # Errors
/// If there is no cache directory, or it cannot be written.
pub fn store(config: &Config, header: &Header, gpu: bool, faster: Faster) -> Result<()> {
    let entry = Entry {
        shape: shape(header, gpu),
        faster,
    };
    let name = Digest::compute(entry.shape.as_bytes()).hex();
    let text = serde_json::to_string(&entry).unwrap_or_default() + "\n";
    Cache::new(config.cache()?, FOLDER).put(&name[..16], &[text.as_bytes()])
}

/// Everything that the choice depends on: the model's shape, the processor, and the build.
fn shape(header: &Header, gpu: bool) -> String {
    let number = |key: &&str| {
        let value = header.arch_integer(key);
        value.map_or("-".to_string(), |value| value.to_string())
    };
    let processor = if gpu {
        "GPU"
    } else {
        machine::processor().unwrap_or_default()
    };
    let numbers: Vec<String> = SHAPE.iter().map(number).collect();
    format!(
        "{} {} {}, {BUILD}, {processor}, {} cores",
        header.architecture(),
        header.file_type(),
        numbers.join("/"),
        machine::cores(),
    )
}
