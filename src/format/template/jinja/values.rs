//! JSON and tools as values of minijinja.

use minijinja::context;
use minijinja::value::Value;

use crate::core::message::Tool;

pub fn tool_value(tool: &Tool) -> Value {
    let mut function = vec![("name", Value::from(tool.name.as_str()))];
    if !tool.description.is_empty() {
        function.push(("description", tool.description.as_str().into()));
    }
    function.push(("parameters", from_json(&tool.parameters)));
    context! { type => "function", function => Value::from_pairs(function) }
}

pub fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(value) => Value::from(value),
            None => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(fields) => Value::from_pairs(
            fields
                .iter()
                .map(|(key, value)| (key.clone(), from_json(value))),
        ),
    }
}
