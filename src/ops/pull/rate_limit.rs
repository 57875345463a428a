//! Rate limit of downloads.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::core::error::{Error, Result};

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
    pub fn took(&self, bytes: usize) {
        let Some(rate) = self.bytes_a_second else {
            return;
        };
        let time = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let wait = {
            let mut allowed = self
                .allowed
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            *allowed = (*allowed).max(Instant::now()) + time;
            allowed.saturating_duration_since(Instant::now())
        };
        thread::sleep(wait);
    }
}

/// Parses a rate in bytes per second, with `K`, `M` or `G` for powers of 1000.
///
/// # Errors
/// `Usage` if the text is not a rate.
pub fn rate(text: &str) -> Result<u64> {
    let wrong = || {
        Error::usage(format!(
            "a rate is bytes per second, such as 500K or 5M, not '{text}'"
        ))
    };
    let (digits, unit) = match text.trim().to_uppercase().as_str() {
        text if text.ends_with('K') => (text[..text.len() - 1].to_string(), 1e3),
        text if text.ends_with('M') => (text[..text.len() - 1].to_string(), 1e6),
        text if text.ends_with('G') => (text[..text.len() - 1].to_string(), 1e9),
        text => (text.to_string(), 1.0),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    match number * unit {
        rate if (1.0..1e15).contains(&rate) => Ok(rate as u64),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_units() {
        for (text, bytes) in [
            ("5M", 5_000_000),
            ("1.5k", 1500),
            ("70", 70),
            (" 2G ", 2_000_000_000),
        ] {
            assert_eq!(rate(text).unwrap(), bytes);
        }
        for bad in ["", "M", "-1", "0", "5X", "nan", "inf"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }
}
