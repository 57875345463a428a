//! Owners of one outside thing each: the environment, the model directory, registries, llama.cpp, a server,
//! the cache directory, the machine.
//!
//! No part of this folder imports another one.

pub mod cache_dir;
pub mod client;
pub mod config;
pub mod engine;
pub mod machine;
pub mod registry;
pub mod store;
