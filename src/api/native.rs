//! The native API's bodies: fields in the reference's order, absent where it leaves them out.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::clock;
use crate::message::{self, Finish, ToolCall};

/// A message on the wire.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    #[serde(deserialize_with = "null_is_default")]
    role: String,
    #[serde(deserialize_with = "null_is_default")]
    content: String,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    thinking: String,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    images: Vec<String>,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    tool_calls: Vec<Json>,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    tool_name: String,
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    tool_call_id: String,
}

impl Message {
    /// A message with a role and a text.
    pub fn new(role: &str, content: &str) -> Self {
        Message {
            role: role.into(),
            content: content.into(),
            ..Message::default()
        }
    }

    /// True if it brings images or audio.
    pub fn has_media(&self) -> bool {
        !self.images.is_empty()
    }
}

impl From<Message> for message::Message {
    fn from(wire: Message) -> Self {
        let some = |text: String| (!text.is_empty()).then_some(text);
        message::Message {
            role: wire.role.to_lowercase(),
            content: wire.content,
            thinking: some(wire.thinking),
            tool_calls: wire.tool_calls.iter().map(tool_call).collect(),
            tool_name: some(wire.tool_name),
            tool_call_id: some(wire.tool_call_id),
        }
    }
}

fn tool_call(json: &Json) -> ToolCall {
    let function = &json["function"];
    ToolCall {
        id: json["id"].as_str().map(str::to_string),
        name: function["name"].as_str().unwrap_or_default().to_string(),
        arguments: function
            .get("arguments")
            .cloned()
            .unwrap_or_else(|| Json::Object(Map::new()))
            .to_string(),
    }
}

/// What `/api/generate` and `/api/chat` have in common.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Common {
    /// The model's name as asked.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// Records as they come; absent is true.
    pub stream: Option<bool>,
    /// `"json"` or a schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Json>,
    /// How long the model stays loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Json>,
    /// Options.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Map::is_empty"
    )]
    pub options: Map<String, Json>,
    /// Thinking: true, false or a level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<Json>,
    /// Cut too long an input; absent is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Probabilities of tokens.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub logprobs: bool,
    /// Only render the prompt.
    #[serde(
        rename = "_debug_render_only",
        deserialize_with = "null_is_default",
        skip_serializing_if = "is_false"
    )]
    pub render_only: bool,
}

/// The body of `POST /api/generate`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateRequest {
    /// What both routes share.
    #[serde(flatten)]
    pub common: Common,
    /// The prompt; empty loads or unloads.
    #[serde(deserialize_with = "null_is_default")]
    pub prompt: String,
    /// Text after the gap to fill.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub suffix: String,
    /// Replaces the model's SYSTEM.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub system: String,
    /// Replaces the model's TEMPLATE.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub template: String,
    /// Tokens of an earlier answer.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub context: Vec<i32>,
    /// The prompt is taken as it is.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub raw: bool,
    /// Images.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub images: Vec<String>,
}

/// The body of `POST /api/chat`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// What both routes share.
    #[serde(flatten)]
    pub common: Common,
    /// The conversation; empty loads or unloads.
    #[serde(deserialize_with = "null_is_default")]
    pub messages: Vec<Message>,
    /// Functions that the model may call.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tools: Vec<Json>,
}

/// The body of `POST /api/show` and `DELETE /api/delete`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NameRequest {
    #[serde(deserialize_with = "null_is_default")]
    model: String,
    #[serde(deserialize_with = "null_is_default")]
    name: String,
    /// Arrays of the header too.
    #[serde(deserialize_with = "null_is_default")]
    pub verbose: bool,
}

impl NameRequest {
    /// The name, under either field.
    pub fn text(&self) -> &str {
        if self.model.is_empty() {
            &self.name
        } else {
            &self.model
        }
    }
}

/// The body of `POST /api/copy`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CopyRequest {
    /// The name to copy.
    #[serde(deserialize_with = "null_is_default")]
    pub source: String,
    /// The new name.
    #[serde(deserialize_with = "null_is_default")]
    pub destination: String,
}

/// What an answer cost, in nanoseconds and tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
    /// Ours: tokens dropped from the prompt, only when some were.
    #[serde(skip_serializing_if = "is_zero")]
    prompt_truncated_count: u64,
}

impl From<message::Usage> for Metrics {
    fn from(usage: message::Usage) -> Self {
        let nanos =
            |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Metrics {
            total_duration: nanos(usage.total),
            load_duration: nanos(usage.load),
            prompt_eval_count: usage.prompt_tokens as u64,
            prompt_eval_duration: nanos(usage.prompt),
            eval_count: usage.answer_tokens as u64,
            eval_duration: nanos(usage.answer),
            prompt_truncated_count: usage.truncated_tokens as u64,
        }
    }
}

