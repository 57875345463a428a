//! Converts requests for OpenAI's chat completions, completions and embeddings to native requests.
//!
//! It reads them like the reference, except where that would lose data: one message stays one message,
//! schemas stay unchanged, and every name of the token limit is accepted.

mod conversation;
pub mod encode;
mod form;

pub use super::effort::effort_to_think;
pub use super::fields::{flag, integer, kind, list, number, short, text};
pub use form::{allow, answer_format, calls_max};

use serde_json::{Map, Value as Json, json};

use form::{format, tool_choice};

use super::fields::{unknown_in, wrong};
use super::further;
use super::native::{self, EmbedRequest, decode};
use super::options::{from_json, not_obeyed};
use crate::core::error::{Error, Result};
use crate::core::message::Message;
use crate::core::turn::{Input, ToolChoice, TurnRequest};

pub use conversation::{arguments, image, message};

/// Most answers to one prompt: as many as a model computes at once by default.
const CHOICES_MAX: i64 = 8;
/// Most tokens with a bias: each costs time at every token of the answer.
const BIASES_MAX: usize = 1024;

/// Decodes a request for a chat completion.
///
/// # Errors
/// `Usage` for an invalid field.
pub fn chat(body: &Map<String, Json>) -> Result<TurnRequest> {
    let extras = extras(body)?;
    let messages = list(body, "messages")?;
    if messages.is_empty() {
        return Err(Error::usage("[] is too short - 'messages'"));
    }
    let logprobs = body.get("logprobs") == Some(&Json::Bool(true));
    let model = text(body, "model")?;
    let options = options(body, true)?;
    let think = think(body)?;
    let format = format(body)?;
    let top = integer(body, "top_logprobs")?.unwrap_or(0);
    let grammar = text(body, "grammar")?;
    let ignored = not_obeyed("", &options).chain(conversation::unknown_fields(messages));
    let ignored = ignored.collect();
    let messages = conversation::messages(messages)?;
    let tools = list(body, "tools")?;
    let mut turn = TurnRequest {
        logprobs: decode::logprobs(logprobs, top)?,
        think: native::think(think.as_ref())?,
        think_if_able: true,
        constraint: decode::constraint(format.as_ref(), grammar)?,
        options: from_json(&options)?,
        tools: tools.iter().map(native::tool).collect::<Result<_>>()?,
        tool_choice: ToolChoice::from_json(tool_choice(body).as_ref())?,
        render_only: body.get("_debug_render_only") == Some(&Json::Bool(true)),
        calls_max: calls_max(body)?,
        ignored,
        ..extras.turn(model, decode::conversation(messages)?)
    };
    allow(&mut turn.tools, body.get("tool_choice"))?;
    further::read(&mut turn, body, &[FIELDS, CHAT_FIELDS])?;
    Ok(turn)
}

/// The fields of both routes that are read here or change nothing in an answer.
const FIELDS: &[&str] = &[
    "model",
    "stream",
    "stream_options",
    "n",
    "logprobs",
    "logit_bias",
    "temperature",
    "top_p",
    "frequency_penalty",
    "presence_penalty",
    "seed",
    "reasoning_budget",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "user",
    "cache_prompt",
];
/// Those of a chat completion only.
const CHAT_FIELDS: &[&str] = &[
    "messages",
    "top_logprobs",
    "reasoning",
    "reasoning_effort",
    "response_format",
    "grammar",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "_debug_render_only",
    "metadata",
    "store",
    "service_tier",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "verbosity",
];
/// Those of a request for embeddings.
const EMBEDDING_FIELDS: &[&str] = &[
    "model",
    "input",
    "dimensions",
    "encoding_format",
    "keep_alive",
    "options",
    "user",
];
/// Those of a completion only.
const COMPLETION_FIELDS: &[&str] = &["prompt", "suffix"];

/// Decodes a request for a completion: the prompt as a user's turn, or the text around a gap.
///
/// # Errors
/// `Usage` for an invalid field.
pub fn completion(body: &Map<String, Json>) -> Result<TurnRequest> {
    let mut options = options(body, false)?;
    for key in ["frequency_penalty", "presence_penalty"] {
        options.entry(key).or_insert(0.into());
    }
    let top = integer(body, "logprobs")?.unwrap_or(0);
    let model = text(body, "model")?;
    let (prompt, suffix) = (prompt(body.get("prompt"))?, text(body, "suffix")?);
    let extras = extras(body)?;
    decode::named(model)?;
    let input = match (prompt.is_empty(), suffix.is_empty()) {
        (true, _) => None,
        (false, true) => Some(Input::Chat(vec![Message::new("user", prompt)])),
        (false, false) => Some(Input::Insert(prompt.to_string(), suffix.to_string())),
    };
    let mut turn = TurnRequest {
        logprobs: decode::logprobs(top > 0, top)?,
        options: from_json(&options)?,
        ignored: not_obeyed("", &options).collect(),
        ..extras.turn(model, input)
    };
    further::read(&mut turn, body, &[FIELDS, COMPLETION_FIELDS])?;
    Ok(turn)
}

