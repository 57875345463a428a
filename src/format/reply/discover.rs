//! Detects a family's tool-call syntax from its template's rendering of calls that are easy to find again.

use serde_json::Value as Json;

use super::delimiters::{common_end, next_start, whole_end};
use super::literal;
use super::tool_syntax::{ANY, CallBody, ToolSyntax};

pub const NEXT: &str = "nEEdlenext";
pub const NAME: &str = "nEEdlecall";
pub const OTHER: &str = "nEEdleother";
pub const KEY: &str = "kEYone";
pub const KEY_NUMBER: &str = "kEYtwo";
pub const VALUE: &str = "vALone";
pub const NUMBER: &str = "71077345";
/// Nine letters or digits, as the strictest template requires of an id.
pub const ID: &str = "iD0000001";

/// Detects the syntax from two renderings: of one call, and of two.
pub fn shape(one: &str, two: &str, ending: &str) -> Option<ToolSyntax> {
    let (body, from, to) = body(one, NAME)?;
    let lead = one[..from].trim_end();
    let array =
        lead.ends_with('[') && !matches!(body, CallBody::Named { .. } | CallBody::Tagged { .. });
    let lead = if array {
        &lead[..lead.len() - 1]
    } else {
        &one[..from]
    };
    let after = &one[to..];
    let last = whole_end(after, after.len() - common_end(after, ending));
    let last = last.split(NEXT).next().unwrap_or_default();
    // Some families close the whole list only if there are several calls.
    let of_two = self::body(two, OTHER).map_or("", |(_, _, end)| {
        let after = &two[end..];
        let last = whole_end(after, after.len() - common_end(after, ending));
        last.split(NEXT).next().unwrap_or_default()
    });
    let last = if of_two.starts_with(last) {
        of_two
    } else {
        last
    };
    let middle = self::body(two, OTHER).and_then(|(_, start, _)| two.get(to..start));
    let (next_lead, between) = match middle {
        Some(middle) => {
            let shared = common_end(middle, &one[..from]);
            let next_lead = next_start(middle, middle.len() - shared);
            (next_lead, &middle[..middle.len() - next_lead.len()])
        }
        None => (lead, ""),
    };
    let any = |text: &str| text.replace(ID, &ANY.to_string());
    let body = match body {
        CallBody::Named { between } => CallBody::Named {
            between: any(&between),
        },
        body => body,
    };
    // The reader skips the punctuation of a list by itself.
    let sign = |c: char| array && (c.is_whitespace() || matches!(c, ']' | ','));
    let lead = if lead.trim().is_empty() { "" } else { lead };
    Some(ToolSyntax {
        lead: any(lead),
        next_lead: any(next_lead),
        between: between.trim_start_matches(sign).to_string(),
        last: last.trim_start_matches(sign).to_string(),
        array,
        body,
    })
}

/// Finds the call of `name`: its syntax, start and end.
fn body(text: &str, name: &str) -> Option<(CallBody, usize, usize)> {
    let named = text.find(name)?;
    // The calls may appear in any order in the text, but the parts of one call stay together.
    if let Some((body, from, to)) = object(text, name) {
        return Some((body, from, to));
    }
    let key = named + text[named..].find(KEY)?;
    let name_end = named + name.len();
    if let Some(open) = text[name_end..key].rfind('{')
        && let Ok((json, used)) = literal::json(&text[name_end + open..])
        && json[KEY] == VALUE
    {
        let end = name_end + open + used;
        if let Some((body, from)) = unclosed(text, named, end) {
            return Some((body, from, end));
        }
        let between = text[name_end..name_end + open].to_string();
        return Some((CallBody::Named { between }, named, end));
    }
    let value = key + text[key..].find(VALUE)?;
    let key_end = &text[key + KEY.len()..value];
    let next = value + text[value..].find(KEY_NUMBER)?;
    let number = next + text[next..].find(NUMBER)?;
    let number_end = &text[next + KEY_NUMBER.len()..number];
    let opening = &text[name_end..key];
    if opening == "(" && number_end.starts_with('=') {
        let end = number + text[number..].find(')')? + 1;
        return Some((CallBody::Python, named, end));
    }
    if opening == "{" && number_end == ":" {
        let end = number + text[number..].find('}')? + 1;
        let quote = key_end.trim_start_matches(':').to_string();
        return Some((CallBody::Braced { quote }, named, end));
    }
    let after_value = &text[value + VALUE.len()..next];
    let shared = common_end(opening, after_value);
    let key_lead = &opening[opening.len() - shared..];
    let key_lead = &key_lead[key_lead.find(['<', '['])?..];
    let between = opening[..opening.len() - key_lead.len()].to_string();
    let value_end = after_value[..after_value.len() - key_lead.len()].to_string();
    let mut key_ends = vec![key_end.to_string(), number_end.to_string()];
    key_ends.dedup();
    let closed = number
        + NUMBER.len()
        + text[number + NUMBER.len()..].find(value_end.trim())?
        + value_end.trim().len();
    let key_lead = key_lead.to_string();
    Some((
        CallBody::Tagged {
            between,
            key_lead,
            key_ends,
            value_end,
        },
        named,
        closed,
    ))
}

/// Reads an object whose last brace the template forgets to write; models write it nevertheless.
fn unclosed(text: &str, named: usize, end: usize) -> Option<(CallBody, usize)> {
    let from = text[..named].rfind('{')?;
    let closed = format!("{}}}", &text[from..end]);
    let (body, _, _) = object(&closed, NAME).or_else(|| object(&closed, OTHER))?;
    Some((body, from))
}

/// Finds the innermost JSON object with both the name and the arguments.
fn object(text: &str, name: &str) -> Option<(CallBody, usize, usize)> {
    let key = text.find(KEY)?.max(text.find(name)?);
    for (from, _) in text[..key].rmatch_indices('{') {
        let Ok((json, used)) = literal::loose(&text[from..]) else {
            continue;
        };
        let named = path(&json, &|json| json == name);
        let arguments = path(&json, &|json| {
            json[KEY] == VALUE
                || json
                    .as_str()
                    .is_some_and(|text| text.contains(KEY) && text.starts_with('{'))
        });
        if let (Some(name), Some(arguments)) = (named, arguments)
            && !name.is_empty()
        {
            let id = path(&json, &|json| json == ID);
            return Some((
                CallBody::Object {
                    name,
                    arguments,
                    id,
                },
                from,
                from + used,
            ));
        }
    }
    None
}

/// Returns the keys that lead to the wanted value.
fn path(json: &Json, wanted: &dyn Fn(&Json) -> bool) -> Option<Vec<String>> {
    if wanted(json) {
        return Some(Vec::new());
    }
    let fields = json.as_object()?;
    fields.iter().find_map(|(key, value)| {
        let mut keys = path(value, wanted)?;
        keys.insert(0, key.clone());
        Some(keys)
    })
}
