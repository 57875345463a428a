//! Prepares a JSON Schema for its grammar: checks its size, and adds bounds where a small model would
//! not stop.

use serde_json::{Map, Value as Json, json};

use crate::core::error::{Class, Error, Result};

/// Maximum values of a schema, nested ones included: each becomes a part of the grammar.
const NODES_MAX: usize = 50_000;
/// Maximum bytes of a regular expression in a schema.
const PATTERN_BYTES_MAX: usize = 4096;
/// Maximum nesting of a schema to which bounds are added.
const DEPTH_MAX: usize = 128;
/// The largest integer that every JSON parser represents exactly.
const INTEGER_MAX: i64 = (1 << 53) - 1;
/// White space allowed between the parts of JSON: if more is allowed, small models write nothing else
/// forever.
const SPACE: &str = r"[ ]?|\n[ \t]{0,20}";
/// The formats of texts that the grammar holds an answer to.
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];
/// Keywords whose values are data, not schemas.
const DATA: [&str; 4] = ["enum", "const", "default", "examples"];

/// Returns an error with the reason why a schema is not accepted.
pub fn unfit(why: &str) -> Error {
    let line = why.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    Error::plain(Class::Schema, format!("the schema is not accepted: {line}"))
}

/// Rejects schemas that would take the grammar compiler too long, or that it would interpret in its own
/// way.
///
/// # Errors
/// `Schema`, with the first problem.
pub fn check(schema: &Json) -> Result<()> {
    let mut open = vec![schema];
    let mut nodes = 0;
    while let Some(json) = open.pop() {
        nodes += 1;
        match json {
            Json::Array(items) => open.extend(items),
            Json::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("pattern", Json::String(pattern)) => check_pattern(pattern)?,
                        ("patternProperties", Json::Object(patterns)) => patterns
                            .keys()
                            .try_for_each(|pattern| check_pattern(pattern))?,
                        _ => {}
                    }
                    if is_data(key) {
                        nodes += value.as_array().map_or(1, Vec::len)
                    } else {
                        open.push(value)
                    }
                }
            }
            _ => {}
        }
        if nodes > NODES_MAX {
            return Err(unfit("it has more than 50 000 parts"));
        }
    }
    Ok(())
}

fn is_data(key: &str) -> bool {
    DATA.contains(&key)
}

/// Rejects patterns that are too long, and repetitions of nothing.
fn check_pattern(pattern: &str) -> Result<()> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(unfit("a pattern is longer than 4096 bytes"));
    }
    let mut repeatable = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' | '+' | '?' | '{' if !repeatable => {
                return Err(unfit(&format!(
                    "'{c}' repeats nothing in the pattern '{pattern}'"
                )));
            }
            // A question mark after a repetition makes it lazy.
            '*' | '+' | '?' => repeatable = chars.peek() == Some(&'?'),
            '{' => {
                chars.by_ref().find(|c| *c == '}');
                repeatable = chars.peek() == Some(&'?');
            }
            '^' | '$' | '|' => repeatable = false,
            '(' => {
                repeatable = false;
                if chars.next_if_eq(&'?').is_some() {
                    chars.next_if(|c| matches!(c, ':' | '=' | '!' | '<'));
                }
            }
            '\\' => {
                let escaped = chars.next();
                if matches!(escaped, Some('p' | 'P' | 'u' | 'x'))
                    && chars.next_if_eq(&'{').is_some()
                {
                    chars.by_ref().find(|c| *c == '}');
                }
                repeatable = !matches!(escaped, Some('b' | 'B'));
            }
            '[' => {
                let mut escaped = false;
                for c in chars.by_ref() {
                    match c {
                        _ if escaped => escaped = false,
                        '\\' => escaped = true,
                        ']' => break,
                        _ => {}
                    }
                }
                repeatable = true;
            }
            _ => repeatable = true,
        }
    }
    Ok(())
}

/// The key of a schema that holds settings of its grammar, which no validator knows.
const SETTINGS: &str = "x-guidance";

/// Returns the schema for the grammar, with bounds on integers and white space. Objects that do not say whether they have
/// other properties have none: small models invent names without end.
pub fn bounded(schema: &Json) -> Json {
    let mut bounded = match schema {
        Json::Object(_) => schema.clone(),
        _ => json!({}),
    };
    bound(&mut bounded, 0);
    if !is_composed(schema, 0) {
        say_of_others(&mut bounded, false, 0);
    }
    if schema[SETTINGS]["whitespace_flexible"] == false {
        return compact(bounded);
    }
    bounded[SETTINGS] = json!({ "whitespace_pattern": SPACE });
    bounded
}

