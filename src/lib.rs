//! puna runs local language models as a Unix tool: it answers in a pipe, keeps models in a
//! content-addressed store, and serves the Ollama HTTP API with llama.cpp inside the process.
//!
//! The folders are the layers, in reading order, and imports go up this list only: `core`, `format`,
//! `system`, `ops`, `server`, `cli`. `docs/ARCHITECTURE.md` has the map.

#![deny(unsafe_code, missing_docs)]

pub mod core;
pub mod format;
pub mod system;

pub mod ops;

pub mod server;

pub mod cli;
