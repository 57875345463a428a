//! Parses values as models write them in calls: JSON, Python's literals, and texts between a
//! family's own quotes.

use serde_json::{Map, Value as Json};

/// Maximum nesting of lists and objects.
const DEPTH_MAX: usize = 64;

/// The parsed value, and how many bytes it used.
pub type Read<T> = Result<(T, usize), Stop>;

/// Why nothing was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The text may be the beginning of a value.
    More,
    /// The text is not a value.
    Never,
}

/// Reads one JSON value at the start of `text`.
pub fn json(text: &str) -> Read<Json> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Json>();
    match values.next() {
        Some(Ok(value)) => {
            let used = values.byte_offset();
            // A number at the very end may continue.
            if value.is_number() && used == text.len() {
                Err(Stop::More)
            } else {
                Ok((value, used))
            }
        }
        Some(Err(error)) if error.is_eof() => Err(Stop::More),
        None => Err(Stop::More),
        Some(Err(_)) => Err(Stop::Never),
    }
}

/// Reads one JSON value, or one in Python's notation.
pub fn loose(text: &str) -> Read<Json> {
    match json(text) {
        Err(Stop::Never) => value(text, ""),
        read => read,
    }
}

/// Reads one literal at the start of `text`; texts stand between quotes or between `quote`.
pub fn value(text: &str, quote: &str) -> Read<Json> {
    let mut reader = Reader {
        text,
        at: 0,
        quote,
        depth: 0,
    };
    let value = reader.value()?;
    Ok((value, reader.at))
}

