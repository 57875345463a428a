//! The model directory: creating, importing, archives, interruptions.

pub mod archive;
pub mod create;
mod owners;
pub mod quantize;
pub mod safetensors;
pub mod stress;
