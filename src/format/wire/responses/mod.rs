//! Converts requests of OpenAI's Responses API to native requests.
//!
//! The server stores no responses: the client sends the whole conversation. Fields that need a store,
//! such as `previous_response_id`, are refused and not silently ignored.

mod custom_tools;
pub mod encode;
mod items;

use serde_json::{Map, Value as Json, json};

use custom_tools::custom;
use items::input;

use super::billing::without_billing;
use super::further;
use super::native::{self, decode};
use super::openai::{
    allow, answer_format, calls_max, effort_to_think, flag, function, integer, message, number,
    short, text,
};
use super::options::{from_json, not_obeyed};
use crate::core::error::{Error, Result};
use crate::core::turn::{Overflow, ToolChoice, TurnRequest};

/// Decodes a request.
///
/// # Errors
/// `Usage` for an invalid field, and for a reference to a stored conversation.
pub fn request(body: &Map<String, Json>) -> Result<TurnRequest> {
    for key in ["previous_response_id", "conversation", "prompt"] {
        if body.get(key).is_some_and(|value| !value.is_null()) {
            return Err(Error::usage(format!(
                "{key} is not supported: nothing is stored here; send the whole conversation as input"
            )));
        }
    }
    if flag(body, "background")? {
        let text =
            "background is not supported: an answer is sent on the connection that asked for it";
        return Err(Error::usage(text));
    }
    Ok(TurnRequest {
        stream: flag(body, "stream")?,
        ..conversation(body)?
    })
}

/// The fields that are read here or change nothing in an answer.
const FIELDS: &[&str] = &[
    "model",
    "input",
    "instructions",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "max_output_tokens",
    "reasoning",
    "text",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tool_calls",
    "truncation",
    "previous_response_id",
    "conversation",
    "prompt",
    "background",
    "metadata",
    "store",
    "include",
    "user",
    "service_tier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
];

