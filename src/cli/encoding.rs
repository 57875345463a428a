//! `--encoding`: how bytes of the input that are not UTF-8 are read.
//!
//! Pure.

use super::flag::{Flag, Group, option};
use super::parsed::Parsed;
use crate::core::error::{Error, Result};

/// Shared by the commands that read text.
pub const ENCODING: Flag = option(
    "encoding",
    None,
    "NAME",
    "text that is not UTF-8: strict, replace or latin1",
)
.in_group(Group::Input)
.one_of(&["strict", "replace", "latin1"]);

/// How bytes become text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// UTF-8; anything else is an error.
    #[default]
    Strict,
    /// UTF-8; what is not becomes U+FFFD.
    Replace,
    /// ISO 8859-1: each byte is a character.
    Latin1,
}

impl Encoding {
    /// The encoding that the command line names.
    ///
    /// # Errors
    /// `Usage` for an unknown name.
    pub fn read(parsed: &Parsed) -> Result<Self> {
        match parsed.value(&ENCODING) {
            None | Some("strict") => Ok(Encoding::Strict),
            Some("replace") => Ok(Encoding::Replace),
            Some("latin1") => Ok(Encoding::Latin1),
            Some(other) => Err(Error::usage(format!(
                "--encoding must be strict, replace or latin1, not '{other}'"
            ))),
        }
    }

    /// The text of bytes; `what` they are begins the error.
    ///
    /// # Errors
    /// `Usage` with the line and the column of the first byte that is not UTF-8.
    pub fn decode(self, bytes: Vec<u8>, what: &str) -> Result<String> {
        let (text, error) = self.decode_or_show(bytes, what);
        error.map_or(Ok(text), Err)
    }

    /// The text of bytes, or one that shows what can be read and the error of [`Encoding::decode`].
    pub fn decode_or_show(self, bytes: Vec<u8>, what: &str) -> (String, Option<Error>) {
        if self == Encoding::Latin1 {
            return (bytes.into_iter().map(char::from).collect(), None);
        }
        match String::from_utf8(bytes) {
            Ok(text) => (text, None),
            Err(error) => {
                let (bytes, valid) = (error.as_bytes(), error.utf8_error().valid_up_to());
                let shown = String::from_utf8_lossy(bytes).into_owned();
                let is_error = self == Encoding::Strict;
                (shown, is_error.then(|| not_text(what, bytes, valid)))
            }
        }
    }
}

/// The error for the byte at `at`; all bytes before it are UTF-8.
fn not_text(what: &str, bytes: &[u8], at: usize) -> Error {
    let before = String::from_utf8_lossy(&bytes[..at]);
    let lines = before.split('\n').count();
    let column = 1 + before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count();
    Error::usage(format!(
        "{what} is not UTF-8 text: line {lines}, column {column} is the byte 0x{:02x} (see --encoding)",
        bytes[at]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_meaning_or_a_place() {
        let bytes = b"one\ntw\xc3\xb6 \xe9t\xe9".to_vec();
        let read = |encoding: Encoding| encoding.decode(bytes.clone(), "it");
        assert_eq!(
            read(Encoding::Replace).unwrap(),
            "one\ntwö \u{fffd}t\u{fffd}"
        );
        assert_eq!(read(Encoding::Latin1).unwrap(), "one\ntwÃ¶ été");
        assert_eq!(
            read(Encoding::Strict).unwrap_err().to_string(),
            "it is not UTF-8 text: line 2, column 5 is the byte 0xe9 (see --encoding)"
        );
        let cut = Encoding::Strict
            .decode(b"\xe2\x82".to_vec(), "it")
            .unwrap_err();
        assert!(cut.to_string().contains("line 1, column 1"), "{cut}");
    }
}
