//! The native API's bodies: fields in the reference's order, absent where the reference omits them.

pub mod calls;
pub mod create;
pub mod decode;
pub mod encode;
pub mod listing;
pub mod show;
pub mod transfer;

pub use calls::{arguments, tool_call};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::fields::unknown_in;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{self, Think, Tool};
use calls::call_json;

/// A message in the wire format.
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
    /// Fields that the API does not have.
    #[serde(flatten, skip_serializing)]
    rest: Map<String, Json>,
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

    /// Images and audio in base64.
    pub fn images(&self) -> &[String] {
        &self.images
    }

    /// The names of the fields that the API does not have.
    pub fn unknown_fields(&self) -> impl Iterator<Item = &str> {
        unknown_in(&self.rest, &[])
    }
}

impl From<&message::Message> for Message {
    fn from(message: &message::Message) -> Self {
        let calls = message.tool_calls.iter().enumerate();
        Message {
            role: message.role.clone(),
            content: message.content.clone(),
            thinking: message.thinking.clone().unwrap_or_default(),
            images: Vec::new(),
            tool_calls: calls.map(|(index, call)| call_json(call, index)).collect(),
            tool_name: message.tool_name.clone().unwrap_or_default(),
            tool_call_id: message.tool_call_id.clone().unwrap_or_default(),
            rest: Map::new(),
        }
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

/// The fields that `/api/generate` and `/api/chat` share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Common {
    /// The model's name as given.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// Stream records; absent is true.
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
    /// Truncate an input that is too long; absent is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Drop older tokens when the context is full, also from the prompt; absent is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shift: Option<bool>,
    /// Return the log probabilities of tokens.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub logprobs: bool,
    /// The number of alternatives per token, 0 to 20.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_zero")]
    pub top_logprobs: i64,
    /// Ours: which function must be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Json>,
    /// Ours: a GBNF grammar for the answer.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub grammar: String,
    /// Ours: how to fit an input that is too long: `error`, or cut to `head`, `tail` or `middle`.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub overflow: String,
    /// Ours: nobody watches the answer. It ends when it goes round in circles, and at 4096 tokens, unless `num_predict`
    /// says otherwise.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub bounded: bool,
    /// Return the rendered prompt instead of an answer.
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
    /// The fields shared with `/api/chat`.
    #[serde(flatten)]
    pub common: Common,
    /// The prompt; an empty one only loads or unloads the model.
    #[serde(deserialize_with = "null_is_default")]
    pub prompt: String,
    /// The text after the gap to fill.
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
    /// Use the prompt without the template.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub raw: bool,
    /// Images and audio in base64; refused.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub images: Vec<String>,
    /// Fields that the API does not have.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

/// The body of `POST /api/chat`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The fields shared with `/api/generate`.
    #[serde(flatten)]
    pub common: Common,
    /// The conversation; an empty one only loads or unloads the model.
    #[serde(deserialize_with = "null_is_default")]
    pub messages: Vec<Message>,
    /// Functions that the model may call.
    #[serde(
        deserialize_with = "null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tools: Vec<Json>,
    /// Fields that the API does not have.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

/// The body of `POST /api/embed`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbedRequest {
    /// The model's name as given.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// A text or a list of texts.
    pub input: Json,
    /// Truncate a text that is too long; absent is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncate: Option<bool>,
    /// Dimensions of a vector to keep; 0 keeps all.
    #[serde(deserialize_with = "null_is_default")]
    pub dimensions: i64,
    /// How long the model stays loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_alive: Option<Json>,
    /// Options.
    #[serde(deserialize_with = "null_is_default")]
    pub options: Map<String, Json>,
    /// Fields that the API does not have.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

impl EmbedRequest {
    /// The texts to embed; none if the input is empty.
    ///
    /// # Errors
    /// If the input is neither a text nor a list of texts.
    pub fn texts(&self) -> Result<Vec<String>> {
        let text = |json: &Json| json.as_str().map(str::to_string);
        let texts = match &self.input {
            Json::Null => Some(Vec::new()),
            Json::String(text) if text.is_empty() => Some(Vec::new()),
            Json::String(text) => Some(vec![text.clone()]),
            Json::Array(items) => items.iter().map(text).collect(),
            _ => None,
        };
        texts.ok_or_else(|| Error::usage("invalid input type"))
    }
}

/// The body of `POST /api/embeddings`, the older route.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EmbeddingRequest {
    /// The model's name as given.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// The text to embed.
    #[serde(deserialize_with = "null_is_default")]
    pub prompt: String,
    /// How long the model stays loaded.
    pub keep_alive: Option<Json>,
    /// Options.
    #[serde(deserialize_with = "null_is_default")]
    pub options: Map<String, Json>,
    /// Fields that the API does not have.
    #[serde(flatten)]
    pub rest: Map<String, Json>,
}

/// The body of `POST /api/show` and `DELETE /api/delete`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NameRequest {
    #[serde(deserialize_with = "null_is_default")]
    model: String,
    #[serde(deserialize_with = "null_is_default")]
    name: String,
    /// Include the header's arrays.
    #[serde(deserialize_with = "null_is_default")]
    pub verbose: bool,
}

