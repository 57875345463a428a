//! The request context, from the first header to the last byte of the answer: the request's id, its
//! key, and its line in the access log.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use super::access::keys::Pass;
use crate::core::clock;
use crate::core::error::{Error, Result};
use crate::core::lock::LockExt;

/// Longest `X-Request-Id` that is accepted from a client.
const ID_BYTES_MAX: usize = 64;

/// The access log: one line per request, to a file or to the server's own log.
pub struct AccessLog {
    /// `None` writes to the server's own log.
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
    log: fn(&str),
}

impl AccessLog {
    /// Opens a file for appending; `-` is the server's own log.
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

    /// Reopens the file, as log rotation needs.
    ///
    /// # Errors
    /// If it cannot be written; lines then still go to the old file.
    pub fn reopen(&self) -> Result<()> {
        if let Some(path) = &self.path {
            let file = opened(path)?;
            *self.file.locked() = Some(file);
        }
        Ok(())
    }

    fn write(&self, line: &str) {
        match &mut *self.file.locked() {
            // A full disk loses log lines but does not fail requests.
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

/// The context of one request. Dropping it writes the line of the access log.
pub struct RequestContext {
    /// The request's id: the client's `X-Request-Id`, or a random one.
    pub id: String,
    /// The permission of the request's API key, if keys are required.
    pub pass: Option<Pass>,
    /// The HTTP status of its answer; 0 until one is sent.
    pub status: u16,
    log: Option<Arc<AccessLog>>,
    /// The client's address, or `unix`.
    from: String,
    method: String,
    path: String,
    started: Instant,
}

impl RequestContext {
    /// Starts the context of a request; an `id` that is too long or has other characters than
    /// `[A-Za-z0-9._-]` is replaced.
    pub fn new(id: Option<&str>, peer: Option<SocketAddr>, method: String, path: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let own = id.filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
        let own = own.filter(|id| id.chars().all(plain));
        RequestContext {
            id: own.map_or_else(super::ids::random_id, str::to_string),
            pass: None,
            status: 0,
            log: None,
            from: peer.map_or("unix".to_string(), |peer| peer.to_string()),
            method,
            path: path.to_string(),
            started: Instant::now(),
        }
    }

    /// Writes the line of a request whose head was refused: its method and path are not known.
    pub fn refused(peer: Option<SocketAddr>, status: u16, log: Option<Arc<AccessLog>>) {
        let mut context = RequestContext::new(None, peer, "-".into(), "-");
        (context.status, context.log) = (status, log);
    }

    /// Sets the access log that its line is written to.
    pub fn logged(&mut self, log: Option<Arc<AccessLog>>) {
        self.log = log;
    }
}

impl Drop for RequestContext {
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
