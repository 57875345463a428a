//! Converts requests of Anthropic's Messages API to native requests.

pub mod encode;

use serde_json::{Map, Value as Json, json};

use super::native::{self, Message, decode};
use super::openai::{flag, function, integer, list, message, no_web_search, number, text};
use super::options::from_json;
use crate::core::error::{Error, Result};
use crate::core::turn::{ToolChoice, TurnRequest};

/// Decodes a request.
///
/// # Errors
/// `Usage` for the first invalid field, in the reference's order.
pub fn messages(body: &Map<String, Json>) -> Result<TurnRequest> {
    if text(body, "model")?.is_empty() {
        return Err(Error::usage("model is required"));
    }
    let limit = integer(body, "max_tokens")?.filter(|limit| *limit > 0);
    let Some(limit) = limit else {
        return Err(Error::usage("max_tokens is required and must be positive"));
    };
    let mut turn = conversation(body)?;
    let limit = Map::from_iter([("num_predict".to_string(), Json::from(limit))]);
    turn.options.overlay(&from_json(&limit)?);
    turn.stream = flag(body, "stream")?;
    Ok(turn)
}

/// Decodes a request without `max_tokens`, as token counting needs.
///
/// # Errors
/// `Usage` for an invalid field.
pub fn conversation(body: &Map<String, Json>) -> Result<TurnRequest> {
    let given = list(body, "messages")?;
    if given.is_empty() {
        return Err(Error::usage("messages is required"));
    }
    let mut messages = Vec::new();
    let system = system(body.get("system"));
    if !system.is_empty() {
        messages.push(message(json!({ "role": "system", "content": system }))?);
    }
    for one in given {
        messages.extend(turn(one)?);
    }
    let tools = list(body, "tools")?.iter().map(tool);
    let tools = tools.collect::<Result<Vec<_>>>()?;
    let model = text(body, "model")?;
    let options = options(body)?;
    let turn = TurnRequest {
        options: from_json(&options)?,
        think: native::think(think(body).as_ref())?,
        think_if_able: true,
        constraint: decode::constraint(schema(body).as_ref(), "")?,
        tools: tools.iter().map(native::tool).collect::<Result<_>>()?,
        tool_choice: ToolChoice::from_json(tool_choice(body.get("tool_choice")).as_ref())?,
        ..decode::truncating(model, decode::conversation(messages)?)
    };
    Ok(turn)
}

fn system(given: Option<&Json>) -> String {
    match given {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(blocks)) => blocks
            .iter()
            .filter(|block| block["type"] == "text")
            .filter_map(|block| block["text"].as_str())
            .collect(),
        _ => String::new(),
    }
}

fn options(body: &Map<String, Json>) -> Result<Map<String, Json>> {
    let mut options = Map::new();
    for key in ["temperature", "top_p"] {
        if let Some(value) = number(body, key)? {
            options.insert(key.into(), json!(value));
        }
    }
    if let Some(value) = integer(body, "top_k")? {
        options.insert("top_k".into(), json!(value));
    }
    let thinking = body
        .get("thinking")
        .filter(|thinking| thinking["type"] == "enabled");
    if let Some(tokens) = thinking.and_then(|thinking| thinking["budget_tokens"].as_u64()) {
        options.insert("reasoning_budget".into(), json!(tokens.min(1 << 30)));
    }
    let stops = list(body, "stop_sequences")?;
    if !stops.iter().all(Json::is_string) {
        return Err(Error::usage("stop_sequences must be a list of strings"));
    }
    if !stops.is_empty() {
        options.insert("stop".into(), json!(stops));
    }
    Ok(options)
}

/// The native `think`: from `thinking`, else from `output_config.effort`.
fn think(body: &Map<String, Json>) -> Option<Json> {
    match body
        .get("thinking")
        .and_then(|thinking| thinking["type"].as_str())
    {
        Some("enabled") => return Some(true.into()),
        Some("disabled") => return Some(false.into()),
        _ => {}
    }
    let config = body.get("output_config")?;
    let effort = config["effort"].as_str()?.trim().to_lowercase();
    match effort.as_str() {
        "low" | "medium" | "high" | "max" => Some(effort.into()),
        "xhigh" => Some("high".into()),
        _ => None,
    }
}

fn schema(body: &Map<String, Json>) -> Option<Json> {
    let format = &body.get("output_config")?["format"];
    let schema = format.get("schema").filter(|schema| schema.is_object());
    (format["type"] == "json_schema").then(|| schema.cloned())?
}

fn tool_choice(given: Option<&Json>) -> Option<Json> {
    match given?["type"].as_str()? {
        "any" => Some("required".into()),
        "tool" => Some(json!({ "function": { "name": given?["name"] } })),
        word @ ("auto" | "none") => Some(word.into()),
        _ => None,
    }
}