/// The prompt: a text, or a list with one.
fn prompt(given: Option<&Json>) -> Result<&str> {
    match given {
        None | Some(Json::Null) => Ok(""),
        Some(Json::String(text)) => Ok(text),
        Some(Json::Array(list)) => match list.as_slice() {
            [Json::String(text)] => Ok(text),
            [Json::String(_), ..] => Err(Error::usage(
                "prompt may be one text: send a request for each",
            )),
            _ => Err(Error::usage(
                "prompt must be text: token ids are not read here",
            )),
        },
        Some(other) => Err(wrong("prompt", "a string", other)),
    }
}

/// True if the usage is to be sent at the end of a stream.
pub fn includes_usage(body: &Map<String, Json>) -> bool {
    let options = body.get("stream_options");
    options.is_some_and(|options| options["include_usage"] == true)
}

/// Reads a request for embeddings, and whether to send the vectors in base64.
///
/// # Errors
/// `Usage` for an invalid field.
pub fn embedding(body: &Map<String, Json>) -> Result<(EmbedRequest, bool)> {
    let encoding = text(body, "encoding_format")?.to_lowercase();
    if !matches!(encoding.as_str(), "" | "float" | "base64") {
        return Err(Error::usage(format!(
            "Invalid value for 'encoding_format' = {}. Supported values: ['float', 'base64'].",
            short(&encoding)
        )));
    }
    let input = match body.get("input") {
        None | Some(Json::Null) => return Err(Error::usage("invalid input")),
        Some(Json::Array(list)) if list.is_empty() => return Err(Error::usage("invalid input")),
        Some(Json::String(text)) => json!([text]),
        Some(Json::Array(list)) if list.iter().all(Json::is_string) => json!(list),
        Some(Json::Array(list)) if list.iter().all(|item| item.is_array() || item.is_number()) => {
            return Err(Error::usage(
                "input holds token ids of another vocabulary: send the text itself (in LangChain's OpenAIEmbeddings, \
                 check_embedding_ctx_length=False)",
            ));
        }
        Some(_) => return Err(Error::usage("invalid input type")),
    };
    let object = body.get("options").and_then(Json::as_object);
    let names = unknown_in(body, EMBEDDING_FIELDS);
    let rest = names.map(|name| (name.to_string(), body[name].clone()));
    let request = EmbedRequest {
        keep_alive: body.get("keep_alive").cloned(),
        options: object.cloned().unwrap_or_default(),
        model: text(body, "model")?.to_string(),
        input,
        dimensions: integer(body, "dimensions")?.unwrap_or(0),
        rest: rest.collect(),
        ..EmbedRequest::default()
    };
    Ok((request, encoding == "base64"))
}

/// The fields that both kinds of completion share.
struct Extras {
    stream: bool,
    choices: usize,
    bias: Vec<(i32, f32)>,
}

impl Extras {
    fn turn(self, model: &str, input: Option<Input>) -> TurnRequest {
        TurnRequest {
            stream: self.stream,
            choices: self.choices,
            bias: self.bias,
            ..decode::truncating(model, input)
        }
    }
}

fn extras(body: &Map<String, Json>) -> Result<Extras> {
    let choices = integer(body, "n")?.unwrap_or(1);
    if !(1..=CHOICES_MAX).contains(&choices) {
        return Err(Error::usage(format!(
            "n must be a number from 1 to {CHOICES_MAX}"
        )));
    }
    Ok(Extras {
        stream: flag(body, "stream")?,
        choices: choices as usize,
        bias: bias(body.get("logit_bias"))?,
    })
}

/// Token ids and what is added to their logits; ignores keys that are not ids.
fn bias(given: Option<&Json>) -> Result<Vec<(i32, f32)>> {
    let mut biases = Vec::new();
    if given
        .and_then(Json::as_object)
        .is_some_and(|given| given.len() > BIASES_MAX)
    {
        let text = format!("logit_bias has more than {BIASES_MAX} tokens");
        return Err(Error::usage(text));
    }
    for (key, value) in given.and_then(Json::as_object).into_iter().flatten() {
        let Some(value) = value.as_f64().filter(|value| value.abs() <= 100.0) else {
            return Err(Error::usage(format!(
                "logit_bias of '{key}' must be a number from -100 to 100"
            )));
        };
        if let Ok(id) = key.parse() {
            biases.push((id, value as f32));
        }
    }
    Ok(biases)
}

