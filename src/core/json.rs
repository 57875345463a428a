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
