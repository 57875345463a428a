//! Converts requests of Anthropic's Messages API to native requests.

pub mod encode;

use serde_json::{Map, Value as Json, json};

use super::billing::without_billing;
use super::fields::unknown;
use super::further;
use super::native::{self, Message, decode};
use super::openai::{
    answer_format, arguments, flag, function, integer, list, message, number, short, text,
};
use super::options::{from_json, not_obeyed};
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
    let (mut messages, mut ignored) = (Vec::new(), Vec::new());
    let system = system(body.get("system"))?;
    if !system.is_empty() {
        messages.push(message(json!({ "role": "system", "content": system }))?);
    }
    for (index, one) in given.iter().enumerate() {
        let wrong = |error: Error| Error::usage(format!("messages.{index}: {error}"));
        messages.extend(turn(one, (index, &mut ignored)).map_err(wrong)?);
        let names = unknown(one, &["role", "content", "cache_control"]);
        ignored.extend(names.map(|name| format!("messages.{index}.{name}")));
    }
    let mut tools = Vec::new();
    for given in list(body, "tools")? {
        match tool(given) {
            Some(tool) => tools.push(tool),
            None => ignored.push(format!(
                "tools.{}",
                given["type"].as_str().unwrap_or_default()
            )),
        }
    }
    let model = text(body, "model")?;
    let options = options(body)?;
    ignored.extend(not_obeyed("", &options));
    let choice = body.get("tool_choice");
    let one = choice.is_some_and(|choice| choice["disable_parallel_tool_use"] == true);
    let mut turn = TurnRequest {
        options: from_json(&options)?,
        think: native::think(think(body)?.as_ref())?,
        think_if_able: true,
        calls_max: if one { 1 } else { usize::MAX },
        constraint: decode::constraint(schema(body)?.as_ref(), "")?,
        tools: tools.iter().map(native::tool).collect::<Result<_>>()?,
        tool_choice: ToolChoice::from_json(tool_choice(choice)?.as_ref())?,
        ..decode::truncating(model, decode::conversation(messages)?)
    };
    turn.ignored = ignored;
    further::read(&mut turn, body, &[FIELDS])?;
    Ok(turn)
}

/// The fields that are read here or change nothing in an answer.
const FIELDS: &[&str] = &[
    "model",
    "max_tokens",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "stream",
    "thinking",
    "output_config",
    "output_format",
    "metadata",
    "service_tier",
    "betas",
];

