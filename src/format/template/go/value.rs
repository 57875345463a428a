//! The values that a template works with, and how Go prints and compares them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// A value. Cloning is cheap.
#[derive(Debug, Clone)]
pub enum Value {
    /// A key that its map does not have.
    Missing,
    /// `nil`
    Nil,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(Arc<str>),
    /// A list.
    List(Arc<Vec<Value>>, Print),
    /// A map with its keys sorted.
    Map(Arc<BTreeMap<String, Value>>, Print),
    /// A struct with fixed fields: a message, a tool, a call.
    Record(Arc<Record>),
}

/// How a list or map prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Print {
    /// `[a b]`, `map[a:1]`
    Go,
    /// As JSON: arguments, properties, the list of tools.
    Json,
    /// The types of a property: a single type prints without brackets.
    Types,
}

/// A value with fixed fields, like a struct in Go.
#[derive(Debug, Default)]
pub struct Record {
    /// The fields, in the order of their JSON.
    pub fields: Vec<Field>,
}

/// A field of a record.
#[derive(Debug)]
pub struct Field {
    /// The name that templates use.
    pub name: &'static str,
    /// The key in JSON; empty if JSON leaves the field out.
    pub key: &'static str,
    /// True if JSON leaves the field out when its value is empty.
    pub optional: bool,
    /// The value of the field.
    pub value: Value,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.into())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl Value {
    /// Makes a list that prints as Go prints one.
    pub fn list(items: Vec<Value>) -> Self {
        Value::List(Arc::new(items), Print::Go)
    }

    /// Converts JSON; numbers become floats, as in Go.
    pub fn from_json(json: &serde_json::Value, print: Print) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Value::Nil,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            Json::String(text) => text.as_str().into(),
            Json::Array(items) => {
                let items = items.iter().map(|item| Value::from_json(item, Print::Go));
                Value::List(Arc::new(items.collect()), print)
            }
            Json::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(key, value)| (key.clone(), Value::from_json(value, Print::Go)));
                Value::Map(Arc::new(fields.collect()), print)
            }
        }
    }

    /// The truth value of the value in `if`.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Missing | Value::Nil => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(items, _) => !items.is_empty(),
            Value::Map(entries, _) => !entries.is_empty(),
            Value::Record(_) => true,
        }
    }

    /// The name of the value's kind, for error messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Missing | Value::Nil => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::List(..) => "list",
            Value::Map(..) => "map",
            Value::Record(_) => "struct",
        }
    }

    /// Returns the field or entry `name`; [`Value::Missing`] if a map lacks it.
    ///
    /// # Errors
    /// If a record has no such field, or the value is neither a record nor a map.
    pub fn field(&self, name: &str) -> Result<Value, String> {
        match self {
            Value::Map(entries, _) => Ok(entries.get(name).cloned().unwrap_or(Value::Missing)),
            Value::Record(record) => {
                let field = record.fields.iter().find(|field| field.name == name);
                let found = field.map(|field| field.value.clone());
                found.ok_or_else(|| format!("can't evaluate field {name}"))
            }
            Value::Missing | Value::Nil => {
                Err(format!("nil pointer evaluating interface {{}}.{name}"))
            }
            other => Err(format!(
                "can't evaluate field {name} in type {}",
                other.kind()
            )),
        }
    }

    /// Appends the value as an action prints it.
    pub fn print(&self, out: &mut String) {
        match self {
            Value::Missing => out.push_str("<no value>"),
            Value::Nil => out.push_str("<nil>"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Float(value) => out.push_str(&float(*value)),
            Value::Text(text) => out.push_str(text),
            Value::List(items, Print::Types) if items.len() == 1 => items[0].print(out),
            Value::List(items, Print::Go | Print::Types) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { " " } else { "" });
                    item.print(out);
                }
                out.push(']');
            }
            Value::Map(entries, Print::Go | Print::Types) => {
                out.push_str("map[");
                for (index, (key, value)) in entries.iter().enumerate() {
                    let _ = write!(out, "{}{key}:", if index > 0 { " " } else { "" }); // Cannot fail.
                    value.print(out);
                }
                out.push(']');
            }
            // Only the list of tools prints as JSON, and an empty one is nil in Go.
            Value::List(items, Print::Json) if items.is_empty() => out.push_str("null"),
            Value::List(..) | Value::Map(..) | Value::Record(_) => self.json(out),
        }
    }

    /// Appends compact JSON as Go writes it: keys sorted, `<`, `>` and `&` escaped.
    pub fn json(&self, out: &mut String) {
        match self {
            Value::Missing | Value::Nil => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Float(value) => out.push_str(&json_float(*value)),
            Value::Text(text) => json_text(text, out),
            Value::List(items, Print::Types) if items.len() == 1 => items[0].json(out),
            Value::List(items, _) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    item.json(out);
                }
                out.push(']');
            }
            Value::Map(entries, _) => {
                let entries = entries.iter().map(|(key, value)| (key.as_str(), value));
                object(entries, out);
            }
            Value::Record(record) => {
                let shown = record.fields.iter().filter(|field| {
                    !field.key.is_empty() && (!field.optional || field.value.is_true())
                });
                object(shown.map(|field| (field.key, &field.value)), out);
            }
        }
    }

    /// Compares as `eq` does.
    ///
    /// # Errors
    /// If the two values have different kinds, or a kind without an order.
    pub fn equals(&self, other: &Value) -> Result<bool, String> {
        match (self, other) {
            (Value::Missing | Value::Nil, other) | (other, Value::Missing | Value::Nil) => {
                Ok(matches!(other, Value::Missing | Value::Nil))
            }
            (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
            _ => self.compare(other).map(Ordering::is_eq),
        }
    }

    /// Compares as `lt` does.
    ///
    /// # Errors
    /// As [`Value::equals`].
    pub fn compare(&self, other: &Value) -> Result<Ordering, String> {
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
            (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(Ordering::Less)),
            (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
            (a, b) if a.kind() == b.kind() => Err("invalid type for comparison".into()),
            _ => Err("incompatible types for comparison".into()),
        }
    }
}

