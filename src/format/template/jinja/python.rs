//! Python's behaviour that chat templates rely on: how values print, `tojson`, string methods.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat;

use super::dumps;
use super::list::{LIST, holds_namespace, list};
use super::rewrite::{BOUNDED, HELD};
use crate::core::clock::Local;

/// Maximum nesting of printed values.
const DEPTH_MAX: usize = 64;
/// Maximum values in one list or map that a template names, nested ones included.
const NODES_MAX: usize = 200_000;
/// Maximum indentation in blanks.
const INDENT_MAX: usize = 100;

/// Adds these functions and filters to an environment; a text that a template names is limited to
/// `text_bytes_max` bytes.
pub fn extend(environment: &mut Environment, text_bytes_max: usize) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(format);
    environment.add_function("raise_exception", raise);
    environment.add_filter("tojson", dumps::to_json);
    environment.add_filter("string", |value: &Value| printed(value));
    environment.add_filter("indent", indent);
    let bound = move |value: Value| bounded(value, text_bytes_max);
    environment.add_function(BOUNDED, bound);
    environment.add_function(HELD, move |value: Value| held(value, text_bytes_max));
    environment.add_function(LIST, list);
    environment.add_filter(BOUNDED, bound);
    environment.add_filter("replace", move |text: String, from: String, to: String| {
        replace(&text, &from, &to, text_bytes_max)
    });
    environment.add_filter("join", move |items: Value, glue: Option<String>| {
        join(&items, glue.as_deref().unwrap_or_default(), text_bytes_max)
    });
}

fn bounded(value: Value, text_bytes_max: usize) -> Result<Value, Error> {
    if value
        .as_str()
        .is_some_and(|text| text.len() > text_bytes_max)
    {
        return Err(too_long());
    }
    let mut left = NODES_MAX;
    if count(&value, 0, &mut left) {
        Ok(value)
    } else {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            "a list grows too large",
        ))
    }
}

/// Checks a value before a namespace stores it: no namespace inside, so that none can contain itself.
fn held(value: Value, text_bytes_max: usize) -> Result<Value, Error> {
    if holds_namespace(&value) {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            "a namespace contains a namespace",
        ))
    } else {
        bounded(value, text_bytes_max)
    }
}

/// False if the lists and maps in a value are too large or too deep. A list that occurs twice counts twice.
fn count(value: &Value, depth: usize, left: &mut usize) -> bool {
    if depth > DEPTH_MAX || *left == 0 {
        return false;
    }
    *left -= 1;
    match value.kind() {
        ValueKind::Seq => value
            .try_iter()
            .is_ok_and(|mut items| items.all(|item| count(&item, depth + 1, left))),
        ValueKind::Map => value.try_iter().is_ok_and(|mut keys| {
            keys.all(|key| {
                value
                    .get_item(&key)
                    .is_ok_and(|item| count(&item, depth + 1, left))
            })
        }),
        _ => true,
    }
}

fn too_long() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a text grows too long")
}

fn replace(text: &str, from: &str, to: &str, text_bytes_max: usize) -> Result<String, Error> {
    let found = text.matches(from).count();
    if found.saturating_mul(to.len()).saturating_add(text.len()) > text_bytes_max {
        Err(too_long())
    } else {
        Ok(text.replace(from, to))
    }
}

fn join(items: &Value, glue: &str, text_bytes_max: usize) -> Result<String, Error> {
    let mut out = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        out.push_str(if index > 0 { glue } else { "" });
        print(&item, &mut out);
        if out.len() > text_bytes_max {
            return Err(too_long());
        }
    }
    Ok(out)
}

/// Indents every line except the first and blank ones.
fn indent(
    text: String,
    width: Option<usize>,
    first: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let width = width.or(options.get("width")?).unwrap_or(4).min(INDENT_MAX);
    let first = first.or(options.get("first")?).unwrap_or(false);
    let space = " ".repeat(width);
    let mut out = String::new();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if (index > 0 || first) && !line.trim().is_empty() {
            out.push_str(&space);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn raise(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn format(out: &mut Output, _state: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text)?,
        None => out.write_str(&printed(value))?,
    }
    Ok(())
}

/// Formats a value as Python's `str` does.
fn printed(value: &Value) -> String {
    let mut out = String::new();
    print(value, &mut out);
    out
}

fn print(value: &Value, out: &mut String) {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => out.push_str(text),
        (ValueKind::Undefined, _) => {}
        _ => representation(value, 0, out),
    }
}

