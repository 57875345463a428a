//! Streamed answers of the native API: newline-delimited JSON, flushed after each record.

use serde::Serialize;

use super::http::{Chunks, Exchange, Reply};
use super::reply::error_reply;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::format::wire::native::error_record;

const NDJSON: &str = "application/x-ndjson";
/// Content type of a route that can stream when it answers with one record or an error.
pub const RECORD: &str = "application/json";

/// A stream that sends nothing before its first record, so that an earlier error still gets its own
/// HTTP status.
pub struct Stream {
    state: State,
    headers: Vec<(&'static str, String)>,
}

enum State {
    Waiting(Exchange),
    Open(Chunks),
    Over,
}

impl Stream {
    /// Prepares a stream that answers `exchange` with these headers.
    pub fn new(exchange: Exchange, headers: Vec<(&'static str, String)>) -> Self {
        Stream {
            state: State::Waiting(exchange),
            headers,
        }
    }

    /// Sends a record.
    ///
    /// # Errors
    /// `Cancelled` if the client has disconnected.
    pub fn send(&mut self, record: &impl Serialize) -> Result<()> {
        let line = json::line(record) + "\n";
        let mut chunks = match std::mem::replace(&mut self.state, State::Over) {
            State::Waiting(exchange) => exchange
                .stream(200, NDJSON, &self.headers)
                .map_err(|_| Error::cancelled())?,
            State::Open(chunks) => chunks,
            State::Over => return Err(Error::cancelled()),
        };
        chunks.write(&line).map_err(|_| Error::cancelled())?;
        self.state = State::Open(chunks);
        Ok(())
    }

    /// Ends the stream; an error is sent as the HTTP status if nothing was sent, else as a last line.
    pub fn end(self, outcome: Result<()>) {
        match (self.state, outcome) {
            (State::Waiting(exchange), Err(error)) => {
                let reply = Reply {
                    kind: RECORD,
                    ..error_reply(&error)
                };
                exchange.reply(reply, &self.headers)
            }
            (State::Waiting(exchange), Ok(())) => {
                exchange.reply(
                    Reply {
                        status: 200,
                        kind: NDJSON,
                        ..Reply::default()
                    },
                    &self.headers,
                );
            }
            (State::Open(mut chunks), outcome) => {
                let last = match outcome {
                    Ok(()) => Ok(()),
                    Err(error) => chunks.write(&(json::line(&error_record(&error)) + "\n")),
                };
                // A failure means that the client has disconnected.
                let _ = last.and_then(|()| chunks.end());
            }
            (State::Over, _) => {}
        }
    }
}
