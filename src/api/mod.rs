//! Wire formats: JSON to words and back. No socket, no file.

pub mod create;
pub mod listing;
pub mod native;
pub mod options;
pub mod records;
pub mod show;
pub mod transfer;
