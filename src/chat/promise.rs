//! What an answer must look like: the grammar that it is generated with, and the check of the
//! finished text.

use serde_json::{Value as Json, json};

use super::Request;
use crate::engine::{Budget, Engine, Grammar, Marks, Text};
use crate::error::{Error, Result};
use crate::message::{Think, Tool};
use crate::options::Options;
use crate::reply::{Format, Lark, Thought, channel_thought, schema};

/// The words that begin a call in an answer of channels.
const CHANNEL_CALL: &str = " to=functions.";

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

    /// True if the answer must be a call.
    pub fn requires(&self) -> bool {
        matches!(self, ToolChoice::Required | ToolChoice::Named(_))
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
                let validator = jsonschema::validator_for(schema)
                    .map_err(|error| schema::unfit(&error.to_string()))?;
                match validator.validate(&value) {
                    Ok(()) => Ok(()),
                    Err(error) => broken(error.to_string()),
                }
            }
        }
    }
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
    if request.promise != Promise::None && request.tool_choice.requires() {
        return Err(Error::usage(
            "tool_choice cannot require a call where format or grammar says what the answer is",
        ));
    }
    let plain = Format::default();
    let format = format.unwrap_or(&plain);
    let lark = Lark {
        format,
        thought: match format.thought(prompt) {
            Thought::Possible if request.think == Some(Think::Off) => Thought::None,
            thought => thought,
        },
        specials: engine.specials()?,
    };
    match &request.promise {
        Promise::Json => held(lark.answer(&json!({ "type": "object" }))),
        Promise::Schema(schema) => {
            schema::check(schema)?;
            held(lark.answer(schema))
        }
        Promise::Grammar(text) => Ok(Some(Grammar {
            text: Text::Gbnf(text.clone()),
            trigger: None,
            thought: None,
        })),
        Promise::None => calls(request, lark, engine),
    }
}

/// The marks around a thought, as an answer with such a beginning has them.
fn marks(format: &Format, thought: Thought) -> Option<Marks> {
    let (open, close) = format.think.clone()?;
    match thought {
        Thought::None => None,
        Thought::Possible => Some(Marks { open, close }),
        Thought::Begun => Some(Marks {
            open: String::new(),
            close,
        }),
    }
}

/// How long the answer may think, if the request bounds that and the model thinks.
pub(super) fn budget(
    request: &Request,
    options: &Options,
    format: Option<&Format>,
    prompt: &str,
    engine: &Engine,
) -> Option<Budget> {
    let tokens = usize::try_from(options.int("reasoning_budget")?).ok()?;
    let format = format?;
    if matches!(request.promise, Promise::Grammar(_)) {
        return None; // A grammar of the user's own says all that the answer holds.
    }
    let marks = match format.channels {
        true => {
            let (open, close) = channel_thought(!request.tools.is_empty());
            let (open, close) = (open.to_string(), close.to_string());
            Marks { open, close }
        }
        false => marks(format, format.thought(prompt))?,
    };
    let closing = engine.tokens(&marks.close, false, true);
    Some(Budget::new(tokens, marks, closing))
}

/// A grammar that holds from the first token.
fn held(text: String) -> Result<Option<Grammar>> {
    Ok(Some(Grammar {
        text: Text::Lark(text),
        trigger: None,
        thought: None,
    }))
}

/// The grammar of the calls that an answer must or may hold.
fn calls(request: &Request, lark: Lark, engine: &Engine) -> Result<Option<Grammar>> {
    let tools = request.tool_choice.among(&request.tools)?;
    if tools.is_empty() {
        return Ok(None);
    }
    let required = request.tool_choice.requires();
    if lark.format.channels {
        return match required {
            true => held(lark.channel_call(&tools)),
            false => offered(
                Grammar {
                    text: Text::Lark(lark.channel_call_behind_trigger(&tools)),
                    trigger: Some(CHANNEL_CALL.to_string()),
                    thought: None,
                },
                engine,
            ),
        };
    }
    let Some(shape) = &lark.format.calls else {
        return match required {
            true => Err(Error::usage(
                "the model's template shows no calls, and so none can be required",
            )),
            false => Ok(None),
        };
    };
    if required {
        return held(lark.calls(shape, &tools));
    }
    // What only looks like a call without a mark may be an answer in JSON.
    if shape.trigger().is_empty() {
        return Ok(None);
    }
    let grammar = Grammar {
        text: Text::Lark(lark.calls_behind_trigger(shape, &tools)),
        trigger: Some(shape.trigger().to_string()),
        thought: marks(lark.format, lark.thought),
    };
    offered(grammar, engine)
}

/// Nothing was promised: tools whose schemas no grammar can express are called freely.
fn offered(grammar: Grammar, engine: &Engine) -> Result<Option<Grammar>> {
    let fits = engine.guide(grammar.clone()).is_ok();
    Ok(fits.then_some(grammar))
}

#[cfg(test)]
mod tests {
    use super::*;

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
