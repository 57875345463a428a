//! The routes: one file per family, each from a decoded request to an encoded answer.

pub mod anthropic;
pub mod create;
pub mod decisions;
pub mod embed;
pub mod llamacpp;
pub mod models;
pub mod native;
pub mod openai;
pub mod rerank;
pub mod transfer;
