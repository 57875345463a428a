//! The socket between the front and the HTTP library, in a folder that only this user can open.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::core::error::{Error, Result};

/// The private socket between the front and the HTTP library. Dropping it removes its folder.
pub struct Inner {
    folder: PathBuf,
    path: PathBuf,
}

impl Inner {
    /// Binds the socket in a new folder that only this user can open, below the first of these folders where that works.
    ///
    /// # Errors
    /// If it works in none of them.
    pub fn bind(folders: &[PathBuf]) -> Result<(Self, UnixListener)> {
        let mut failure = None;
        for folder in folders {
            match Inner::bind_in(folder) {
                Ok(bound) => return Ok(bound),
                Err(error) => failure = Some(Error::io("bind a socket below", folder, error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::failed("no folder for a socket")))
    }

    fn bind_in(parent: &Path) -> io::Result<(Self, UnixListener)> {
        remove_left(parent);
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true).create(parent)?;
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        builder.recursive(false).create(&folder)?;
        let path = folder.join("http.sock");
        let inner = Inner { folder, path };
        let listener = UnixListener::bind(&inner.path)?;
        Ok((inner, listener))
    }

    /// Connects to it.
    ///
    /// # Errors
    /// If no descriptor is left.
    pub(super) fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is left is removed by the next server.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The folders of private sockets: this and the process's number.
const PREFIX: &str = "puna-http-";

/// Removes the sockets of servers that were killed.
fn remove_left(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten();
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = folder.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(PREFIX));
        let is_ours = number.is_some_and(|number| number.parse::<u32>().is_ok());
        let path = folder.join("http.sock");
        if is_ours && UnixStream::connect(&path).is_err() {
            // Another server may be about to remove it, too, or has not bound it yet.
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&folder);
        }
    }
}
