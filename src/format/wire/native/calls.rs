//! Tool calls in the native API's JSON.

use serde_json::{Map, Value as Json, json};

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

/// Reads a tool call; missing fields become empty, and arguments in JSON as text are read.
pub fn tool_call(json: &Json) -> ToolCall {
    let function = &json["function"];
    let arguments = match &function["arguments"] {
        Json::Null => Json::Object(Map::new()),
        Json::String(text) => match serde_json::from_str(text) {
            Ok(object @ Json::Object(_)) => object,
            _ if text.trim().is_empty() => Json::Object(Map::new()),
            _ => text.as_str().into(),
        },
        other => other.clone(),
    };
    ToolCall {
        id: json["id"].as_str().map(str::to_string),
        name: function["name"].as_str().unwrap_or_default().to_string(),
        arguments: arguments.to_string(),
    }
}
