//! The functions that a template may call: Go's own and Ollama's.

use std::fmt::Write;

use super::value::{self, Value};
use crate::core::clock::Local;

/// The names of all functions.
pub const NAMES: &[&str] = &[
    "and",
    "call",
    "currentDate",
    "eq",
    "ge",
    "gt",
    "html",
    "index",
    "js",
    "json",
    "le",
    "len",
    "lt",
    "ne",
    "not",
    "or",
    "print",
    "printf",
    "println",
    "slice",
    "toTypeScriptType",
    "urlquery",
    "yesterdayDate",
];

/// Calls a function.
///
/// # Errors
/// If the function does not accept the arguments.
pub fn call(name: &str, arguments: &[Value], now: Local) -> Result<Value, String> {
    let text = |text: String| Ok(Value::Text(text.into()));
    match name {
        "currentDate" => return text(now.strftime("%F")),
        "yesterdayDate" => return text(now.days(-1).strftime("%F")),
        "print" => return text(print(arguments)),
        "println" => return text(println(arguments)),
        "html" => return text(html(&print(arguments))),
        "js" => return text(js(&print(arguments))),
        "urlquery" => return text(urlquery(&print(arguments))),
        _ => {}
    }
    let Some((first, rest)) = arguments.split_first() else {
        return Err("wrong number of args: want at least 1 got 0".into());
    };
    let one = |found: Value| match rest.len() {
        0 => Ok(found),
        more => Err(format!("wrong number of args: want 1 got {}", more + 1)),
    };
    let two = || match rest {
        [second] => Ok(second),
        _ => Err(format!(
            "wrong number of args: want 2 got {}",
            rest.len() + 1
        )),
    };
    match name {
        "not" => one(Value::Bool(!first.is_true())),
        "len" => one(length(first)?),
        "json" => {
            let mut json = String::new();
            first.json(&mut json);
            one(Value::Text(json.into()))
        }
        "toTypeScriptType" => one(Value::Text(typescript(first)?.into())),
        "eq" if rest.is_empty() => Err("missing argument for comparison".into()),
        "eq" => {
            let mut any = false;
            for other in rest {
                any = any || first.equals(other)?;
            }
            Ok(Value::Bool(any))
        }
        "ne" => Ok(Value::Bool(!first.equals(two()?)?)),
        "lt" => Ok(Value::Bool(first.compare(two()?)?.is_lt())),
        "le" => Ok(Value::Bool(first.compare(two()?)?.is_le())),
        "gt" => Ok(Value::Bool(first.compare(two()?)?.is_gt())),
        "ge" => Ok(Value::Bool(first.compare(two()?)?.is_ge())),
        "index" => rest
            .iter()
            .try_fold(first.clone(), |value, at| index(&value, at)),
        "slice" => slice(first, rest),
        "printf" => match first {
            Value::Text(format) => text(printf(format, rest)),
            _ => Err("wrong type for value; expected string".into()),
        },
        other => Err(format!("{other} cannot be called here")),
    }
}

/// Prints as Go does: a blank separates two operands only if neither is a string.
fn print(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (at, argument) in arguments.iter().enumerate() {
        let texts = |value: &Value| matches!(value, Value::Text(_));
        if at > 0 && !texts(argument) && !texts(&arguments[at - 1]) {
            out.push(' ');
        }
        shown(argument).print(&mut out);
    }
    out
}

fn println(arguments: &[Value]) -> String {
    let mut out = String::new();
    for (at, argument) in arguments.iter().enumerate() {
        out.push_str(if at > 0 { " " } else { "" });
        shown(argument).print(&mut out);
    }
    out + "\n"
}

/// A missing value becomes plain nil when it is passed to a function.
fn shown(value: &Value) -> &Value {
    match value {
        Value::Missing => &Value::Nil,
        other => other,
    }
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items, _) => items.len(),
        Value::Map(entries, _) => entries.len(),
        Value::Missing | Value::Nil => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.kind())),
    };
    Ok(Value::Int(length as i64))
}

fn place(at: &Value, length: usize) -> Result<usize, String> {
    let Value::Int(at) = at else {
        return Err(format!("cannot index slice/array with type {}", at.kind()));
    };
    let place = usize::try_from(*at).ok().filter(|place| *place < length);
    place.ok_or_else(|| format!("index out of range: {at}"))
}

fn index(value: &Value, at: &Value) -> Result<Value, String> {
    match (value, at) {
        (Value::List(items, _), at) => Ok(items[place(at, items.len())?].clone()),
        (Value::Text(text), at) => {
            let byte = text.as_bytes()[place(at, text.len())?];
            Ok(Value::Int(byte.into()))
        }
        (Value::Map(entries, _), Value::Text(key)) => {
            Ok(entries.get(&**key).cloned().unwrap_or(Value::Missing))
        }
        (Value::Missing | Value::Nil, _) => Err("index of untyped nil".into()),
        (other, _) => Err(format!("can't index item of type {}", other.kind())),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items, _) => items.len(),
        Value::Missing | Value::Nil => return Err("slice of untyped nil".into()),
        other => return Err(format!("can't slice item of type {}", other.kind())),
    };
    if bounds.len() > 2 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let bound = |at: usize, default: usize| match bounds.get(at) {
        Some(bound) => place(bound, length + 1),
        None => Ok(default),
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match value {
        Value::List(items, print) => Value::List(items[from..to].to_vec().into(), *print),
        Value::Text(text) => {
            Value::Text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into())
        }
        _ => Value::Nil,
    })
}

