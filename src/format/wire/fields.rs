//! Fields of a request's JSON, read with their types.

use serde_json::{Map, Value as Json};

use crate::core::error::{Error, Result};

/// Reads a text field; absent is empty.
///
/// # Errors
/// `Usage` for any other type.
pub fn text<'a>(body: &'a Map<String, Json>, key: &str) -> Result<&'a str> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(""),
        Some(Json::String(text)) => Ok(text),
        Some(other) => Err(wrong(key, "a string", other)),
    }
}

/// Reads a boolean field; absent is false.
///
/// # Errors
/// `Usage` for any other type.
pub fn flag(body: &Map<String, Json>, key: &str) -> Result<bool> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(false),
        Some(Json::Bool(value)) => Ok(*value),
        Some(other) => Err(wrong(key, "true or false", other)),
    }
}

/// Reads a list; absent is empty.
///
/// # Errors
/// `Usage` for any other type.
pub fn list<'a>(body: &'a Map<String, Json>, key: &str) -> Result<&'a [Json]> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(&[]),
        Some(Json::Array(list)) => Ok(list),
        Some(other) => Err(wrong(key, "a list", other)),
    }
}

/// Reads a whole number.
///
/// # Errors
/// `Usage` for any other type.
pub fn integer(body: &Map<String, Json>, key: &str) -> Result<Option<i64>> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(key, "a whole number", value)),
        },
    }
}

/// Reads a number.
///
/// # Errors
/// `Usage` for any other type.
pub fn number(body: &Map<String, Json>, key: &str) -> Result<Option<f64>> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number)),
            None => Err(wrong(key, "a number", value)),
        },
    }
}

/// The first 80 characters of a text, for an error message.
pub fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

pub(crate) fn wrong(key: &str, what: &str, found: &Json) -> Error {
    Error::usage(format!(
        "{key} must be {what}, not {}",
        short(&found.to_string())
    ))
}

/// The reference's (Go's) name for a value's type.
pub fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "<nil>",
        Json::Bool(_) => "bool",
        Json::Number(_) => "float64",
        Json::String(_) => "string",
        Json::Array(_) => "[]interface {}",
        Json::Object(_) => "map[string]interface {}",
    }
}
