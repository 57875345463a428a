//! Converts requests of OpenAI's Responses API to native requests.
//!
//! The server stores no responses: the client sends the whole conversation. Fields that need a store,
//! such as `previous_response_id`, are refused and not silently ignored.

pub mod encode;

use serde_json::{Map, Value as Json, json};

use super::native::{self, Message, decode};
use super::openai::{
    effort_to_think, flag, function, image, integer, message, no_web_search, number, text,
};
use super::options::from_json;
use crate::core::error::{Error, Result};
use crate::core::turn::{ToolChoice, TurnRequest};

/// Decodes a request.
///
/// # Errors
/// `Usage` for an invalid field, and for a reference to a stored conversation.
pub fn request(body: &Map<String, Json>) -> Result<TurnRequest> {
    for key in ["previous_response_id", "conversation"] {
        if body.get(key).is_some_and(|value| !value.is_null()) {
            return Err(Error::usage(format!(
                "{key} is not supported: nothing is stored here; send the whole conversation as input"
            )));
        }
    }
    Ok(TurnRequest {
        stream: flag(body, "stream")?,
        ..conversation(body)?
    })
}

/// Decodes only the conversation of a request, as token counting needs.
///
/// # Errors
/// `Usage` for an invalid field.
pub fn conversation(body: &Map<String, Json>) -> Result<TurnRequest> {
    let mut messages = Vec::new();
    let instructions = text(body, "instructions")?;
    if !instructions.is_empty() {
        messages.push(message(
            json!({ "role": "system", "content": instructions }),
        )?);
    }
    messages.extend(input(body.get("input"))?);
    let effort = body
        .get("reasoning")
        .and_then(|reasoning| reasoning.get("effort"));
    let model = text(body, "model")?;
    let options = options(body)?;
    let think = effort_to_think(effort)?;
    let mut tools = Vec::new();
    collect(body.get("tools"), "", &mut tools)?;
    let turn = TurnRequest {
        options: from_json(&options)?,
        think: native::think(think.as_ref())?,
        constraint: decode::constraint(format(body).as_ref(), "")?,
        tools: tools.iter().map(native::tool).collect::<Result<_>>()?,
        tool_choice: ToolChoice::from_json(tool_choice(body.get("tool_choice")).as_ref())?,
        ..decode::truncating(model, decode::conversation(messages)?)
    };
    Ok(turn)
}

fn options(body: &Map<String, Json>) -> Result<Map<String, Json>> {
    let mut options = Map::new();
    let temperature = number(body, "temperature")?.unwrap_or(1.0);
    options.insert("temperature".into(), json!(temperature));
    if let Some(value) = number(body, "top_p")? {
        options.insert("top_p".into(), json!(value));
    }
    if let Some(limit) = integer(body, "max_output_tokens")? {
        options.insert("num_predict".into(), json!(limit));
    }
    Ok(options)
}

fn format(body: &Map<String, Json>) -> Option<Json> {
    let format = &body.get("text")?["format"];
    match format["type"].as_str()? {
        "json_object" => Some("json".into()),
        "json_schema" => format
            .get("schema")
            .filter(|schema| schema.is_object())
            .cloned(),
        _ => None,
    }
}

fn tool_choice(given: Option<&Json>) -> Option<Json> {
    let given = given.filter(|choice| !choice.is_null())?;
    match given["type"].as_str() {
        None => Some(given.clone()),
        Some("function") => Some(json!({ "function": { "name": given["name"] } })),
        Some("allowed_tools") => Some(given["mode"].clone()),
        Some(_) => None,
    }
}

/// Longest name of a function including its namespaces.
const NAME_BYTES_MAX: usize = 256;