/// Reads `name=value, …` up to `end`, which is not consumed.
pub fn keywords(text: &str, end: char) -> Read<Map<String, Json>> {
    let mut reader = Reader {
        text,
        at: 0,
        quote: "",
        depth: 0,
    };
    let pairs = reader.pairs('=', end)?;
    Ok((pairs, reader.at))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    quote: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Returns the next character that is not a space.
    fn peek(&mut self) -> Result<char, Stop> {
        self.skip_space();
        self.rest().chars().next().ok_or(Stop::More)
    }

    fn eat(&mut self, c: char) -> Result<bool, Stop> {
        let found = self.peek()? == c;
        self.at += if found { c.len_utf8() } else { 0 };
        Ok(found)
    }

    fn value(&mut self) -> Result<Json, Stop> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Stop::Never);
        }
        let first = self.peek()?;
        let value = if let Some(text) = self.between_quotes()? {
            Json::String(text)
        } else {
            match first {
                '\'' | '"' => Json::String(self.quoted(first)?),
                '[' | '(' => self.list(if first == '[' { ']' } else { ')' })?,
                '{' => {
                    self.at += 1;
                    let map = self.pairs(':', '}')?;
                    self.at += 1;
                    Json::Object(map)
                }
                _ => self.word()?,
            }
        };
        self.depth -= 1;
        Ok(value)
    }

    /// Reads a text between the family's own quotes.
    fn between_quotes(&mut self) -> Result<Option<String>, Stop> {
        let (quote, rest) = (self.quote, self.rest());
        if quote.is_empty() || rest.is_empty() {
            return Ok(None);
        }
        let Some(inside) = rest.strip_prefix(quote) else {
            return if quote.starts_with(rest) {
                Err(Stop::More)
            } else {
                Ok(None)
            };
        };
        let end = inside.find(quote).ok_or(Stop::More)?;
        self.at += end + 2 * quote.len();
        Ok(Some(inside[..end].to_string()))
    }

    fn quoted(&mut self, tag: char) -> Result<String, Stop> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == tag => {
                    self.at += at + 1;
                    return Ok(text);
                }
                '\\' => {
                    let (_, escaped) = chars.next().ok_or(Stop::More)?;
                    let code = |chars: &mut dyn Iterator<Item = (usize, char)>, count| {
                        let digits: String = chars.take(count).map(|(_, c)| c).collect();
                        if digits.len() < count {
                            return Err(Stop::More);
                        }
                        let code = u32::from_str_radix(&digits, 16).map_err(|_| Stop::Never)?;
                        Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER))
                    };
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        'b' => text.push('\u{8}'),
                        'f' => text.push('\u{c}'),
                        'x' => text.push(code(&mut chars, 2)?),
                        'u' => text.push(code(&mut chars, 4)?),
                        '\\' | '\'' | '"' | '/' => text.push(escaped),
                        other => text.extend(['\\', other]),
                    }
                }
                c => text.push(c),
            }
        }
        Err(Stop::More)
    }

    fn list(&mut self, end: char) -> Result<Json, Stop> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.eat(end)? {
            items.push(self.value()?);
            if !self.eat(',')? && self.peek()? != end {
                return Err(Stop::Never);
            }
        }
        Ok(Json::Array(items))
    }

    /// Reads `key SIGN value, …` up to `end`, which is not consumed.
    fn pairs(&mut self, sign: char, end: char) -> Result<Map<String, Json>, Stop> {
        let mut map = Map::new();
        while self.peek()? != end {
            let key = self.key()?;
            if !self.eat(sign)? {
                return Err(Stop::Never);
            }
            let value = self.value()?;
            map.insert(key, value);
            if !self.eat(',')? && self.peek()? != end {
                return Err(Stop::Never);
            }
        }
        Ok(map)
    }

    fn key(&mut self) -> Result<String, Stop> {
        if let Some(text) = self.between_quotes()? {
            return Ok(text);
        }
        let first = self.peek()?;
        if matches!(first, '\'' | '"') {
            return self.quoted(first);
        }
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))
            .ok_or(Stop::More)?;
        if length == 0 {
            return Err(Stop::Never);
        }
        self.at += length;
        Ok(rest[..length].to_string())
    }

    /// Reads a number, or a name for true, false or null.
    fn word(&mut self) -> Result<Json, Stop> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.' | '_')))
            .ok_or(Stop::More)?;
        let word = &rest[..length];
        self.at += length;
        match word {
            "true" | "True" => Ok(Json::Bool(true)),
            "false" | "False" => Ok(Json::Bool(false)),
            "null" | "None" => Ok(Json::Null),
            number => serde_json::from_str(number).map_err(|_| Stop::Never),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pythons_literals_are_read() {
        let text = r#"a="x\n\"é", b=[1, -2.5, 'y', None], c={'k': True, "l": (1,)}, d=''"#;
        let expected =
            json!({"a": "x\n\"é", "b": [1, -2.5, "y", null], "c": {"k": true, "l": [1]}, "d": ""});
        let whole = format!("{text})");
        assert_eq!(
            keywords(&whole, ')'),
            Ok((expected.as_object().unwrap().clone(), text.len()))
        );
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            assert_eq!(
                keywords(&text[..at], ')'),
                Err(Stop::More),
                "{}",
                &text[..at]
            );
        }
        assert_eq!(keywords("a b)", ')'), Err(Stop::Never));
    }

    #[test]
    fn a_familys_quotes_are_read() {
        let text = "{k:<|\"|>it's {1}<|\"|>,n:7,l:[<|\"|>a<|\"|>]}";
        let expected = json!({"k": "it's {1}", "n": 7, "l": ["a"]});
        assert_eq!(value(text, "<|\"|>"), Ok((expected, text.len())));
        assert_eq!(value("{k:<|\"|>a", "<|\"|>"), Err(Stop::More));
    }

    #[test]
    fn a_number_may_go_on() {
        assert_eq!(json("12"), Err(Stop::More));
        assert_eq!(json("12 "), Ok((json!(12), 2)));
        assert_eq!(json("{\"a\":1}x"), Ok((json!({"a": 1}), 7)));
        assert_eq!(json("{\"a\""), Err(Stop::More));
        assert_eq!(json("{a"), Err(Stop::Never));
    }
}
