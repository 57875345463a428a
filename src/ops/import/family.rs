//! The model families that can be converted to GGUF, and the particulars of each.

/// One of llama.cpp's architectures, with what its conversion needs.
#[derive(Debug)]
pub struct Family {
    /// Values of `architectures` in `config.json`.
    pub architectures: &'static [&'static str],
    /// llama.cpp's name of the architecture.
    pub name: &'static str,
    /// The naming scheme of its tensors.
    pub layout: Layout,
    /// True if the rows of queries and keys must be reordered, because llama.cpp rotates neighbouring
    /// elements instead of halves.
    pub rotates_neighbours: bool,
    /// True if 1 must be added to the weights of norms.
    pub norms_above_one: bool,
    /// Keys that llama.cpp's converter does not write for this family.
    pub without: &'static [&'static str],
    /// Defaults of `config.json` values that transformers' code supplies when the file omits them.
    pub defaults: &'static [(&'static str, f64)],
}

/// How tensors are named in safetensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `model.layers.0.self_attn.q_proj`.
    Decoder,
    /// As `Decoder`, but the norm after attention is not the norm before the feed-forward block.
    Sandwich,
    /// `encoder.layer.0.attention.self.query`.
    Bert,
    /// `encoder.layers.0.attn.Wqkv`.
    Nomic,
}

const PLAIN: Family = Family {
    architectures: &[],
    name: "",
    layout: Layout::Decoder,
    rotates_neighbours: false,
    norms_above_one: false,
    without: &[],
    defaults: &[],
};

const GEMMA: Family = Family {
    layout: Layout::Sandwich,
    norms_above_one: true,
    without: &["rope.freq_base", "rope.freq_base_swa", "rope.scaling.type"],
    ..PLAIN
};

/// Every supported family, converted as llama.cpp's converter does it.
pub const FAMILIES: &[Family] = &[
    Family {
        architectures: &[
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "MixtralForCausalLM",
        ],
        name: "llama",
        rotates_neighbours: true,
        ..PLAIN
    },
    Family {
        architectures: &["Qwen2ForCausalLM", "Qwen2Model"],
        name: "qwen2",
        ..PLAIN
    },
    Family {
        architectures: &["Qwen3ForCausalLM", "Qwen3Model"],
        name: "qwen3",
        ..PLAIN
    },
    Family {
        architectures: &["GemmaForCausalLM"],
        name: "gemma",
        layout: Layout::Decoder,
        ..GEMMA
    },
    Family {
        architectures: &["Gemma2ForCausalLM"],
        name: "gemma2",
        ..GEMMA
    },
    Family {
        architectures: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        name: "gemma3",
        without: &[],
        // From transformers' Gemma3TextConfig; the published files leave these out.
        defaults: &[
            ("max_position_embeddings", 131_072.0),
            ("num_attention_heads", 8.0),
            ("num_key_value_heads", 4.0),
            ("head_dim", 256.0),
            ("rms_norm_eps", 1e-6),
            ("rope_theta", 1e6),
            ("rope_local_base_freq", 1e4),
            ("vocab_size", 262_208.0),
        ],
        ..GEMMA
    },
    Family {
        architectures: &["Phi3ForCausalLM"],
        name: "phi3",
        without: &[
            "attention.key_length",
            "attention.value_length",
            "rope.freq_base_swa",
            "rope.scaling.type",
        ],
        defaults: &[("original_max_position_embeddings", 4096.0)],
        ..PLAIN
    },
    Family {
        architectures: &["Olmo2ForCausalLM"],
        name: "olmo2",
        layout: Layout::Sandwich,
        ..PLAIN
    },
    Family {
        architectures: &["CohereForCausalLM"],
        name: "command-r",
        ..PLAIN
    },
    Family {
        architectures: &["BertModel", "BertForMaskedLM"],
        name: "bert",
        layout: Layout::Bert,
        ..PLAIN
    },
    Family {
        architectures: &["NomicBertModel"],
        name: "nomic-bert",
        layout: Layout::Nomic,
        ..PLAIN
    },
];

impl Family {
    /// The family of an architecture named in `config.json`.
    ///
    /// # Errors
    /// A text that lists every supported architecture.
    pub fn for_architecture(architecture: Option<&str>) -> Result<&'static Self, String> {
        let Some(architecture) = architecture else {
            return Err("config.json names no architecture".into());
        };
        let mut families = FAMILIES.iter();
        let family = families.find(|family| family.architectures.contains(&architecture));
        family.ok_or_else(|| {
            let known = FAMILIES.iter().flat_map(|family| family.architectures);
            let known: Vec<&str> = known.copied().collect();
            format!(
                "unsupported architecture \"{architecture}\"; supported: {}",
                known.join(", ")
            )
        })
    }

    /// The id of the end-of-turn token where the tokenizer's files do not give it, for a vocabulary of
    /// `tokens` tokens.
    pub fn ends_turn(&self, tokens: usize) -> Option<u64> {
        match (self.name, tokens) {
            ("llama", 32016) => Some(32010), // CodeLlama.
            ("gemma", _) => Some(107),
            _ => None,
        }
    }
}

/// The family by llama.cpp's name.
pub fn named(name: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| family.name == name)
}
