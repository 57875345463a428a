//! Modelfiles: parsed from text and printed back.
//!
//! One instruction per line; a value in `"` or `"""` may span lines. Pure: paths and names are not
//! resolved here.

use crate::core::error::{Error, Result};

/// Size limit of a Modelfile, in bytes.
pub const MODELFILE_BYTES_MAX: u64 = 8 << 20;

/// A parsed Modelfile.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Modelfile {
    /// The instructions in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction.
#[derive(Debug, Clone, PartialEq)]
pub enum Instruction {
    /// The name of a model, or a file.
    From(String),
    /// The file of a LoRA adapter.
    Adapter(String),
    /// The prompt template.
    Template(String),
    /// The system prompt.
    System(String),
    /// An option and its value.
    Parameter(String, String),
    /// The text of a licence.
    License(String),
    /// A message at the start of every chat: role and text.
    Message(String, String),
    /// A built-in renderer's name.
    Renderer(String),
    /// A built-in parser's name.
    Parser(String),
    /// The oldest version of Ollama that runs this model.
    Requires(String),
}

const WORDS: &str =
    "FROM, ADAPTER, TEMPLATE, SYSTEM, PARAMETER, LICENSE, MESSAGE, RENDERER, PARSER or REQUIRES";

/// Parses a Modelfile: UTF-8, or UTF-16 with a byte order mark.
///
/// # Errors
/// `Usage`: `line L, column C: what is wrong`.
pub fn parse(bytes: &[u8]) -> Result<Modelfile> {
    let text = decode(bytes)?;
    let mut lexer = Lexer {
        rest: &text,
        line: 1,
        column: 1,
    };
    let mut instructions = Vec::new();
    while lexer.skip_to_instruction() {
        instructions.push(instruction(&mut lexer)?);
    }
    if !instructions
        .iter()
        .any(|instruction| matches!(instruction, Instruction::From(_)))
    {
        return Err(Error::usage("the Modelfile has no FROM line"));
    }
    Ok(Modelfile { instructions })
}

fn decode(bytes: &[u8]) -> Result<String> {
    let wide = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units)
            .collect::<Result<String, _>>()
            .ok()
    };
    let text = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    };
    let text = text.ok_or_else(|| Error::usage("the Modelfile is neither UTF-8 nor UTF-16"))?;
    if text.contains('\0') {
        return Err(Error::usage(
            "the Modelfile contains a NUL byte; is it a model file?",
        ));
    }
    Ok(text.replace("\r\n", "\n"))
}

fn instruction(lexer: &mut Lexer) -> Result<Instruction> {
    let start = lexer.place();
    let word = lexer.word();
    let wrong = |why: String| Error::usage(format!("{start}: {why}"));
    let missing = || wrong(format!("{} needs a value", word.to_uppercase()));
    Ok(match word.to_ascii_lowercase().as_str() {
        "from" => Instruction::From(
            lexer
                .value()?
                .filter(|value| !value.is_empty())
                .ok_or_else(missing)?,
        ),
        "adapter" => Instruction::Adapter(lexer.value()?.ok_or_else(missing)?),
        "template" => Instruction::Template(lexer.value()?.ok_or_else(missing)?),
        "system" => Instruction::System(lexer.value()?.ok_or_else(missing)?),
        "license" => Instruction::License(lexer.value()?.ok_or_else(missing)?),
        "renderer" => Instruction::Renderer(lexer.value()?.ok_or_else(missing)?),
        "parser" => Instruction::Parser(lexer.value()?.ok_or_else(missing)?),
        "requires" => Instruction::Requires(lexer.value()?.ok_or_else(missing)?),
        "parameter" => {
            let name = lexer.argument().ok_or_else(missing)?;
            let value = lexer
                .value()?
                .ok_or_else(|| wrong(format!("PARAMETER {name} needs a value")))?;
            Instruction::Parameter(name, value)
        }
        "message" => {
            let role = lexer.argument().ok_or_else(missing)?;
            if !matches!(role.as_str(), "system" | "user" | "assistant") {
                return Err(wrong(format!(
                    "the role of a MESSAGE is system, user or assistant, not '{role}'"
                )));
            }
            let text = lexer
                .value()?
                .ok_or_else(|| wrong(format!("MESSAGE {role} needs a text")))?;
            Instruction::Message(role, text)
        }
        _ => {
            return Err(wrong(format!(
                "'{word:.40}' is not an instruction; expected {WORDS}"
            )));
        }
    })
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
}

