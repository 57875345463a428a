//! The journal of `map --resume`: a file with the outcomes so far, so that a killed run can resume.
//!
//! One line per record: its number, a hash of its prompt and of the settings that the answer depends
//! on, and the outcome. A last line that a kill cut short is ignored and overwritten.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};

use crate::cli::out;
use crate::cli::records::Record;
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::json;

/// A larger file is not accepted as a journal.
const BYTES_MAX: u64 = 4 << 30;

/// The first bytes of every line.
const BEGINNING: &[u8] = b"{\"record\":";

/// The outcome of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The answer, or its first part if it was cut.
    pub output: String,
    /// The thought before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub thinking: Option<String>,
    /// The probability of a choice.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probability: Option<f64>,
    /// Tokens generated.
    pub tokens: usize,
    /// Tokens of the prompt that were dropped to make it fit.
    #[serde(skip_serializing_if = "is_none", default)]
    pub dropped: usize,
    /// That a limit cut the answer, and which.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cut: Option<String>,
    /// Time from the start of the record to its outcome, in milliseconds.
    pub ms: u64,
    /// Why the answer is missing or incomplete.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// A record with its outcome.
pub struct Done {
    /// Its place among the records, counted from 0.
    pub record: u64,
    /// The record.
    pub input: Record,
    /// Its key in the journal; `None` if it has no prompt.
    pub key: Option<String>,
    /// The answer or the error.
    pub outcome: Outcome,
    /// The journal contains it already.
    pub is_old: bool,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

#[derive(Serialize, Deserialize)]
struct Entry {
    record: u64,
    sha256: String,
    #[serde(flatten)]
    outcome: Outcome,
}

/// An open, locked journal and the outcomes that it contained.
pub struct Journal {
    path: String,
    file: File,
    done: HashMap<(u64, String), Outcome>,
}

impl Journal {
    /// Opens the journal at a path and creates it if it does not exist.
    ///
    /// # Errors
    /// `Busy` if another process uses it; `Usage` if it is not a journal; if it cannot be read or written.
    pub fn open(path: &str) -> Result<Self> {
        let wrong = |error| Error::io("write", path, error);
        if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
            return Err(Error::usage(format!("{path} is not a regular file")));
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(wrong)?;
        if out::is_output(&file) {
            return Err(Error::usage(format!(
                "{path} is the output, too: it needs a file of its own"
            )));
        }
        if file.try_lock().is_err() {
            let text = format!("{path} is in use by another run");
            return Err(Error::plain(crate::core::error::Class::Busy, text));
        }
        let mut bytes = Vec::new();
        let read = Read::take(&mut file, BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::io("read", path, error))?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let (lines, rest) = bytes.split_at(whole);
        // Only a line that a kill cut short is overwritten; any other file is not a journal.
        let is_cut = rest.starts_with(BEGINNING) || BEGINNING.starts_with(rest);
        let text = std::str::from_utf8(lines).ok();
        let text = text.filter(|_| is_cut && bytes.len() as u64 <= BYTES_MAX);
        let text = text.ok_or_else(|| Error::usage(format!("{path} is not a journal of map")))?;
        let mut done = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let entry: Entry = serde_json::from_str(line).map_err(|error| {
                Error::usage(format!(
                    "{path}, line {}: not a journal of map: {error}",
                    number + 1
                ))
            })?;
            done.insert((entry.record, entry.sha256), entry.outcome);
        }
        file.set_len(whole as u64)
            .and_then(|()| file.seek(SeekFrom::End(0)))
            .map_err(wrong)?;
        Ok(Journal {
            path: path.to_string(),
            file,
            done,
        })
    }

    /// The outcome of a record in an earlier run; `None` if it failed, so that it is answered again.
    pub fn done(&self, record: u64, key: &str) -> Option<&Outcome> {
        let found = self.done.get(&(record, key.to_string()))?;
        found.error.is_none().then_some(found)
    }

    /// Appends the outcome of a record.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn note(&mut self, record: u64, key: &str, outcome: &Outcome) -> Result<()> {
        let entry = Entry {
            record,
            sha256: key.to_string(),
            outcome: outcome.clone(),
        };
        let line = json::line(&entry) + "\n";
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|error| Error::io("write", &self.path, error))
    }
}

/// The hash of a prompt together with the settings that its answer depends on.
pub fn key(prompt: &str, settings: &str) -> String {
    Digest::compute(format!("{settings}\0{prompt}").as_bytes()).hex()
}
