//! Manifests and configs: parsed from JSON, and written byte for byte as the reference does.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::json;

/// Size limit of a manifest, in bytes; real ones are a few kilobytes.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_PREFIX: &str = "application/vnd.ollama.image.";

/// A model's config and layers, each a blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always 2.
    #[serde(rename = "schemaVersion", default)]
    pub schema_version: u32,
    /// The media type of manifests.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// The config blob.
    #[serde(default)]
    pub config: Layer,
    /// The layers, in order.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub layers: Vec<Layer>,
}

/// A reference to a blob, with its media type.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Layer {
    /// The blob's media type.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// The blob's digest as text; empty in some old manifests.
    #[serde(default)]
    pub digest: String,
    /// The blob's length in bytes.
    #[serde(default)]
    pub size: i64,
    /// The model or file that it came from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// The tensor's or file's name, in models that are not a single GGUF.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

impl Layer {
    /// A layer of kind `model`, `template`, `system`, `params`, `messages`, `license` and so on.
    pub fn new(kind: &str, digest: Digest, size: u64) -> Self {
        Layer {
            media_type: format!("{LAYER_PREFIX}{kind}"),
            digest: digest.to_string(),
            size: i64::try_from(size).unwrap_or(i64::MAX),
            ..Layer::default()
        }
    }

    /// The layer's kind: the last part of its media type.
    pub fn kind(&self) -> &str {
        self.media_type.strip_prefix(LAYER_PREFIX).unwrap_or("")
    }

    /// The layer's digest, parsed.
    ///
    /// # Errors
    /// If the text is not a digest.
    pub fn digest(&self) -> Result<Digest> {
        Digest::parse(&self.digest)
    }

    /// The blob's length in bytes, never negative.
    pub fn size_bytes(&self) -> u64 {
        self.size.max(0) as u64
    }
}

impl Manifest {
    /// A manifest with a config blob and layers.
    pub fn new(config: (Digest, u64), layers: Vec<Layer>) -> Self {
        let mut config = Layer::new("", config.0, config.1);
        config.media_type = CONFIG_TYPE.to_string();
        Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_string(),
            config,
            layers,
        }
    }

    /// Parses a manifest.
    ///
    /// # Errors
    /// If it is not a JSON object of that form, or contains an invalid digest or size.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|error| Error::failed(format!("broken manifest: {error}")))?;
        for layer in manifest.layers.iter().chain(Some(&manifest.config)) {
            if layer.size < 0 || (!layer.digest.is_empty() && layer.digest().is_err()) {
                return Err(Error::failed(
                    "broken manifest: a layer without a valid digest and size",
                ));
            }
        }
        Ok(manifest)
    }

    /// The bytes to store: compact, a newline at the end.
    pub fn bytes(&self) -> Vec<u8> {
        (json::line(self) + "\n").into_bytes()
    }

    /// The first layer of a kind; for `model` the last one, which wins.
    pub fn layer(&self, kind: &str) -> Option<&Layer> {
        let mut found = self.layers.iter().filter(|layer| layer.kind() == kind);
        if kind == "model" {
            found.next_back()
        } else {
            found.next()
        }
    }

    /// Every blob: the layers, then the config, which some old manifests lack.
    pub fn blobs(&self) -> impl Iterator<Item = &Layer> {
        let config = Some(&self.config).filter(|config| !config.digest.is_empty());
        self.layers.iter().chain(config)
    }

    /// The sum of all layers and the config, in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.blobs().map(Layer::size_bytes).sum()
    }

    /// The digests of all blobs, without duplicates, sorted.
    pub fn digests(&self) -> BTreeSet<Digest> {
        self.blobs()
            .filter_map(|layer| layer.digest().ok())
            .collect()
    }
}

/// The config blob: what listings show about a model without opening its weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `gguf`; empty in old blobs.
    pub model_format: String,
    /// The architecture.
    pub model_family: String,
    /// The architectures; `null` when there are none.
    pub model_families: Option<Vec<String>>,
    /// The parameter count, formatted: `134.52M`.
    pub model_type: String,
    /// The quantisation type: `Q4_K_M`.
    pub file_type: String,
    /// A built-in renderer's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub renderer: String,
    /// A built-in parser's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parser: String,
    /// The oldest version of Ollama that runs this model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub requires: String,
    /// The host of a remote model; empty for local ones.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote_host: String,
    /// The model's name at that host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote_model: String,
    /// Capabilities stated by the publisher.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub capabilities: Vec<String>,
    /// Context length in tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub context_length: u64,
    /// Length of an embedding: its number of elements.
    #[serde(skip_serializing_if = "is_zero")]
    pub embedding_length: u64,
    /// The name of the base model.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub base_name: String,
    /// Always `amd64`.
    pub architecture: String,
    /// Always `linux`.
    pub os: String,
}

impl Config {
    /// Overrides fields with those of another config that are not empty.
    pub fn overlay(&mut self, other: &Config) {
        for (own, theirs) in [
            (&mut self.model_format, &other.model_format),
            (&mut self.model_family, &other.model_family),
            (&mut self.model_type, &other.model_type),
            (&mut self.file_type, &other.file_type),
            (&mut self.renderer, &other.renderer),
            (&mut self.parser, &other.parser),
            (&mut self.requires, &other.requires),
            (&mut self.base_name, &other.base_name),
        ] {
            if !theirs.is_empty() {
                own.clone_from(theirs);
            }
        }
        if !other.capabilities.is_empty() {
            self.capabilities.clone_from(&other.capabilities);
        }
        for (own, theirs) in [
            (&mut self.context_length, other.context_length),
            (&mut self.embedding_length, other.embedding_length),
        ] {
            if theirs > 0 {
                *own = theirs;
            }
        }
    }

    /// The bytes to store: compact, a newline at the end.
    pub fn bytes(&self) -> Vec<u8> {
        (json::line(self) + "\n").into_bytes()
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_is_written_as_the_reference_does() {
        let config = Config {
            model_format: "gguf".into(),
            model_family: "test".into(),
            model_families: Some(vec!["test".into()]),
            model_type: "0".into(),
            file_type: "unknown".into(),
            architecture: "amd64".into(),
            os: "linux".into(),
            ..Config::default()
        };
        let known = "99759ad5b91e723db0393d698ffbb448b1b7df5ff6377a108c49254583b1bc8c";
        assert_eq!(Digest::compute(&config.bytes()).hex(), known);
    }

    #[test]
    fn odd_manifests_are_read_and_broken_ones_refused() {
        assert!(Manifest::parse(b"{}").unwrap().layers.is_empty());
        assert!(Manifest::parse(br#"{"layers":null,"config":{"digest":""},"x":1}"#).is_ok());
        for bad in [
            &b""[..],
            b"<html>",
            br#"{"layers":[{"digest":"sha256:../x"}]}"#,
            br#"{"layers":[{"size":-1}]}"#,
        ] {
            assert!(Manifest::parse(bad).is_err());
        }
    }
}
