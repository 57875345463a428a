//! Formats points in time: RFC 3339 in UTC, local time, and "3 hours ago".

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config};
use jiff::tz::{Offset, TimeZone};

/// A time in RFC 3339, UTC, with as many fractional digits as it needs (at most nine).
pub fn rfc3339(time: SystemTime) -> String {
    timestamp(time).to_string()
}

/// The same without fractions: for listings.
pub fn rfc3339_seconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(UNIX_EPOCH + Duration::from_secs(since.as_secs()))
}

/// Times that the calendar cannot represent become 1970.
fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or_default()
}

/// A time in a zone.
#[derive(Debug, Clone, Copy)]
pub struct Local {
    time: Timestamp,
    /// `None`: the offset of this system, looked up on first use, which takes 5 ms.
    offset: Option<Offset>,
}

impl Local {
    /// A time in the zone of this system.
    pub fn here(time: SystemTime) -> Self {
        Local {
            time: timestamp(time),
            offset: None,
        }
    }

    /// A time in UTC.
    pub fn utc(time: SystemTime) -> Self {
        Local {
            time: timestamp(time),
            offset: Some(Offset::UTC),
        }
    }

    /// Formats the time like `strftime`; unknown directives stay as they are.
    pub fn strftime(self, format: &str) -> String {
        let here = || TimeZone::system().to_offset(self.time);
        let offset = self.offset.unwrap_or_else(here);
        let time = self.time.to_zoned_datetime(offset.to_time_zone());
        let lenient = Config::new().lenient(true);
        let text = BrokenDownTime::from(&time).to_string_with_config(&lenient, format);
        text.unwrap_or_default()
    }

    /// The same time this many days later, or earlier if negative.
    pub fn days(self, days: i64) -> Self {
        let moved = self
            .time
            .checked_add(jiff::SignedDuration::from_hours(24 * days));
        Local {
            time: moved.unwrap_or(self.time),
            ..self
        }
    }
}

/// The time from now to one that [`rfc3339`] or another program wrote; none if that is over. `None` for other texts.
pub fn left(text: &str) -> Option<Duration> {
    let time: Timestamp = text.parse().ok()?;
    let left = time.duration_since(Timestamp::now());
    Some(left.try_into().unwrap_or_default())
}

/// A time span as display text, worded as in the reference: `2 hours`, `About a minute`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let hours = (duration.as_secs_f64() / 3600.0).round() as u64;
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{} minutes", seconds / 60),
        _ => match hours {
            0 | 1 => "About an hour".into(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 168),
            1440..17_520 => format!("{} months", hours / 720),
            _ => format!("{} years", seconds / 3600 / 8760),
        },
    }
}

/// A time span within a sentence.
pub fn words(duration: Duration) -> String {
    span(duration).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_795_471_445, 120_000_000, "2026-11-23T22:04:05.12Z"),
            (4_102_444_799, 1, "2099-12-31T23:59:59.000000001Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos)), text);
        }
    }

    #[test]
    fn the_time_left_is_never_negative() {
        assert_eq!(left("2001-01-01T00:00:00Z"), Some(Duration::ZERO));
        let later = SystemTime::now() + Duration::from_secs(300);
        let found = left(&rfc3339(later)).unwrap();
        assert!((200..=300).contains(&found.as_secs()), "{found:?}");
        assert_eq!(left("never"), None);
    }

    #[test]
    fn local_times_are_written_by_strftimes_directives() {
        let time = UNIX_EPOCH + Duration::from_secs(1_795_471_445);
        let utc = Local::utc(time);
        let format = "%Y-%m-%d %-d %e %B %b %A %a %H:%M:%S %I %p %y %j %Z%z %% %K";
        assert_eq!(
            utc.strftime(format),
            "2026-11-23 23 23 November Nov Monday Mon 22:04:05 10 PM 26 327 UTC+0000 % %K"
        );
        let east = Local {
            offset: Some(Offset::constant(3)),
            ..utc
        };
        assert_eq!(east.strftime("%Y-%m-%d %H:%M"), "2026-11-24 01:04");
        assert_eq!(east.days(-1).strftime("%F"), "2026-11-23");
    }

    #[test]
    fn spans_are_worded_as_the_reference_does() {
        for (minutes, text) in [
            (90, "2 hours"),
            (24 * 60, "24 hours"),
            (47 * 60 + 31, "2 days"),
            (13 * 1440, "13 days"),
            (14 * 1440, "2 weeks"),
            (59 * 1440, "8 weeks"),
            (60 * 1440, "2 months"),
            (730 * 1440, "2 years"),
        ] {
            assert_eq!(span(Duration::from_secs(minutes * 60)), text);
        }
    }
}
