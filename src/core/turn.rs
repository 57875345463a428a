//! One turn with a model: what every dialect and every command decodes its request into.

use std::time::Duration;

use serde_json::Value as Json;

use super::duration::KeepAlive;
use super::error::{Class, Error, Result};
use super::message::{Message, Reason, Think, Tool};
use super::options::Options;

/// One turn: what every API and every command decodes its request into.
///
/// A decoder has checked each field's type and range; what depends on the model (does it exist, can it think or
/// call tools) is checked where the turn runs.
#[derive(Debug, Clone)]
pub struct TurnRequest {
    /// The model's name or path as given.
    pub model: String,
    /// The input; `None` only loads or unloads the model.
    pub input: Option<Input>,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it must call.
    pub tool_choice: ToolChoice,
    /// Whether and how much to think; `None` leaves it to the model.
    pub think: Option<Think>,
    /// If the model cannot think, answer without thinking instead of refusing.
    pub think_if_able: bool,
    /// A template in place of the model's own.
    pub template: Option<GivenTemplate>,
    /// The output constraint of the answer.
    pub constraint: OutputConstraint,
    /// Report the logprob of each token, and this many of the likeliest tokens at its place, 0 to 20.
    pub logprobs: Option<usize>,
    /// Token ids, and what is added to their logits.
    pub bias: Vec<(i32, f32)>,
    /// Tokens of an earlier answer, put before the rendered prompt.
    pub context: Vec<i32>,
    /// Options of this request; they override the model's own.
    pub options: Options,
    /// How long the model stays loaded afterwards.
    pub keep_alive: Option<KeepAlive>,
    /// How to fit an input that is longer than the context.
    pub overflow: Overflow,
    /// Continue the answer when the context is full, by dropping older tokens.
    pub shift: bool,
    /// Nobody watches the answer: it ends when it goes round in circles, and at 4096 tokens, unless `num_predict` says
    /// otherwise.
    pub bounded: bool,
    /// The number of answers to give, at least 1.
    pub choices: usize,
    /// Send the answer as a stream.
    pub stream: bool,
    /// Return the rendered prompt instead of an answer.
    pub render_only: bool,
    /// Most calls in one answer; the first one beyond it ends the answer.
    pub calls_max: usize,
    /// Further variables of a Jinja template.
    pub variables: Vec<(String, Json)>,
    /// Fields of the request that are neither obeyed nor refused.
    pub ignored: Vec<String>,
}

impl TurnRequest {
    /// A turn with a model and an input, and every other field at its default: one answer, not streamed; an
    /// input that does not fit is an error.
    pub fn new(model: impl Into<String>, input: Option<Input>) -> Self {
        TurnRequest {
            model: model.into(),
            input,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            think: None,
            think_if_able: false,
            template: None,
            constraint: OutputConstraint::None,
            logprobs: None,
            bias: Vec::new(),
            context: Vec::new(),
            options: Options::default(),
            keep_alive: None,
            overflow: Overflow::Error,
            shift: false,
            bounded: false,
            choices: 1,
            stream: false,
            render_only: false,
            calls_max: usize::MAX,
            variables: Vec::new(),
            ignored: Vec::new(),
        }
    }

    /// Checks that every tool has a name, and that the tool choice is among them. It comes after the check that
    /// the model can call tools, as in the reference.
    ///
    /// # Errors
    /// `Usage` for the first mistake.
    pub fn check_tools(&self) -> Result<()> {
        if self.tools.iter().any(|tool| tool.name.is_empty()) {
            return Err(Error::usage(
                "a tool has no name: expected {\"type\":\"function\",\"function\":{\"name\":…}}",
            ));
        }
        self.tool_choice.among(&self.tools).map(drop)
    }

    /// True if the turn only unloads its model.
    pub fn only_unloads(&self) -> bool {
        self.input.is_none() && self.keep_alive == Some(KeepAlive::For(Duration::ZERO))
    }

    /// Checks that a reply which ended for this reason is what the request asked for.
    ///
    /// # Errors
    /// `Cut` if the token limit cut an answer that has an output constraint, or a call that was required.
    pub fn check_complete(&self, reply: &Message, reason: Reason) -> Result<()> {
        let text = if self.constraint != OutputConstraint::None && reason == Reason::Repetition {
            "the answer repeats itself and was cut before it was complete"
        } else if self.constraint != OutputConstraint::None && reason.is_cut() {
            "the token limit cut the answer before it was complete: see --num-predict and --num-ctx"
        } else if self.tool_choice.requires() && reply.tool_calls.is_empty() {
            "the token limit cut the call before it was complete: see --num-predict"
        } else {
            return Ok(());
        };
        Err(Error::plain(Class::Cut, text))
    }
}

/// The input of a turn.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A conversation, rendered with the model's template. The model's own SYSTEM and MESSAGEs are not part of it.
    Chat(Vec<Message>),
    /// A prompt that is used without the template.
    Raw(String),
    /// The text before and after a gap to fill.
    Insert(String, String),
}

impl Input {
    /// The messages of a conversation; none of another input.
    pub fn messages(&self) -> &[Message] {
        match self {
            Input::Chat(messages) => messages,
            Input::Raw(_) | Input::Insert(..) => &[],
        }
    }
}

/// A template given with a request, in place of the model's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GivenTemplate {
    /// A Go template, as in Modelfiles.
    Go(String),
    /// A Jinja template.
    Jinja(String),
}

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
    pub fn from_json(json: Option<&Json>) -> Result<Self> {
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

/// How to handle an input that is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Fail with the prompt's length and the limit.
    Error,
    /// Drop the oldest messages, then the middle of the prompt, and report how many tokens.
    Truncate,
    /// Drop the oldest messages; a prompt that is still too long is an error.
    WholeMessages,
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
