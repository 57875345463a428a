//! The form that an answer must have: its format, and the calls in it.

use serde_json::{Map, Value as Json};

use crate::core::error::{Error, Result};
use crate::core::message::Tool;
use crate::format::wire::fields::{flag, short};

/// One call if `parallel_tool_calls` is false.
///
/// # Errors
/// `Usage` for any other type.
pub fn calls_max(body: &Map<String, Json>) -> Result<usize> {
    let one = body.get("parallel_tool_calls") == Some(&Json::Bool(false));
    flag(body, "parallel_tool_calls")?;
    Ok(if one { 1 } else { usize::MAX })
}

/// Keeps only the tools that a choice allows.
///
/// # Errors
/// `Usage` if it names one that is not there.
pub fn allow(tools: &mut Vec<Tool>, choice: Option<&Json>) -> Result<()> {
    let choice = choice.filter(|choice| choice["type"] == "allowed_tools");
    let Some(choice) = choice else { return Ok(()) };
    let inner = choice.get("allowed_tools").unwrap_or(choice);
    let listed = inner["tools"].as_array().into_iter().flatten();
    let name = |tool: &Json| {
        tool["function"]["name"]
            .as_str()
            .or(tool["name"].as_str())
            .map(str::to_string)
    };
    let names: Vec<String> = listed.filter_map(name).collect();
    if let Some(name) = names
        .iter()
        .find(|name| tools.iter().all(|tool| tool.name != **name))
    {
        return Err(Error::usage(format!(
            "tool_choice names '{}', which is not among the tools",
            short(name)
        )));
    }
    tools.retain(|tool| names.contains(&tool.name));
    Ok(())
}

/// The native format of `response_format`.
///
/// # Errors
/// As [`answer_format`].
pub fn format(body: &Map<String, Json>) -> Result<Option<Json>> {
    match body.get("response_format") {
        None | Some(Json::Null) => Ok(None),
        Some(given) => answer_format(given, "response_format"),
    }
}

/// The native format of a description of the answer: `{"type": "json_schema", …}`, with the schema inside
/// `json_schema` or beside `type`; `field` is where it stands.
///
/// # Errors
/// `Usage` for any other kind: an answer in another form than the one asked for would be wrong.
pub fn answer_format(given: &Json, field: &str) -> Result<Option<Json>> {
    let wrong = |what: &str| Err(Error::usage(format!("{field}: {what}")));
    let Json::Object(fields) = given else {
        return wrong("must be an object with a type");
    };
    let kind = given["type"]
        .as_str()
        .unwrap_or_default()
        .trim()
        .to_lowercase();
    let inner = given["json_schema"].get("schema");
    let schema = inner
        .or(fields.get("schema"))
        .filter(|schema| !schema.is_null());
    match (kind.as_str(), schema) {
        ("" | "text", _) => Ok(None),
        ("json_object", None) => Ok(Some("json".into())),
        ("json_object" | "json_schema", Some(schema @ Json::Object(_))) => Ok(Some(schema.clone())),
        ("json_schema", None) => wrong("has no schema"),
        ("json_object" | "json_schema", Some(_)) => wrong("its schema must be an object"),
        (other, _) => wrong(&format!(
            "must be of type text, json_object or json_schema, not '{}'",
            short(other)
        )),
    }
}

/// OpenAI's `tool_choice` as the native one.
pub fn tool_choice(body: &Map<String, Json>) -> Option<Json> {
    let choice = body.get("tool_choice").filter(|choice| !choice.is_null())?;
    match choice["type"].as_str() {
        // A choice among the listed tools; the closest native mode is a choice among all.
        Some("allowed_tools") => Some(choice["allowed_tools"]["mode"].clone()),
        _ => Some(choice.clone()),
    }
}
