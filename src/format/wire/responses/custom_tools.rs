//! Tools that take text in place of arguments, as functions with one parameter.

use serde_json::{Value as Json, json};

/// The parameter that the text for a custom tool stands in.
pub const CUSTOM_INPUT: &str = "input";

/// A tool that takes text, as a function with one parameter.
pub fn custom(tool: &Json, name: &str) -> Json {
    let parameters = json!({
        "type": "object",
        "properties": { CUSTOM_INPUT: { "type": "string" } },
        "required": [CUSTOM_INPUT],
    });
    json!({ "type": "function", "function": {
        "name": name,
        "description": tool["description"].as_str().unwrap_or_default(),
        "parameters": parameters,
    }})
}

/// The text for a custom tool in the arguments of its call.
pub fn custom_input(arguments: &str) -> String {
    let arguments: Json = serde_json::from_str(arguments).unwrap_or_default();
    arguments[CUSTOM_INPUT]
        .as_str()
        .unwrap_or_default()
        .to_string()
}
