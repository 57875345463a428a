//! Replies: JSON bodies, and errors as statuses and bodies.

use super::http::{Exchange, Reply};
use crate::core::error::{Class, Error, Result};
use crate::core::json;
use crate::core::network::{ERROR_HEADER, JSON_KIND};
use crate::format::wire::native::{self, ErrorBody};

/// Answers with a JSON body, or with the error.
pub fn reply(exchange: Exchange, result: Result<String>, headers: &[(&'static str, String)]) {
    match result {
        Ok(body) => exchange.reply(
            Reply {
                status: 200,
                kind: JSON_KIND,
                body,
                ..Reply::default()
            },
            headers,
        ),
        Err(error) => exchange.reply(error_reply(&error), headers),
    }
}

/// Answers with an error; `status` overrides that of its class.
pub fn fail(exchange: Exchange, error: &Error, status: Option<u16>) {
    let reply = error_reply(error);
    let status = status.unwrap_or(reply.status);
    exchange.reply(Reply { status, ..reply }, &[]);
}

/// The error as a body of the native API.
pub fn error_body(error: &Error) -> ErrorBody {
    ErrorBody {
        error: native::error_text(error),
    }
}

/// The error as an answer; the only table of HTTP statuses.
pub fn error_reply(error: &Error) -> Reply {
    let status = match error.class() {
        Class::Usage | Class::TooLong | Class::Schema | Class::NoText => 400,
        Class::NoModel => 404,
        Class::Denied => 403,
        Class::Cancelled => 499,
        Class::Busy | Class::Memory => 503,
        Class::NoVectors => 501,
        Class::Network => 502,
        Class::TimedOut => 504,
        Class::Failed | Class::Damaged | Class::Closed | Class::Cut => 500,
    };
    Reply {
        status,
        kind: JSON_KIND,
        headers: vec![(ERROR_HEADER, error.class().word().to_string())],
        body: json::line(&error_body(error)),
    }
}
