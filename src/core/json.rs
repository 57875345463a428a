//! JSON as the reference writes it, byte for byte: compact, `<`, `>`, `&`, U+2028 and U+2029
//! escaped, floats in their shortest form with an exponent only below 1e-6 or from 1e21.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::Formatter;

/// The value as one line of JSON, without a newline.
pub fn line(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter);
    value
        .serialize(&mut serializer)
        .expect("our wire types serialise into memory");
    String::from_utf8(bytes).expect("serde_json writes UTF-8")
}

/// The text of bytes as Go reads JSON: with U+FFFD in place of what is not UTF-8, and [`repaired`].
pub fn repaired_bytes(bytes: Vec<u8>) -> String {
    let text = String::from_utf8(bytes);
    repaired(text.unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// JSON with U+FFFD in place of escapes of half a character outside the basic plane (`\\ud83d` alone), which programs write
/// that cut a text between its 16-bit units. Go reads them so.
pub fn repaired(text: String) -> String {
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return text;
    }
    let mut repaired = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        repaired += before;
        let (length, is_half) = match (half(escape), escape.get(6..).and_then(half)) {
            (Some(true), Some(false)) => (12, false),
            (Some(_), _) => (6, true),
            // Whatever an escape stands for, its second character begins none.
            (None, _) => (escape.chars().take(2).map(char::len_utf8).sum(), false),
        };
        let (escape, behind) = escape.split_at(length);
        repaired += if is_half { "\\ufffd" } else { escape };
        rest = behind;
    }
    repaired + rest
}

/// True for an escape of the first half of a character, false for one of the second half.
fn half(escape: &str) -> Option<bool> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    match u16::from_str_radix(digits, 16).ok()? {
        0xd800..0xdc00 => Some(true),
        0xdc00..0xe000 => Some(false),
        _ => None,
    }
}

struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        text: &str,
    ) -> io::Result<()> {
        let mut rest = text;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let special = rest[at..].chars().next().expect("find returned its place");
            out.write_all(&rest.as_bytes()[..at])?;
            write!(out, "\\u{:04x}", special as u32)?;
            rest = &rest[at + special.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(float(value, value.to_string(), format!("{value:e}")).as_bytes())
    }

    fn write_f32<W: ?Sized + Write>(&mut self, out: &mut W, value: f32) -> io::Result<()> {
        out.write_all(float(value.into(), value.to_string(), format!("{value:e}")).as_bytes())
    }
}

/// Picks plain or exponent form; Go pads a negative exponent to one digit and writes a positive one with
/// `+`.
fn float(value: f64, plain: String, exponent: String) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        if size >= 1e21 {
            exponent.replace('e', "e+")
        } else {
            exponent
        }
    } else {
        plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_characters_become_one_that_says_so() {
        for (given, repaired_as) in [
            (&b"\"a\\ud83d b\""[..], "\"a\\ufffd b\""),
            (b"\"\\ude00\"", "\"\\ufffd\""),
            (b"\"\\ud83d\\ude00\"", "\"\\ud83d\\ude00\""),
            (b"\"\\ud83d\\ud83d\\ude00\"", "\"\\ufffd\\ud83d\\ude00\""),
            (b"\"\\\\ud83d\"", "\"\\\\ud83d\""),
            (b"\"\\ud8", "\"\\ud8"),
            (b"\"\xff\\ud800\"", "\"\u{fffd}\\ufffd\""),
            (b"\"\\u00e9\\", "\"\\u00e9\\"),
        ] {
            assert_eq!(repaired_bytes(given.to_vec()), repaired_as);
        }
    }

    #[test]
    fn floats_take_gos_form() {
        for (value, text) in [
            (0.1, "0.1"),
            (1.0, "1"),
            (1e6, "1000000"),
            (1e-5, "0.00001"),
            (1e-7, "1e-7"),
            (1e21, "1e+21"),
            (0.0, "0"),
        ] {
            assert_eq!(line(&value), text);
        }
        assert_eq!(line(&0.1f32), "0.1");
    }

    #[test]
    fn html_is_escaped() {
        assert_eq!(
            line(&"a<b>&\u{2028}\"é"),
            r#""a\u003cb\u003e\u0026\u2028\"é""#
        );
    }
}
