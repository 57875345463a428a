//! What an answer must look like: the grammar that it is generated with, and the check of the
//! finished text.

use serde_json::{Value as Json, json};

use super::Request;
use crate::engine::{Engine, Grammar, Text, Trigger};
use crate::error::{Class, Error, Result};
use crate::message::{Think, Tool};
use crate::reply::{Format, lark};

/// Most values of a schema, nested ones counted: each becomes a part of the grammar.
const SCHEMA_NODES_MAX: usize = 50_000;
/// Longest regular expression in a schema.
const PATTERN_BYTES_MAX: usize = 4096;

/// What was promised of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Promise {
    /// Nothing.
    #[default]
    None,
    /// A JSON object.
    Json,
    /// JSON of this schema.
    Schema(Json),
    /// A text of this GBNF grammar.
    Grammar(String),
}

/// Which functions the model must call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// Any or none, as it likes.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl ToolChoice {
    /// Reads the API's `tool_choice`: a word, or the function to call.
    ///
    /// # Errors
    /// If it is neither.
    pub fn of_json(json: Option<&Json>) -> Result<Self> {
        match json {
            None | Some(Json::Null) => Ok(ToolChoice::Auto),
            Some(Json::String(word)) => match word.as_str() {
                "auto" => Ok(ToolChoice::Auto),
                "none" => Ok(ToolChoice::None),
                "required" | "any" => Ok(ToolChoice::Required),
                other => Err(Error::usage(format!(
                    "tool_choice is auto, none, required or a function, not '{other}'"
                ))),
            },
            Some(other) => match other["function"]["name"]
                .as_str()
                .or(other["name"].as_str())
            {
                Some(name) => Ok(ToolChoice::Named(name.to_string())),
                None => Err(Error::usage(
                    "tool_choice is auto, none, required or a function",
                )),
            },
        }
    }

    /// The tools that may be called under this choice.
    ///
    /// # Errors
    /// If one is named that is not there, or one is required and there is none.
    pub fn among<'a>(&self, tools: &'a [Tool]) -> Result<Vec<&'a Tool>> {
        match self {
            ToolChoice::None => Ok(Vec::new()),
            ToolChoice::Auto => Ok(tools.iter().collect()),
            ToolChoice::Required if tools.is_empty() => Err(Error::usage(
                "tool_choice requires a call, and there are no tools",
            )),
            ToolChoice::Required => Ok(tools.iter().collect()),
            ToolChoice::Named(name) => match tools.iter().find(|tool| tool.name == *name) {
                Some(tool) => Ok(vec![tool]),
                None => Err(Error::usage(format!(
                    "tool_choice names '{name}', which is not among the tools"
                ))),
            },
        }
    }
}

impl Promise {
    /// Checks a finished text.
    ///
    /// # Errors
    /// If it is not what was promised.
    pub fn check(&self, text: &str) -> Result<()> {
        let broken = |why: String| {
            Err(Error::failed(format!(
                "the answer is not what was promised: {why}"
            )))
        };
        match self {
            Promise::None | Promise::Grammar(_) => Ok(()),
            Promise::Json => match serde_json::from_str::<Json>(text) {
                Ok(Json::Object(_)) => Ok(()),
                Ok(_) => broken("no JSON object".into()),
                Err(error) => broken(error.to_string()),
            },
            Promise::Schema(schema) => {
                let value = match serde_json::from_str(text) {
                    Ok(value) => value,
                    Err(error) => return broken(error.to_string()),
                };
                let validator =
                    jsonschema::validator_for(schema).map_err(|error| unfit(&error.to_string()))?;
                match validator.validate(&value) {
                    Ok(()) => Ok(()),
                    Err(error) => broken(error.to_string()),
                }
            }
        }
    }
}

fn unfit(why: &str) -> Error {
    let line = why.lines().next().unwrap_or_default();
    Error::plain(Class::Schema, format!("the schema is not accepted: {line}"))
}

/// The grammar of a request's answer, if it has one.
///
/// # Errors
/// `Schema` for what is promised and cannot be kept.
pub(super) fn grammar(
    request: &Request,
    format: Option<&Format>,
    prompt: &str,
    engine: &Engine,
) -> Result<Option<Grammar>> {
    let think = format.and_then(|format| format.think.as_ref());
    let opened = think.is_some_and(|(open, _)| prompt.trim_end().ends_with(open.as_str()));
    // A block that the prompt closed again leaves nothing to think.
    let closed = think.is_some_and(|(_, close)| prompt.trim_end().ends_with(close.as_str()));
    let thinks = opened || (!closed && request.think != Some(Think::Off));
    let marks = lark::Marks::new(engine.special_texts(), engine.special_ids());
    let whole = |text: String| {
        Ok(Some(Grammar {
            text: Text::Lark(text),
            triggers: Vec::new(),
        }))
    };
    let forced = matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Named(_)
    );
    if request.promise != Promise::None && forced {
        return Err(Error::usage(
            "tool_choice cannot require a call where format or grammar says what the answer is",
        ));
    }
    match &request.promise {
        Promise::Json => whole(lark::answer(
            &json!({ "type": "object" }),
            format,
            thinks,
            opened,
            &marks,
        )),
        Promise::Schema(schema) => {
            check_schema(schema)?;
            whole(lark::answer(schema, format, thinks, opened, &marks))
        }
        Promise::Grammar(text) => Ok(Some(Grammar {
            text: Text::Gbnf(text.clone()),
            triggers: Vec::new(),
        })),
        Promise::None => calls(request, format, (thinks, opened), &marks, engine),
    }
}

