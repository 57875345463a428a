//! What accompanies a request from its first header to its answer's last byte: its id, the key it came
//! with, and its line of the access log.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use super::keys::Pass;
use crate::clock;
use crate::error::{Error, Result};

/// Longest id that a client may give a request.
const ID_BYTES_MAX: usize = 64;

/// Where lines go.
pub struct AccessLog {
    /// `None`: to the server's own log.
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
    log: fn(&str),
}

impl AccessLog {
    /// Opens a file to add lines to; `-` is the server's own log.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn open(path: &str, log: fn(&str)) -> Result<Self> {
        let path = (path != "-").then(|| PathBuf::from(path));
        Ok(AccessLog {
            file: Mutex::new(path.as_deref().map(opened).transpose()?),
            path,
            log,
        })
    }

    /// Opens the file anew, as whoever moved it away expects.
    ///
    /// # Errors
    /// If it cannot be written; lines then go to the old one.
    pub fn reopen(&self) -> Result<()> {
        if let Some(path) = &self.path {
            let file = opened(path)?;
            *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        }
        Ok(())
    }

    fn write(&self, line: &str) {
        match &mut *self.file.lock().unwrap_or_else(PoisonError::into_inner) {
            // A full disk costs lines, not answers.
            Some(file) => _ = file.write_all(format!("{line}\n").as_bytes()),
            None => (self.log)(line),
        }
    }
}

fn opened(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    let file = options.append(true).create(true).mode(0o640).open(path);
    file.map_err(|error| Error::io("write", path, error))
}

/// A request's ticket. Its line is written when it is dropped.
pub struct Ticket {
    /// The request's id.
    pub id: String,
    /// The key it came with.
    pub pass: Option<Pass>,
    /// The status of its answer; 0: none was sent.
    pub status: u16,
    log: Option<Arc<AccessLog>>,
    /// Who asked, how, and for what.
    from: String,
    method: String,
    path: String,
    started: Instant,
}

impl Ticket {
    /// For a request; `id` is what its client calls it.
    pub fn new(id: Option<&str>, from: String, method: String, path: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let own = id.filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
        let own = own.filter(|id| id.chars().all(plain));
        Ticket {
            id: own.map_or_else(super::compat::random_id, str::to_string),
            pass: None,
            status: 0,
            log: None,
            from,
            method,
            path: path.to_string(),
            started: Instant::now(),
        }
    }

    /// Lets its line be written.
    pub fn logged(&mut self, log: Option<Arc<AccessLog>>) {
        self.log = log;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Some(log) = &self.log else { return };
        let plain = |text: &str| -> String {
            let escaped = text.chars().flat_map(char::escape_default);
            escaped.take(1000).collect()
        };
        log.write(&format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            clock::rfc3339_seconds(SystemTime::now()),
            self.id,
            self.from,
            self.pass.as_ref().map_or("-", Pass::name),
            plain(&self.method),
            plain(&self.path),
            self.status,
            self.started.elapsed().as_millis(),
        ));
    }
}
