//! The settings in force as text, each with its origin: what `puna config` prints.

use std::path::Path;

use super::Config;
use crate::core::duration::{self, KeepAlive};

/// A setting in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its key in the configuration file.
    pub key: &'static str,
    /// Its value; empty if it has none.
    pub value: String,
    /// A variable, a line of the file, or `default`.
    pub origin: String,
}

impl Config {
    /// Every setting, in the order of the manual.
    pub fn settings(&self) -> Vec<Setting> {
        let setting = |(key, value): (&'static str, String)| {
            let known = self.found.iter().find(|(known, _)| known == key);
            let origin = known.map_or("default", |(_, origin)| origin).to_string();
            Setting { key, value, origin }
        };
        let values = self
            .own_settings()
            .into_iter()
            .chain(self.network_settings());
        values.map(setting).collect()
    }

    /// True if the user set this key.
    pub fn names(&self, key: &str) -> bool {
        self.found.iter().any(|(known, _)| *known == key)
    }

    fn own_settings(&self) -> Vec<(&'static str, String)> {
        let path = |path: &Option<_>| path.as_deref().map_or(String::new(), path_text);
        let or_auto = |value: Option<String>| value.unwrap_or_else(|| "auto".into());
        vec![
            ("models", path_text(&self.models)),
            ("ollama_models", path(&self.ollama_models)),
            ("cache", path(&self.cache)),
            (
                "cache_max",
                or_auto(self.cache_max.map(|bytes| bytes.to_string())),
            ),
            ("host", self.address.to_string()),
            ("socket", path(&self.socket)),
            (
                "api_key",
                // A secret is never printed.
                self.api_key.as_ref().map_or("", |_| "(set)").to_string(),
            ),
            ("api_key_file", path(&self.api_key_file)),
            ("keep_alive", keep_alive_text(self.keep_alive)),
            ("context_length", self.context_tokens.to_string()),
            ("num_parallel", self.parallel.to_string()),
            ("deterministic", self.deterministic.to_string()),
            ("max_loaded_models", self.loaded_max.to_string()),
            ("max_queue", self.queue_max.to_string()),
            ("origins", self.origins.join(",")),
            (
                "flash_attention",
                or_auto(self.flash.map(|on| on.to_string())),
            ),
            (
                "kv_cache_type",
                self.kv_cache.clone().unwrap_or_else(|| "f16".into()),
            ),
            (
                "num_threads",
                or_auto(self.threads.map(|count| count.to_string())),
            ),
            ("repack", or_auto(self.repack.map(|on| on.to_string()))),
            ("speculate", self.speculate.to_string()),
            (
                "tensor_split",
                self.tensor_split
                    .iter()
                    .map(f32::to_string)
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            (
                "load_timeout",
                self.load_stall.map_or("forever".into(), duration::display),
            ),
            ("heartbeat", duration::display(self.heartbeat)),
            (
                "decision_model",
                self.decision_model.clone().unwrap_or_default(),
            ),
            ("noprune", self.keeps_unused.to_string()),
            ("debug", self.debug.to_string()),
            ("nohistory", self.history.is_none().to_string()),
        ]
    }

    fn network_settings(&self) -> Vec<(&'static str, String)> {
        let network = &self.network;
        let mirrors = network.mirrors.iter();
        let mirrors = mirrors.map(|(name, host)| format!("{name}={host}"));
        vec![
            ("registry", mirrors.collect::<Vec<_>>().join(",")),
            (
                "ca_file",
                network
                    .certificates
                    .as_deref()
                    .map_or(String::new(), path_text),
            ),
            ("stall_time", duration::display(network.stall)),
            ("retry_pause", duration::display(network.pause)),
            ("part_bytes", network.part_bytes.to_string()),
            ("pull_streams", network.streams.to_string()),
        ]
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

fn keep_alive_text(keep_alive: KeepAlive) -> String {
    match keep_alive {
        KeepAlive::For(time) => duration::display(time),
        KeepAlive::Forever => "forever".into(),
    }
}
