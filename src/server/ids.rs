//! Ids and times of answers.

use std::time::{SystemTime, UNIX_EPOCH};

/// An id that no other answer has.
pub fn random_id() -> String {
    let mut bytes = [0; 12];
    // Without random bytes ids repeat; nothing else depends on them.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unix seconds.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
