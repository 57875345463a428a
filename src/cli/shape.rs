//! The shape in which an answer is printed: its code blocks, fields of its JSON, or one line.
//!
//! Pure: it maps a complete answer to the text to print.

use serde_json::Value as Json;

use super::flag::{Flag, Group, JSON, maybe, option, switch};
use super::out;
use super::parsed::{Parsed, repeated};
use super::run::turn_flags::{FORMAT, SCHEMA};
use crate::core::error::{Error, Result};
use crate::core::turn::OutputConstraint;
use crate::format::reply::schema;

pub const EXTRACT: Flag = maybe(
    "extract",
    "WHICH",
    "print only the code block: first, last or all",
)
.in_group(Group::Output)
.one_of(&["first", "last", "all"]);
pub const FIELDS: Flag = option(
    "fields",
    None,
    "NAMES",
    "print these fields of the answer, tab-separated",
)
.in_group(Group::Output);
pub const ONE_LINE: Flag =
    switch("one-line", None, "print the answer on one line").in_group(Group::Output);
pub const STRIP: Flag = switch(
    "strip",
    None,
    "remove white space and quotes around the answer",
)
.in_group(Group::Output);

/// The changes to an answer before it is printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    extract: Option<Which>,
    fields: Vec<String>,
    one_line: bool,
    strip: bool,
}

/// The code blocks to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Last,
    All,
}

impl Shape {
    /// Reads the flags.
    ///
    /// # Errors
    /// `Usage` for flags that cannot be used together, or for fields without a JSON answer.
    pub fn read(parsed: &Parsed) -> Result<Self> {
        let extract = match parsed.value(&EXTRACT) {
            None => None,
            Some("" | "first") => Some(Which::First),
            Some("last") => Some(Which::Last),
            Some("all") => Some(Which::All),
            Some(other) => {
                let text = format!("--extract must be first, last or all, not '{other}'");
                return Err(Error::usage(text));
            }
        };
        let shape = Shape {
            extract,
            fields: parsed.names(&FIELDS),
            one_line: parsed.has(&ONE_LINE),
            strip: parsed.has(&STRIP),
        };
        if let Some(twice) = repeated(&shape.fields) {
            let text = format!("--fields names '{twice}' twice");
            return Err(Error::usage(text));
        }
        if parsed.has(&FIELDS) && shape.fields.is_empty() {
            return Err(Error::usage("--fields needs at least one field"));
        }
        if !shape.fields.is_empty() && !parsed.has(&SCHEMA) && !parsed.has(&FORMAT) {
            return Err(Error::usage("--fields needs --schema or --format json"));
        }
        if !shape.fields.is_empty() && shape.extract.is_some() {
            return Err(Error::usage(
                "--fields and --extract cannot be used together",
            ));
        }
        if parsed.has(&JSON) && shape != Shape::default() {
            return Err(Error::usage(
                "--json cannot be used with --extract, --fields, --one-line or --strip",
            ));
        }
        Ok(shape)
    }

    /// Checks that an answer of this schema can have the fields.
    ///
    /// # Errors
    /// `Usage` for a field that none has.
    pub fn check(&self, constraint: &OutputConstraint) -> Result<()> {
        let OutputConstraint::Schema(schema) = constraint else {
            return Ok(());
        };
        let Some(named) = schema["properties"].as_object() else {
            return Ok(());
        };
        let is_closed = schema::names_all(schema);
        let first = |field: &&String| field.split('.').next().unwrap_or_default().to_string();
        let has = |field: &&String| named.contains_key(*field) || named.contains_key(&first(field));
        match self.fields.iter().find(|field| is_closed && !has(field)) {
            Some(field) => Err(Error::usage(format!(
                "the schema has no property '{field}'"
            ))),
            None => Ok(()),
        }
    }

    /// True if the answer is printed unchanged, as it is generated.
    pub fn is_plain(&self) -> bool {
        *self == Shape::default()
    }

    /// True if the answer must be JSON.
    pub fn reads_json(&self) -> bool {
        !self.fields.is_empty()
    }

    /// The text to print for a complete answer, without a newline at its end.
    ///
    /// # Errors
    /// If the answer has no code block, or is not JSON.
    pub fn apply(&self, answer: &str) -> Result<String> {
        let values = self.values(answer)?;
        if self.fields.is_empty() {
            return Ok(values.iter().map(text).collect());
        }
        let cells = values.iter().map(|value| out::escaped(&text(value)));
        Ok(cells.collect::<Vec<_>>().join("\t"))
    }

    /// The fields that are taken out of an answer; empty: the answer is one text.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// The fields that a complete answer lacks.
    pub fn missing(&self, answer: &str) -> Vec<&str> {
        let json: Json = serde_json::from_str(answer.trim()).unwrap_or_default();
        let names = self.fields.iter().map(String::as_str);
        names.filter(|name| field(&json, name).is_none()).collect()
    }

    /// The parts of a complete answer: a value for each field, null if the answer lacks it; without fields,
    /// the whole text.
    ///
    /// # Errors
    /// As [`Shape::apply`].
    pub fn values(&self, answer: &str) -> Result<Vec<Json>> {
        if !self.fields.is_empty() {
            let json: Json = serde_json::from_str(answer.trim())
                .map_err(|error| Error::failed(format!("the answer is not JSON: {error}")))?;
            let found = self.fields.iter().map(|name| field(&json, name));
            return Ok(found
                .map(|value| value.cloned().unwrap_or_default())
                .collect());
        }
        let mut text = match self.extract {
            Some(which) => extracted(answer, which)
                .ok_or_else(|| Error::failed("the answer has no code block"))?,
            None => answer.to_string(),
        };
        if self.strip {
            text = stripped(&text).to_string();
        }
        if self.one_line {
            text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        }
        Ok(vec![text.trim_end_matches('\n').into()])
    }
}

