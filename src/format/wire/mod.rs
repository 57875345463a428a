//! Wire formats: converts JSON to requests, and answers to JSON. It opens no socket and no file.

pub mod anthropic;
mod billing;
pub mod decisions;
mod effort;
pub mod encoder;
pub mod failure;
mod fields;
pub mod further;
pub mod native;
pub mod openai;
pub mod options;
pub mod responses;
