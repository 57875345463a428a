//! One turn with a model: what every dialect and every command decodes its request into.

use serde_json::Value as Json;

use super::error::{Error, Result};
use super::message::{Message, Tool};

/// The output constraint of an answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum OutputConstraint {
    /// No constraint.
    #[default]
    None,
    /// A JSON object.
    Json,
    /// JSON that matches this schema.
    Schema(Json),
    /// Text that matches this GBNF grammar.
    Grammar(String),
}

/// Which functions the model must call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// Any or none, chosen by the model.
    #[default]
    Auto,
    /// No function.
    None,
    /// At least one function.
    Required,
    /// The function of this name.
    Named(String),
}

impl ToolChoice {
    /// Reads the API's `tool_choice`: a word, or the function to call.
    ///
    /// # Errors
    /// `Usage` for anything else.
    pub fn of_json(json: Option<&Json>) -> Result<Self> {
        match json {
            None | Some(Json::Null) => Ok(ToolChoice::Auto),
            Some(Json::String(word)) => match word.as_str() {
                "auto" => Ok(ToolChoice::Auto),
                "none" => Ok(ToolChoice::None),
                "required" | "any" => Ok(ToolChoice::Required),
                other => Err(Error::usage(format!(
                    "tool_choice must be auto, none, required or a function, not '{other}'"
                ))),
            },
            Some(other) => match other["function"]["name"]
                .as_str()
                .or(other["name"].as_str())
            {
                Some(name) => Ok(ToolChoice::Named(name.to_string())),
                None => Err(Error::usage(
                    "tool_choice must be auto, none, required or a function",
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
    /// If the named tool is missing, or a call is required without any tools.
    pub fn among<'a>(&self, tools: &'a [Tool]) -> Result<Vec<&'a Tool>> {
        match self {
            ToolChoice::None => Ok(Vec::new()),
            ToolChoice::Auto => Ok(tools.iter().collect()),
            ToolChoice::Required if tools.is_empty() => Err(Error::usage(
                "tool_choice requires a call, but there are no tools",
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

/// The input of a turn.
#[derive(Debug, Clone)]
pub enum Input {
    /// A conversation, rendered with the model's template.
    Chat(Vec<Message>),
    /// A prompt used without a template.
    Raw(String),
    /// The text before and after a gap to fill.
    Insert(String, String),
}

/// How to handle an input that is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Fail with the prompt's length and the limit.
    Error,
    /// Drop the oldest messages, then the middle of the prompt, and report how many tokens.
    Truncate,
    /// Drop the oldest messages; a prompt that is still too long is an error.
    Whole,
    /// Cut the longest message and keep this part.
    Keep(Part),
}

/// The part of a text to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its beginning.
    Head,
    /// Its end.
    Tail,
    /// Both ends, without the middle.
    Ends,
}

impl Part {
    /// The value of `--overflow` for this part.
    pub fn word(self) -> &'static str {
        match self {
            Part::Head => "head",
            Part::Tail => "tail",
            Part::Ends => "middle",
        }
    }

    /// Parses a value of `--overflow`: `head` and `tail` name the part kept, `middle` the part dropped.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "head" => Part::Head,
            "tail" => Part::Tail,
            "middle" => Part::Ends,
            _ => return None,
        })
    }
}
