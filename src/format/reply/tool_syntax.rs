//! Tool-call syntax: how a family of models writes a tool call, and how to parse one call in that
//! syntax.

use serde_json::{Map, Value as Json};

use super::literal::{self, Read, Stop};
use crate::core::message::{Tool, ToolCall};

/// Maximum bytes of a function's name.
const NAME_BYTES_MAX: usize = 256;

/// The tool-call syntax of a model family.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSyntax {
    /// Text before the name or object of the first call.
    pub lead: String,
    /// The same text before a further call.
    pub next_lead: String,
    /// Text after a call if another one follows.
    pub between: String,
    /// Text after the last call.
    pub last: String,
    /// True if the calls form a list: `[` before the first, `]` after the last.
    pub array: bool,
    /// The syntax of the call itself.
    pub body: CallBody,
}

/// How name and arguments are written.
#[derive(Debug, Clone, PartialEq)]
pub enum CallBody {
    /// One JSON object with both, under these keys from the outside in.
    Object {
        /// Keys to the name.
        name: Vec<String>,
        /// Keys to the arguments.
        arguments: Vec<String>,
        /// Keys to the call's id, if it has one.
        id: Option<Vec<String>>,
    },
    /// The name, some text, and the arguments as a JSON object.
    Named {
        /// The text between name and arguments.
        between: String,
    },
    /// The name, then each argument between markers of its own.
    Tagged {
        /// Text between the name and the first argument.
        between: String,
        /// Text before an argument's name.
        key_lead: String,
        /// Text between an argument's name and value; families may have one for texts and one for the rest.
        key_ends: Vec<String>,
        /// Text after an argument's value.
        value_end: String,
    },
    /// `name(key=value)` in Python's syntax.
    Python,
    /// `name{key:value}`, with texts between these quotes.
    Braced {
        /// The quote before and after a text.
        quote: String,
    },
}

/// Placeholder for a call's id in a marker.
pub const ANY: char = '\u{1}';

/// Matches `pattern` at the start of `text`; white space may differ, also at both ends.
pub fn eat(text: &str, pattern: &str) -> Read<()> {
    let mut rest = text.trim_start();
    for c in pattern.chars().filter(|c| !c.is_whitespace()) {
        rest = rest.trim_start();
        if c == ANY {
            rest = rest.trim_start_matches(|c: char| !c.is_whitespace() && !matches!(c, '<' | '['));
            continue;
        }
        match rest.chars().next() {
            None => return Err(Stop::More),
            Some(found) if found == c => rest = &rest[c.len_utf8()..],
            Some(_) => return Err(Stop::Never),
        }
    }
    Ok(((), text.len() - rest.len()))
}

impl ToolSyntax {
    /// The text that distinguishes a call from the rest of an answer: the first marker of its lead. Empty
    /// if calls have no lead and stand at the start of the answer.
    pub fn trigger(&self) -> &str {
        first_marker(self.lead.trim())
    }

    /// The markers that may follow calls, one by one.
    pub fn closes(&self) -> impl Iterator<Item = &str> {
        let tags = [self.between.as_str(), &self.last]
            .into_iter()
            .flat_map(|text| text.split_inclusive('>'));
        tags.filter(|tag| !tag.trim().is_empty())
    }

    /// Parses a call after its lead.
    pub fn call(&self, text: &str, tools: &[Tool]) -> Read<ToolCall> {
        let ((name, arguments, id), used) = match &self.body {
            CallBody::Object {
                name,
                arguments,
                id,
            } => object(text, name, arguments, id.as_deref())?,
            CallBody::Named { between } => named(text, between)?,
            CallBody::Tagged {
                between,
                key_lead,
                key_ends,
                value_end,
            } => {
                let tags = CallTags {
                    between,
                    key_lead,
                    key_ends,
                    value_end,
                };
                let close = if self.between.trim().is_empty() {
                    &self.last
                } else {
                    &self.between
                };
                tagged(text, &tags, close, tools)?
            }
            CallBody::Python => python(text)?,
            CallBody::Braced { quote } => braced(text, quote)?,
        };
        let tool = tools.iter().find(|tool| tool.name == name);
        if !tools.is_empty() && tool.is_none() {
            return Err(Stop::Never);
        }
        let arguments = match tool {
            Some(tool) => typed(arguments, &tool.parameters),
            None => arguments,
        };
        let arguments = Json::Object(arguments).to_string();
        Ok((
            ToolCall {
                id,
                name,
                arguments,
            },
            used,
        ))
    }
}

/// Returns the lead up to the end of its first `<…>` or `[…]`, or its first line if it has none.
fn first_marker(lead: &str) -> &str {
    let close = match lead.chars().next() {
        Some('<') => '>',
        Some('[') => ']',
        _ => '\n',
    };
    let end = lead
        .find(close)
        .map_or(lead.len(), |at| at + usize::from(close != '\n'));
    &lead[..end]
}

type Parts = (String, Map<String, Json>, Option<String>);

fn at<'a>(json: &'a Json, keys: &[String]) -> Option<&'a Json> {
    keys.iter().try_fold(json, |json, key| json.get(key))
}