/// Formats a value as Python's `repr` does.
fn representation(value: &Value, depth: usize, out: &mut String) {
    if depth > DEPTH_MAX {
        return out.push_str("...");
    }
    let items = |out: &mut String, open: char, close: char| {
        out.push(open);
        for (index, item) in value.try_iter().into_iter().flatten().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            representation(&item, depth + 1, out);
            if close == '}' {
                out.push_str(": ");
                representation(&value.get_item(&item).unwrap_or_default(), depth + 1, out);
            }
        }
        out.push(close);
    };
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => items(out, '[', ']'),
        ValueKind::Map if value.as_object().is_some() => items(out, '{', '}'),
        _ => out.push_str(&value.to_string()),
    }
}

fn quote(text: &str, out: &mut String) {
    let delimiter = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(delimiter);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == delimiter => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() && (c as u32) < 256 => {
                let _ = write!(out, "\\x{:02x}", c as u32); // Writing to a string cannot fail.
            }
            c => out.push(c),
        }
    }
    out.push(delimiter);
}

/// Methods that minijinja's own Python layer lacks or does not bound.
fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, name, arguments);
    };
    let text_at = |at: usize| {
        arguments
            .get(at)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    match name {
        "format" => braces(text, arguments),
        "removeprefix" => Ok(text.strip_prefix(text_at(0)).unwrap_or(text).into()),
        "removesuffix" => Ok(text.strip_suffix(text_at(0)).unwrap_or(text).into()),
        "rsplit" if arguments.len() == 2 => {
            let count = usize::try_from(arguments[1].clone()).unwrap_or(usize::MAX - 1);
            let mut parts: Vec<&str> = text.rsplitn(count.saturating_add(1), text_at(0)).collect();
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let found = if name == "partition" {
                text.split_once(text_at(0))
            } else {
                text.rsplit_once(text_at(0))
            };
            let (before, delimiter, after) = match (found, name) {
                (Some((before, after)), _) => (before, text_at(0), after),
                (None, "partition") => (text, "", ""),
                (None, _) => ("", "", text),
            };
            Ok([before, delimiter, after]
                .into_iter()
                .map(Value::from)
                .collect())
        }
        "replace" | "join" => {
            let filter: Vec<Value> = match name {
                "replace" => [value]
                    .into_iter()
                    .chain(arguments.iter().take(2))
                    .cloned()
                    .collect(),
                _ => arguments.iter().take(1).chain([value]).cloned().collect(),
            };
            state.apply_filter(name, &filter)
        }
        _ => pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// Implements `'{} {}'.format(a, b)`; numbers between the braces count from 0.
fn braces(format: &str, arguments: &[Value]) -> Result<Value, Error> {
    let mut out = String::new();
    let mut next = 0;
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let delimiter = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(delimiter) {
            out.push_str(delimiter);
            rest = after;
            continue;
        }
        let closed = rest.split_once('}').filter(|_| delimiter == "{");
        let Some((number, after)) = closed else {
            return raise("a single brace in the text to format".into());
        };
        let index = match number {
            "" => next,
            number => number.parse().unwrap_or(usize::MAX),
        };
        let Some(argument) = arguments.get(index) else {
            return raise("format has too few arguments".into());
        };
        print(argument, &mut out);
        next = index + 1;
        rest = after;
    }
    out.push_str(rest);
    Ok(out.into())
}

/// The function `strftime_now` with the clock at `now`.
pub fn strftime_now(now: Local) -> Value {
    Value::from_function(move |format: String, _more: Rest<Value>| now.strftime(&format))
}

/// Formats a value as JSON with an indentation of four.
pub fn dumped(value: Value) -> Value {
    dumps::to_json(
        value,
        Some(4),
        Kwargs::from_iter(Vec::<(&str, Value)>::new()),
    )
    .unwrap_or_default()
}

/// Formats day and time for a template that only prints them.
pub fn moment(now: Local) -> String {
    now.strftime("%b %d %Y %H:%M:%S")
}