fn object<'a>(entries: impl Iterator<Item = (&'a str, &'a Value)>, out: &mut String) {
    out.push('{');
    for (index, (key, value)) in entries.enumerate() {
        out.push_str(if index > 0 { "," } else { "" });
        json_text(key, out);
        out.push(':');
        value.json(out);
    }
    out.push('}');
}

fn json_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c)); // Writing to a string cannot fail.
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Digits and decimal exponent of the shortest form that reads back as `value`.
fn scientific(value: f64) -> (String, i32) {
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    (digits.to_string(), exponent.parse().unwrap_or(0))
}

/// Formats a float as Go's `%v`: with an exponent below 1e-4 and from 1e6 on.
pub fn float(value: f64) -> String {
    if !value.is_finite() {
        return match (value.is_nan(), value > 0.0) {
            (true, _) => "NaN".into(),
            (_, true) => "+Inf".into(),
            _ => "-Inf".into(),
        };
    }
    let (digits, exponent) = scientific(value);
    if value != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    value.to_string()
}

/// Formats a float as Go's `encoding/json`: with an exponent below 1e-6 and from 1e21 on.
fn json_float(value: f64) -> String {
    let (digits, exponent) = scientific(value);
    if value != 0.0 && !(-6..21).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs()).replace("e-0", "e-");
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(value: &Value) -> (String, String) {
        let (mut text, mut json) = (String::new(), String::new());
        value.print(&mut text);
        value.json(&mut json);
        (text, json)
    }

    #[test]
    fn values_print_as_in_go() {
        let data: serde_json::Value =
            serde_json::from_str(r#"{"b":[1,0.5,null,"<é>"],"a":{"z":1e21,"y":1e-7}}"#).unwrap();
        for (value, text, json) in [
            (
                Value::from_json(&data, Print::Go),
                "map[a:map[y:1e-07 z:1e+21] b:[1 0.5 <nil> <é>]]",
                r#"{"a":{"y":1e-7,"z":1e+21},"b":[1,0.5,null,"\u003cé\u003e"]}"#,
            ),
            (Value::Missing, "<no value>", "null"),
            (Value::Float(1e6), "1e+06", "1000000"),
            (
                Value::List(Arc::new(vec!["a".into()]), Print::Types),
                "a",
                "\"a\"",
            ),
        ] {
            let (found_text, found_json) = printed(&value);
            assert_eq!((found_text.as_str(), found_json.as_str()), (text, json));
        }
    }

    #[test]
    fn only_like_values_compare() {
        assert_eq!(Value::Missing.equals(&Value::Nil), Ok(true));
        assert_eq!(Value::from("a").equals(&Value::Nil), Ok(false));
        assert!(Value::from("1").equals(&Value::Int(1)).is_err());
        assert!(Value::list(vec![]).equals(&Value::list(vec![])).is_err());
    }
}
