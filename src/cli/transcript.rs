//! Conversations in files: `--transcript` appends each turn to one, `--continue` resumes from one.
//!
//! One message per line, JSON as in the API. A turn is written with one write, so that two writers never
//! interleave within a turn.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::{Access, access};

use super::flag::{Flag, Group, option};
use super::parsed::Parsed;
use super::stdin;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::message::Message;
use crate::format::wire::native;

pub const TRANSCRIPT: Flag = option(
    "transcript",
    None,
    "FILE",
    "append each turn to FILE, one JSON message a line",
)
.in_group(Group::Files);
pub const CONTINUE: Flag = option(
    "continue",
    None,
    "FILE",
    "resume the conversation in FILE, new or not, and append to it",
)
.in_group(Group::Files);

/// Largest conversation that is read.
const BYTES_MAX: u64 = 64 << 20;

/// The messages of the file that `--continue` names; none if it does not exist yet.
///
/// # Errors
/// If the file cannot be read or a line is not a message.
pub fn earlier(parsed: &Parsed) -> Result<Vec<Message>> {
    let Some(path) = parsed.value(&CONTINUE) else {
        return Ok(Vec::new());
    };
    if !Path::new(path).exists() {
        if parsed.has(&TRANSCRIPT) {
            return Err(Error::usage(format!("--continue: {path} does not exist")));
        }
        return Ok(Vec::new());
    }
    let text = stdin::read_text(path, BYTES_MAX)?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let wrong = |why: String| Error::usage(format!("{path}, line {}: {why}", number + 1));
            let message = serde_json::from_str::<native::Message>(line);
            let message = message.map_err(|error| wrong(format!("not a message: {error}")))?;
            checked_message(message).map_err(|error| wrong(error.to_string()))
        })
        .collect()
}

/// A message of a conversation, if nothing of it would be lost.
///
/// # Errors
/// `Usage` for a role or a field that no conversation has, and for images.
pub fn checked_message(wire: native::Message) -> Result<Message> {
    if !wire.images().is_empty() {
        return Err(Error::usage("images are not read yet"));
    }
    if let Some(field) = wire.unknown_fields().next() {
        return Err(Error::usage(format!("a message has no field '{field}'")));
    }
    let message: Message = wire.into();
    match message.role.as_str() {
        "developer" => Ok(Message {
            role: "system".into(),
            ..message
        }),
        "system" | "user" | "assistant" | "tool" => Ok(message),
        other => Err(Error::usage(format!("'{other}' is not a role"))),
    }
}

/// Checks that a file begins with a message, if it has anything.
fn check_form(file: &mut File, path: &str) -> Result<()> {
    let wrong = |error| Error::io("read", path, error);
    if !file.metadata().map_err(wrong)?.is_file() {
        return Ok(());
    }
    let mut lines = BufReader::new(Read::take(&mut *file, BYTES_MAX)).lines();
    let first = lines.find(|line| line.as_ref().map_or(true, |line| !line.trim().is_empty()));
    let is_message = |line: &io::Result<String>| {
        let line = line.as_ref().ok();
        line.is_some_and(|line| serde_json::from_str::<native::Message>(line).is_ok())
    };
    match first {
        Some(line) if !is_message(&line) => Err(Error::usage(format!(
            "{path} exists and is not a transcript"
        ))),
        _ => Ok(()),
    }
}

/// The file that the flags name for turns to be added to, if any.
pub fn path(parsed: &Parsed) -> Option<&str> {
    parsed.value(&TRANSCRIPT).or(parsed.value(&CONTINUE))
}

/// The file that turns are appended to. It is created with the first of them.
pub struct Transcript {
    path: String,
    file: Option<File>,
}

impl Transcript {
    /// Opens the file, if one is named, so that a wrong name is an error before anything is computed.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(path: Option<&str>) -> Result<Option<Self>> {
        let open = |path: &str| {
            let mut transcript = Transcript {
                path: path.to_string(),
                file: None,
            };
            if Path::new(path).exists() {
                transcript.file()?;
            } else {
                let folder = Path::new(path).parent();
                let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
                let needed = Access::WRITE_OK | Access::EXEC_OK;
                let may = access(folder.unwrap_or(Path::new(".")), needed);
                may.map_err(|error| Error::io("write", path, error.into()))?;
            }
            Ok(transcript)
        };
        path.map(open).transpose()
    }

    fn file(&mut self) -> Result<&mut File> {
        let path = &self.path;
        let wrong = |error| Error::io("write", path, error);
        if self.file.is_none() {
            let mut options = File::options();
            options.read(true).append(true).create(true);
            let mut file = options.open(path).map_err(wrong)?;
            check_form(&mut file, path)?;
            end_line(&mut file).map_err(wrong)?;
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("it was just opened"))
    }

    /// Appends a turn's messages; an empty file gets the system text first.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn add(&mut self, system: Option<&str>, turn: &[Message]) -> Result<()> {
        let path = self.path.clone();
        let wrong = |error| Error::io("write", &path, error);
        let file = self.file()?;
        let before = file.metadata().map_err(wrong)?.len();
        let is_empty = before == 0;
        let system = system
            .filter(|_| is_empty)
            .map(|text| Message::new("system", text));
        let lines: String = system.iter().chain(turn).map(line).collect();
        let written = file.write_all(lines.as_bytes());
        if written.is_err() {
            // Remove half a turn, which would damage the file; the write error is returned in any case.
            let _ = file.set_len(before);
        }
        written.map_err(wrong)
    }
}

/// Adds a newline at the end of a file if its last line has none.
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