impl From<Metrics> for message::Usage {
    fn from(metrics: Metrics) -> Self {
        let duration = std::time::Duration::from_nanos;
        message::Usage {
            prompt_tokens: metrics.prompt_eval_count as usize,
            cached_tokens: 0,
            truncated_tokens: metrics.prompt_truncated_count as usize,
            answer_tokens: metrics.eval_count as usize,
            total: duration(metrics.total_duration),
            load: duration(metrics.load_duration),
            prompt: duration(metrics.prompt_eval_duration),
            answer: duration(metrics.eval_duration),
        }
    }
}

/// A record of `/api/generate`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateRecord {
    /// The model as asked.
    pub model: String,
    /// When the record was made.
    pub created_at: String,
    /// Text.
    pub response: String,
    /// True on the last record.
    pub done: bool,
    /// Why it ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub done_reason: String,
    /// Tokens for a later request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<i32>,
    /// What it cost.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// The rendered prompt, when only that was asked for.
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    pub debug_info: Option<DebugInfo>,
}

/// A record of `/api/chat`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRecord {
    /// The model as asked.
    pub model: String,
    /// When the record was made.
    pub created_at: String,
    /// A piece of the answer.
    pub message: AnswerMessage,
    /// True on the last record.
    pub done: bool,
    /// Why it ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub done_reason: String,
    /// The rendered prompt, when only that was asked for.
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    pub debug_info: Option<DebugInfo>,
    /// What it cost.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// The message of a chat record.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: String,
    /// Text.
    pub content: String,
}

/// What `_debug_render_only` tells.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DebugInfo {
    /// The exact prompt.
    pub rendered_template: String,
}

impl GenerateRecord {
    /// A record that carries text.
    pub fn text(model: &str, text: String) -> Self {
        GenerateRecord {
            model: model.into(),
            created_at: now(),
            response: text,
            ..GenerateRecord::default()
        }
    }

    /// The last record of an answer; `raw` ones carry no context.
    pub fn last(model: &str, finish: Finish, raw: bool) -> Self {
        GenerateRecord {
            done: true,
            done_reason: finish.reason.word().into(),
            context: if raw { Vec::new() } else { finish.context },
            metrics: finish.usage.into(),
            ..Self::text(model, String::new())
        }
    }

    /// The answer to a request that only loads or unloads.
    pub fn only(model: &str, reason: &str) -> Self {
        GenerateRecord {
            done: true,
            done_reason: reason.into(),
            ..Self::text(model, String::new())
        }
    }

    /// The answer to a request that only renders.
    pub fn rendered(model: &str, prompt: String) -> Self {
        let debug_info = Some(DebugInfo {
            rendered_template: prompt,
        });
        GenerateRecord {
            debug_info,
            ..Self::text(model, String::new())
        }
    }
}

impl ChatRecord {
    /// A record that carries text.
    pub fn text(model: &str, text: String) -> Self {
        let message = AnswerMessage {
            role: "assistant".into(),
            content: text,
        };
        ChatRecord {
            model: model.into(),
            created_at: now(),
            message,
            ..ChatRecord::default()
        }
    }

    /// The last record of an answer.
    pub fn last(model: &str, finish: Finish) -> Self {
        ChatRecord {
            done: true,
            done_reason: finish.reason.word().into(),
            metrics: finish.usage.into(),
            ..Self::text(model, String::new())
        }
    }

    /// The answer to a request that only loads or unloads.
    pub fn only(model: &str, reason: &str) -> Self {
        ChatRecord {
            done: true,
            done_reason: reason.into(),
            ..Self::text(model, String::new())
        }
    }

    /// The answer to a request that only renders.
    pub fn rendered(model: &str, prompt: String) -> Self {
        let debug_info = Some(DebugInfo {
            rendered_template: prompt,
        });
        ChatRecord {
            debug_info,
            message: AnswerMessage::default(),
            ..Self::text(model, String::new())
        }
    }
}

/// An error's body.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The text.
    pub error: String,
}

fn now() -> String {
    clock::rfc3339(SystemTime::now())
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn null_is_absent() {
        let request: ChatRequest = serde_json::from_str(
            r#"{"model":null,"messages":[{"role":"USER","content":null}],"tools":null,"options":null,"stream":null}"#,
        )
        .unwrap();
        let message: message::Message = request.messages[0].clone().into();
        assert_eq!(message, message::Message::new("user", ""));
    }

    #[test]
    fn records_have_the_references_fields_in_its_order() {
        let mut record = ChatRecord::only("m", "load");
        record.created_at = "T".into();
        let text = r#"{"model":"m","created_at":"T","message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}"#;
        assert_eq!(json::line(&record), text);
    }
}
