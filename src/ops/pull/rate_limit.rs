//! Rate limit of downloads.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::core::bytes;
use crate::core::error::{Error, Result};
use crate::core::lock::LockExt;

/// Limits all threads of a pull together to a rate in bytes per second.
pub struct Limiter {
    bytes_a_second: Option<u64>,
    /// The time at which the bytes read so far are within the rate.
    allowed: Mutex<Instant>,
}

impl Limiter {
    /// A limiter; `None` means no limit.
    pub fn new(bytes_a_second: Option<u64>) -> Self {
        Limiter {
            bytes_a_second,
            allowed: Mutex::new(Instant::now()),
        }
    }

    /// Counts bytes and sleeps until they are within the rate.
    pub fn throttle(&self, bytes: usize) {
        let Some(rate) = self.bytes_a_second else {
            return;
        };
        let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let wait = {
            let mut allowed = self.allowed.locked();
            *allowed = (*allowed).max(Instant::now()) + time;
            allowed.saturating_duration_since(Instant::now())
        };
        thread::sleep(wait);
    }
}

/// Parses a rate in bytes per second: a size as [`bytes::parse`] reads it, at least 1.
///
/// # Errors
/// `Usage` if the text is not a rate.
pub fn rate(text: &str) -> Result<u64> {
    match bytes::parse(text) {
        Ok(rate @ 1..) => Ok(rate),
        _ => Err(Error::usage(format!(
            "a rate is bytes per second, such as 500K or 5M, not '{text}'"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_size_a_second() {
        for text in ["5M", "1.5k", "70", " 2G ", "500MB", "500MiB"] {
            assert_eq!(rate(text).unwrap(), bytes::parse(text).unwrap(), "{text}");
        }
        assert_eq!(rate("500M").unwrap(), 500 << 20);
        for bad in ["", "M", "-1", "0", "5X", "nan", "inf"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
