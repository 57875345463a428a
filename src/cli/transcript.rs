//! Conversations in files: `--transcript` adds each turn to one, `--continue` goes on from one.
//!
//! A line a message, JSON as in the API. A turn is written at once, so that two writers never mix
//! within one.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use super::parse::Parsed;
use super::spec::{Flag, option};
use crate::api::native;
use crate::error::{Error, Result};
use crate::json;
use crate::message::Message;

pub const TRANSCRIPT: Flag = option(
    "transcript",
    None,
    "FILE",
    "add each turn to FILE, a message a line as JSON",
);
pub const CONTINUE: Flag = option(
    "continue",
    None,
    "FILE",
    "go on from such a FILE, and add to it unless --transcript names another",
);

/// Largest conversation that is read.
const BYTES_MAX: u64 = 64 << 20;

/// The messages that `--continue` brings; none if its file is not there yet.
///
/// # Errors
/// If the file cannot be read or a line is no message.
pub fn earlier(parsed: &Parsed) -> Result<Vec<Message>> {
    let Some(path) = parsed.value("continue") else {
        return Ok(Vec::new());
    };
    if !std::path::Path::new(path).exists() {
        return Ok(Vec::new());
    }
    let text = super::read_text(path, BYTES_MAX)?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let message = serde_json::from_str::<native::Message>(line);
            message.map(Into::into).map_err(|error| {
                Error::usage(format!("{path}, line {}: no message: {error}", number + 1))
            })
        })
        .collect()
}

/// Where turns go.
pub struct Transcript {
    path: String,
    file: File,
}

impl Transcript {
    /// The file that the flags name, if any; it is opened now, so that a wrong name is told before
    /// anything is computed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn of(parsed: &Parsed) -> Result<Option<Self>> {
        let path = parsed.value("transcript").or(parsed.value("continue"));
        let open = |path: &str| {
            let wrong = |error| Error::io("write", path, error);
            let mut options = File::options();
            let mut file = options
                .read(true)
                .append(true)
                .create(true)
                .open(path)
                .map_err(wrong)?;
            end_line(&mut file).map_err(wrong)?;
            Ok(Transcript {
                path: path.to_string(),
                file,
            })
        };
        path.map(open).transpose()
    }

    /// Adds a turn's messages; the system text comes first in an empty file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(&mut self, system: Option<&str>, turn: &[Message]) -> Result<()> {
        let wrong = |error| Error::io("write", &self.path, error);
        let is_empty = self.file.metadata().map_err(wrong)?.len() == 0;
        let system = system
            .filter(|_| is_empty)
            .map(|text| Message::new("system", text));
        let lines: String = system.iter().chain(turn).map(line).collect();
        let before = self.file.metadata().map_err(wrong)?.len();
        let written = self.file.write_all(lines.as_bytes());
        if written.is_err() {
            // Half a turn would spoil the file; if it cannot be taken back, the error tells of it.
            let _ = self.file.set_len(before);
        }
        written.map_err(wrong)
    }
}

/// Ends the last line of a file, if it has no end.
fn end_line(file: &mut File) -> std::io::Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    match last {
        [b'\n'] => Ok(()),
        _ => file.write_all(b"\n"),
    }
}

/// A message as a line of JSON.
pub fn line(message: &Message) -> String {
    json::line(&native::Message::from(message)) + "\n"
}