/// The grammar of the calls that an answer must or may hold; `thinks` and `opened`: whether it may
/// begin with a thought, and whether the prompt began it.
fn calls(
    request: &Request,
    format: Option<&Format>,
    (thinks, opened): (bool, bool),
    marks: &lark::Marks,
    engine: &Engine,
) -> Result<Option<Grammar>> {
    let tools = request.tool_choice.among(&request.tools)?;
    let required = matches!(
        request.tool_choice,
        ToolChoice::Required | ToolChoice::Named(_)
    );
    let Some(format) = format.filter(|_| !tools.is_empty()) else {
        return Ok(None);
    };
    let Some(shape) = &format.calls else {
        return match required {
            true => Err(Error::usage(
                "the model's template shows no calls: tool_choice cannot require one",
            )),
            false => Ok(None),
        };
    };
    if required {
        return held(lark::calls(
            format, shape, &tools, true, thinks, opened, &marks,
        ));
    }
    if format.think.is_some() && thinks {
        return Ok(None); // A thought may hold the mark of a call without being one.
    }
    let text = lark::calls(format, shape, &tools, false, false, false, marks);
    let grammar = Grammar {
        text: Text::Lark(text),
        triggers: triggers(format),
    };
    // Nothing was promised: tools whose schemas no grammar can express are called freely.
    let fits = engine.guide(grammar.clone()).is_ok();
    Ok(fits
        .then_some(grammar)
        .filter(|grammar| !grammar.triggers.is_empty()))
}

/// A grammar that holds from the first token.
fn held(text: String) -> Result<Option<Grammar>> {
    Ok(Some(Grammar {
        text: Text::Lark(text),
        triggers: Vec::new(),
    }))
}

/// Calls begin at their mark. Those without one are left free: what only looks like a call there
/// may be an answer in JSON.
fn triggers(format: &Format) -> Vec<Trigger> {
    let trigger = format.calls.as_ref().map_or("", |shape| shape.trigger());
    match trigger {
        "" => Vec::new(),
        text => vec![Trigger {
            text: text.to_string(),
            first: false,
        }],
    }
}

/// Refuses what would take the compiler too long.
fn check_schema(schema: &Json) -> Result<()> {
    let mut open = vec![schema];
    let mut nodes = 0;
    while let Some(json) = open.pop() {
        nodes += 1;
        if nodes > SCHEMA_NODES_MAX {
            return Err(unfit("it has more than 50 000 parts"));
        }
        match json {
            Json::Array(items) => open.extend(items),
            Json::Object(fields) => {
                if let Some(pattern) = fields.get("pattern").and_then(Json::as_str) {
                    check_pattern(pattern)?;
                }
                let schemas = fields.iter().filter(|(key, _)| {
                    !matches!(key.as_str(), "enum" | "const" | "default" | "examples")
                });
                open.extend(schemas.map(|(_, value)| value));
                nodes += fields
                    .values()
                    .filter_map(Json::as_array)
                    .map(Vec::len)
                    .sum::<usize>();
                if let Some(patterns) = fields.get("patternProperties").and_then(Json::as_object) {
                    patterns
                        .keys()
                        .try_for_each(|pattern| check_pattern(pattern))?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses patterns that are too long, and repetitions of nothing, which the compiler would read
/// in a way of its own.
fn check_pattern(pattern: &str) -> Result<()> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(unfit("a pattern in it is longer than 4096 bytes"));
    }
    let mut repeatable = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' | '+' | '?' | '{' if !repeatable => {
                return Err(unfit(&format!(
                    "'{c}' repeats nothing in the pattern '{pattern}'"
                )));
            }
            // A question mark behind a repetition makes it lazy.
            '*' | '+' | '?' => repeatable = chars.peek() == Some(&'?'),
            '{' => {
                chars.by_ref().find(|c| *c == '}');
                repeatable = chars.peek() == Some(&'?');
            }
            '^' | '$' | '|' => repeatable = false,
            '(' => {
                repeatable = false;
                if chars.next_if_eq(&'?').is_some() {
                    chars.next_if(|c| matches!(c, ':' | '=' | '!' | '<'));
                }
            }
            '\\' => {
                let escaped = chars.next();
                repeatable = !matches!(escaped, Some('b' | 'B'));
            }
            '[' => {
                let mut escaped = false;
                for c in chars.by_ref() {
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        ']' => break,
                        _ => {}
                    }
                }
                repeatable = true;
            }
            _ => repeatable = true,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_repeats_something() {
        for pattern in [
            "",
            "a+b*?c{2,3}?",
            "^(a|b)+$",
            "[+*]+",
            "\\+?",
            "(?:a)?",
            "x{2}",
            "\\d+(\\.\\d+)?",
        ] {
            assert!(check_pattern(pattern).is_ok(), "{pattern}");
        }
        for pattern in ["^+a", "+", "a|*", "(+)", "a**", "$?", &"a".repeat(5000)] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_broken_promise_is_an_error() {
        let schema =
            json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        let promise = Promise::Schema(schema);
        assert!(promise.check("{\"a\": 1}").is_ok());
        for text in ["{\"a\": \"1\"}", "{}", "{", ""] {
            assert!(promise.check(text).is_err(), "{text}");
        }
        assert!(Promise::Json.check("{}").is_ok() && Promise::Json.check("[]").is_err());
    }
}
