//! Maps `config.json` to llama.cpp's GGUF keys.

use serde_json::{Map, Number, Value as Json};

use super::family::Family;
use crate::format::gguf::Writer;

/// Integer keys: the key after the architecture prefix, and its possible names in `config.json`.
const INTEGERS: &[(&str, &[&str])] = &[
    ("block_count", BLOCKS),
    (
        "context_length",
        &[
            "max_position_embeddings",
            "n_ctx",
            "n_positions",
            "max_length",
            "model_max_length",
        ],
    ),
    ("embedding_length", &["hidden_size", "n_embd", "dim"]),
    (
        "feed_forward_length",
        &["intermediate_size", "n_inner", "hidden_dim"],
    ),
    ("attention.head_count", HEADS),
    (
        "attention.head_count_kv",
        &["num_key_value_heads", "n_kv_heads"],
    ),
    ("attention.key_length", &["head_dim"]),
    ("attention.value_length", &["head_dim"]),
    ("expert_count", EXPERTS),
    ("expert_used_count", &["num_experts_per_tok"]),
];
const BLOCKS: &[&str] = &["num_hidden_layers", "n_layer", "n_layers", "num_layers"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];
const EXPERTS: &[&str] = &["num_local_experts", "num_experts"];

/// Floating-point keys, in the same form.
const FLOATS: &[(&str, &[&str])] = &[
    (
        "attention.layer_norm_rms_epsilon",
        &["rms_norm_eps", "norm_eps"],
    ),
    (
        "attention.layer_norm_epsilon",
        &["layer_norm_eps", "layer_norm_epsilon"],
    ),
];

/// Names of the RoPE base: for full attention, and for sliding-window layers.
const THETA: &[&str] = &["rope_theta", "rotary_emb_base"];
const LOCAL_THETA: &[&str] = &["rope_local_base_freq", "local_rope_theta"];

/// A `config.json`, with the fields of its `text_config` moved to the top level.
#[derive(Debug)]
pub struct Keys {
    config: Map<String, Json>,
    architecture: Option<String>,
}

impl Keys {
    /// Reads `architectures` and flattens `text_config`.
    pub fn new(mut config: Map<String, Json>) -> Self {
        let architecture = config
            .get("architectures")
            .and_then(|list| list[0].as_str())
            .map(str::to_string);
        if let Some(Json::Object(text)) = config.remove("text_config") {
            config.extend(text);
        }
        Keys {
            config,
            architecture,
        }
    }

    /// Adds the family's defaults where the file gives no value.
    pub fn with_defaults(mut self, family: &Family) -> Self {
        for (key, value) in family.defaults {
            let whole = (value.fract() == 0.0).then(|| Json::from(*value as u64));
            let value = whole.unwrap_or_else(|| Json::from(*value));
            let known = self.config.get(*key).is_some_and(|known| !known.is_null());
            if !known {
                self.config.insert((*key).into(), value);
            }
        }
        self
    }

    /// The first entry of `architectures`.
    pub fn architecture(&self) -> Option<&str> {
        self.architecture.as_deref()
    }

    /// The flattened `config.json`.
    pub fn config(&self) -> &Map<String, Json> {
        &self.config
    }

    /// The value of the first of these keys that is a number.
    fn number(&self, names: &[&str]) -> Option<&Number> {
        let values = names.iter().filter_map(|name| self.config.get(*name));
        let mut numbers = values.filter_map(Json::as_number);
        numbers.next()
    }

    /// As `number`, if that value is a non-negative integer.
    pub fn integer(&self, names: &[&str]) -> Option<u64> {
        self.number(names)?.as_u64()
    }

    fn float(&self, names: &[&str]) -> Option<f64> {
        self.number(names)?.as_f64()
    }

    /// The number of query heads, and of key/value heads.
    pub fn heads(&self) -> Option<(u64, u64)> {
        let queries = self.integer(HEADS)?;
        let keys = self.integer(&["num_key_value_heads", "n_kv_heads"]);
        Some((queries, keys.unwrap_or(queries)))
    }

    /// The number of experts per layer.
    pub fn experts(&self) -> Option<u64> {
        self.integer(EXPERTS)
    }

    /// The number of rotated elements per head.
    pub fn rotated(&self) -> Option<u64> {
        let own = self.integer(&["head_dim"]);
        own.or_else(|| {
            let (heads, _) = self.heads()?;
            self.integer(&["hidden_size", "n_embd"])?.checked_div(heads)
        })
    }

