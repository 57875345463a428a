//! Splits template text into tokens: literal text, and the contents of `{{ … }}`.

/// Maximum bytes of a template; the largest published ones have about 10 KiB.
pub const TEMPLATE_BYTES_MAX: usize = 1 << 20;

/// A token and the line it begins on.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

/// The kind of a token.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Text outside of actions, already trimmed.
    Text(String),
    /// `{{`
    Open,
    /// `}}`
    Close,
    /// A name: a keyword, a function, `true`, `nil`.
    Word(String),
    /// `.Name`
    Field(String),
    /// `.` alone.
    Dot,
    /// `$name`, or `$` with an empty name.
    Variable(String),
    /// A string with its escapes resolved.
    Literal(String),
    /// A whole number or a character.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// `|`
    Pipe,
    /// `:=`
    Declare,
    /// `=`
    Assign,
    /// `,`
    Comma,
    /// `(`
    Left,
    /// `)`
    Right,
    /// White space between operands.
    Space,
}

/// Splits a template into tokens.
///
/// # Errors
/// The first error, after its line number: `:3: unclosed action`.
pub fn tokens(source: &str) -> Result<Vec<Token>, String> {
    if source.len() > TEMPLATE_BYTES_MAX {
        return Err(": the template is too long".into());
    }
    let mut lexer = Lexer {
        source,
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    lexer.text()?;
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        self.at += bytes;
        passed
    }

    fn push(&mut self, kind: Kind) {
        let line = self.line;
        self.tokens.push(Token { kind, line });
    }

    fn error<T>(&self, what: &str) -> Result<T, String> {
        Err(format!(":{}: {what}", self.line))
    }

    /// Reads text and actions alternately up to the end of the source.
    fn text(&mut self) -> Result<(), String> {
        let mut trim_left = false;
        loop {
            let length = self.rest().find("{{").unwrap_or(self.rest().len());
            let text = self.advance(length);
            let trim_right = opens_trimmed(self.rest());
            let text = if trim_left {
                text.trim_start_matches(SPACES)
            } else {
                text
            };
            let text = if trim_right {
                text.trim_end_matches(SPACES)
            } else {
                text
            };
            if !text.is_empty() {
                self.push(Kind::Text(text.into()));
            }
            if self.rest().is_empty() {
                return Ok(());
            }
            self.advance(if trim_right { 3 } else { 2 });
            trim_left = self.action()?;
        }
    }

    /// Reads an action after `{{`, through `}}`; true if `-}}` trims the text that follows.
    fn action(&mut self) -> Result<bool, String> {
        let inner = self.rest().trim_start_matches(SPACES);
        if inner.starts_with("/*") {
            return self.comment(inner);
        }
        self.push(Kind::Open);
        let mut depth = 0_usize;
        loop {
            let rest = self.rest();
            let trims = closes_trimmed(rest);
            if trims || rest.starts_with("}}") {
                if depth > 0 {
                    return self.error("unclosed left paren");
                }
                let spaces = rest.len() - rest.trim_start_matches(SPACES).len();
                self.advance(if trims { spaces + 3 } else { 2 });
                self.push(Kind::Close);
                return Ok(trims);
            }
            let kind = self.token()?;
            match kind {
                Kind::Left => depth += 1,
                Kind::Right if depth == 0 => return self.error("unexpected right paren"),
                Kind::Right => depth -= 1,
                _ => {}
            }
            self.push(kind);
        }
    }

    fn comment(&mut self, inner: &str) -> Result<bool, String> {
        self.advance(self.rest().len() - inner.len());
        let Some(end) = self.rest().find("*/") else {
            return self.error("unclosed comment");
        };
        self.advance(end + 2);
        let rest = self.rest();
        if closes_trimmed(rest) {
            let spaces = rest.len() - rest.trim_start_matches(SPACES).len();
            self.advance(spaces + 3);
            return Ok(true);
        }
        if !rest.starts_with("}}") {
            return self.error("comment ends before closing delimiter");
        }
        self.advance(2);
        Ok(false)
    }

    fn token(&mut self) -> Result<Kind, String> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return self.error("unclosed action");
        };
        let kind = match first {
            ' ' | '\t' | '\r' | '\n' => {
                let length = rest.len() - rest.trim_start_matches(SPACES).len();
                // The blank in front of `-}}` belongs to the delimiter.
                let length = if rest[length..].starts_with("-}}") {
                    length - 1
                } else {
                    length
                };
                self.advance(length.max(1));
                return Ok(Kind::Space);
            }
            ':' if rest.starts_with(":=") => {
                self.advance(2);
                return Ok(Kind::Declare);
            }
            '=' => Kind::Assign,
            '|' => Kind::Pipe,
            ',' => Kind::Comma,
            '(' => Kind::Left,
            ')' => Kind::Right,
            '"' => return self.quoted(),
            '`' => return self.raw(),
            '\'' => return self.character(),
            '$' => {
                let length = word_length(&rest[1..]);
                return Ok(Kind::Variable(self.advance(1 + length)[1..].into()));
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let length = word_length(&rest[1..]);
                let name = &self.advance(1 + length)[1..];
                let dot = name.is_empty();
                return Ok(if dot {
                    Kind::Dot
                } else {
                    Kind::Field(name.into())
                });
            }
            '+' | '-' | '.' | '0'..='9' => return self.number(),
            first if first == '_' || first.is_alphabetic() => {
                let length = word_length(rest);
                return Ok(Kind::Word(self.advance(length).into()));
            }
            other => return self.error(&format!("unexpected {other:?} in action")),
        };
        self.advance(1);
        Ok(kind)
    }

    fn number(&mut self) -> Result<Kind, String> {
        let rest = self.rest();
        let mut previous = ' ';
        let length = rest
            .find(|c: char| {
                let signed = matches!(c, '+' | '-') && matches!(previous, ' ' | 'e' | 'E');
                let more = signed || c == '.' || c == '_' || c.is_ascii_alphanumeric();
                previous = c;
                !more
            })
            .unwrap_or(rest.len());
        let text = self.advance(length);
        let plain = text.replace('_', "");
        let (sign, digits) = match plain.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", plain.strip_prefix('+').unwrap_or(&plain)),
        };
        let based = |radix, digits: &str| i64::from_str_radix(&format!("{sign}{digits}"), radix);
        let lower = digits.to_lowercase();
        let int = match lower.get(..2) {
            Some("0x") => based(16, &lower[2..]),
            Some("0o") => based(8, &lower[2..]),
            Some("0b") => based(2, &lower[2..]),
            _ => based(10, digits),
        };
        match (int, plain.parse::<f64>()) {
            (Ok(value), _) => Ok(Kind::Int(value)),
            (_, Ok(value)) if digits.starts_with(|c: char| c == '.' || c.is_ascii_digit()) => {
                Ok(Kind::Float(value))
            }
            _ => self.error(&format!("bad number syntax: {text:?}")),
        }
    }

    fn raw(&mut self) -> Result<Kind, String> {
        let Some(length) = self.rest()[1..].find('`') else {
            return self.error("unterminated raw quoted string");
        };
        let text = self.advance(length + 2);
        Ok(Kind::Literal(text[1..=length].replace('\r', "")))
    }

    fn quoted(&mut self) -> Result<Kind, String> {
        match unquote(self.rest(), '"') {
            Some((text, length)) => {
                self.advance(length);
                Ok(Kind::Literal(text))
            }
            None => self.error("unterminated quoted string"),
        }
    }

    fn character(&mut self) -> Result<Kind, String> {
        match unquote(self.rest(), '\'') {
            Some((text, length)) if text.chars().count() == 1 => {
                self.advance(length);
                let value = text.chars().next().map_or(0, u32::from);
                Ok(Kind::Int(value.into()))
            }
            _ => self.error("malformed character constant"),
        }
    }
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