/// Collects tools as native functions; a namespace is replaced by its members.
fn collect(given: Option<&Json>, prefix: &str, tools: &mut Vec<Json>) -> Result<()> {
    for tool in given.and_then(Json::as_array).into_iter().flatten() {
        let name = tool["name"].as_str().unwrap_or_default();
        if prefix.len() + name.len() > NAME_BYTES_MAX {
            let text = format!("a tool's name is longer than {NAME_BYTES_MAX} bytes");
            return Err(Error::usage(text));
        }
        let whole = if name.starts_with(prefix) {
            name.to_string()
        } else {
            format!("{prefix}{name}")
        };
        match tool["type"].as_str().unwrap_or("function") {
            "namespace" => collect(tool.get("tools"), &format!("{whole}."), tools)?,
            "web_search" => return Err(no_web_search()),
            _ => tools.push(function(tool, &whole, "parameters")),
        }
    }
    Ok(())
}

/// Reads the conversation: a text, or a list of items.
fn input(given: Option<&Json>) -> Result<Vec<Message>> {
    let items = match given {
        None | Some(Json::Null) => return Ok(Vec::new()),
        Some(Json::String(text)) if text.is_empty() => return Ok(Vec::new()),
        Some(Json::String(text)) => {
            return Ok(vec![message(json!({ "role": "user", "content": text }))?]);
        }
        Some(Json::Array(items)) => items,
        Some(_) => return Err(Error::usage("input must be a string or a list of items")),
    };
    let mut turns = Turns::default();
    for (index, item) in items.iter().enumerate() {
        let wrong = |error: Error| Error::usage(format!("input[{index}]: {error}"));
        turns.add(item).map_err(wrong)?;
    }
    turns.finish()
}

/// Builds messages from items: calls and thinking are merged into the adjacent assistant message.
#[derive(Default)]
struct Turns {
    turns: Vec<Json>,
    thinking: Option<String>,
}

impl Turns {
    fn add(&mut self, item: &Json) -> Result<()> {
        let kind = match (item["type"].as_str(), item.get("role")) {
            (Some(kind), _) => kind,
            (None, Some(_)) => "message",
            (None, None) => {
                return Err(Error::usage("input item missing required 'type' field"));
            }
        };
        match kind {
            "message" => self.message(item)?,
            "function_call" => self.call(item)?,
            "function_call_output" => {
                let (content, images) = parts(&item["output"])?;
                self.turns.push(json!({
                    "role": "tool",
                    "content": content,
                    "images": images,
                    "tool_call_id": item["call_id"],
                }));
            }
            "reasoning" => {
                let thought = item["encrypted_content"].as_str();
                self.thinking = thought.map(str::to_string);
            }
            "web_search_call" => {}
            other => {
                return Err(Error::usage(format!(
                    "unknown input item type: \"{other}\""
                )));
            }
        }
        Ok(())
    }

    fn message(&mut self, item: &Json) -> Result<()> {
        let role = item["role"].as_str().unwrap_or_default().to_lowercase();
        let role = if role == "developer" {
            "system".into()
        } else {
            role
        };
        let (content, images) = parts(&item["content"])?;
        // Assistant text between a call and its result belongs to the message with the call.
        let calls = self.turns.last_mut().filter(|turn| {
            role == "assistant"
                && turn["tool_calls"]
                    .as_array()
                    .is_some_and(|calls| !calls.is_empty())
        });
        if let Some(turn) = calls {
            let earlier = turn["content"].as_str().unwrap_or_default();
            turn["content"] = if earlier.is_empty() {
                content.into()
            } else {
                format!("{earlier}\n{content}").into()
            };
            return Ok(());
        }
        let thinking = match role.as_str() {
            "assistant" => self.thinking.take(),
            _ => None,
        };
        self.turns.push(json!({
            "role": role,
            "content": content,
            "images": images,
            "thinking": thinking,
        }));
        Ok(())
    }

