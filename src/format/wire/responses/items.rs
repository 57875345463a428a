//! The items of a conversation, as messages: calls and thoughts belong to the message of the assistant beside them.

use serde_json::{Value as Json, json};

use super::custom_tools::CUSTOM_INPUT;
use crate::core::error::{Error, Result};
use crate::format::wire::fields::unknown;
use crate::format::wire::native::Message;
use crate::format::wire::openai::{arguments, image, message, short};

/// Reads the conversation: a text, or a list of items; adds to `ignored` those for which there is no place in a prompt.
///
/// # Errors
/// `Usage` for an item that cannot be read, with its place.
pub fn input(given: Option<&Json>, ignored: &mut Vec<String>) -> Result<Vec<Message>> {
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
        if turns.add(item).map_err(wrong)? {
            let names = unknown(item, FIELDS);
            ignored.extend(names.map(|name| format!("input.{index}.{name}")));
        } else {
            let kind = item["type"].as_str().unwrap_or_default();
            ignored.push(format!("input.{index}.{kind}"));
        }
    }
    turns.finish()
}

/// The fields of an item that are read here or change nothing in an answer.
const FIELDS: &[&str] = &[
    "type",
    "role",
    "content",
    "id",
    "status",
    "phase",
    "name",
    "namespace",
    "arguments",
    "call_id",
    "input",
    "output",
    "summary",
    "encrypted_content",
];

/// The beginnings of the types of items that tools on other servers left.
const ELSEWHERE: &[&str] = &[
    "web_search_call",
    "file_search_call",
    "computer_call",
    "image_generation_call",
    "code_interpreter_call",
    "local_shell_call",
    "shell_call",
    "apply_patch_call",
    "mcp_",
    "compaction",
];

/// The mark of our own thoughts in `encrypted_content`; what others put there is no text.
pub const OUR_THOUGHT: &str = "puna:";

/// The thought of a reasoning item: our own, else its content, else its summary.
fn thought(item: &Json) -> Option<String> {
    let own = item["encrypted_content"]
        .as_str()
        .and_then(|text| text.strip_prefix(OUR_THOUGHT));
    let listed = |key: &str| {
        let texts = item[key].as_array().into_iter().flatten();
        let texts: Vec<&str> = texts.filter_map(|part| part["text"].as_str()).collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    };
    own.map(str::to_string)
        .or_else(|| listed("content"))
        .or_else(|| listed("summary"))
}

/// Builds messages from items: calls and thinking are merged into the adjacent assistant message.
#[derive(Default)]
struct Turns {
    turns: Vec<Json>,
    thinking: Option<String>,
}

impl Turns {
    /// Adds an item; false if there is no place for it in a prompt.
    fn add(&mut self, item: &Json) -> Result<bool> {
        let kind = match (item["type"].as_str(), item.get("role")) {
            (Some(kind), _) => kind,
            (None, Some(_)) => "message",
            (None, None) => {
                return Err(Error::usage("input item missing required 'type' field"));
            }
        };
        match kind {
            "message" => self.message(item)?,
            "function_call" => {
                let arguments = arguments(&item["arguments"]).map_err(|_| {
                    Error::usage("failed to parse function call arguments: no object")
                })?;
                self.call(item, arguments);
            }
            "custom_tool_call" => {
                let input = item["input"].as_str().unwrap_or_default();
                self.call(item, json!({ CUSTOM_INPUT: input }));
            }
            "function_call_output" | "custom_tool_call_output" => {
                let (content, images) = parts(&item["output"])?;
                self.turns.push(json!({
                    "role": "tool",
                    "content": content,
                    "images": images,
                    "tool_call_id": item["call_id"],
                }));
            }
            "reasoning" => self.thinking = thought(item),
            "item_reference" => {
                let text = "item_reference names an item that is not stored here: send the items themselves, store: false";
                return Err(Error::usage(text));
            }
            other if ELSEWHERE.iter().any(|start| other.starts_with(start)) => return Ok(false),
            other => {
                return Err(Error::usage(format!(
                    "unknown input item type: \"{}\"",
                    short(other)
                )));
            }
        }
        Ok(true)
    }

    fn message(&mut self, item: &Json) -> Result<()> {
        let role = item["role"].as_str().unwrap_or_default().to_lowercase();
        let role = match role.as_str() {
            "developer" => "system".to_string(),
            "system" | "user" | "assistant" => role,
            other => return Err(Error::usage(format!("unknown role '{}'", short(other)))),
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

    fn call(&mut self, item: &Json, arguments: Json) {
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
    let (mut texts, mut images) = (Vec::new(), Vec::new());
    for part in list {
        let text = |key: &str| match &part[key] {
            Json::String(text) => Ok(text.clone()),
            Json::Null => Ok(String::new()),
            _ => Err(Error::usage(format!("{key} must be a string"))),
        };
        match part["type"].as_str().unwrap_or_default() {
            "input_text" | "output_text" | "text" => texts.push(text("text")?),
            "refusal" => texts.push(text("refusal")?),
            "input_image" => match part["image_url"].as_str() {
                Some(url) => images.push(image(url)?),
                None => return Err(Error::usage("input_image needs its data in image_url")),
            },
            "input_file" => {
                return Err(Error::usage("file inputs are not currently supported"));
            }
            other => {
                let text = format!("unknown content type: {}", short(other));
                return Err(Error::usage(text));
            }
        }
    }
    Ok((texts.join("\n"), images))
}
