//! The report of an engine thread whose model is loaded.

use llama_cpp_2::model::LlamaLoraAdapter;

/// Facts about the loaded model that its contexts need.
pub struct Ready {
    pub gpu_layers: u32,
    /// True for a model with an encoder, which reads a whole prompt before it answers.
    pub encodes: bool,
    /// The longest sequence whose memory can be cut after any token, in tokens.
    pub window_tokens: usize,
    /// The LoRA adapter to apply, and its scale.
    pub adapter: Option<(LlamaLoraAdapter, f32)>,
}