    fn call(&mut self, item: &Json) -> Result<()> {
        let text = item["arguments"].as_str().unwrap_or_default();
        let arguments = if text.is_empty() {
            json!({})
        } else {
            serde_json::from_str::<Json>(text).map_err(|error| {
                Error::usage(format!("failed to parse function call arguments: {error}"))
            })?
        };
        let call = json!({
            "id": item["call_id"],
            "function": { "name": item["name"], "arguments": arguments },
        });
        if self
            .turns
            .last()
            .is_none_or(|turn| turn["role"] != "assistant")
        {
            self.turns
                .push(json!({ "role": "assistant", "content": "" }));
        }
        let turn = self.turns.last_mut().expect("one was just made");
        if let Some(thinking) = self.thinking.take() {
            turn["thinking"] = thinking.into();
        }
        match turn["tool_calls"].as_array_mut() {
            Some(calls) => calls.push(call),
            None => turn["tool_calls"] = json!([call]),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Message>> {
        if let Some(thinking) = self.thinking.take() {
            self.turns
                .push(json!({ "role": "assistant", "content": "", "thinking": thinking }));
        }
        self.turns.into_iter().map(message).collect()
    }
}

/// The text and the images of a content, which is a text or a list of parts.
fn parts(content: &Json) -> Result<(String, Vec<String>)> {
    let list = match content {
        Json::String(text) => return Ok((text.clone(), Vec::new())),
        Json::Array(list) => list,
        Json::Null => return Ok(Default::default()),
        _ => return Err(Error::usage("content must be a string or a list of parts")),
    };
    let (mut text, mut images) = (String::new(), Vec::new());
    for part in list {
        match part["type"].as_str().unwrap_or_default() {
            "input_text" | "output_text" | "text" => {
                text += part["text"].as_str().unwrap_or_default();
            }
            "input_image" => {
                if let Some(url) = part["image_url"].as_str() {
                    images.push(image(url)?);
                }
            }
            "input_file" => {
                return Err(Error::usage("file inputs are not currently supported"));
            }
            other => return Err(Error::usage(format!("unknown content type: {other}"))),
        }
    }
    Ok((text, images))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::message;

    fn decoded(body: Json) -> Result<Vec<message::Message>> {
        let turn = request(body.as_object().unwrap())?;
        Ok(turn.input.unwrap().messages().to_vec())
    }

    #[test]
    fn items_become_a_conversation() {
        let messages = decoded(json!({ "model": "m", "instructions": "s", "input": [
            { "role": "user", "content": "hi" },
            { "type": "reasoning", "encrypted_content": "hm", "summary": [] },
            { "type": "function_call", "call_id": "c", "name": "f", "arguments": "{\"x\":1}" },
            { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "wait" }] },
            { "type": "function_call_output", "call_id": "c", "output": "ok" },
            { "role": "developer", "content": "d" },
        ]}))
        .unwrap();
        let roles: Vec<&str> = messages
            .iter()
            .map(|message| message.role.as_str())
            .collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "system"]);
        assert_eq!(messages[2].thinking.as_deref(), Some("hm"));
        assert_eq!(messages[2].content, "wait");
        assert_eq!(messages[2].tool_calls[0].name, "f");
    }

    #[test]
    fn invalid_items_are_refused_with_their_position() {
        for (body, words) in [
            (
                json!({ "model": "m", "previous_response_id": "r" }),
                "nothing is stored",
            ),
            (
                json!({ "model": "m", "input": [{}] }),
                "input[0]: input item missing required 'type' field",
            ),
            (
                json!({ "model": "m", "input": [{ "type": "mcp_call" }] }),
                "unknown input item type: \"mcp_call\"",
            ),
            (
                json!({ "model": "m", "input": 7 }),
                "input must be a string or a list",
            ),
            (
                json!({ "model": "m", "tools": [{ "type": "web_search" }] }),
                "web_search",
            ),
        ] {
            let error = decoded(body.clone()).unwrap_err().to_string();
            assert!(error.contains(words), "{body}: {error}");
        }
    }

    #[test]
    fn namespaces_stand_for_their_members() {
        let body = json!({ "model": "m", "tools": [{ "type": "namespace", "name": "a", "tools": [
            { "type": "function", "name": "f", "parameters": { "x": 1 } }, { "type": "function", "name": "a.g" }] }] });
        let turn = request(body.as_object().unwrap()).unwrap();
        let names: Vec<&str> = turn.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["a.f", "a.g"]);
        assert_eq!(turn.tools[0].parameters["x"], 1);
    }
}
