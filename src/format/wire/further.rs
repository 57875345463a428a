//! The fields that the APIs of others take besides their own: native options, `keep_alive`, words for thinking and for
//! the template. What is left is neither obeyed nor refused, and is told to the client by name.

use serde_json::{Map, Value as Json};

use super::effort::effort_to_think;
use super::fields::{flag, kind};
use super::native;
use super::options::{from_json, keep_alive, not_obeyed};
use crate::core::error::{Error, Result};
use crate::core::options;
use crate::core::turn::TurnRequest;

/// Other names of native options.
const ALIASES: [(&str, &str); 2] = [
    ("repetition_penalty", "repeat_penalty"),
    ("n_predict", "num_predict"),
];

/// Reads the further fields of a body into the turn; `own` are the fields that the API has read itself or that change
/// nothing.
///
/// # Errors
/// `Usage` for a wrong value.
pub fn read(turn: &mut TurnRequest, body: &Map<String, Json>, own: &[&[&str]]) -> Result<()> {
    let mut given = Map::new();
    let mut ignored = Vec::new();
    for (key, value) in body.iter().filter(|(_, value)| !value.is_null()) {
        let alias = ALIASES.iter().find(|(known, _)| known == key);
        let option = alias.map_or(key.as_str(), |(_, option)| option);
        match key.as_str() {
            key if own.iter().any(|own| own.contains(&key)) => {}
            "keep_alive" => {
                let wrong = |error: Error| Error::usage(format!("keep_alive: {error}"));
                turn.keep_alive = keep_alive(Some(value)).map_err(wrong)?;
            }
            "options" => {
                let fields = value.as_object();
                let fields = fields.ok_or_else(|| {
                    Error::usage(format!("options must be an object, not {}", kind(value)))
                })?;
                ignored.extend(not_obeyed("options.", fields));
                given.extend(fields.clone());
            }
            "think" => turn.think = native::think(Some(value))?,
            "enable_thinking" => turn.think = native::think(Some(&flag(body, key)?.into()))?,
            "chat_template_kwargs" => variables(turn, value)?,
            _ if options::kind(option).is_some() => {
                let one = Map::from_iter([(option.to_string(), value.clone())]);
                ignored.extend(not_obeyed("", &one));
                given.extend(one);
            }
            other => ignored.push(other.to_string()),
        }
    }
    let options = from_json(&given).map_err(|error| Error::usage(error.to_string()))?;
    turn.options.overlay(&options);
    turn.ignored.extend(ignored);
    Ok(())
}

/// Variables of the template. Those that switch thinking are the turn's own.
fn variables(turn: &mut TurnRequest, given: &Json) -> Result<()> {
    let Json::Object(given) = given else {
        return Err(Error::usage(format!(
            "chat_template_kwargs must be an object, not {}",
            kind(given)
        )));
    };
    for (name, value) in given {
        match name.as_str() {
            "enable_thinking" | "thinking" => turn.think = native::think(Some(value))?,
            "reasoning_effort" => {
                turn.think = native::think(effort_to_think(Some(value))?.as_ref())?;
            }
            _ => turn.variables.push((name.clone(), value.clone())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::duration::KeepAlive;
    use crate::core::message::Think;
    use serde_json::json;

    fn read_from(body: Json) -> Result<TurnRequest> {
        let mut turn = TurnRequest::new("m", None);
        read(
            &mut turn,
            body.as_object().unwrap(),
            &[&["model"], &["user"]],
        )?;
        Ok(turn)
    }

    #[test]
    fn every_field_is_obeyed_refused_or_named() {
        let turn = read_from(json!({
            "model": "m", "user": "u", "keep_alive": -1, "top_k": 3, "repetition_penalty": 1.5, "nothing": null,
            "options": { "num_ctx": 64, "temprature": 1, "min_p": 0.1 }, "mirostat": 2,
            "chat_template_kwargs": { "enable_thinking": false, "documents": [1] },
        }))
        .unwrap();
        assert_eq!(turn.keep_alive, Some(KeepAlive::Forever));
        let options = &turn.options;
        assert_eq!(
            (options.int("top_k"), options.int("num_ctx")),
            (Some(3), Some(64))
        );
        assert_eq!(options.float("repeat_penalty"), Some(1.5));
        assert_eq!(turn.think, Some(Think::Off));
        assert_eq!(turn.variables, [("documents".to_string(), json!([1]))]);
        assert_eq!(turn.ignored, ["options.temprature", "mirostat"]);
        for wrong in [
            json!({ "keep_alive": true }),
            json!({ "options": [] }),
            json!({ "top_k": "x" }),
            json!({ "enable_thinking": "yes" }),
            json!({ "chat_template_kwargs": 1 }),
        ] {
            assert!(read_from(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
