//! The store's lock file: writers of blobs and manifests share it, garbage collection locks it exclusively.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::Store;
use crate::core::error::{Class, Error, Result};

/// Longest wait for the lock.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Interval between attempts.
const WAIT_STEP: Duration = Duration::from_millis(20);

/// The lock; released on drop, or by the system when the process dies.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

impl Store {
    /// Acquires the shared lock: blobs may be added and none is collected.
    ///
    /// # Errors
    /// `Busy` if a collection lasts longer than ten seconds.
    pub fn share(&self) -> Result<Guard> {
        self.locked(File::try_lock_shared)
    }

    /// Acquires the exclusive lock.
    ///
    /// # Errors
    /// `Busy` if others write for longer than ten seconds.
    pub(super) fn exclude(&self) -> Result<Guard> {
        self.locked(File::try_lock)
    }

    /// Acquires the exclusive lock if it is free.
    pub(super) fn try_exclude(&self) -> Result<Option<Guard>> {
        let file = open(self.root())?;
        Ok(file.try_lock().is_ok().then_some(Guard { _file: file }))
    }

    fn locked(&self, lock: fn(&File) -> Result<(), TryLockError>) -> Result<Guard> {
        let file = open(self.root())?;
        let started = Instant::now();
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Guard { _file: file }),
                Err(TryLockError::WouldBlock) if started.elapsed() < WAIT_MAX => {
                    thread::sleep(WAIT_STEP)
                }
                Err(TryLockError::WouldBlock) => {
                    let message = format!(
                        "the store {} is in use by another puna",
                        self.root().display()
                    );
                    return Err(Error::plain(Class::Busy, message));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(Error::io("lock", self.root(), error));
                }
            }
        }
    }
}

fn open(root: &Path) -> Result<File> {
    fs::create_dir_all(root).map_err(|error| Error::io("make", root, error))?;
    let path = root.join("puna.lock");
    let opened = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    opened.map_err(|error| Error::io("lock", &path, error))
}