/// Returns a property's type in TypeScript notation.
fn typescript(property: &Value) -> Result<String, String> {
    let Value::Record(_) = property else {
        return Err("wrong type for value; expected a property".into());
    };
    if let Value::List(any, _) = property.field("AnyOf")?
        && !any.is_empty()
    {
        let types: Result<Vec<String>, String> = any.iter().map(typescript).collect();
        return Ok(types?.join(" | "));
    }
    let names = match property.field("Type")? {
        Value::List(names, _) => names.to_vec(),
        _ => Vec::new(),
    };
    let names = names.iter().map(|name| match name {
        Value::Text(name) => match &**name {
            "string" => "string",
            "number" | "integer" => "number",
            "boolean" => "boolean",
            "array" => "any[]",
            "object" => "Record<string, any>",
            "null" => "null",
            _ => "any",
        },
        _ => "any",
    });
    let joined = names.collect::<Vec<_>>().join(" | ");
    Ok(if joined.is_empty() {
        "any".into()
    } else {
        joined
    })
}

/// Go's `Sprintf` for the verbs s v d q t f g x c and %, with flags and widths.
fn printf(format: &str, arguments: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest.find(|c: char| !matches!(c, '-' | '+' | '0'..='9' | '.' | ' ' | '#' | '*'));
        let Some((flags, verb)) =
            end.and_then(|end| Some((&rest[..end], rest[end..].chars().next()?)))
        else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        rest = &rest[flags.len() + verb.len_utf8()..];
        // A star reads the number from the arguments.
        let flags = flags.split_inclusive('*').map(|part| {
            let Some(before) = part.strip_suffix('*') else {
                return part.to_string();
            };
            let number = arguments.next().map(plain).unwrap_or_default();
            before.to_string() + &number
        });
        let flags = &flags.collect::<String>();
        if verb == '%' {
            out.push('%');
            continue;
        }
        match arguments.next() {
            Some(argument) => out.push_str(&pad(&verb_text(verb, flags, argument), flags)),
            None => {
                let _ = write!(out, "%!{verb}(MISSING)"); // Writing to a string cannot fail.
            }
        }
    }
    out.push_str(rest);
    let mut extra = arguments.peekable();
    if extra.peek().is_some() {
        let shown = extra.map(|value| format!("{}={}", value.kind(), plain(value)));
        let _ = write!(out, "%!(EXTRA {})", shown.collect::<Vec<_>>().join(", "));
    }
    out
}

fn plain(value: &Value) -> String {
    let mut text = String::new();
    shown(value).print(&mut text);
    text
}

fn verb_text(verb: char, flags: &str, value: &Value) -> String {
    let digits = flags
        .split_once('.')
        .and_then(|(_, digits)| digits.parse().ok());
    match (verb, value) {
        ('v', value) => plain(value),
        ('s', Value::Text(text)) => match digits {
            Some(count) => text.chars().take(count).collect(),
            None => text.to_string(),
        },
        ('s', Value::List(..) | Value::Map(..) | Value::Record(_)) => plain(value),
        ('q', Value::Text(text)) => format!("{:?}", &**text),
        ('d', Value::Int(value)) => value.to_string(),
        ('x', Value::Int(value)) => format!("{value:x}"),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('c', Value::Int(value)) => {
            let c = u32::try_from(*value).ok().and_then(char::from_u32);
            c.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('t', Value::Bool(value)) => value.to_string(),
        ('f', Value::Float(value)) => format!("{value:.*}", digits.unwrap_or(6).min(64)),
        ('g', Value::Float(value)) => value::float(*value),
        (verb, Value::Missing | Value::Nil) => format!("%!{verb}(<nil>)"),
        (verb, value) => format!("%!{verb}({}={})", value.kind(), plain(value)),
    }
}

/// Pads `text` to the width given by the flags before a verb.
fn pad(text: &str, flags: &str) -> String {
    const WIDTH_MAX: usize = 1000;
    let left = flags.contains('-');
    let zero = flags
        .trim_start_matches(['-', '+', ' ', '#'])
        .starts_with('0')
        && !left;
    let digits = flags.trim_start_matches(['-', '+', ' ', '#', '0']);
    let width: usize = digits
        .split('.')
        .next()
        .and_then(|width| width.parse().ok())
        .unwrap_or(0);
    let missing = width.min(WIDTH_MAX).saturating_sub(text.chars().count());
    match (left, zero) {
        (true, _) => text.to_string() + &" ".repeat(missing),
        (_, true) => "0".repeat(missing) + text,
        _ => " ".repeat(missing) + text,
    }
}

fn html(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
        out
    })
}

fn js(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '=' | '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04X}", u32::from(c)); // Writing to a string cannot fail.
            }
            c => out.push(c),
        }
        out
    })
}

fn urlquery(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte.into())
            }
            b' ' => out.push('+'),
            byte => {
                let _ = write!(out, "%{byte:02X}"); // Writing to a string cannot fail.
            }
        }
        out
    })
}