    /// A RoPE parameter of the full-attention layers.
    pub fn rope(&self, name: &str) -> Option<&Json> {
        let found = self.rope_parameters()?;
        let part = found.get("full_attention").and_then(Json::as_object);
        part.unwrap_or(found)
            .get(name)
            .filter(|value| !value.is_null())
    }

    fn rope_parameters(&self) -> Option<&Map<String, Json>> {
        let either = ["rope_parameters", "rope_scaling"].iter();
        either
            .filter_map(|name| self.config.get(*name)?.as_object())
            .next()
    }

    /// The RoPE type, such as `llama3`.
    pub fn rope_kind(&self) -> Option<&str> {
        self.rope("rope_type")
            .or_else(|| self.rope("type"))?
            .as_str()
    }

    /// The RoPE base frequency.
    pub fn theta(&self) -> Option<f64> {
        let found = self.rope("rope_theta").and_then(Json::as_f64);
        found.or_else(|| self.float(THETA))
    }

    /// The context length of training, in tokens, before RoPE scaling.
    pub fn original_context(&self) -> Option<u64> {
        let name = "original_max_position_embeddings";
        let found = self.rope(name).and_then(Json::as_u64);
        found.or_else(|| self.integer(&[name]))
    }

    /// Writes all keys of a family.
    ///
    /// # Errors
    /// If a number is missing or too large for its key, or a RoPE type is unsupported.
    pub fn write(&self, family: &Family, writer: &mut Writer) -> Result<(), String> {
        let mut out = Out { family, writer };
        for (key, names) in INTEGERS {
            let value = match (*key, family.name) {
                ("context_length", "nomic-bert") => Some(self.nomic_context()?),
                ("context_length", "command-r") => {
                    self.integer(&["model_max_length", "max_position_embeddings"])
                }
                _ => self.integer(names),
            };
            match value {
                Some(value) => out.unsigned(key, value)?,
                None if *names == BLOCKS || *names == HEADS => {
                    return Err(format!("config.json has no {}", names[0]));
                }
                None => {}
            }
        }
        for (key, names) in FLOATS {
            out.float(key, self.float(names));
        }
        self.rotation(&mut out)?;
        self.particular(&mut out)
    }

    /// Writes the RoPE keys.
    fn rotation(&self, out: &mut Out) -> Result<(), String> {
        let number = |name: &str| self.rope(name).and_then(Json::as_f64);
        match self.rope_kind() {
            Some("linear") => {
                out.text("rope.scaling.type", "linear");
                out.float("rope.scaling.factor", number("factor"));
            }
            Some("yarn") => {
                out.text("rope.scaling.type", "yarn");
                out.float("rope.scaling.factor", number("factor"));
                if let Some(context) = self.original_context() {
                    out.unsigned("rope.scaling.original_context_length", context)?;
                }
                for (key, name) in [
                    ("yarn_ext_factor", "extrapolation_factor"),
                    ("yarn_attn_factor", "attention_factor"),
                    ("yarn_beta_fast", "beta_fast"),
                    ("yarn_beta_slow", "beta_slow"),
                ] {
                    out.float(&format!("rope.scaling.{key}"), number(name));
                }
            }
            Some("su" | "longrope") => out.text("rope.scaling.type", "longrope"),
            Some("default" | "llama3") | None => {}
            Some(other) => return Err(format!("unsupported rope type: {other}")),
        }
        out.float("rope.freq_base", self.theta());
        let local = self
            .rope_parameters()
            .and_then(|found| found.get("sliding_attention"));
        let local = local.and_then(|local| local["rope_theta"].as_f64());
        out.float(
            "rope.freq_base_swa",
            local.or_else(|| self.float(LOCAL_THETA)),
        );
        Ok(())
    }