/// The native options. An absent temperature or top_p becomes OpenAI's default, overriding the
/// model's own, because scripts written for the reference expect that.
fn options(body: &Map<String, Json>, chat: bool) -> Result<Map<String, Json>> {
    let mut options = Map::new();
    for key in ["temperature", "top_p"] {
        let given = number(body, key)?.filter(|value| chat || key != "top_p" || *value != 0.0);
        options.insert(key.into(), json!(given.unwrap_or(1.0)));
    }
    for key in ["frequency_penalty", "presence_penalty"] {
        if let Some(value) = number(body, key)? {
            options.insert(key.into(), json!(value));
        }
    }
    // The second is llama.cpp's; OpenAI's models accept only an effort.
    for key in ["seed", "reasoning_budget"] {
        if let Some(value) = integer(body, key)? {
            options.insert(key.into(), json!(value));
        }
    }
    let limit = match integer(body, "max_completion_tokens")? {
        None => integer(body, "max_tokens")?,
        limit => limit,
    };
    if let Some(limit) = limit {
        options.insert("num_predict".into(), json!(limit));
    }
    match body.get("stop") {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) => _ = options.insert("stop".into(), json!([text])),
        Some(Json::Array(list)) if chat || list.iter().all(Json::is_string) => {
            let texts: Vec<&Json> = list.iter().filter(|item| item.is_string()).collect();
            options.insert("stop".into(), json!(texts));
        }
        Some(other) => {
            return Err(Error::usage(format!(
                "invalid type for 'stop' field: {}",
                kind(other)
            )));
        }
    }
    Ok(options)
}

/// `reasoning.effort`, else `reasoning_effort`, as the native `think`.
fn think(body: &Map<String, Json>) -> Result<Option<Json>> {
    let effort = match body.get("reasoning") {
        Some(Json::Object(reasoning)) => {
            match (reasoning.get("effort"), reasoning.get("enabled")) {
                (None, Some(Json::Bool(enabled))) => return Ok(Some((*enabled).into())),
                (effort, _) => effort,
            }
        }
        _ => body.get("reasoning_effort"),
    };
    effort_to_think(effort)
}

/// A tool of another API as a native function; `schema` is the key of its parameters.
pub fn function(tool: &Json, name: &str, schema: &str) -> Json {
    json!({ "type": "function", "function": {
        "name": name,
        "description": tool["description"].as_str().unwrap_or_default(),
        "parameters": tool.get(schema).cloned().unwrap_or_else(|| json!({})),
    }})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::message::{Effort, Think};
    use crate::core::turn::OutputConstraint;

    fn decoded(body: Json) -> Result<TurnRequest> {
        chat(body.as_object().unwrap())
    }

    #[test]
    fn a_conversation_keeps_its_messages_calls_and_ids() {
        let turn = decoded(json!({
            "model": "m",
            "messages": [
                { "role": "developer", "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }] },
                { "role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                    { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"x\":1}" } }] },
                { "role": "tool", "tool_call_id": "c1", "content": [{ "type": "text", "text": "ok" }] },
            ],
        }))
        .unwrap();
        let input = turn.input.unwrap();
        let messages = input.messages();
        assert_eq!(
            (messages[0].role.as_str(), messages[0].content.as_str()),
            ("system", "a\nb")
        );
        assert_eq!(messages[1].thinking.as_deref(), Some("hm"));
        assert_eq!(messages[1].tool_calls[0].arguments, "{\"x\":1}");
        assert_eq!(messages[2].tool_name.as_deref(), Some("f"));
        assert_eq!(messages[2].tool_call_id.as_deref(), Some("c1"));
    }

    #[test]
    fn limits_and_formats_have_all_their_names() {
        let with = |key: &str, value: Json| {
            let mut body =
                json!({ "model": "m", "messages": [{ "role": "user", "content": "x" }] });
            body[key] = value;
            decoded(body)
        };
        let limit = |key| with(key, json!(7)).unwrap().options.int("num_predict");
        assert_eq!(
            (limit("max_tokens"), limit("max_completion_tokens")),
            (Some(7), Some(7))
        );
        let format = |value| with("response_format", value).unwrap().constraint;
        assert_eq!(
            format(json!({ "type": "json_object" })),
            OutputConstraint::Json
        );
        let schema = json!({ "type": "object" });
        let wanted = json!({ "type": "json_schema", "json_schema": { "schema": schema } });
        assert_eq!(format(wanted), OutputConstraint::Schema(schema));
        assert_eq!(format(json!({ "type": "text" })), OutputConstraint::None);
        let think = |word: &str| with("reasoning_effort", json!(word)).map(|turn| turn.think);
        assert_eq!(think("none").unwrap(), Some(Think::Off));
        assert_eq!(think("xhigh").unwrap(), Some(Think::Level(Effort::Max)));
        assert!(think("loud").is_err());
        assert_eq!(with("n", json!(3)).unwrap().choices, 3);
        assert!(with("n", json!(0)).is_err() && with("n", json!(99)).is_err());
        let bias = with("logit_bias", json!({ "5": -100, "foo": 0 }))
            .unwrap()
            .bias;
        assert_eq!(bias, [(5, -100.0)]);
        assert!(with("temperature", json!("hot")).is_err());
    }
}