/// The schema of JSON on one line, without any white space between its parts.
pub fn compact(mut schema: Json) -> Json {
    if let Json::Object(fields) = &mut schema {
        fields.insert(SETTINGS.into(), json!({ "whitespace_flexible": false }));
    }
    schema
}

/// The schema whose objects may have properties that it does not name.
pub fn open(mut schema: Json) -> Json {
    say_of_others(&mut schema, true, 0);
    schema
}

/// Keywords that describe an object in a further place.
const ELSEWHERE: [&str; 7] = [
    "allOf",
    "anyOf",
    "oneOf",
    "$ref",
    "if",
    "not",
    "dependentSchemas",
];
/// Keywords that say which properties an object may have besides those that are named.
const OTHERS: [&str; 3] = [
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
];

/// True if an answer has no property but those that a schema's `properties` name.
pub fn names_all(schema: &Json) -> bool {
    let is_off = |key: &&str| matches!(schema.get(key), None | Some(Json::Bool(false)));
    ELSEWHERE.iter().chain(&OTHERS).all(is_off)
}

/// True if objects of a schema are described in several places: what one place does not name, another may.
fn is_composed(schema: &Json, depth: usize) -> bool {
    match schema {
        _ if depth > DEPTH_MAX => true,
        Json::Array(items) => items.iter().any(|item| is_composed(item, depth + 1)),
        Json::Object(fields) => {
            let parts = fields.get("allOf").and_then(Json::as_array);
            let named = fields.contains_key("properties");
            parts.is_some_and(|parts| parts.len() > 1)
                || (named && ELSEWHERE.iter().any(|key| fields.contains_key(*key)))
                || fields
                    .iter()
                    .any(|(key, value)| !is_data(key) && is_composed(value, depth + 1))
        }
        _ => false,
    }
}

/// Adds whether objects may have other properties, where they name some and do not say so.
fn say_of_others(schema: &mut Json, may: bool, depth: usize) {
    match schema {
        _ if depth > DEPTH_MAX => {}
        Json::Array(items) => {
            let items = items.iter_mut();
            items.for_each(|item| say_of_others(item, may, depth + 1));
        }
        Json::Object(fields) => {
            let named = fields.get("properties").and_then(Json::as_object);
            let required = fields.get("required").and_then(Json::as_array);
            // A property that is required without a schema of its own is one of the others.
            let mut required = required.into_iter().flatten().filter_map(Json::as_str);
            if named.is_some_and(|named| {
                !named.is_empty() && required.all(|name| named.contains_key(name))
            }) && !OTHERS.iter().any(|key| fields.contains_key(*key))
            {
                fields.insert(OTHERS[0].into(), may.into());
            }
            for (key, value) in fields.iter_mut().filter(|(key, _)| !is_data(key)) {
                match (key.as_str(), value) {
                    // A property may be called like a keyword.
                    ("properties" | "$defs" | "definitions", Json::Object(schemas)) => {
                        let schemas = schemas.values_mut();
                        schemas.for_each(|schema| say_of_others(schema, may, depth + 1));
                    }
                    (_, value) => say_of_others(value, may, depth + 1),
                }
            }
        }
        _ => {}
    }
}

fn bound(schema: &mut Json, depth: usize) {
    match schema {
        _ if depth > DEPTH_MAX => {}
        Json::Array(items) => items.iter_mut().for_each(|item| bound(item, depth + 1)),
        Json::Object(fields) => {
            if fields.get("type").is_some_and(|kind| kind == "integer") {
                bound_integer(fields);
            }
            drop_annotations(fields);
            let schemas = fields.iter_mut().filter(|(key, _)| !is_data(key));
            schemas.for_each(|(_, value)| bound(value, depth + 1));
        }
        _ => {}
    }
}

/// Drops what constrains nothing: formats that the grammar does not know, which JSON Schema then takes for annotations, and
/// that names of properties are text.
fn drop_annotations(fields: &mut Map<String, Json>) {
    let format = fields.get("format").and_then(Json::as_str);
    if format.is_some_and(|format| !FORMATS.contains(&format)) {
        fields.remove("format");
    }
    let names = fields.get("propertyNames");
    if names
        .is_some_and(|names| [json!({ "type": "string" }), json!({}), json!(true)].contains(names))
    {
        fields.remove("propertyNames");
    }
    if fields.get("uniqueItems") == Some(&json!(false)) {
        fields.remove("uniqueItems");
    }
}

