//! Pulling and pushing against a scripted registry, and its faults.

pub mod faults;
pub mod pull;
pub mod push;
pub mod shards;
