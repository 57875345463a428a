//! What `map` has done so far, in a file, so that a run that was killed goes on where it was.
//!
//! A line a record: its place, a hash of its prompt and of what the answer depends on, and the
//! outcome. A line that was cut by the kill is left out, and written over.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::json;

/// A journal larger than this is none.
const BYTES_MAX: u64 = 4 << 30;

/// How every line begins.
const BEGINNING: &[u8] = b"{\"record\":";

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The answer; what there is of it if it was cut.
    pub output: String,
    /// Tokens generated.
    pub tokens: usize,
    /// Tokens of the prompt that were dropped to make it fit.
    #[serde(skip_serializing_if = "is_none", default)]
    pub dropped: usize,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// Why there is none, or why it is not whole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
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

/// The file.
pub struct Journal {
    path: String,
    file: File,
    done: HashMap<(u64, String), Outcome>,
}

impl Journal {
    /// Opens the journal at a path, made if it is not there.
    ///
    /// # Errors
    /// `Busy` if another process works with it; if it cannot be read or written, or is none.
    pub fn open(path: &str) -> Result<Self> {
        let wrong = |error| Error::io("write", path, error);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(wrong)?;
        if file.try_lock().is_err() {
            let text = format!("{path} is in use by another run");
            return Err(Error::plain(crate::error::Class::Busy, text));
        }
        let mut bytes = Vec::new();
        let read = Read::take(&mut file, BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|error| Error::io("read", path, error))?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let (lines, rest) = bytes.split_at(whole);
        // Only what a kill cut short is written over: nothing else is taken for a journal.
        let is_cut = rest.starts_with(BEGINNING) || BEGINNING.starts_with(rest);
        let text = std::str::from_utf8(lines).ok();
        let text = text.filter(|_| is_cut && bytes.len() as u64 <= BYTES_MAX);
        let text = text.ok_or_else(|| Error::usage(format!("{path} is no journal of map")))?;
        let mut done = HashMap::new();
        for (number, line) in text.lines().enumerate() {
            let entry: Entry = serde_json::from_str(line).map_err(|error| {
                Error::usage(format!(
                    "{path}, line {}: no journal of map: {error}",
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

    /// What became of a record in an earlier run; one that failed is tried again.
    pub fn done(&self, record: u64, key: &str) -> Option<&Outcome> {
        let found = self.done.get(&(record, key.to_string()))?;
        found.error.is_none().then_some(found)
    }

    /// Notes what became of a record.
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

/// The hash of a prompt together with all that its answer depends on.
pub fn key(prompt: &str, settings: &str) -> String {
    Digest::of(format!("{settings}\0{prompt}").as_bytes()).hex()
}