/// A tool as a native function, with its schema unchanged.
fn tool(tool: &Json) -> Result<Json> {
    let kind = tool["type"].as_str().unwrap_or_default();
    if kind.starts_with("web_search") {
        return Err(no_web_search());
    }
    let name = tool["name"].as_str().unwrap_or_default();
    Ok(function(tool, name, "input_schema"))
}

/// A message as native ones: its tool results become separate messages, before it if the role is
/// `user`, else after it.
fn turn(given: &Json) -> Result<Vec<Message>> {
    let role = given["role"].as_str().unwrap_or_default().to_lowercase();
    let blocks = match &given["content"] {
        Json::String(text) => {
            let plain = message(json!({ "role": role, "content": text }))?;
            return Ok(vec![plain]);
        }
        Json::Array(blocks) => blocks,
        Json::Null => return Ok(Vec::new()),
        _ => return Err(Error::usage("content must be a string or a list of blocks")),
    };
    let (mut content, mut thinking) = (String::new(), None);
    let (mut images, mut calls, mut results) = (Vec::new(), Vec::new(), Vec::new());
    for block in blocks {
        match block["type"].as_str().unwrap_or_default() {
            "text" => content += block["text"].as_str().unwrap_or_default(),
            "thinking" => thinking = block["thinking"].as_str(),
            "image" => images.push(image(block)?),
            "tool_use" => calls.push(call(block)?),
            "tool_result" => results.push(result(block)?),
            _ => {} // Documents and other block types are not supported in prompts.
        }
    }
    let speaks =
        !(content.is_empty() && images.is_empty() && calls.is_empty() && thinking.is_none());
    let own = message(json!({
        "role": role,
        "content": content,
        "thinking": thinking,
        "images": images,
        "tool_calls": calls,
    }))?;
    let own = speaks.then_some(own);
    Ok(match role.as_str() {
        "user" => results.into_iter().chain(own).collect(),
        _ => own.into_iter().chain(results).collect(),
    })
}

fn image(block: &Json) -> Result<String> {
    let source = &block["source"];
    match source["type"].as_str() {
        Some("base64") => Ok(source["data"].as_str().unwrap_or_default().to_string()),
        Some(other) => Err(Error::usage(format!(
            "invalid image source type: {other}. Only base64 images are supported."
        ))),
        None => Err(Error::usage("invalid image source")),
    }
}

fn call(block: &Json) -> Result<Json> {
    for field in ["id", "name"] {
        if block[field].as_str().unwrap_or_default().is_empty() {
            let text = format!("tool_use block missing required '{field}' field");
            return Err(Error::usage(text));
        }
    }
    let input = block.get("input").filter(|input| input.is_object());
    let arguments = input.cloned().unwrap_or_else(|| json!({}));
    Ok(json!({ "id": block["id"], "function": { "name": block["name"], "arguments": arguments } }))
}

fn result(block: &Json) -> Result<Message> {
    let mut images = Vec::new();
    let content = match &block["content"] {
        Json::String(text) => text.clone(),
        Json::Array(inner) => {
            let pictures = inner.iter().filter(|block| block["type"] == "image");
            images = pictures.map(image).collect::<Result<Vec<_>>>()?;
            let texts = inner.iter().filter_map(|block| block["text"].as_str());
            texts.collect()
        }
        _ => String::new(),
    };
    let failed = block["is_error"] == true;
    message(json!({
        "role": "tool",
        "tool_call_id": block["tool_use_id"],
        "images": images,
        // Templates have no field for a failed result, so the text reports the failure.
        "content": if failed { format!("Error: {content}") } else { content },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_messages_with_their_calls_and_results() {
        let body = json!({
            "model": "m", "max_tokens": 9, "system": [{ "type": "text", "text": "s" }],
            "messages": [
                { "role": "user", "content": "hi" },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "hm", "signature": "" },
                    { "type": "tool_use", "id": "t1", "name": "f", "input": { "x": 1 } }] },
                { "role": "user", "content": [
                    { "type": "text", "text": "so?" },
                    { "type": "tool_result", "tool_use_id": "t1", "is_error": true, "content": "no" }] },
            ],
        });
        let turn = messages(body.as_object().unwrap()).unwrap();
        assert!(!turn.stream);
        let input = turn.input.unwrap();
        let parsed = input.messages();
        let roles: Vec<&str> = parsed.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        assert_eq!(parsed[2].thinking.as_deref(), Some("hm"));
        assert_eq!(parsed[2].tool_calls[0].arguments, "{\"x\":1}");
        assert_eq!(parsed[3].content, "Error: no");
        assert_eq!(turn.options.int("num_predict"), Some(9));
    }

    #[test]
    fn missing_fields_are_named_in_order() {
        let wrong = |body: Json| messages(body.as_object().unwrap()).unwrap_err().to_string();
        assert_eq!(wrong(json!({})), "model is required");
        let text = "max_tokens is required and must be positive";
        assert_eq!(wrong(json!({ "model": "m", "max_tokens": 0 })), text);
        assert_eq!(
            wrong(json!({ "model": "m", "max_tokens": 1 })),
            "messages is required"
        );
    }
}