impl<'a> Lexer<'a> {
    fn place(&self) -> String {
        format!("line {}, column {}", self.line, self.column)
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        for c in taken.chars() {
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.rest = rest;
        taken
    }

    fn skip_while(&mut self, keep: impl Fn(char) -> bool) {
        let end = self.rest.find(|c| !keep(c)).unwrap_or(self.rest.len());
        self.advance(end);
    }

    /// Skips blank lines and comments. Returns false at the end of the text.
    fn skip_to_instruction(&mut self) -> bool {
        loop {
            self.skip_while(char::is_whitespace);
            if !self.rest.starts_with('#') {
                return !self.rest.is_empty();
            }
            self.skip_while(|c| c != '\n' && c != '\r');
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(char::is_whitespace)
            .unwrap_or(self.rest.len());
        self.advance(end)
    }

    /// The next word on the same line.
    fn argument(&mut self) -> Option<String> {
        self.skip_while(|c| c == ' ' || c == '\t');
        let word = self.word();
        (!word.is_empty()).then(|| word.to_string())
    }

    /// The rest of the line, or the quoted text that starts there. `None` if it is empty.
    fn value(&mut self) -> Result<Option<String>> {
        self.skip_while(|c| c == ' ' || c == '\t');
        let start = self.place();
        for quote in ["\"\"\"", "\""] {
            if self.rest.starts_with(quote) {
                return self.quoted(quote).map(Some).ok_or_else(|| {
                    Error::usage(format!(
                        "{start}: the {quote} is never closed at the end of a line"
                    ))
                });
            }
        }
        let end = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
        let value = self.advance(end).trim_end();
        Ok((!value.is_empty()).then(|| value.to_string()))
    }

    /// The text between `quote` and the next `quote` at the end of a line.
    fn quoted(&mut self, quote: &str) -> Option<String> {
        let inner = &self.rest[quote.len()..];
        let mut from = 0;
        while let Some(at) = inner[from..].find(quote).map(|at| from + at) {
            let after = &inner[at + quote.len()..];
            let line_end = after.find(['\n', '\r']).unwrap_or(after.len());
            if after[..line_end].trim().is_empty() {
                let value = inner[..at].to_string();
                self.advance(quote.len() + at + quote.len() + line_end);
                return Some(value);
            }
            from = at + 1;
        }
        None
    }
}

/// Prints a Modelfile; parsing the text yields the same instructions.
pub fn print(modelfile: &Modelfile) -> String {
    let line = |instruction: &Instruction| {
        let (word, value) = match instruction {
            Instruction::From(value) => ("FROM".to_string(), value),
            Instruction::Adapter(value) => ("ADAPTER".into(), value),
            Instruction::Template(value) => ("TEMPLATE".into(), value),
            Instruction::System(value) => ("SYSTEM".into(), value),
            Instruction::Parameter(name, value) => (format!("PARAMETER {name}"), value),
            Instruction::License(value) => ("LICENSE".into(), value),
            Instruction::Message(role, value) => (format!("MESSAGE {role}"), value),
            Instruction::Renderer(value) => ("RENDERER".into(), value),
            Instruction::Parser(value) => ("PARSER".into(), value),
            Instruction::Requires(value) => ("REQUIRES".into(), value),
        };
        format!("{word} {}\n", quoted(value))
    };
    modelfile.instructions.iter().map(line).collect()
}

/// Quotes a value for a Modelfile where needed. A text with `"""` at the end of a line cannot be
/// written: the language has no escape for it.
pub fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && !text.contains(['\n', '\r'])
        && text.trim() == text
        && !text.starts_with('"');
    if plain {
        text.to_string()
    } else if text.contains('"') {
        format!("\"\"\"{text}\"\"\"")
    } else {
        format!("\"{text}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::Instruction::*;
    use super::*;

    fn read(text: &str) -> Vec<Instruction> {
        parse(text.as_bytes()).unwrap().instructions
    }

    #[test]
    fn every_instruction_is_read() {
        let text = "# a comment\nFROM ./x.gguf # y\r\n  system \"\"\"a\n\"b\" \"\"\"\n\nPARAMETER  stop \"a b\"\nPARAMETER seed 7\n\
                    MESSAGE user  hi there \nTEMPLATE \"{{ .Prompt }}\"\nLICENSE \"\"\n";
        assert_eq!(
            read(text),
            [
                From("./x.gguf # y".into()),
                System("a\n\"b\" ".into()),
                Parameter("stop".into(), "a b".into()),
                Parameter("seed".into(), "7".into()),
                Message("user".into(), "hi there".into()),
                Template("{{ .Prompt }}".into()),
                License(String::new()),
            ]
        );
    }

    #[test]
    fn encodings_are_detected_by_byte_order_mark() {
        let wide: Vec<u8> = "\u{feff}FROM x\n"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(parse(&wide).unwrap().instructions, [From("x".into())]);
        assert_eq!(
            parse(b"\xef\xbb\xbfFROM x").unwrap().instructions,
            [From("x".into())]
        );
    }

    #[test]
    fn errors_say_where() {
        for (text, message) in [
            ("", "the Modelfile has no FROM line"),
            ("SYSTEM x", "the Modelfile has no FROM line"),
            (
                "FROM x\nFORM y",
                "line 2, column 1: 'FORM' is not an instruction",
            ),
            ("FROM", "line 1, column 1: FROM needs a value"),
            (
                "FROM x\n SYSTEM \"\"\"a",
                "line 2, column 9: the \"\"\" is never closed",
            ),
            (
                "FROM x\nMESSAGE tool y",
                "line 2, column 1: the role of a MESSAGE is",
            ),
            (
                "FROM x\nPARAMETER seed\n",
                "line 2, column 1: PARAMETER seed needs a value",
            ),
            ("FROM x\0", "the Modelfile contains a NUL byte"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn printed_modelfiles_are_read_back() {
        let mut state = 88_172_645_463_325_252_u64;
        let mut dice = |sides: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % sides as u64) as usize
        };
        let parts = [
            "a",
            "B",
            " ",
            "\t",
            "\n",
            "\"",
            "\"\"",
            "#",
            "FROM",
            "{{ .Prompt }}",
            "ü",
            "\u{3000}",
            "\\",
            "'",
            "\u{feff}",
            "SYSTEM x",
            "\u{1}",
        ];
        for _ in 0..20_000 {
            let mut text =
                || -> String { (0..dice(9)).map(|_| parts[dice(parts.len())]).collect() };
            let ends_early = |text: &String| {
                let lines = text.split(['\n', '\r']);
                let inner = lines
                    .map(str::trim_end)
                    .filter(|line| line.ends_with("\"\"\""));
                inner.count() > 0
            };
            let values: Vec<String> = (0..6).map(|_| text()).collect();
            if values.iter().any(ends_early) {
                continue;
            }
            let modelfile = Modelfile {
                instructions: vec![
                    From(format!("x{}", values[0].trim())),
                    System(values[1].clone()),
                    Parameter("stop".into(), values[2].clone()),
                    Message("user".into(), values[3].clone()),
                    Template(values[4].clone()),
                    License(values[5].clone()),
                ],
            };
            let printed = print(&modelfile);
            let read = parse(printed.as_bytes());
            assert_eq!(read.ok(), Some(modelfile), "{printed:?}");
        }
    }

    #[test]
    fn quoted_values_are_read_back() {
        for text in [
            "",
            "plain",
            " spaced ",
            "two\nlines",
            "a \"b\" c",
            "\"b",
            "x\n\"y\" z",
        ] {
            assert_eq!(
                read(&format!("FROM x\nSYSTEM {}\n", quoted(text)))[1],
                System(text.into())
            );
        }
    }
}
