//! Fields of a request's JSON, read with their types.

use serde_json::{Map, Value as Json};

use crate::core::error::{Error, Result};

/// Reads a text field; absent is empty.
///
/// # Errors
/// `Usage` for any other type.
pub fn text<'a>(body: &'a Map<String, Json>, key: &str) -> Result<&'a str> {
    Ok(field(body, key, "a string", Json::as_str)?.unwrap_or_default())
}

/// Reads a boolean field; absent is false.
///
/// # Errors
/// `Usage` for any other type.
pub fn flag(body: &Map<String, Json>, key: &str) -> Result<bool> {
    Ok(field(body, key, "true or false", Json::as_bool)?.unwrap_or_default())
}

/// Reads a list; absent is empty.
///
/// # Errors
/// `Usage` for any other type.
pub fn list<'a>(body: &'a Map<String, Json>, key: &str) -> Result<&'a [Json]> {
    let list = field(body, key, "a list", Json::as_array)?;
    Ok(list.map_or(&[], Vec::as_slice))
}

/// Reads a whole number.
///
/// # Errors
/// `Usage` for any other type.
pub fn integer(body: &Map<String, Json>, key: &str) -> Result<Option<i64>> {
    field(body, key, "a whole number", Json::as_i64)
}

/// Reads a number.
///
/// # Errors
/// `Usage` for any other type.
pub fn number(body: &Map<String, Json>, key: &str) -> Result<Option<f64>> {
    field(body, key, "a number", Json::as_f64)
}

/// Reads a field of one type, which an error calls `what`; `null` is as good as absent.
fn field<'a, T>(
    body: &'a Map<String, Json>,
    key: &str,
    what: &str,
    read: impl Fn(&'a Json) -> Option<T>,
) -> Result<Option<T>> {
    match body.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => match read(value) {
            Some(read) => Ok(Some(read)),
            None => Err(wrong(key, what, value)),
        },
    }
}

/// The names of an object's fields that are given and not among those known.
pub fn unknown<'a>(object: &'a Json, known: &'a [&str]) -> impl Iterator<Item = &'a str> {
    let object = object.as_object().into_iter();
    object.flat_map(|object| unknown_in(object, known))
}

/// The same for a body.
pub fn unknown_in<'a>(
    body: &'a Map<String, Json>,
    known: &'a [&str],
) -> impl Iterator<Item = &'a str> {
    let given = body.iter().filter(|(_, value)| !value.is_null());
    let names = given.map(|(name, _)| name.as_str());
    names.filter(|name| !known.contains(name))
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