/// The system text: all its blocks but those that only count requests, a line each at least.
fn system(given: Option<&Json>) -> Result<String> {
    let text = |block: &Json| match (block, &block["text"]) {
        (Json::String(text), _) | (_, Json::String(text)) => Ok(without_billing(text).to_string()),
        _ => Err(Error::usage(
            "system must be a string or a list of text blocks",
        )),
    };
    match given {
        None | Some(Json::Null) => Ok(String::new()),
        Some(Json::Array(blocks)) => {
            let texts = blocks.iter().map(text).collect::<Result<Vec<_>>>()?;
            let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
            Ok(texts.join("\n"))
        }
        Some(block) => text(block),
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
fn think(body: &Map<String, Json>) -> Result<Option<Json>> {
    let thinking = body.get("thinking").filter(|thinking| !thinking.is_null());
    match thinking.map(|thinking| thinking["type"].as_str()) {
        Some(Some("enabled")) => return Ok(Some(true.into())),
        Some(Some("disabled")) => return Ok(Some(false.into())),
        // The model decides how much.
        None | Some(Some("adaptive")) => {}
        Some(_) => {
            return Err(Error::usage(
                "thinking.type must be enabled, disabled or adaptive",
            ));
        }
    }
    let effort = body.get("output_config").map(|config| &config["effort"]);
    match effort.filter(|effort| !effort.is_null()) {
        None => Ok(None),
        Some(effort) => {
            let word = effort.as_str().unwrap_or_default().trim().to_lowercase();
            match word.as_str() {
                "low" | "medium" | "high" | "max" => Ok(Some(word.into())),
                "xhigh" => Ok(Some("high".into())),
                _ => Err(Error::usage(
                    "output_config.effort must be low, medium, high, xhigh or max",
                )),
            }
        }
    }
}

/// The schema of the answer, under its present name or the older one.
fn schema(body: &Map<String, Json>) -> Result<Option<Json>> {
    let present = body.get("output_config").map(|config| &config["format"]);
    let given = [
        (present, "output_config.format"),
        (body.get("output_format"), "output_format"),
    ];
    for (format, field) in given {
        if let Some(format) = format.filter(|format| !format.is_null()) {
            return answer_format(format, field);
        }
    }
    Ok(None)
}

fn tool_choice(given: Option<&Json>) -> Result<Option<Json>> {
    let Some(given) = given.filter(|choice| !choice.is_null()) else {
        return Ok(None);
    };
    match given["type"].as_str() {
        Some("any") => Ok(Some("required".into())),
        Some("tool") => Ok(Some(json!({ "function": { "name": given["name"] } }))),
        Some(word @ ("auto" | "none")) => Ok(Some(word.into())),
        _ => Err(Error::usage(
            "tool_choice.type must be auto, any, tool or none",
        )),
    }
}

/// A tool as a native function, with its schema unchanged. `None` for one that runs on other servers, or whose
/// parameters only its maker knows.
fn tool(tool: &Json) -> Option<Json> {
    let kind = tool["type"].as_str().unwrap_or("custom");
    let name = tool["name"].as_str().unwrap_or_default();
    if tool["input_schema"].is_object() || kind == "custom" {
        return Some(function(tool, name, "input_schema"));
    }
    let properties = match kind.split('_').next() {
        Some("bash") => json!({
            "command": { "type": "string", "description": "The command to run." },
            "restart": { "type": "boolean", "description": "Start the shell anew." },
        }),
        Some("text") if kind.starts_with("text_editor") => json!({
            "command": { "type": "string", "enum": ["view", "create", "str_replace", "insert"] },
            "path": { "type": "string" },
            "file_text": { "type": "string", "description": "For create: the text of the file." },
            "old_str": { "type": "string", "description": "For str_replace: the text to replace." },
            "new_str": { "type": "string", "description": "For str_replace: its replacement." },
            "insert_line": { "type": "integer", "description": "For insert: the line to insert behind." },
            "insert_text": { "type": "string", "description": "For insert: the text." },
            "view_range": { "type": "array", "items": { "type": "integer" } },
        }),
        _ => return None,
    };
    let schema = json!({ "type": "object", "properties": properties });
    let described = json!({ "input_schema": schema, "description": tool["description"] });
    Some(function(&described, name, "input_schema"))
}

/// A message as native ones: its tool results become separate messages, before it if the role is
/// `user`, else after it.
fn turn(given: &Json, (index, ignored): (usize, &mut Vec<String>)) -> Result<Vec<Message>> {
    let role = given["role"].as_str().unwrap_or_default().to_lowercase();
    if !matches!(role.as_str(), "user" | "assistant" | "system") {
        let text = format!("role must be user or assistant, not '{}'", short(&role));
        return Err(Error::usage(text));
    }
    let blocks = match &given["content"] {
        Json::String(text) => {
            let plain = message(json!({ "role": role, "content": text }))?;
            return Ok(vec![plain]);
        }
        Json::Array(blocks) => blocks,
        Json::Null => return Ok(Vec::new()),
        _ => return Err(Error::usage("content must be a string or a list of blocks")),
    };
    let (mut texts, mut thinking) = (Vec::new(), None);
    let (mut images, mut calls, mut results) = (Vec::new(), Vec::new(), Vec::new());
    for block in blocks {
        match block["type"].as_str().unwrap_or_default() {
            "thinking" => thinking = block["thinking"].as_str(),
            "image" => images.push(image(block)?),
            "tool_use" => calls.push(call(block)?),
            "tool_result" => results.push(result(block)?),
            // A thought of another model that only that can read.
            "redacted_thinking" => {}
            kind if ELSEWHERE.iter().any(|start| kind.starts_with(start)) => {
                ignored.push(format!("messages.{index}.{kind}"));
            }
            _ => texts.push(text_of(block)?),
        }
    }
    let content = texts.join("\n");
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

/// The beginnings of the types of blocks that tools on other servers left.
const ELSEWHERE: &[&str] = &[
    "server_tool_use",
    "web_",
    "mcp_",
    "code_execution_",
    "bash_code_",
    "text_editor_code_",
    "container_upload",
    "tool_search_",
    "advisor_",
];

/// The text of a block: plain text, a document in plain text, or a result of a search with its title.
///
/// # Errors
/// `Usage` for any other block: what it says would be missing in the prompt.
fn text_of(block: &Json) -> Result<String> {
    let titled = |text: &str| match block["title"].as_str() {
        Some(title) => format!("{title}\n{text}"),
        None => text.to_string(),
    };
    let joined = |blocks: &Json| -> Result<String> {
        let blocks = blocks.as_array().into_iter().flatten();
        Ok(blocks.map(text_of).collect::<Result<Vec<_>>>()?.join("\n"))
    };
    match (block, block["type"].as_str()) {
        (Json::String(text), _) => Ok(text.clone()),
        (_, None | Some("text")) => match &block["text"] {
            Json::String(text) => Ok(text.clone()),
            _ => Err(Error::usage("a text block needs its text as a string")),
        },
        (_, Some("document")) => {
            let source = &block["source"];
            match (source["type"].as_str(), source["data"].as_str()) {
                (Some("text"), Some(text)) => Ok(titled(text)),
                (Some("content"), _) => match &source["content"] {
                    Json::String(text) => Ok(titled(text)),
                    blocks => Ok(titled(&joined(blocks)?)),
                },
                _ => Err(Error::usage(
                    "a document must be plain text: PDF files are not read here",
                )),
            }
        }
        (_, Some("search_result")) => Ok(titled(&joined(&block["content"])?)),
        (_, Some(other)) => Err(Error::usage(format!(
            "unknown content block of type '{}'",
            short(other)
        ))),
    }
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
    let arguments = arguments(&block["input"])?;
    Ok(json!({ "id": block["id"], "function": { "name": block["name"], "arguments": arguments } }))
}

fn result(block: &Json) -> Result<Message> {
    let mut images = Vec::new();
    let content = match &block["content"] {
        Json::String(text) => text.clone(),
        Json::Array(inner) => {
            let (pictures, rest): (Vec<&Json>, Vec<&Json>) =
                inner.iter().partition(|block| block["type"] == "image");
            images = pictures
                .into_iter()
                .map(image)
                .collect::<Result<Vec<_>>>()?;
            let rest = rest
                .into_iter()
                .filter(|block| block["type"] != "tool_reference");
            rest.map(text_of).collect::<Result<Vec<_>>>()?.join("\n")
        }
        Json::Null => String::new(),
        _ => {
            return Err(Error::usage(
                "tool_result.content must be a string or a list of blocks",
            ));
        }
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
    fn nothing_that_a_client_says_is_lost_in_silence() {
        let with = |key: &str, value: Json| {
            let mut body = json!({ "model": "m", "max_tokens": 9, "messages": [{ "role": "user", "content": "x" }] });
            body[key] = value;
            messages(body.as_object().unwrap())
        };
        let first = |turn: TurnRequest| turn.input.unwrap().messages()[0].content.clone();
        let header = "x-anthropic-billing-header: cc_version=2.1; cch=aaaaa;";
        let system =
            json!([{ "type": "text", "text": header }, { "type": "text", "text": "a" }, "b"]);
        assert_eq!(first(with("system", system).unwrap()), "a\nb");
        let blocks = json!([{ "role": "user", "content": [
            { "type": "text", "text": "a" }, "b",
            { "type": "document", "title": "T", "source": { "type": "text", "data": "c" } },
            { "type": "search_result", "title": "S", "content": [{ "type": "text", "text": "d" }] },
            { "type": "server_tool_use", "id": "s" }] }]);
        let turn = with("messages", blocks).unwrap();
        assert_eq!(turn.ignored, ["messages.0.server_tool_use"]);
        assert_eq!(first(turn), "a\nb\nT\nc\nS\nd");
        let tools = json!([{ "type": "web_search_20250305", "name": "web_search" },
            { "type": "bash_20250124", "name": "bash" }, { "name": "f", "input_schema": { "type": "object" } }]);
        let turn = with("tools", tools).unwrap();
        assert_eq!(turn.ignored, ["tools.web_search_20250305"]);
        assert!(turn.tools[0].parameters["properties"]["command"].is_object());
        let choice = json!({ "type": "auto", "disable_parallel_tool_use": true });
        assert_eq!(with("tool_choice", choice).unwrap().calls_max, 1);
        let schema = json!({ "type": "json_schema", "schema": { "type": "object" } });
        assert_ne!(
            with("output_format", schema).unwrap().constraint,
            crate::core::turn::OutputConstraint::None
        );
        let pdf = json!([{ "role": "user", "content": [{ "type": "document", "source": { "type": "base64" } }] }]);
        for (key, wrong) in [
            ("messages", pdf),
            (
                "messages",
                json!([{ "role": "user", "content": [{ "type": "odd" }] }]),
            ),
            ("messages", json!([{ "role": "robot", "content": "x" }])),
            ("output_config", json!({ "format": { "type": "json" } })),
            ("output_config", json!({ "effort": "loud" })),
            ("thinking", json!({ "type": "loud" })),
            ("tool_choice", json!({ "type": "loud" })),
            ("system", json!([{ "type": "image" }])),
        ] {
            assert!(with(key, wrong.clone()).is_err(), "{key}: {wrong}");
        }
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