/// Decodes only the conversation of a request, as token counting needs.
///
/// # Errors
/// `Usage` for an invalid field.
pub fn conversation(body: &Map<String, Json>) -> Result<TurnRequest> {
    let mut messages = Vec::new();
    let mut ignored = Vec::new();
    let instructions = without_billing(text(body, "instructions")?);
    if !instructions.is_empty() {
        messages.push(message(
            json!({ "role": "system", "content": instructions }),
        )?);
    }
    messages.extend(input(body.get("input"), &mut ignored)?);
    let effort = body
        .get("reasoning")
        .and_then(|reasoning| reasoning.get("effort"));
    let one =
        integer(body, "max_tool_calls")?.map(|most| usize::try_from(most.max(1)).unwrap_or(1));
    let model = text(body, "model")?;
    let options = options(body)?;
    ignored.extend(not_obeyed("", &options));
    let think = effort_to_think(effort)?;
    let mut tools = Vec::new();
    collect(body.get("tools"), "", (&mut tools, &mut ignored))?;
    let format = match body.get("text").and_then(|text| text.get("format")) {
        None | Some(Json::Null) => None,
        Some(given) => answer_format(given, "text.format")?,
    };
    let mut turn = TurnRequest {
        options: from_json(&options)?,
        think: native::think(think.as_ref())?,
        think_if_able: true,
        calls_max: calls_max(body)?.min(one.unwrap_or(usize::MAX)),
        constraint: decode::constraint(format.as_ref(), "")?,
        tools: tools.iter().map(native::tool).collect::<Result<_>>()?,
        tool_choice: ToolChoice::from_json(tool_choice(body.get("tool_choice")).as_ref())?,
        ..decode::truncating(model, decode::conversation(messages)?)
    };
    match text(body, "truncation")? {
        "" | "auto" => {}
        "disabled" => turn.overflow = Overflow::Error,
        other => {
            let text = format!(
                "truncation must be auto or disabled, not '{}'",
                short(other)
            );
            return Err(Error::usage(text));
        }
    }
    allow(&mut turn.tools, body.get("tool_choice"))?;
    turn.ignored = ignored;
    further::read(&mut turn, body, &[FIELDS])?;
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

fn tool_choice(given: Option<&Json>) -> Option<Json> {
    let given = given.filter(|choice| !choice.is_null())?;
    match given["type"].as_str() {
        None => Some(given.clone()),
        Some("function" | "custom") => Some(json!({ "function": { "name": given["name"] } })),
        Some("allowed_tools") => Some(given["mode"].clone()),
        // A tool that runs elsewhere and was left out cannot be called.
        Some(_) => None,
    }
}

/// Longest name of a function including its namespaces.
const NAME_BYTES_MAX: usize = 256;

/// Collects tools as native functions; a namespace is replaced by its members. Tools that would run on other servers are
/// left out and named.
fn collect(
    given: Option<&Json>,
    prefix: &str,
    (tools, ignored): (&mut Vec<Json>, &mut Vec<String>),
) -> Result<()> {
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
            "namespace" => {
                let prefix = format!("{whole}.");
                collect(tool.get("tools"), &prefix, (&mut *tools, &mut *ignored))?;
            }
            "function" => tools.push(function(tool, &whole, "parameters")),
            "custom" => {
                if !matches!(tool["format"]["type"].as_str(), None | Some("text")) {
                    ignored.push(format!("tools.{whole}.format"));
                }
                tools.push(custom(tool, &whole));
            }
            other => ignored.push(format!("tools.{other}")),
        }
    }
    Ok(())
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
            { "type": "reasoning", "encrypted_content": "puna:hm", "summary": [] },
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
                json!({ "model": "m", "input": [{ "type": "thing" }] }),
                "unknown input item type: \"thing\"",
            ),
            (
                json!({ "model": "m", "input": [{ "type": "item_reference", "id": "rs_1" }] }),
                "not stored here",
            ),
            (
                json!({ "model": "m", "input": 7 }),
                "input must be a string or a list",
            ),
            (
                json!({ "model": "m", "input": "x", "background": true }),
                "background is not supported",
            ),
            (
                json!({ "model": "m", "input": "x", "text": { "format": { "type": "xml" } } }),
                "text.format",
            ),
        ] {
            let error = decoded(body.clone()).unwrap_err().to_string();
            assert!(error.contains(words), "{body}: {error}");
        }
    }

    #[test]
    fn tools_of_other_servers_are_left_out_and_named() {
        let body = json!({ "model": "m", "tools": [
            { "type": "web_search" }, { "type": "local_shell" }, { "type": "custom", "name": "sh" },
            { "type": "function", "name": "f" }],
            "truncation": "disabled", "parallel_tool_calls": false, "top_k": 4, "background": false, "oddity": 1,
            "input": [
                { "type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "ls" },
                { "type": "custom_tool_call_output", "call_id": "c", "output": "a.txt" },
                { "type": "web_search_call", "id": "w" },
                { "type": "reasoning", "encrypted_content": "gAAAA", "summary": [{ "type": "summary_text", "text": "hm" }] },
            ] });
        let turn = request(body.as_object().unwrap()).unwrap();
        let names: Vec<&str> = turn.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["sh", "f"]);
        assert_eq!(
            turn.ignored,
            [
                "input.2.web_search_call",
                "tools.web_search",
                "tools.local_shell",
                "oddity"
            ]
        );
        assert_eq!((turn.overflow, turn.calls_max), (Overflow::Error, 1));
        assert_eq!(turn.options.int("top_k"), Some(4));
        let input = turn.input.unwrap();
        let messages = input.messages();
        assert_eq!(messages[0].tool_calls[0].arguments, "{\"input\":\"ls\"}");
        assert_eq!(messages[1].content, "a.txt");
        assert_eq!(messages[2].thinking.as_deref(), Some("hm"));
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
