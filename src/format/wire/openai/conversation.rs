//! Converts OpenAI's messages to native ones: parts, calls, results and images.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use crate::core::error::{Error, Result};
use crate::format::wire::fields::{kind, short, unknown, wrong};
use crate::format::wire::native::{self, Message};

/// Converts a list of messages.
///
/// # Errors
/// `Usage` for a message with invalid content or an invalid call.
pub fn messages(list: &[Json]) -> Result<Vec<Message>> {
    // If several calls share an id, the last one gives the tool's name.
    let named = |call: &'_ Json| {
        let name = call["function"]["name"].as_str()?;
        Some((call["id"].as_str()?.to_string(), name.to_string()))
    };
    let calls = list
        .iter()
        .filter_map(|message| message["tool_calls"].as_array());
    let calls: HashMap<String, String> = calls.flatten().filter_map(named).collect();
    list.iter()
        .map(|message| one_message(message, &calls))
        .collect()
}

/// The fields of messages that have no place in a prompt, as `messages.INDEX.NAME`.
pub fn unknown_fields(list: &[Json]) -> impl Iterator<Item = String> {
    list.iter().enumerate().flat_map(|(index, message)| {
        // The name of a tool is read; a person's has no place in a template.
        let is_result = matches!(message["role"].as_str(), Some("tool" | "function"));
        let names = unknown(message, FIELDS).filter(move |name| *name != "name" || !is_result);
        names.map(move |name| format!("messages.{index}.{name}"))
    })
}

/// The fields of a message that are read here or change nothing in an answer.
const FIELDS: &[&str] = &[
    "role",
    "content",
    "refusal",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "reasoning",
    "reasoning_content",
    "reasoning_details",
    "thinking",
    "annotations",
    "audio",
    "cache_control",
];

fn one_message(given: &Json, calls: &HashMap<String, String>) -> Result<Message> {
    let role = given["role"].as_str().unwrap_or_default().to_lowercase();
    let role = match role.as_str() {
        "developer" => "system".to_string(),
        // The older names of tools and their results.
        "function" => "tool".to_string(),
        "system" | "user" | "assistant" | "tool" => role,
        other => {
            let text = format!(
                "unknown role '{}': it must be system, user, assistant or tool",
                short(other)
            );
            return Err(Error::usage(text));
        }
    };
    let (content, images) = match &given["content"] {
        Json::String(text) => (text.clone(), Vec::new()),
        Json::Array(parts) => parts_of(parts)?,
        Json::Null => {
            let refusal = given["refusal"].as_str().unwrap_or_default();
            (refusal.to_string(), Vec::new())
        }
        other => {
            let text = format!("invalid message content type: {}", kind(other));
            return Err(Error::usage(text));
        }
    };
    let id = given["tool_call_id"].as_str().unwrap_or_default();
    let name = given["name"].as_str().filter(|_| role == "tool");
    let name = name.or_else(|| calls.get(id).map(String::as_str));
    let thinking = given["reasoning"]
        .as_str()
        .or(given["reasoning_content"].as_str())
        .or(given["thinking"].as_str());
    let older = given
        .get("function_call")
        .filter(|call| call.is_object())
        .map(|call| json!({ "function": call }));
    let own = given["tool_calls"].as_array().into_iter().flatten();
    let own = own.chain(&older);
    message(json!({
        "role": role,
        "content": content,
        "images": images,
        "thinking": thinking,
        "tool_calls": own.map(native_call).collect::<Result<Vec<_>>>()?,
        "tool_name": name,
        "tool_call_id": id,
    }))
}

/// Builds a message of the native API from its fields.
///
/// # Errors
/// If a field has the wrong type.
pub fn message(fields: Json) -> Result<Message> {
    serde_json::from_value(fields)
        .map_err(|error| Error::usage(format!("invalid message: {error}")))
}

/// Converts a call to the native form, whose arguments are an object.
fn native_call(call: &Json) -> Result<Json> {
    let function = &call["function"];
    Ok(json!({
        "id": call["id"],
        "function": { "name": function["name"], "arguments": arguments(&function["arguments"])? },
    }))
}

/// The arguments of a call: an object, or its JSON as text; nothing at all means none.
///
/// # Errors
/// `Usage` for anything else.
pub fn arguments(given: &Json) -> Result<Json> {
    match native::arguments(given) {
        object @ Json::Object(_) => Ok(object),
        _ => Err(Error::usage("invalid tool call arguments")),
    }
}

/// The joined text of all parts, and their images.
fn parts_of(parts: &[Json]) -> Result<(String, Vec<String>)> {
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for part in parts {
        let text = |key: &str| match &part[key] {
            Json::String(text) => Ok(text.as_str()),
            Json::Null => Ok(""),
            other => Err(wrong(key, "a string", other)),
        };
        match (part, part["type"].as_str()) {
            (Json::String(text), _) => texts.push(text.as_str()),
            (_, Some("text" | "input_text" | "output_text")) => texts.push(text("text")?),
            (_, None) if part["text"].is_string() => texts.push(text("text")?),
            (_, Some("refusal")) => texts.push(text("refusal")?),
            // What a model thought in an earlier turn is no part of what it said.
            (_, Some("thinking" | "reasoning" | "redacted_thinking")) => {}
            (_, Some("image_url")) => {
                let url = part["image_url"]["url"]
                    .as_str()
                    .or(part["image_url"].as_str());
                images.push(image(url.unwrap_or_default())?);
            }
            (_, Some("input_audio")) => {
                let data = part["input_audio"]["data"].as_str();
                images.push(data.unwrap_or_default().to_string());
            }
            (_, Some(other)) => {
                let text = format!("unknown content part of type '{}'", short(other));
                return Err(Error::usage(text));
            }
            (_, None) => return Err(Error::usage("invalid message format")),
        }
    }
    Ok((texts.join("\n"), images))
}

/// The base64 data of an image in a data URL.
///
/// # Errors
/// `Usage` for any other URL: images are never downloaded.
pub fn image(url: &str) -> Result<String> {
    if url.starts_with("http://") || url.starts_with("https://") {
        return Err(Error::usage(
            "image URLs are not currently supported, please use base64 encoded data instead",
        ));
    }
    let known = ["image/jpeg", "image/jpg", "image/png", "image/webp", ""];
    let data = url
        .strip_prefix("data:")
        .and_then(|rest| rest.split_once(";base64,"));
    match data {
        Some((kind, data)) if known.contains(&kind) => Ok(data.to_string()),
        _ => Err(Error::usage("invalid image input")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_data_and_nothing_else() {
        assert_eq!(image("data:image/png;base64,AAAA").unwrap(), "AAAA");
        for url in [
            "https://x/y.png",
            "file:///etc/passwd",
            "data:image/gif;base64,AA",
            "",
        ] {
            assert!(image(url).is_err(), "{url}");
        }
    }
}
