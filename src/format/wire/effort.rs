//! The words of other APIs for how much to think.

use serde_json::Value as Json;

use super::fields::short;
use crate::core::error::{Error, Result};

/// A reasoning effort as the native `think`; `None` leaves the model's default.
///
/// # Errors
/// `Usage` for an unknown effort.
pub fn effort_to_think(effort: Option<&Json>) -> Result<Option<Json>> {
    let word = match effort {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(word)) => word.as_str(),
        Some(_) => return Err(Error::usage("reasoning effort must be a string")),
    };
    Ok(match word {
        "" => None,
        "none" => Some(false.into()),
        "minimal" | "low" => Some("low".into()),
        "medium" => Some("medium".into()),
        "high" => Some("high".into()),
        "max" | "xhigh" | "ultra" => Some("max".into()),
        other => {
            let other = short(other);
            return Err(Error::usage(format!(
                "invalid reasoning value: \"{}\" (must be \"none\", \"minimal\", \"low\", \"medium\", \"high\" or \
                 \"max\")",
                other
            )));
        }
    })
}
