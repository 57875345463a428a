//! The body of `/api/show`, and the Modelfile and parameter texts in it.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::Message;
use super::listing::Details;
use crate::core::options::{Options, Value};
use crate::format::gguf;
use crate::format::modelfile::Instruction;

/// The body of `/api/show`, fields in the reference's order.
#[derive(Debug, Default, Serialize)]
pub struct Show {
    /// All licences.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// A Modelfile that recreates this model.
    pub modelfile: String,
    /// Its options, one per line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub parameters: String,
    /// The template in force.
    pub template: String,
    /// Its SYSTEM text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system: String,
    /// Format, architecture and size.
    pub details: Details,
    /// Its MESSAGEs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The header's key-value pairs.
    pub model_info: Map<String, Json>,
    /// Every tensor.
    pub tensors: Vec<Tensor>,
    /// Capabilities, such as `completion` or `tools`.
    pub capabilities: Vec<String>,
    /// When it was created, in RFC 3339.
    pub modified_at: String,
    /// The minimum version that runs it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub requires: String,
}

/// One tensor.
#[derive(Debug, Serialize)]
pub struct Tensor {
    /// The tensor's name in the GGUF.
    pub name: String,
    /// The data type, such as `Q4_K`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The dimensions, in GGUF's order.
    pub shape: Vec<u64>,
}

/// Options sorted by name, one per line, the name padded to 30 characters, texts in quotes.
pub fn parameters_text(options: &Options) -> String {
    let lines = each_value(options).map(|(name, value, is_text)| {
        let value = if is_text { format!("{value:?}") } else { value };
        format!("{name:<30} {value}")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The options as PARAMETER instructions of a Modelfile.
pub fn parameters(options: &Options) -> impl Iterator<Item = Instruction> {
    each_value(options).map(|(name, value, _)| Instruction::Parameter(name.into(), value))
}

fn each_value(options: &Options) -> impl Iterator<Item = (&'static str, String, bool)> {
    options.sorted().into_iter().flat_map(|(name, value)| {
        let values: Vec<(String, bool)> = match value {
            Value::Int(value) => vec![(value.to_string(), false)],
            Value::Float(value) => vec![(value.to_string(), false)],
            Value::Bool(value) => vec![(value.to_string(), false)],
            Value::Texts(texts) => texts.iter().map(|text| (text.clone(), true)).collect(),
        };
        values
            .into_iter()
            .map(move |(value, is_text)| (name, value, is_text))
    })
}

/// A header value as JSON; an array is `null` unless its elements are given.
pub fn header_json(value: &gguf::Value, elements: Option<Vec<gguf::Value>>) -> Json {
    match value {
        gguf::Value::Unsigned(value) => Json::from(*value),
        gguf::Value::Signed(value) => Json::from(*value),
        gguf::Value::F32(value) => f32_json(*value),
        gguf::Value::F64(value) => Json::from(*value),
        gguf::Value::Bool(value) => Json::from(*value),
        gguf::Value::Text(text) => Json::from(text.as_str()),
        gguf::Value::Array(_) => match elements {
            None => Json::Null,
            Some(elements) => elements
                .iter()
                .map(|element| header_json(element, None))
                .collect(),
        },
    }
}

/// A 32-bit float with its own shortest decimal digits, not those of the equal 64-bit float.
fn f32_json(value: f32) -> Json {
    value
        .to_string()
        .parse::<f64>()
        .map_or(Json::Null, Json::from)
}
