//! The flags and operands of one command line, after they were checked against the command's table.

use std::ops::RangeInclusive;

use super::flag::Flag;
use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};

/// The flags and operands of a command line.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The arguments that are neither flags nor values of flags.
    pub operands: Vec<String>,
    /// Flags in the order in which they were given, by their long names; a switch has an empty value.
    pub values: Vec<(&'static str, String)>,
}

impl Parsed {
    /// True if a flag was given.
    pub fn has(&self, flag: &Flag) -> bool {
        self.values.iter().any(|(known, _)| *known == flag.long)
    }

    /// The meaning of the one that was given, among flags that exclude each other.
    ///
    /// # Errors
    /// `Usage` if there are two.
    pub fn only_one<T: Copy>(&self, flags: &[(&Flag, T)]) -> Result<Option<T>> {
        let mut given = flags.iter().filter(|(flag, _)| self.has(flag));
        match (given.next(), given.next()) {
            (Some((one, _)), Some((other, _))) => Err(Error::usage(format!(
                "--{} and --{} cannot be used together",
                one.long, other.long
            ))),
            (one, _) => Ok(one.map(|(_, meaning)| *meaning)),
        }
    }

    /// The value of a flag; the last one given wins.
    pub fn value(&self, flag: &Flag) -> Option<&str> {
        self.values
            .iter()
            .rev()
            .find(|(known, _)| *known == flag.long)
            .map(|(_, value)| value.as_str())
    }

    /// The names in a list with commas, without the white space around them; absent is empty.
    pub fn names(&self, flag: &Flag) -> Vec<String> {
        let names = self
            .value(flag)
            .unwrap_or_default()
            .split(',')
            .map(str::trim);
        let names = names.filter(|name| !name.is_empty());
        names.map(str::to_string).collect()
    }

    /// The value of a flag as a number within `range`, if it was given.
    ///
    /// # Errors
    /// `Usage` for any other value.
    pub fn number(&self, flag: &Flag, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(text) = self.value(flag) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let to = match *range.end() {
                usize::MAX => "up".to_string(),
                end => format!("to {end}"),
            };
            Error::usage(format!(
                "--{} must be a number from {} {to}, not '{text}'",
                flag.long,
                range.start()
            ))
        })
    }

    /// The first of these flags that was given.
    pub fn first_of<'f>(&self, flags: &[&'f Flag]) -> Option<&'f Flag> {
        flags.iter().copied().find(|flag| self.has(flag))
    }

    /// The value of a flag as `read` reads it, if it was given.
    ///
    /// # Errors
    /// The error of `read`, behind the flag's name.
    pub fn read<T>(&self, flag: &Flag, read: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
        let read = self.value(flag).map(read).transpose();
        read.map_err(|error| Error::plain(error.class(), format!("--{}: {error}", flag.long)))
    }

    /// The duration that a flag gives, if it was given.
    ///
    /// # Errors
    /// `Usage` for what is no duration.
    pub fn duration(&self, flag: &Flag) -> Result<Option<KeepAlive>> {
        let read = |text: &str| duration(flag.long, text);
        self.value(flag).map(read).transpose()
    }

    /// All values of a flag that may be repeated.
    pub fn values(&self, flag: &Flag) -> impl Iterator<Item = &str> {
        self.values
            .iter()
            .filter(move |(known, _)| *known == flag.long)
            .map(|(_, value)| value.as_str())
    }
}

/// The duration that a flag of this name gives.
///
/// # Errors
/// `Usage` for what is no duration.
pub fn duration(flag: &str, text: &str) -> Result<KeepAlive> {
    let read = KeepAlive::parse_lenient(text);
    read.map_err(|_| {
        Error::usage(format!(
            "--{flag} must be a duration, such as 90s or 5m, not '{text}'"
        ))
    })
}

/// The first item that a list has a second time.
pub fn repeated<T: PartialEq>(list: &[T]) -> Option<&T> {
    let mut places = 1..list.len();
    let twice = places.find(|at| list[..*at].contains(&list[*at]))?;
    list.get(twice)
}
