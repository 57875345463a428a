//! Durations as the API writes and reads them: Go's text form, seconds, and "forever".

use std::time::Duration;

use super::error::{Error, Result};

/// How long a model stays loaded after its last request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// This long.
    For(Duration),
    /// Until it is unloaded explicitly.
    Forever,
}

/// 100 years: a longer time means forever.
const KEEP_ALIVE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

impl KeepAlive {
    /// From seconds; negative is forever.
    pub fn from_seconds(seconds: f64) -> Self {
        match Duration::try_from_secs_f64(seconds) {
            Ok(duration) if duration <= KEEP_ALIVE_MAX => KeepAlive::For(duration),
            _ => KeepAlive::Forever,
        }
    }

    /// From Go's text form (`5m`, `1h30m`, `-1s`).
    ///
    /// # Errors
    /// Go's own messages: missing unit, unknown unit, invalid duration.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self::from_seconds(parse_seconds(text)?))
    }

    /// From Go's text form or a bare number of seconds.
    ///
    /// # Errors
    /// As [`KeepAlive::parse`].
    pub fn parse_lenient(text: &str) -> Result<Self> {
        match text.parse::<f64>() {
            Ok(seconds) => Ok(Self::from_seconds(seconds)),
            Err(_) => Self::parse(text),
        }
    }
}

/// Units with their seconds; of two units with the same start, the longer comes first.
const UNITS: &[(&str, f64)] = &[
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("μs", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
];

fn parse_seconds(text: &str) -> Result<f64> {
    let invalid = || Error::usage(format!("time: invalid duration {text:?}"));
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1.0, &text[1..]),
        Some(b'+') => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Ok(0.0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = &rest[..letters];
        if unit.is_empty() {
            return Err(Error::usage(format!(
                "time: missing unit in duration {text:?}"
            )));
        }
        let known = UNITS.iter().find(|(name, _)| *name == unit);
        let (_, factor) = known.ok_or_else(|| {
            Error::usage(format!("time: unknown unit {unit:?} in duration {text:?}"))
        })?;
        seconds += number * factor;
        rest = &rest[letters..];
    }
    Ok(sign * seconds)
}

/// A duration as display text, in Go's form: `4.935886791s`, `107.345ms`, `1m2.5s`.
pub fn display(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos < 1_000_000_000 {
        return match nanos {
            0 => "0s".into(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}µs", trimmed(nanos as f64 / 1e3, 3)),
            _ => format!("{}ms", trimmed(nanos as f64 / 1e6, 6)),
        };
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = trimmed(
        (seconds % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9,
        9,
    );
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_durations_are_read() {
        let seconds = |s: f64| KeepAlive::For(Duration::from_secs_f64(s));
        for (text, value) in [
            ("5m", seconds(300.0)),
            ("1h30m", seconds(5400.0)),
            ("0", seconds(0.0)),
            ("1.5s", seconds(1.5)),
            ("-1s", KeepAlive::Forever),
        ] {
            assert_eq!(KeepAlive::parse(text).unwrap(), value, "{text}");
        }
        assert_eq!(KeepAlive::parse_lenient("30").unwrap(), seconds(30.0));
    }

    #[test]
    fn wrong_durations_get_gos_words() {
        for (text, message) in [
            ("5", "time: missing unit in duration \"5\""),
            ("abc", "time: invalid duration \"abc\""),
            ("", "time: invalid duration \"\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
        ] {
            assert_eq!(KeepAlive::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn durations_are_shown_as_go_does() {
        for (nanos, text) in [
            (0, "0s"),
            (12_000, "12µs"),
            (107_345_000, "107.345ms"),
            (4_935_886_791, "4.935886791s"),
            (3_723_500_000_000, "1h2m3.5s"),
        ] {
            assert_eq!(display(Duration::from_nanos(nanos)), text);
        }
    }
}
