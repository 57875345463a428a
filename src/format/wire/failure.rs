//! Reads the errors of other servers, in the native dialect and in OpenAI's.

use serde::Deserialize;

/// The body of an error.
#[derive(Deserialize)]
struct Failure {
    error: Wording,
}

/// The message of an error, or an object with it in the dialect of OpenAI.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wording {
    Text(String),
    Object { message: String },
}

/// The message of an error; `None` for what is none.
pub fn message(body: &[u8]) -> Option<String> {
    let failure: Failure = serde_json::from_slice(body).ok()?;
    Some(match failure.error {
        Wording::Text(message) | Wording::Object { message } => message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_are_read_and_nothing_else() {
        assert_eq!(message(br#"{"error": "no"}"#).as_deref(), Some("no"));
        let object = br#"{"error": {"code": 404, "message": "none"}}"#;
        assert_eq!(message(object).as_deref(), Some("none"));
        for other in ["{\"done\": true}", "<html>", "{\"error\": 1}", ""] {
            assert_eq!(message(other.as_bytes()), None, "{other}");
        }
    }
}
