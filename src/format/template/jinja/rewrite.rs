//! Rewrites what minijinja does not know before it compiles a template: Hugging Face's blocks, mutable
//! lists, and a bound on every value that a template names.
//!
//! Changes only the statements `{% … %}`; text and expressions stay as they are.

use super::list::{LIST, grows};

/// The name of the function that checks the size of a value.
pub const BOUNDED: &str = "__bounded";
/// The name of the function that checks a value before a namespace stores it.
pub const HELD: &str = "__held";

/// Maximum operators and names in one expression: minijinja walks a chain of them by recursion, without a
/// limit of its own. The longest expression of a published template has about 100.
const CHAIN_MAX: usize = 600;
/// Maximum `elif` branches of a template, which minijinja walks by recursion too.
const BRANCHES_MAX: usize = 200;

/// Returns the same template for minijinja.
///
/// # Errors
/// If an expression is too long, or there are too many branches.
pub fn rewrite(source: &str) -> Result<String, &'static str> {
    let mut branches = 0;
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    let mut rest = source;
    while let Some(at) = next_tag(rest) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(length) = tag_length(rest) else {
            break;
        };
        let (tag, after) = rest.split_at(length);
        if !tag.starts_with("{#") && chain(tag) > CHAIN_MAX {
            return Err("an expression is too long");
        }
        branches += usize::from(tag.starts_with("{%") && bare_word(tag) == "elif");
        if branches > BRANCHES_MAX {
            return Err("too many elif branches");
        }
        if tag.starts_with("{%") {
            statement(tag, source, &mut out);
            if bare_word(tag) == "raw" {
                let end = raw_end(after);
                out.push_str(&after[..end]);
                rest = &after[end..];
                continue;
            }
        } else {
            out.push_str(tag)
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Counts the signs and names in a tag, outside of strings.
fn chain(tag: &str) -> usize {
    let (mut count, mut quote, mut escaped, mut word) = (0, None, false, false);
    for c in tag.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None => {
                let begins = c == '_' || c.is_alphanumeric();
                let sign = !begins && !c.is_whitespace();
                count += usize::from(sign || (begins && !word));
                word = begins;
                quote = matches!(c, '\'' | '"').then_some(c);
            }
        }
    }
    count
}

fn next_tag(text: &str) -> Option<usize> {
    let mut braces = text.match_indices('{').map(|(at, _)| at);
    braces.find(|at| matches!(text.as_bytes().get(at + 1), Some(b'%' | b'#' | b'{')))
}

/// Returns the length of the tag at the start of `text`, with its closing delimiter. A delimiter inside a
/// string does not count.
fn tag_length(text: &str) -> Option<usize> {
    if text.starts_with("{#") {
        return text.find("#}").map(|at| at + 2);
    }
    let close = if text.starts_with("{%") { "%}" } else { "}}" };
    let mut quote = None;
    let mut escaped = false;
    let mut depth = 0_usize;
    for (at, c) in text.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None => match c {
                '\'' | '"' => quote = Some(c),
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                _ if text[at..].starts_with(close) => return Some(at + 2),
                _ => {}
            },
        }
    }
    None
}

/// Splits a statement into opening delimiter, body and closing delimiter, with trim marks in the delimiters.
fn inner(tag: &str) -> (&str, &str, &str) {
    let body = &tag[2..tag.len() - 2];
    let open = if body.starts_with(['-', '+']) {
        &tag[..3]
    } else {
        &tag[..2]
    };
    let ends = body.len() > open.len() - 2 && body.ends_with(['-', '+']);
    let close = &tag[tag.len() - if ends { 3 } else { 2 }..];
    (open, &tag[open.len()..tag.len() - close.len()], close)
}

fn bare_word(tag: &str) -> &str {
    let (_, body, _) = inner(tag);
    body.split_whitespace().next().unwrap_or_default()
}

fn raw_end(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text[from..].find("{%") {
        let start = from + at;
        if tag_length(&text[start..])
            .is_some_and(|length| bare_word(&text[start..start + length]) == "endraw")
        {
            return start;
        }
        from = start + 2;
    }
    text.len()
}

fn statement(tag: &str, source: &str, out: &mut String) {
    let (open, body, close) = inner(tag);
    let body = body.trim();
    let word = body.split_whitespace().next().unwrap_or_default();
    let rest = body[word.len()..].trim();
    match word {
        "generation" => out.push_str(&format!("{open} if true {close}")),
        "endgeneration" => out.push_str(&format!("{open} endif {close}")),
        "set" => set(open, rest, close, source, out),
        "for" => {
            let names = rest.split_once(" in ").map_or("", |(names, _)| names);
            guarded(
                tag,
                open,
                close,
                names.trim_matches(['(', ')']).split(','),
                out,
            );
        }
        "macro" => {
            let parameters = rest
                .split_once('(')
                .map_or("", |(_, rest)| rest)
                .trim_end_matches(')');
            let names = split_top(parameters);
            let names = names
                .iter()
                .map(|name| name.split('=').next().unwrap_or_default());
            guarded(tag, open, close, names, out);
        }
        "with" => {
            let pairs = split_top(rest);
            let names = pairs
                .iter()
                .map(|pair| pair.split('=').next().unwrap_or_default());
            guarded(tag, open, close, names, out);
        }
        _ => out.push_str(tag),
    }
}

