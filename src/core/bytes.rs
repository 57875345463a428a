//! Parses sizes in bytes, as people write them.

use super::error::{Error, Result};

/// Units with their bytes; a unit comes before its own suffixes.
const UNITS: &[(&str, f64)] = &[
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("k", 1024.0),
    ("m", 1_048_576.0),
    ("g", 1_073_741_824.0),
    ("t", 1_099_511_627_776.0),
    ("b", 1.0),
    ("", 1.0),
];

/// Reads an amount: `500M`, `6G` and `1.5GiB` count by 1024, `500MB` by 1000, a bare number is bytes. This is
/// the only reader of sizes, so that a size means the same for every flag and setting.
///
/// # Errors
/// `Usage` for any other text.
pub fn parse(text: &str) -> Result<u64> {
    let wrong = || Error::usage(format!("'{text}' is not a size such as 500M or 6G"));
    let lower = text.trim().to_lowercase();
    let number = UNITS.iter().find_map(|(unit, bytes)| {
        let digits = lower.strip_suffix(unit)?.trim_end();
        let plain = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
        let number: f64 = digits.parse().ok().filter(|_| plain)?;
        Some(number * bytes)
    });
    match number {
        Some(number) if number < 1e18 => Ok(number as u64),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        for (text, bytes) in [
            ("0", 0),
            ("12", 12),
            ("500M", 500 << 20),
            ("6g", 6 << 30),
            ("1.5GiB", 3 << 29),
            ("2 MB", 2_000_000),
            ("7b", 7),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "M", "-1", "1e3", "5X", "nan", "inf", "9999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
