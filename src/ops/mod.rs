//! Operations: what the program does, independent of who asked for it.
//!
//! They combine the parts of `system` and speak in values of `core`; the command line and the server call them.

pub mod archive;
pub mod backend;
pub mod bench;
pub mod choose;
pub mod create;
pub mod decide;
pub mod embed;
pub mod import;
pub mod list;
pub mod measured_settings;
pub mod model;
pub mod model_cache;
pub mod ollama_layout;
pub mod pool;
pub mod prefix_cache;
pub mod pull;
pub mod push;
pub mod rerank;
pub mod sandbox;
pub mod shards;
pub mod show;
pub mod trial;
pub mod turn;
pub mod weigh;