/// Writes a tag that binds names, and a check of each name after it.
fn guarded<'a>(
    tag: &str,
    open: &str,
    close: &str,
    names: impl Iterator<Item = &'a str>,
    out: &mut String,
) {
    let names: Vec<&str> = names.map(str::trim).filter(|name| is_name(name)).collect();
    if names.is_empty() {
        return out.push_str(tag);
    }
    // The checks precede the closing delimiter, so that its trim mark still acts on the text after the tag.
    out.push_str(&tag[..tag.len() - close.len()]);
    out.push_str("-%}");
    for (index, name) in names.iter().enumerate() {
        let close = if index + 1 == names.len() {
            close
        } else {
            "-%}"
        };
        out.push_str(&format!("{{% set __ = {BOUNDED}({name}) {close}"));
    }
    let _ = open; // The opening delimiter stays as it was.
}

fn set(open: &str, rest: &str, close: &str, source: &str, out: &mut String) {
    if let Some((targets, value)) = unpacking(rest) {
        let check = if targets.contains('.') { HELD } else { BOUNDED };
        return out.push_str(&format!(
            "{open} set {targets} = {check}(({value})) {close}"
        ));
    }
    let Some((target, value)) = assignment(rest) else {
        // `set x` captures printed text, which the filter bounds.
        return out.push_str(&format!("{open} set {rest} | {BOUNDED} {close}"));
    };
    // A list that the template sets itself is mutable; a list in a namespace is replaced.
    let own = |list: &str| !list.contains('.') && source.contains(&format!("set {list} "));
    if let Some((list, argument)) = method(value, ".append(").filter(|(list, _)| !own(list)) {
        let check = if list.contains('.') { HELD } else { BOUNDED };
        return out.push_str(&format!(
            "{open} set {list} = {check}({list} + [{argument}]) {close}"
        ));
    }
    if let Some((list, argument)) = method(value, ".pop(").filter(|(list, _)| !own(list)) {
        let (taken, left) = match argument {
            "" | "-1" => (format!("{list}[-1]"), format!("{list}[:-1]")),
            "0" => (format!("{list}[0]"), format!("{list}[1:]")),
            at => (
                format!("{list}[{at}]"),
                format!("{list}[:{at}] + {list}[{at} + 1:]"),
            ),
        };
        return out.push_str(&format!(
            "{open} set {target} = {taken} -%}}{{%- set {list} = {left} {close}"
        ));
    }
    let value = if grows(source, target) {
        format!("{LIST}({value})")
    } else {
        value.to_string()
    };
    let check = if target.contains('.') { HELD } else { BOUNDED };
    out.push_str(&format!("{open} set {target} = {check}({value}) {close}"));
}

/// Returns the two sides of a `set` with several targets.
fn unpacking(text: &str) -> Option<(&str, &str)> {
    let (targets, value) = text.split_once('=')?;
    let names = targets.split([',', '(', ')']).map(str::trim);
    let mut names = names.filter(|name| !name.is_empty());
    let several = targets.contains(',');
    let sound = names.all(|name| name.split('.').all(|part| is_name(part.trim())));
    (several && sound && !value.starts_with('=')).then(|| (targets.trim(), value.trim()))
}

/// Returns the two sides of a `set` with one target.
fn assignment(text: &str) -> Option<(&str, &str)> {
    let at = text.find('=')?;
    let target = text[..at].trim();
    let several = target.contains(',');
    let value = text[at + 1..].trim();
    (!several && target.split('.').all(is_name) && !value.starts_with('='))
        .then_some((target, value))
}

/// Returns path and argument if the whole value is `path.method(argument)`.
fn method<'a>(value: &'a str, method: &str) -> Option<(&'a str, &'a str)> {
    let (path, rest) = value.split_once(method)?;
    let argument = rest.strip_suffix(')')?;
    let closed = argument.chars().try_fold(0_i32, |depth, c| {
        let depth = depth + i32::from(matches!(c, '(' | '[' | '{'))
            - i32::from(matches!(c, ')' | ']' | '}'));
        (depth >= 0).then_some(depth)
    });
    (path.split('.').all(is_name) && closed == Some(0)).then_some((path, argument.trim()))
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c == '_' || c.is_alphanumeric())
}

/// Splits at commas outside of brackets and strings.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut quote) = (Vec::new(), 0, 0_i32, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth -= 1,
            (None, ',') if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_rewritten_and_the_rest_is_left() {
        for (source, expected) in [
            (
                "a{# {% set x = 1 %} #}{{ '{% set %}' }}",
                "a{# {% set x = 1 %} #}{{ '{% set %}' }}",
            ),
            (
                "{%- generation -%}x{% endgeneration %}",
                "{%- if true -%}x{% endif %}",
            ),
            (
                "{% set x = {'a': '%}'} -%}",
                "{% set x = __bounded({'a': '%}'}) -%}",
            ),
            ("{% set a, b = c %}", "{% set a, b = __bounded((c)) %}"),
            (
                "{% set _ = n.ids.append(f(1)) %}",
                "{% set n.ids = __held(n.ids + [f(1)]) %}",
            ),
            (
                "{%- set i = n.ids.pop(0) %}",
                "{%- set i = n.ids[0] -%}{%- set n.ids = n.ids[1:] %}",
            ),
            (
                "{%- for a, b in x -%}",
                "{%- for a, b in x -%}{% set __ = __bounded(a) -%}{% set __ = __bounded(b) -%}",
            ),
            (
                "{% for m in x %}",
                "{% for m in x -%}{% set __ = __bounded(m) %}",
            ),
            (
                "{% macro f(a, b=[1, 2]) %}",
                "{% macro f(a, b=[1, 2]) -%}{% set __ = __bounded(a) -%}{% set __ = __bounded(b) %}",
            ),
            (
                "{% raw %}{% set x = 1 %}{% endraw %}",
                "{% raw %}{% set x = 1 %}{% endraw %}",
            ),
            ("{% set", "{% set"),
        ] {
            assert_eq!(rewrite(source).unwrap(), expected, "{source}");
        }
    }
}
