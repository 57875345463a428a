//! Converts a request's `options` object (and a model's params blob) and its `keep_alive`.

use serde_json::{Map, Value as Json};

use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};
use crate::core::options::{self, Kind, Options, Value};

/// Reads options. Skips unknown names and nulls and truncates fractions given for integers, as the
/// reference does.
///
/// # Errors
/// A value of the wrong type, with the reference's wording.
pub fn from_json(map: &Map<String, Json>) -> Result<Options> {
    let mut result = Options::default();
    for (key, json) in map {
        let Some(kind) = options::kind(key) else {
            continue;
        };
        if let Some(value) = value(key, kind, json)? {
            result.set(key, clamped(kind, value))?;
        }
    }
    Ok(result)
}

/// The names of options that are not obeyed as given, each after `prefix`: unknown ones, and those with a value out of
/// range, in whose place the nearest one holds.
pub fn not_obeyed(prefix: &str, given: &Map<String, Json>) -> impl Iterator<Item = String> {
    let names = given.iter().filter(|(name, json)| !is_obeyed(name, json));
    names.map(move |(name, _)| format!("{prefix}{name}"))
}

/// True for an option that exists with a value in its range.
fn is_obeyed(name: &str, json: &Json) -> bool {
    match (options::kind(name), json.as_f64()) {
        (None, _) => json.is_null(),
        (Some(Kind::Int(low, high)), Some(value)) => (low as f64..=high as f64).contains(&value),
        (Some(Kind::Float(low, high)), Some(value)) => (low..=high).contains(&value),
        (Some(_), _) => true,
    }
}

/// The options that have an effect where no token is drawn: those of a load and of a prompt.
const WITHOUT_SAMPLING: [&str; 9] = [
    "num_ctx",
    "num_batch",
    "num_gpu",
    "main_gpu",
    "use_mmap",
    "use_mlock",
    "adapter_scale",
    "num_thread",
    "parse_special",
];

/// The names of the options given that only matter where a token is drawn.
pub fn of_sampling(options: &Options) -> impl Iterator<Item = &'static str> {
    let given = options.sorted().into_iter();
    let names = given.map(|(name, _)| name);
    names.filter(|name| !WITHOUT_SAMPLING.contains(name))
}

/// Options as a JSON object, sorted by name.
pub fn to_json(options: &Options) -> Map<String, Json> {
    let json = |value: &Value| match value {
        Value::Int(value) => Json::from(*value),
        Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
            Json::from(*value as i64)
        }
        Value::Float(value) => Json::from(*value),
        Value::Bool(value) => Json::from(*value),
        Value::Texts(texts) => Json::from(texts.clone()),
    };
    options
        .sorted()
        .into_iter()
        .map(|(name, value)| (name.to_string(), json(value)))
        .collect()
}

/// `keep_alive` as a request gives it.
pub fn keep_alive_json(keep_alive: KeepAlive) -> Json {
    match keep_alive {
        // Some servers read a number as whole seconds.
        KeepAlive::For(time) if time.subsec_nanos() > 0 => format!("{}ms", time.as_millis()).into(),
        KeepAlive::For(time) => time.as_secs().into(),
        KeepAlive::Forever => (-1).into(),
    }
}

/// Reads `keep_alive`: seconds as a number, or a duration.
///
/// # Errors
/// `Usage` with the reference's wording for any other value.
pub fn keep_alive(json: Option<&Json>) -> Result<Option<KeepAlive>> {
    let unsupported = |kind: &str| Err(Error::usage(format!("Unsupported type: '{kind}'")));
    match json {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Number(number)) => Ok(Some(KeepAlive::from_seconds(
            number.as_f64().unwrap_or(0.0),
        ))),
        Some(Json::String(text)) => KeepAlive::parse(text).map(Some),
        Some(Json::Bool(_)) => unsupported("bool"),
        Some(Json::Array(_)) => unsupported("[]interface {}"),
        Some(Json::Object(_)) => unsupported("map[string]interface {}"),
    }
}

fn value(key: &str, kind: Kind, json: &Json) -> Result<Option<Value>> {
    let wrong = |what: &str| Err(Error::failed(format!("option {key:?} must be {what}")));
    Ok(Some(match (kind, json) {
        (_, Json::Null) => return Ok(None),
        (Kind::Int(..), Json::Number(number)) => {
            let float = number.as_f64().unwrap_or(0.0);
            Value::Int(number.as_i64().unwrap_or(float as i64))
        }
        (Kind::Float(..), Json::Number(number)) => Value::Float(number.as_f64().unwrap_or(0.0)),
        (Kind::Bool, Json::Bool(value)) => Value::Bool(*value),
        (Kind::Texts, Json::String(text)) => Value::Texts(vec![text.clone()]),
        (Kind::Texts, Json::Array(items)) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| item.as_str().map(str::to_string))
                .collect();
            match texts {
                Some(texts) => Value::Texts(texts),
                None => return wrong("of an array of strings"),
            }
        }
        (Kind::Int(..), _) => return wrong("of type integer"),
        (Kind::Float(..), _) => return wrong("of type float32"),
        (Kind::Bool, _) => return wrong("of type boolean"),
        (Kind::Texts, _) => return wrong("of type array"),
    }))
}

/// The API does not reject values that are out of range; it clamps them.
fn clamped(kind: Kind, value: Value) -> Value {
    match (kind, value) {
        (Kind::Int(low, high), Value::Int(value)) => Value::Int(value.clamp(low, high)),
        (Kind::Float(low, high), Value::Float(value)) => Value::Float(value.clamp(low, high)),
        (_, value) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options> {
        from_json(
            serde_json::from_str::<Json>(text)
                .unwrap()
                .as_object()
                .unwrap(),
        )
    }

    #[test]
    fn types_are_those_of_the_reference() {
        let options =
            read(r#"{"num_predict":1.9,"mirostat":1,"x":1,"stop":null,"temperature":1,"top_p":7}"#)
                .unwrap();
        assert_eq!(options.int("num_predict"), Some(1));
        assert_eq!(options.float("top_p"), Some(1.0));
        for (text, message) in [
            (
                r#"{"num_predict":"x"}"#,
                "option \"num_predict\" must be of type integer",
            ),
            (
                r#"{"temperature":"hot"}"#,
                "option \"temperature\" must be of type float32",
            ),
            (
                r#"{"use_mmap":"yes"}"#,
                "option \"use_mmap\" must be of type boolean",
            ),
            (
                r#"{"stop":["a",1]}"#,
                "option \"stop\" must be of an array of strings",
            ),
            (r#"{"stop":1}"#, "option \"stop\" must be of type array"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn params_are_written_sorted() {
        let options = read(r#"{"top_k":10,"stop":["USER:"],"temperature":1,"top_p":0.7}"#).unwrap();
        let text = crate::core::json::line(&to_json(&options));
        assert_eq!(
            text,
            r#"{"stop":["USER:"],"temperature":1,"top_k":10,"top_p":0.7}"#
        );
    }
}