fn opens_trimmed(rest: &str) -> bool {
    rest.starts_with("{{-") && rest[3..].starts_with(SPACES)
}

/// True for white space followed by `-}}`.
fn closes_trimmed(rest: &str) -> bool {
    let inner = rest.trim_start_matches(SPACES);
    inner.len() < rest.len() && inner.starts_with("-}}") && rest.len() - inner.len() == 1
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(text.len())
}

/// Returns the value and the byte length of the quoted Go literal at the start of `text`.
fn unquote(text: &str, quote: char) -> Option<(String, usize)> {
    let mut bytes = Vec::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' => return None,
            c if c == quote => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                return Some((text, at + c.len_utf8()));
            }
            '\\' => escape(&mut chars, quote, &mut bytes)?,
            c => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    None
}

fn escape(
    chars: &mut impl Iterator<Item = (usize, char)>,
    quote: char,
    bytes: &mut Vec<u8>,
) -> Option<()> {
    let (_, kind) = chars.next()?;
    let mut digits = |count: usize, radix: u32| -> Option<u32> {
        let text: String = chars.by_ref().take(count).map(|(_, c)| c).collect();
        (text.len() == count).then_some(())?;
        u32::from_str_radix(&text, radix).ok()
    };
    let simple = match kind {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        '\\' => b'\\',
        c if c == quote => c as u8,
        'x' => u8::try_from(digits(2, 16)?).ok()?,
        'u' | 'U' => {
            let code = digits(if kind == 'u' { 4 } else { 8 }, 16)?;
            bytes.extend(char::from_u32(code)?.encode_utf8(&mut [0; 4]).bytes());
            return Some(());
        }
        '0'..='7' => {
            let rest = digits(2, 8)?;
            u8::try_from(kind.to_digit(8)? * 64 + rest).ok()?
        }
        _ => return None,
    };
    bytes.push(simple);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<Kind> {
        tokens(source)
            .unwrap()
            .into_iter()
            .map(|token| token.kind)
            .collect()
    }

    #[test]
    fn trim_markers_take_the_space_beside_them() {
        let text = |text: &str| Kind::Text(text.into());
        for source in ["a \n{{- 1 -}}\t b", "a{{- 1 -}}b", "a  {{- 1 -}}  b"] {
            assert_eq!(
                kinds(source).first().zip(kinds(source).last()),
                Some((&text("a"), &text("b"))),
                "{source}"
            );
        }
        assert_eq!(kinds("a {{-1}}")[2], Kind::Int(-1));
        assert_eq!(kinds("a {{/* c */ -}} b"), [text("a "), text("b")]);
    }

    #[test]
    fn literals_are_gos() {
        let all = kinds(r#"{{ "a\n\x41\u00e9\101" `r\n` 'x' 0x1f 1.5 1e3 -2 }}"#);
        let values: Vec<&Kind> = all.iter().filter(|kind| **kind != Kind::Space).collect();
        let text = |text: &str| Kind::Literal(text.into());
        assert_eq!(
            values[1..8],
            [
                &text("a\nAéA"),
                &text("r\\n"),
                &Kind::Int(120),
                &Kind::Int(31),
                &Kind::Float(1.5),
                &Kind::Float(1000.0),
                &Kind::Int(-2)
            ]
        );
    }

    #[test]
    fn errors_name_their_line() {
        for (source, error) in [
            ("{{", ":1: unclosed action"),
            ("a\n{{ (1 }}", ":2: unclosed left paren"),
            ("{{ \"a }}", ":1: unterminated quoted string"),
            ("{{/* a }}", ":1: unclosed comment"),
            ("{{ % }}", ":1: unexpected '%' in action"),
        ] {
            assert_eq!(tokens(source).unwrap_err(), error, "{source}");
        }
    }
}
