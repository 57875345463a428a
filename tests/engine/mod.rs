//! The engine through the program: architectures, caches, scheduling, timing.

pub mod architectures;
pub mod deterministic;
pub mod hostile_models;
mod kernels;
pub mod layout_translation;
pub mod minilm;
pub mod ollama_layouts;
pub mod prefix_cache;
pub mod reuse;
pub mod scheduling;
pub mod speculation;
pub mod timing;
