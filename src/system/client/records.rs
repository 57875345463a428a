//! The records of a server's answer, and the errors that end it.

use std::io::{BufRead, BufReader, Read};

use serde::de::DeserializeOwned;
use ureq::Timeout;

use crate::core::error::{Class, Error, Result};
use crate::format::wire::failure::{Failure, failure};

/// The longest record a server may send: the last one of a generate contains its whole context.
pub const RECORD_BYTES_MAX: u64 = 64 << 20;

/// The records of an answer, read as they arrive.
pub struct Records<T> {
    reader: BufReader<Box<dyn Read + Send>>,
    what: String,
    record: std::marker::PhantomData<T>,
}

impl<T> Records<T> {
    /// The records of the server that `what` names.
    pub fn new(body: impl Read + Send + 'static, what: &str) -> Self {
        Records {
            reader: BufReader::new(Box::new(body)),
            what: what.to_string(),
            record: std::marker::PhantomData,
        }
    }
}

impl<T: DeserializeOwned> Iterator for Records<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        let cut = |why: String| {
            Error::plain(
                Class::Network,
                format!("the answer of {} was cut: {why}", self.what),
            )
        };
        let mut line = Vec::new();
        match (&mut self.reader)
            .take(RECORD_BYTES_MAX)
            .read_until(b'\n', &mut line)
        {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => {
                let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
                return Some(Err(match inner.is_some_and(is_timeout) {
                    true => timed_out(&self.what),
                    false => cut(error.to_string()),
                }));
            }
        }
        if let Some(failure) = failure(&line) {
            return Some(Err(ended_by(&failure)));
        }
        Some(
            serde_json::from_slice(&line).map_err(|error| match error.is_eof() {
                true => cut(error.to_string()),
                false => broken(&self.what, &error),
            }),
        )
    }
}

/// The error of an answer that a server ended with one.
fn ended_by(failure: &Failure) -> Error {
    match failure.class.as_deref().and_then(Class::from_word) {
        // We did not cancel it: this side would have closed the connection.
        Some(Class::Cancelled) => {
            let text = "the server stopped before the answer was complete";
            Error::plain(Class::Network, text)
        }
        class => {
            let text = one_line(&failure.message, 200);
            Error::plain(class.unwrap_or(Class::Failed), text)
        }
    }
}

/// True for a time limit of an answer; a connection that cannot be made is another failure.
pub fn is_timeout(error: &ureq::Error) -> bool {
    matches!(error, ureq::Error::Timeout(timeout) if !matches!(timeout, Timeout::Connect | Timeout::Resolve))
}

/// The error of an answer that did not come in time.
pub fn timed_out(what: &str) -> Error {
    let text = format!("timed out: the server at {what} has not answered");
    Error::plain(Class::TimedOut, text)
}

/// The error of an answer that cannot be read.
pub fn broken(what: &str, error: &serde_json::Error) -> Error {
    let text = format!("the server at {what} sent an invalid answer: {error}");
    Error::plain(Class::Network, text)
}

/// A message as one line, or words for the status of an answer without one.
pub fn one_line(message: &str, status: u16) -> String {
    match message.trim() {
        "" => format!("the server answered with status {status}"),
        text => text.replace('\n', " "),
    }
}