    /// Writes the keys that only this family has.
    fn particular(&self, out: &mut Out) -> Result<(), String> {
        let window = self.integer(&["sliding_window"]);
        match out.family.name {
            "llama" => {
                out.maybe("vocab_size", self.integer(&["vocab_size"]))?;
                out.maybe("rope.dimension_count", self.rotated())
            }
            "gemma2" => {
                let cap = |name: &str| self.float(&[name]);
                out.float("attn_logit_softcapping", cap("attn_logit_softcapping"));
                out.float("final_logit_softcapping", cap("final_logit_softcapping"));
                out.maybe("attention.sliding_window", window)
            }
            "gemma3" => {
                if self.float(&["attn_logit_softcapping"]).is_some() {
                    return Err("llama.cpp does not cap attention in gemma3".into());
                }
                let cap = self.float(&["final_logit_softcapping"]);
                out.float("final_logit_softcapping", cap.filter(|cap| *cap != 0.0));
                match self.integer(&["sliding_window_pattern"]) {
                    Some(1) => Ok(()),
                    _ => out.maybe("attention.sliding_window", window),
                }
            }
            "phi3" => {
                let context = self.original_context();
                out.maybe("rope.scaling.original_context_length", context)?;
                out.maybe("rope.dimension_count", self.phi_rotated())?;
                out.float("rope.scaling.attn_factor", self.phi_factor()?);
                out.maybe("attention.sliding_window", Some(window.unwrap_or(0)))
            }
            "command-r" => {
                // The context was extended without RoPE scaling.
                out.float("logit_scale", self.float(&["logit_scale"]));
                out.text("rope.scaling.type", "none");
                Ok(())
            }
            "bert" | "nomic-bert" => {
                out.bool("attention.causal", false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The trained context length: nomic-embed-text's config gives four times as much.
    fn nomic_context(&self) -> Result<u64, String> {
        let trained = self.integer(&["max_trained_positions"]).unwrap_or(2048);
        match (self.integer(&["n_positions"]), trained) {
            (Some(8192), 2048) => Ok(2048),
            (positions, _) => Err(format!(
                "unsupported: nomic-bert with {} positions",
                positions.unwrap_or(0)
            )),
        }
    }

    fn phi_rotated(&self) -> Option<u64> {
        let part = self.rope("partial_rotary_factor").and_then(Json::as_f64);
        let part = part.or_else(|| self.float(&["partial_rotary_factor"]));
        let (heads, _) = self.heads()?;
        let width = self.integer(&["hidden_size", "n_embd"])?;
        ((part.unwrap_or(1.0) * width as f64) as u64).checked_div(heads)
    }

    /// The attention factor for RoPE scaling of phi3.
    fn phi_factor(&self) -> Result<Option<f64>, String> {
        if self.rope("long_factor").is_none() {
            return Ok(None);
        }
        let longest = self.integer(&["n_positions", "max_position_embeddings"]);
        let (Some(longest), Some(original)) = (longest, self.original_context()) else {
            return Err("config.json does not give the original context length".into());
        };
        let scale = longest as f64 / original as f64;
        if scale <= 1.0 {
            return Ok(Some(1.0));
        }
        match self.rope_kind() {
            Some("su" | "longrope") => Ok(Some((1.0 + scale.ln() / (original as f64).ln()).sqrt())),
            Some("yarn") => Ok(Some(0.1 * scale.ln() + 1.0)),
            other => Err(format!(
                "unsupported rope type: {}",
                other.unwrap_or("none given")
            )),
        }
    }
}

/// Writes keys with the architecture prefix and skips those that the family goes without.
struct Out<'a> {
    family: &'a Family,
    writer: &'a mut Writer,
}

impl Out<'_> {
    fn key(&self, key: &str) -> Option<String> {
        let wanted = !self.family.without.contains(&key);
        wanted.then(|| format!("{}.{key}", self.family.name))
    }

    fn unsigned(&mut self, key: &str, value: u64) -> Result<(), String> {
        let value = u32::try_from(value);
        let value = value.map_err(|_| format!("the {key} of config.json is too large"))?;
        if let Some(key) = self.key(key) {
            self.writer.unsigned(&key, value);
        }
        Ok(())
    }

    fn maybe(&mut self, key: &str, value: Option<u64>) -> Result<(), String> {
        value.map_or(Ok(()), |value| self.unsigned(key, value))
    }

    fn float(&mut self, key: &str, value: Option<f64>) {
        if let (Some(key), Some(value)) = (self.key(key), value) {
            self.writer.float(&key, value as f32);
        }
    }

    fn bool(&mut self, key: &str, value: bool) {
        if let Some(key) = self.key(key) {
            self.writer.bool(&key, value);
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        if let Some(key) = self.key(key) {
            self.writer.text(&key, value);
        }
    }
}
