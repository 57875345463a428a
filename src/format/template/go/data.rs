//! Converts a conversation to the data of a Go template, with Ollama's field names.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::Input;
use super::value::{Field, Print, Record, Value};
use crate::core::message::{Message, Tool, ToolCall};

/// Merges adjacent messages of one role, as the reference does before it renders; results of
/// tools stay separate.
pub fn collate(messages: &[Message]) -> Vec<Message> {
    let mut collated: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match collated.last_mut() {
            Some(last) if last.role == message.role && message.role != "tool" => {
                last.content.push_str("\n\n");
                last.content.push_str(&message.content);
            }
            _ => collated.push(message.clone()),
        }
    }
    collated
}

/// The root of a template's data, under construction.
pub struct Root {
    entries: BTreeMap<String, Value>,
}

impl Root {
    /// Starts with the fields that every mode has: those about thinking.
    pub fn new(input: &Input) -> Self {
        let entries = [
            (
                "Think",
                input.think.is_some_and(|think| think.is_on()).into(),
            ),
            (
                "ThinkLevel",
                input.think.map_or("", |think| think.level()).into(),
            ),
            ("IsThinkSet", input.think.is_some().into()),
        ];
        let entries = entries.map(|(name, value): (&str, Value)| (name.to_string(), value));
        Root {
            entries: entries.into(),
        }
    }

    /// Adds a text field.
    pub fn text(mut self, name: &str, text: &str) -> Self {
        self.entries.insert(name.into(), text.into());
        self
    }

    /// Adds the messages, and `System` with all system texts joined.
    pub fn messages(mut self, messages: &[Message]) -> Self {
        let systems = messages.iter().filter(|message| message.role == "system");
        let systems: Vec<&str> = systems.map(|message| message.content.as_str()).collect();
        let messages = messages.iter().map(message_value).collect();
        self.entries
            .insert("Messages".into(), Value::list(messages));
        self.text("System", &systems.join("\n\n"))
            .text("Response", "")
    }

    /// Adds the tools; an empty list prints as `null`.
    pub fn tools(mut self, tools: &[Tool]) -> Self {
        let value = match tools {
            [] => Value::List(Arc::default(), Print::Json),
            tools => Value::List(
                Arc::new(tools.iter().map(tool_value).collect()),
                Print::Json,
            ),
        };
        self.entries.insert("Tools".into(), value);
        self
    }

    /// The finished root.
    pub fn value(self) -> Value {
        Value::Map(Arc::new(self.entries), Print::Go)
    }
}

fn record(fields: impl IntoIterator<Item = (&'static str, &'static str, bool, Value)>) -> Value {
    let fields = fields
        .into_iter()
        .map(|(name, key, optional, value)| Field {
            name,
            key,
            optional,
            value,
        });
    Value::Record(Arc::new(Record {
        fields: fields.collect(),
    }))
}

fn optional_text(text: Option<&str>) -> Value {
    text.unwrap_or_default().into()
}

fn message_value(message: &Message) -> Value {
    let calls = message.tool_calls.iter().enumerate();
    let calls = calls.map(|(index, call)| call_value(index, call)).collect();
    record([
        ("Role", "role", false, message.role.as_str().into()),
        ("Content", "content", false, message.content.as_str().into()),
        (
            "Thinking",
            "thinking",
            true,
            optional_text(message.thinking.as_deref()),
        ),
        ("Images", "images", true, Value::list(Vec::new())),
        ("ToolCalls", "tool_calls", true, Value::list(calls)),
        (
            "ToolName",
            "tool_name",
            true,
            optional_text(message.tool_name.as_deref()),
        ),
        (
            "ToolCallID",
            "tool_call_id",
            true,
            optional_text(message.tool_call_id.as_deref()),
        ),
    ])
}

fn call_value(index: usize, call: &ToolCall) -> Value {
    let arguments = serde_json::from_str(&call.arguments).unwrap_or(Json::Null);
    let arguments = match arguments {
        Json::Object(_) => Value::from_json(&arguments, Print::Json),
        _ => Value::Map(Arc::default(), Print::Json),
    };
    let function = record([
        ("Index", "Index", false, Value::Int(index as i64)),
        ("Name", "Name", false, call.name.as_str().into()),
        ("Arguments", "Arguments", false, arguments),
    ]);
    record([
        ("ID", "ID", false, optional_text(call.id.as_deref())),
        ("Function", "Function", false, function),
    ])
}

fn tool_value(tool: &Tool) -> Value {
    let parameters = schema_value(&tool.parameters, true);
    let function = record([
        ("Name", "name", false, tool.name.as_str().into()),
        (
            "Description",
            "description",
            false,
            tool.description.as_str().into(),
        ),
        ("Parameters", "parameters", false, parameters),
    ]);
    record([
        ("Type", "type", false, "function".into()),
        ("Items", "items", true, Value::Nil),
        ("Function", "function", false, function),
    ])
}

/// Converts the parameters of a tool, or one property of them.
fn schema_value(schema: &Json, whole: bool) -> Value {
    let text = |key: &str| optional_text(schema[key].as_str());
    let any = |key: &str| Value::from_json(&schema[key], Print::Go);
    let names = |key: &str, print| match &schema[key] {
        Json::String(name) => Value::List(Arc::new(vec![name.as_str().into()]), print),
        Json::Array(items) => Value::List(
            Arc::new(
                items
                    .iter()
                    .map(|item| Value::from_json(item, Print::Go))
                    .collect(),
            ),
            print,
        ),
        _ => Value::List(Arc::default(), print),
    };
    let properties = schema["properties"].as_object().map(|properties| {
        let entries = properties
            .iter()
            .map(|(name, schema)| (name.clone(), schema_value(schema, false)));
        Value::Map(Arc::new(entries.collect()), Print::Json)
    });
    let properties = properties.unwrap_or_else(|| Value::Map(Arc::default(), Print::Json));
    if whole {
        return record([
            (
                "Type",
                "type",
                false,
                optional_text(schema["type"].as_str().or(Some("object"))),
            ),
            ("Defs", "$defs", true, any("$defs")),
            ("Items", "items", true, any("items")),
            ("Required", "required", true, names("required", Print::Go)),
            ("Properties", "properties", false, properties),
        ]);
    }
    let alternatives = schema["anyOf"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let alternatives = alternatives
        .iter()
        .map(|schema| schema_value(schema, false))
        .collect();
    record([
        ("AnyOf", "anyOf", true, Value::list(alternatives)),
        ("Type", "type", true, names("type", Print::Types)),
        ("Items", "items", true, any("items")),
        ("Description", "description", true, text("description")),
        ("Enum", "enum", true, names("enum", Print::Go)),
        ("Properties", "properties", true, properties),
        ("Required", "required", true, names("required", Print::Go)),
    ])
}
