//! puna runs local language models as a Unix tool: it answers in a pipe, keeps models in a
//! content-addressed store, and serves the Ollama HTTP API with llama.cpp inside the process.
//!
//! The modules are in reading order, and imports go up this list only: words, formats, owners of
//! one outside thing each, deeds, faces. `docs/ARCHITECTURE.md` has the whole map.

#![deny(unsafe_code, missing_docs)]

// Words: the vocabulary. No I/O.
pub mod address;
pub mod bytes;
pub mod clock;
pub mod digest;
pub mod duration;
pub mod error;
pub mod message;
pub mod name;
pub mod network;
pub mod options;
pub mod special;

// Formats: bytes or text to words and back.
pub mod api;
pub mod gguf;
pub mod json;
pub mod manifest;
pub mod modelfile;
pub mod prompt;
pub mod reply;
pub mod safetensors;
pub mod vocabulary;

// Owners: each of one outside thing.
pub mod cache;
pub mod client;
pub mod config;
pub mod engine;
pub mod machine;
pub mod registry;
pub mod store;

// Deeds: what the program does, with no idea who asked.
pub mod bench;
pub mod bundle;
pub mod chat;
pub mod choose;
pub mod convert;
pub mod create;
pub mod derive;
pub mod dialect;
pub mod embed;
pub mod kept;
pub mod list;
pub mod model;
pub mod pool;
pub mod pull;
pub mod push;
pub mod rerank;
pub mod shards;
pub mod shelf;
pub mod show;
pub mod tuned;

// Faces: how someone asks.
pub mod cli;
pub mod server;
