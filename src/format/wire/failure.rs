//! Reads the errors of other servers, in the native dialect and in OpenAI's.

use serde::Deserialize;

/// The body of an error.
#[derive(Deserialize)]
struct Body {
    error: Wording,
    puna_error: Option<String>,
}

/// The message of an error, or an object with it in the dialect of OpenAI.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wording {
    Text(String),
    Object { message: String },
}

/// An error of another server.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The server's words.
    pub message: String,
    /// The word of its class, in a record of a puna server.
    pub class: Option<String>,
}

/// The error in a body or a record; `None` for what is none.
pub fn failure(body: &[u8]) -> Option<Failure> {
    let body: Body = serde_json::from_slice(body).ok()?;
    let (Wording::Text(message) | Wording::Object { message }) = body.error;
    Some(Failure {
        message,
        class: body.puna_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_are_read_and_nothing_else() {
        let message = |body: &str| failure(body.as_bytes()).map(|failure| failure.message);
        assert_eq!(message(r#"{"error": "no"}"#).as_deref(), Some("no"));
        let object = r#"{"error": {"code": 404, "message": "none"}}"#;
        assert_eq!(message(object).as_deref(), Some("none"));
        for other in ["{\"done\": true}", "<html>", "{\"error\": 1}", ""] {
            assert_eq!(message(other), None, "{other}");
        }
    }

    #[test]
    fn a_record_of_puna_names_its_class() {
        let named = failure(br#"{"error": "no route", "puna_error": "network"}"#);
        assert_eq!(
            named.and_then(|named| named.class).as_deref(),
            Some("network")
        );
    }
}