impl NameRequest {
    /// The name from either field.
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
    /// The name to copy from.
    #[serde(deserialize_with = "null_is_default")]
    pub source: String,
    /// The new name.
    #[serde(deserialize_with = "null_is_default")]
    pub destination: String,
}

/// Reads `think`.
///
/// # Errors
/// `Usage` with the reference's wording for an invalid value.
pub fn think(json: Option<&Json>) -> Result<Option<Think>> {
    const LEVELS: &str = "(\"high\", \"medium\", \"low\", \"max\", true, or false)";
    let think = match json {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::Bool(true)) => Some(Think::On),
        Some(Json::Bool(false)) => Some(Think::Off),
        Some(Json::String(level)) if level != "true" && level != "false" => Think::parse(level),
        Some(Json::String(_)) => None,
        Some(_) => {
            return Err(Error::usage(format!(
                "think must be a boolean or string {LEVELS}"
            )));
        }
    };
    match (think, json) {
        (Some(think), _) => Ok(Some(think)),
        (None, other) => {
            let levels = LEVELS.trim_matches(['(', ')']);
            let word = other.and_then(Json::as_str).unwrap_or_default();
            Err(Error::usage(format!(
                "invalid think value: {word:?} (must be {levels})"
            )))
        }
    }
}

/// Reads a tool: `{"type": "function", "function": {…}}`, or the function alone.
///
/// # Errors
/// If its parameters are not an object. A missing name becomes an empty one.
pub fn tool(json: &Json) -> Result<Tool> {
    let function = if json["function"].is_object() {
        &json["function"]
    } else {
        json
    };
    let name = function["name"].as_str().unwrap_or_default();
    let parameters = match &function["parameters"] {
        Json::Null => serde_json::json!({ "type": "object", "properties": {} }),
        Json::Object(fields) => Json::Object(fields.clone()),
        _ => {
            return Err(Error::usage(format!(
                "the parameters of tool '{name}' are not a JSON Schema object"
            )));
        }
    };
    Ok(Tool {
        name: name.to_string(),
        description: function["description"]
            .as_str()
            .unwrap_or_default()
            .to_string(),
        parameters,
    })
}

/// The message of an error in the API.
pub fn error_text(error: &Error) -> String {
    match error.class() {
        Class::Cancelled => "request canceled".into(), // The reference's words.
        _ => error.public_text(),
    }
}

/// The body of an error.
pub fn error_json(message: &str) -> Json {
    serde_json::json!({ "error": message })
}

/// The record that ends a stream with an error. The status was sent already: the class stands in the record.
pub fn error_record(error: &Error) -> Json {
    serde_json::json!({ "error": error_text(error), "puna_error": error.class().word() })
}

/// The body of an error.
#[derive(Debug, Serialize)]
pub struct ErrorBody {
    /// The message.
    pub error: String,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn null_is_default<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_absent() {
        let request: ChatRequest = serde_json::from_str(
            r#"{"model":null,"messages":[{"role":"USER","content":null}],"tools":null,"options":null,"stream":null}"#,
        )
        .unwrap();
        let message: message::Message = request.messages[0].clone().into();
        assert_eq!(message, message::Message::new("user", ""));
    }
}
