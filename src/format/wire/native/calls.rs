//! Tool calls in the native API's JSON.

use serde_json::{Value as Json, json};

use crate::core::message::ToolCall;

/// A tool call in the wire format; `index` counts the calls of one answer.
pub fn call_json(call: &ToolCall, index: usize) -> Json {
    let arguments: Json = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
    let function = json!({ "index": index, "name": call.name, "arguments": arguments });
    match &call.id {
        Some(id) => json!({ "id": id, "function": function }),
        None => json!({ "function": function }),
    }
}

/// Reads the arguments of a call: an object, or one in JSON as text. Nothing stands for none, and what is no JSON stays
/// text.
pub fn arguments(given: &Json) -> Json {
    let read = match given {
        Json::String(text) if text.trim().is_empty() => Json::Null,
        Json::String(text) => serde_json::from_str(text).unwrap_or_else(|_| given.clone()),
        other => other.clone(),
    };
    match read {
        Json::Null => json!({}),
        read => read,
    }
}

/// Reads a tool call; missing fields become empty, and arguments in JSON as text are read.
pub fn tool_call(json: &Json) -> ToolCall {
    let function = &json["function"];
    ToolCall {
        id: json["id"].as_str().map(str::to_string),
        name: function["name"].as_str().unwrap_or_default().to_string(),
        arguments: arguments(&function["arguments"]).to_string(),
    }
}
