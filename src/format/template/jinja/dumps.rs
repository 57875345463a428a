//! `tojson` as chat templates expect it: Python's `json.dumps` with its keyword arguments.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Maximum nesting of values.
const DEPTH_MAX: usize = 64;
/// Maximum indentation in blanks.
const INDENT_MAX: usize = 100;

/// How the text is laid out.
struct Style {
    indent: Option<usize>,
    comma: String,
    colon: String,
    ascii: bool,
    sorted: bool,
}

/// Formats JSON with a blank after each comma and colon, unless the arguments say otherwise.
///
/// # Errors
/// If the value is nested too deeply or an argument has the wrong type.
pub fn to_json(value: Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        None => options.get("indent")?,
        indent => indent,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (comma, colon) = match separators.as_deref() {
        Some([comma, colon]) => (comma.clone(), colon.clone()),
        _ if indent.is_some() => (",".into(), ": ".into()),
        _ => (", ".into(), ": ".into()),
    };
    let style = Style {
        indent: indent.map(|width| width.min(INDENT_MAX)),
        comma,
        colon,
        ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    let mut text = String::new();
    write(&value, &style, 0, &mut text)?;
    Ok(Value::from_safe_string(text))
}

fn write(value: &Value, style: &Style, depth: usize, text: &mut String) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        let what = "a value nested too deeply for tojson";
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    match value.kind() {
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sorted {
                keys.sort();
            }
            items(text, style, depth, ('{', '}'), &keys, |key, text| {
                quote(&key.to_string(), style, text);
                text.push_str(&style.colon);
                write(&value.get_item(key)?, style, depth + 1, text)
            })?;
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let values: Vec<Value> = value.try_iter()?.collect();
            items(text, style, depth, ('[', ']'), &values, |item, text| {
                write(item, style, depth + 1, text)
            })?;
        }
        ValueKind::None | ValueKind::Undefined => text.push_str("null"),
        ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), style, text),
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

fn items(
    text: &mut String,
    style: &Style,
    depth: usize,
    (open, close): (char, char),
    items: &[Value],
    mut write: impl FnMut(&Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let newline = |text: &mut String, depth: usize| {
        if let Some(width) = style.indent {
            text.push('\n');
            text.push_str(&" ".repeat(width * depth));
        }
    };
    text.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(&style.comma);
        }
        newline(text, depth + 1);
        write(item, text)?;
    }
    if !items.is_empty() {
        newline(text, depth);
    }
    text.push(close);
    Ok(())
}

fn quote(text: &str, style: &Style, out: &mut String) {
    let quoted = serde_json::Value::from(text).to_string();
    if !style.ascii {
        return out.push_str(&quoted);
    }
    for c in quoted.chars() {
        if c.is_ascii() {
            out.push(c)
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
}
