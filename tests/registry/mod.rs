//! Pulling and pushing against a scripted registry, and its faults.

pub mod faults;
pub mod own_models;
pub mod pull;
pub mod push;
pub mod shards;
