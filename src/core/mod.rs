//! The vocabulary of the crate: plain values, and the one way to open a file that has to be regular.
//!
//! Everything else may import from here; nothing here imports from another layer.

pub mod address;
pub mod bytes;
pub mod clock;
pub mod decision;
pub mod digest;
pub mod duration;
pub mod error;
pub mod json;
pub mod lock;
pub mod message;
pub mod name;
pub mod network;
pub mod options;
pub mod reference;
pub mod regular_file;
pub mod special_tokens;
pub mod threads;
pub mod turn;
pub mod unique_keys;