/// Gives an integer without bounds those of a double: a small model does not stop writing digits.
fn bound_integer(fields: &mut Map<String, Json>) {
    let bounds = [
        ("minimum", "exclusiveMinimum", -INTEGER_MAX),
        ("maximum", "exclusiveMaximum", INTEGER_MAX),
    ];
    // If the schema's own bound lies beyond ours, no integer is left between the two.
    let beyond = |key: &str| {
        let own = fields.get(key).and_then(Json::as_f64);
        own.is_some_and(|own| own.abs() >= INTEGER_MAX as f64)
    };
    let far = bounds
        .iter()
        .any(|(key, exclusive, _)| beyond(key) || beyond(exclusive));
    if far || fields.contains_key("const") || fields.contains_key("enum") {
        return;
    }
    for (key, exclusive, bound) in bounds {
        if !fields.contains_key(key) && !fields.contains_key(exclusive) {
            fields.insert(key.into(), bound.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_repeats_something() {
        for pattern in [
            "",
            "a+b*?c{2,3}?",
            "^(a|b)+$",
            "[+*]+",
            "\\+?",
            "(?:a)?",
            "x{2}",
            "\\d+(\\.\\d+)?",
            "\\p{L}{3}\\u{41}+",
        ] {
            assert!(check_pattern(pattern).is_ok(), "{pattern}");
        }
        for pattern in ["^+a", "+", "a|*", "(+)", "a**", "$?", &"a".repeat(5000)] {
            assert!(check_pattern(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn a_schema_has_a_size() {
        let long = (0..60_000).collect::<Vec<i32>>();
        for schema in [
            json!({ "enum": long }),
            json!({ "anyOf": [{ "examples": long }] }),
            json!({ "required": long }),
            json!({ "patternProperties": { "(+)": {} } }),
        ] {
            assert_eq!(check(&schema).unwrap_err().class(), Class::Schema);
        }
        assert!(check(&json!({ "const": { "pattern": "+" } })).is_ok());
    }

    #[test]
    fn objects_are_closed_unless_they_say_otherwise() {
        let named = |more: Json| {
            let mut schema = json!({ "type": "object", "properties": { "properties": {
                "type": "object", "properties": { "b": {} } } } });
            let fields = more.as_object().unwrap().clone();
            schema.as_object_mut().unwrap().extend(fields);
            schema
        };
        let others = |schema: &Json| schema["additionalProperties"].clone();
        let closed = bounded(&named(json!({})));
        assert_eq!(others(&closed), false);
        assert_eq!(others(&closed["properties"]["properties"]), false);
        assert_eq!(others(&closed["properties"]), Json::Null);
        for more in [
            json!({ "additionalProperties": true }),
            json!({ "additionalProperties": { "type": "string" } }),
            json!({ "required": ["c"] }),
        ] {
            assert_eq!(others(&bounded(&named(more.clone()))), others(&more));
        }
        // Objects without names, and those that are described in parts, stay open.
        assert_eq!(others(&bounded(&json!({ "type": "object" }))), Json::Null);
        let parts = json!({ "allOf": [named(json!({})), { "properties": { "c": {} } }] });
        assert_eq!(others(&bounded(&parts)["allOf"][0]), Json::Null);
        let opened = bounded(&open(named(json!({}))));
        assert_eq!(others(&opened), true);
        assert_eq!(others(&opened["properties"]["properties"]), true);
    }

    #[test]
    fn annotations_constrain_nothing() {
        let schema = json!({ "type": "object", "propertyNames": { "type": "string" }, "properties": {
            "format": { "type": "string", "format": "password" },
            "at": { "type": "string", "format": "date" },
            "all": { "type": "array", "uniqueItems": false } } });
        let bounded = bounded(&schema);
        let properties = &bounded["properties"];
        assert_eq!(bounded["propertyNames"], Json::Null);
        assert_eq!(properties["format"], json!({ "type": "string" }));
        assert_eq!(properties["at"]["format"], "date");
        assert_eq!(properties["all"], json!({ "type": "array" }));
    }

    #[test]
    fn integers_get_bounds_unless_they_have_their_own() {
        let one = |schema: Json| {
            let bounded = bounded(&schema);
            (bounded["minimum"].clone(), bounded["maximum"].clone())
        };
        let (low, high) = (Json::from(-INTEGER_MAX), Json::from(INTEGER_MAX));
        let integer = json!({"type": "integer"});
        assert_eq!(one(integer.clone()), (low.clone(), high.clone()));
        let below = json!({"type": "integer", "maximum": 3});
        assert_eq!(one(below), (low, 3.into()));
        let huge = json!({"type": "integer", "exclusiveMinimum": 1e300});
        assert_eq!(one(huge), (Json::Null, Json::Null));
        let data = json!({"const": integer});
        assert!(bounded(&data)["const"]["minimum"].is_null());
    }
}
