//! Wire formats: JSON to words and back. No socket, no file.

pub mod anthropic;
pub mod create;
pub mod event;
pub mod listing;
pub mod native;
pub mod openai;
pub mod options;
pub mod records;
pub mod responses;
pub mod show;
pub mod transfer;