/// Returns the offset of the call after the punctuation of a list.
fn list_start(text: &str) -> usize {
    let sign = |c: char| c.is_whitespace() || matches!(c, '[' | ',');
    text.len() - text.trim_start_matches(sign).len()
}

fn object(text: &str, name: &[String], arguments: &[String], id: Option<&[String]>) -> Read<Parts> {
    let start = list_start(text);
    let (json, used) = literal::loose(&text[start..])?;
    let Some(name) = at(&json, name).and_then(Json::as_str) else {
        return Err(Stop::Never);
    };
    let id = id.and_then(|keys| at(&json, keys)).and_then(Json::as_str);
    // Models confuse the two common words.
    let found = at(&json, arguments)
        .or_else(|| json.get("arguments"))
        .or_else(|| json.get("parameters"));
    let arguments = match found {
        Some(Json::Object(map)) => map.clone(),
        Some(Json::String(text)) => match serde_json::from_str(text) {
            Ok(map) => map,
            Err(_) => return Err(Stop::Never),
        },
        None | Some(Json::Null) => Map::new(),
        Some(_) => return Err(Stop::Never),
    };
    Ok((
        (name.to_string(), arguments, id.map(str::to_string)),
        start + used,
    ))
}

/// Reads the name at the start of `text`, up to `end`.
fn name_until(text: &str, end: &str) -> Read<String> {
    let start = text.len() - text.trim_start().len();
    let text = &text[start..];
    let end = end.trim();
    let stop = end.chars().next().unwrap_or('\n');
    let length = text.find(|c: char| c == stop || c.is_whitespace());
    let Some(length) = length else {
        return if text.len() > NAME_BYTES_MAX {
            Err(Stop::Never)
        } else {
            Err(Stop::More)
        };
    };
    match length {
        0 => Err(Stop::Never),
        length => Ok((text[..length].to_string(), start + length)),
    }
}

/// Splits the text between a name and its arguments after the counter that some families write there:
/// `:0` and `<|tag|>`.
pub fn counter(between: &str) -> (&str, &str) {
    let tag = between.trim_start_matches(|c: char| c == ':' || c.is_ascii_digit());
    between.split_at(between.len() - tag.len())
}

fn named(text: &str, between: &str) -> Read<Parts> {
    let (counter, tag) = counter(between);
    let counted = !counter.is_empty();
    let (name, used) = name_until(text, if tag.trim().is_empty() { "{" } else { tag })?;
    let name = match name.rsplit_once(':') {
        Some((name, digits)) if counted && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            name.to_string()
        }
        _ => name,
    };
    let ((), between) = eat(&text[used..], tag)?;
    let used = used + between;
    let (json, length) = literal::json(&text[used..])?;
    match json {
        Json::Object(arguments) => Ok(((name, arguments, None), used + length)),
        _ => Err(Stop::Never),
    }
}

/// The markers of [`CallBody::Tagged`].
struct CallTags<'a> {
    between: &'a str,
    key_lead: &'a str,
    key_ends: &'a [String],
    value_end: &'a str,
}

fn tagged(text: &str, tags: &CallTags, close: &str, tools: &[Tool]) -> Read<Parts> {
    let after_name = if tags.between.trim().is_empty() {
        tags.key_lead
    } else {
        tags.between
    };
    let (name, mut used) = name_until(text, after_name)?;
    let tool = tools.iter().find(|tool| tool.name == name);
    let ((), between) = eat(&text[used..], tags.between)?;
    used += between;
    let mut arguments = Map::new();
    loop {
        let lead = match eat(&text[used..], tags.key_lead) {
            Ok(((), lead)) => lead,
            // No further argument: the call must be closed.
            Err(stop) => {
                let closed = eat(&text[used..], first_marker(close.trim()));
                return match closed {
                    Ok(_) => Ok(((name, arguments, None), used)),
                    Err(Stop::More) => Err(Stop::More),
                    Err(Stop::Never) => Err(stop),
                };
            }
        };
        let inside = &text[used + lead..];
        let found = tags
            .key_ends
            .iter()
            .filter_map(|end| Some((inside.find(end.trim())?, end.trim())));
        let Some((key, end)) = found.min_by_key(|(at, end)| (*at, usize::MAX - end.len())) else {
            return Err(Stop::More);
        };
        let value = &inside[key + end.len()..];
        let Some(length) = value.find(tags.value_end.trim()) else {
            return Err(Stop::More);
        };
        let key = inside[..key].trim();
        let schema = tool.map(|tool| &tool.parameters["properties"][key]);
        arguments.insert(key.to_string(), raw_value(&value[..length], tags, schema));
        used += lead + (inside.len() - value.len()) + length + tags.value_end.trim().len();
    }
}