/// A value as the text of a cell: strings as they are, null as nothing, all else as JSON.
pub fn text(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The field with this name or, if its parts are separated by dots, with this path.
fn field<'a>(json: &'a Json, name: &str) -> Option<&'a Json> {
    json.get(name).or_else(|| {
        name.split('.')
            .try_fold(json, |json, part| match part.parse::<usize>() {
                Ok(index) if json.is_array() => json.get(index),
                _ => json.get(part),
            })
    })
}

fn extracted(answer: &str, which: Which) -> Option<String> {
    let mut blocks = blocks(answer);
    match which {
        Which::First => (!blocks.is_empty()).then(|| blocks.swap_remove(0)),
        Which::Last => blocks.pop(),
        Which::All => (!blocks.is_empty()).then(|| blocks.join("\n")),
    }
}

/// The contents of the fenced code blocks, as CommonMark defines them; an unclosed block extends to the
/// end.
fn blocks(answer: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(char, usize, String)> = None;
    for line in answer.split_inclusive('\n') {
        open = match (open, fence(line)) {
            (None, Some((mark, length, _))) => Some((mark, length, String::new())),
            (Some((mark, length, block)), Some((other, count, true)))
                if mark == other && count >= length =>
            {
                blocks.push(block);
                None
            }
            (Some((mark, length, block)), _) => Some((mark, length, block + line)),
            (None, None) => None,
        };
    }
    blocks.extend(open.map(|(_, _, block)| block));
    blocks
}

/// The character of a code fence, its count, and whether nothing follows the fence on its line.
fn fence(line: &str) -> Option<(char, usize, bool)> {
    let text = line.trim_start_matches(' ');
    let mark = text.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let rest = text.trim_start_matches(mark);
    let length = text.len() - rest.len();
    let sound = length >= 3 && line.len() - text.len() < 4 && !(mark == '`' && rest.contains('`'));
    sound.then(|| (mark, length, rest.trim().is_empty()))
}

/// A text without surrounding white space, and without a code fence or quotes that enclose all of it.
fn stripped(text: &str) -> &str {
    let mut text = text.trim();
    if let Some((first, rest)) = text.split_once('\n')
        && let Some((mark, length, _)) = fence(first)
        && let Some((inner, last)) = rest.rsplit_once('\n')
    {
        let closes = |line| {
            let closing = fence(line);
            closing.is_some_and(|(other, count, bare)| other == mark && count >= length && bare)
        };
        // A fence that closes earlier does not enclose all of the text.
        if closes(last) && !inner.lines().any(closes) {
            text = inner.trim();
        }
    }
    for (open, close) in [('"', '"'), ('\'', '\''), ('“', '”'), ('`', '`')] {
        let inner = text
            .strip_prefix(open)
            .and_then(|rest| rest.strip_suffix(close));
        if let Some(inner) = inner.filter(|inner| !inner.contains([open, close])) {
            return inner.trim();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(change: impl Fn(&mut Shape)) -> Shape {
        let mut shape = Shape::default();
        change(&mut shape);
        shape
    }

    #[test]
    fn code_blocks_are_taken_out() {
        let answer = "Here:\n```sh\nls\n```\nor\n~~~~\n```\nx\n~~~~\nand\n```\nopen";
        for (which, text) in [
            (Which::First, "ls"),
            (Which::Last, "open"),
            (Which::All, "ls\n\n```\nx\n\nopen"),
        ] {
            let shape = shape(|shape| shape.extract = Some(which));
            assert_eq!(shape.apply(answer).unwrap(), text);
        }
        let first = shape(|shape| shape.extract = Some(Which::First));
        let error = first.apply("no `code`").unwrap_err().to_string();
        assert_eq!(error, "the answer has no code block");
    }

    #[test]
    fn fields_are_cells_of_a_line() {
        let shape = shape(|shape| {
            shape.fields = ["name", "a.b", "l.1", "none", "n"]
                .map(String::from)
                .to_vec();
        });
        let answer = r#" {"name":"x\ty\nz","a":{"b":[1,2]},"l":[true,false],"n":null} "#;
        assert_eq!(shape.apply(answer).unwrap(), "x\\ty\\nz\t[1,2]\tfalse\t\t");
        assert!(shape.apply("{\"name\":").is_err());
    }

    #[test]
    fn enclosing_quotes_and_fences_are_dropped() {
        let strip = shape(|shape| shape.strip = true);
        for (answer, text) in [
            ("  yes \n", "yes"),
            ("\"yes\"", "yes"),
            ("“yes”\n", "yes"),
            ("\"a\" and \"b\"", "\"a\" and \"b\""),
            ("```json\n{\"a\": 1}\n```", "{\"a\": 1}"),
            ("'", "'"),
            (
                "```\na\n```\nand\n```\nb\n```",
                "```\na\n```\nand\n```\nb\n```",
            ),
            ("````\n```\na\n```\n````", "```\na\n```"),
        ] {
            assert_eq!(strip.apply(answer).unwrap(), text);
        }
        let line = shape(|shape| shape.one_line = true);
        assert_eq!(line.apply(" a\n\n  b\tc ").unwrap(), "a b c");
    }
}
