//! The types that all layers share: messages, deltas, how an answer ended and what it cost.

use std::time::Duration;

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what a model's template knows; lower case.
    pub role: String,
    /// The text.
    pub content: String,
    /// Earlier reasoning of the assistant, if any.
    pub thinking: Option<String>,
    /// Calls the assistant made, each a function's name and its arguments as JSON text.
    pub tool_calls: Vec<ToolCall>,
    /// For role `tool`: the function that answered.
    pub tool_name: Option<String>,
    /// For role `tool`: the call that it answers.
    pub tool_call_id: Option<String>,
}

impl Message {
    /// A message that has only a role and a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Message {
            role: role.into(),
            content: content.into(),
            ..Message::default()
        }
    }

    /// The same message with another text.
    pub fn with_content(&self, content: String) -> Self {
        Message {
            role: self.role.clone(),
            content,
            thinking: self.thinking.clone(),
            tool_calls: self.tool_calls.clone(),
            tool_name: self.tool_name.clone(),
            tool_call_id: self.tool_call_id.clone(),
        }
    }

    /// Adds a piece of an answer to the assistant's message.
    pub fn add(&mut self, delta: &Delta) {
        match delta {
            Delta::Text(text) => self.content.push_str(text),
            Delta::Thinking(text) => self.thinking.get_or_insert_default().push_str(text),
            Delta::Call { call, .. } => self.tool_calls.push(call.clone()),
            Delta::Logprob(_) | Delta::Finish(_) => {}
        }
    }
}

/// A call of a function by the assistant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The call's id, where there is one.
    pub id: Option<String>,
    /// The function's name.
    pub name: String,
    /// The arguments: a JSON object as text.
    pub arguments: String,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its description, for the model.
    pub description: String,
    /// JSON Schema of its arguments: an object.
    pub parameters: serde_json::Value,
}

/// Whether to think before the answer, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Think {
    /// No thinking.
    Off,
    /// As much as the model does by itself.
    On,
    /// As much as this level says.
    Level(Effort),
}

/// How much to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// A little.
    Low,
    /// As usual.
    Medium,
    /// A lot.
    High,
    /// As much as the model can.
    Max,
}

impl Think {
    /// Reads `true`, `false` or a level.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "true" => Think::On,
            "false" => Think::Off,
            "low" => Think::Level(Effort::Low),
            "medium" => Think::Level(Effort::Medium),
            "high" => Think::Level(Effort::High),
            "max" => Think::Level(Effort::Max),
            _ => return None,
        })
    }

    /// True unless it is off.
    pub fn is_on(self) -> bool {
        self != Think::Off
    }

    /// The level's word; `medium` for on without a level, empty for off.
    pub fn level(self) -> &'static str {
        match self {
            Think::Off => "",
            Think::Level(Effort::Low) => "low",
            Think::On | Think::Level(Effort::Medium) => "medium",
            Think::Level(Effort::High) => "high",
            Think::Level(Effort::Max) => "max",
        }
    }
}

/// A piece of an answer, in the order of the answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// The logprob of the next token, before the text that it adds to the answer.
    Logprob(Logprob),
    /// Thinking before the answer. Never empty, never half a character.
    Thinking(String),
    /// More text of the answer. Never empty, never half a character.
    Text(String),
    /// A complete tool call.
    Call {
        /// Which call of the answer it is, from 0 on.
        index: usize,
        /// The call.
        call: ToolCall,
    },
    /// The end of the answer, once, as the last delta.
    Finish(Box<Finish>),
}

/// The logprob of a token.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprob {
    /// The token's id.
    pub id: i32,
    /// The token's bytes; they may be a part of a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at its place, the likeliest first, if they were requested.
    pub top: Vec<Logprob>,
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finish {
    /// Why it ended.
    pub reason: Reason,
    /// Its cost.
    pub usage: Usage,
    /// Token ids of the prompt and the answer, for `/api/generate`'s `context`.
    pub context: Vec<i32>,
    /// The stop string of the request that ended it, if one did.
    pub stop: Option<String>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The model generated an end-of-generation token, or a stop string occurred.
    Stop,
    /// The token limit or the context was reached.
    Length,
    /// The answer went round in circles.
    Repetition,
}

impl Reason {
    /// The API's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Reason::Stop => "stop",
            Reason::Length | Reason::Repetition => "length",
        }
    }

    /// True if the answer might have gone on.
    pub fn is_cut(self) -> bool {
        self != Reason::Stop
    }
}

/// The cost of an answer: token counts and wall times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those found in the cache included.
    pub prompt_tokens: usize,
    /// Tokens of the prompt that were found in the cache.
    pub cached_tokens: usize,
    /// Tokens dropped from the prompt to make it fit.
    pub truncated_tokens: usize,
    /// Tokens dropped to continue the answer with a full context.
    pub shifted_tokens: usize,
    /// Tokens generated, the end token not counted.
    pub answer_tokens: usize,
    /// Tokens that were guessed and computed in advance.
    pub draft_tokens: usize,
    /// Those of them that the answer kept.
    pub draft_tokens_kept: usize,
    /// Time from the request to the end.
    pub total: Duration,
    /// Time from the request until the model was ready.
    pub load: Duration,
    /// Time to compute the prompt.
    pub prompt: Duration,
    /// Time to generate the answer.
    pub answer: Duration,
}