/// Parses the value of a tagged argument: it stays text if the schema says text, or if it cannot be
/// anything else.
fn raw_value(raw: &str, tags: &CallTags, schema: Option<&Json>) -> Json {
    if let Some(text) = raw
        .trim()
        .strip_prefix("<![CDATA[")
        .and_then(|text| text.strip_suffix("]]>"))
    {
        return text.into();
    }
    // The line breaks that the family writes around every value are not part of it.
    let wrapped = tags.key_ends.iter().any(|end| end.ends_with('\n'));
    let inner = if wrapped {
        let inner = raw.strip_prefix('\n').unwrap_or(raw);
        inner.strip_suffix('\n').unwrap_or(inner)
    } else {
        raw
    };
    if schema.is_some_and(|schema| allows(schema, "string")) {
        return inner.into();
    }
    match literal::value(&format!("{} ", inner.trim()), "") {
        Ok((value, used)) if used == inner.trim().len() => value,
        _ => inner.into(),
    }
}

fn python(text: &str) -> Read<Parts> {
    let start = list_start(text);
    let (name, used) = name_until(&text[start..], "(")?;
    let used = start + used;
    let ((), open) = eat(&text[used..], "(")?;
    let (arguments, length) = literal::keywords(&text[used + open..], ')')?;
    Ok(((name, arguments, None), used + open + length + 1))
}

fn braced(text: &str, quote: &str) -> Read<Parts> {
    let (name, used) = name_until(text, "{")?;
    let (value, length) = literal::value(&text[used..], quote)?;
    match value {
        Json::Object(arguments) => Ok(((name, arguments, None), used + length)),
        _ => Err(Stop::Never),
    }
}

/// True if a schema allows this type.
pub fn allows(schema: &Json, kind: &str) -> bool {
    match &schema["type"] {
        Json::String(name) => name == kind,
        Json::Array(names) => names.iter().any(|name| name == kind),
        _ => ["anyOf", "oneOf"].iter().any(|key| {
            schema[*key]
                .as_array()
                .is_some_and(|any| any.iter().any(|schema| allows(schema, kind)))
        }),
    }
}

/// Converts the arguments to the types of the schema: a text that is a number becomes a number where
/// the schema requires one. Nothing is added or removed.
pub fn typed(arguments: Map<String, Json>, parameters: &Json) -> Map<String, Json> {
    let properties = &parameters["properties"];
    let typed = |(key, value): (String, Json)| {
        let schema = &properties[key.as_str()];
        let value = match value {
            Json::String(text) if !schema.is_null() && !allows(schema, "string") => {
                from_text(text, schema)
            }
            Json::Object(map) if schema["properties"].is_object() => {
                Json::Object(typed(map, schema))
            }
            Json::Number(number)
                if allows(schema, "string")
                    && !allows(schema, "number")
                    && !allows(schema, "integer") =>
            {
                number.to_string().into()
            }
            value => value,
        };
        (key, value)
    };
    arguments.into_iter().map(typed).collect()
}

fn from_text(text: String, schema: &Json) -> Json {
    let plain = serde_json::from_str::<Json>(text.trim()).ok();
    let padded = format!("{} ", text.trim());
    let python = || {
        literal::value(&padded, "")
            .ok()
            .filter(|(_, used)| used + 1 == padded.len())
    };
    let Some(value) = plain.or_else(|| python().map(|(value, _)| value)) else {
        return text.into();
    };
    let fits = match &value {
        Json::Null => allows(schema, "null"),
        Json::Bool(_) => allows(schema, "boolean"),
        Json::Number(number) => {
            allows(schema, "number") || (allows(schema, "integer") && number.is_i64())
        }
        Json::Array(_) => allows(schema, "array"),
        Json::Object(_) => allows(schema, "object"),
        Json::String(_) => false,
    };
    if fits { value } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_take_their_schemas_types() {
        let schema = json!({"properties": {
            "i": {"type": "integer"}, "n": {"type": ["number", "null"]}, "s": {"type": "string"},
            "b": {"type": "boolean"}, "l": {"type": "array"}, "o": {"properties": {"i": {"type": "integer"}}},
        }});
        for (given, expected) in [
            (
                json!({"i": "3", "n": "2.5", "s": 4, "b": "true"}),
                json!({"i": 3, "n": 2.5, "s": "4", "b": true}),
            ),
            (
                json!({"i": "three", "n": "null", "l": "[1]", "x": "1"}),
                json!({"i": "three", "n": null, "l": [1], "x": "1"}),
            ),
            (
                json!({"b": "True", "l": "[{\"title\": \"True Love\"}]"}),
                json!({"b": true, "l": [{"title": "True Love"}]}),
            ),
            (
                json!({"i": "3.5", "o": {"i": "7"}}),
                json!({"i": "3.5", "o": {"i": 7}}),
            ),
        ] {
            let found = typed(given.as_object().unwrap().clone(), &schema);
            assert_eq!(Json::Object(found), expected);
        }
    }

    #[test]
    fn white_space_in_markers_may_differ() {
        assert_eq!(eat("\n<a>\n  <b>x", "<a><b>\n"), Ok(((), 10)));
        assert_eq!(eat("<a", "<a>"), Err(Stop::More));
        assert_eq!(eat("<b", "<a>"), Err(Stop::Never));
    }
}
