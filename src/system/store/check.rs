//! Verifies blobs: length, link stamp and digest.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::unfinished::UNFINISHED;
use super::{Entry, Store};
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::threads::spawn_in;

/// The result for one blob.
#[derive(Debug)]
pub struct Checked {
    /// The blob's digest.
    pub digest: Digest,
    /// Length in bytes, as the manifest states it.
    pub size: u64,
    /// The first model that uses it.
    pub model: String,
    /// The error, if the blob is not intact.
    pub wrong: Option<Error>,
}

impl Store {
    /// Hashes every blob of these models once, on `threads` threads. Results are in the order of the
    /// models.
    pub fn check(&self, entries: &[Entry], threads: usize) -> Vec<Checked> {
        let mut todo: Vec<(Digest, u64, String)> = Vec::new();
        for entry in entries {
            for layer in entry.manifest.blobs() {
                let Ok(digest) = layer.digest() else { continue };
                if todo.iter().all(|(known, ..)| *known != digest) {
                    todo.push((digest, layer.size_bytes(), entry.name.to_string()));
                }
            }
        }
        let next = AtomicUsize::new(0);
        let found: Mutex<Vec<(usize, Option<Error>)>> = Mutex::default();
        let check = || {
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some((digest, size, _)) = todo.get(place) else {
                    return;
                };
                let wrong = self.check_one(digest, *size).err();
                let found = found.lock();
                let mut found = found.unwrap_or_else(|poisoned| poisoned.into_inner());
                found.push((place, wrong));
            }
        };
        thread::scope(|scope| {
            // This thread is one of them.
            for _ in 1..threads.min(todo.len()) {
                if spawn_in(scope, check).is_err() {
                    break;
                }
            }
            check();
        });
        let mut found = found
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        found.sort_by_key(|(place, _)| *place);
        let checked = todo.into_iter().zip(found);
        checked
            .map(|((digest, size, model), (_, wrong))| Checked {
                digest,
                size,
                model,
                wrong,
            })
            .collect()
    }

    fn check_one(&self, digest: &Digest, size: u64) -> Result<()> {
        let path = self.sound_blob(digest, size)?;
        let file = File::open(&path).map_err(|error| Error::io("read", &path, error))?;
        let hashed = Digest::read_from(file);
        let (found, _) = hashed.map_err(|error| Error::io("read", &path, error))?;
        if found == *digest {
            Ok(())
        } else {
            Err(Error::damaged(
                path,
                format!("its content has the digest {found}"),
            ))
        }
    }

    /// Puts a damaged blob aside, so that it can be fetched again. It comes back, if nothing else is there then, once the
    /// value is dropped.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn put_aside(&self, digest: &Digest) -> Result<Aside> {
        let blob = self.blob_path(digest);
        let aside = Aside {
            path: blob.with_file_name(format!("{UNFINISHED}{}", digest.hex())),
            blob,
        };
        match fs::rename(&aside.blob, &aside.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("rename", &aside.blob, error))
            }
            _ => Ok(aside),
        }
    }

    /// Removes a blob from our store that no model needs.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn discard(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        match fs::exists(&path) {
            Ok(false) => Ok(()),
            _ => self.remove_blob(digest),
        }
    }
}

/// A damaged blob that was put aside.
pub struct Aside {
    blob: PathBuf,
    path: PathBuf,
}

impl Drop for Aside {
    fn drop(&mut self) {
        // It may be of use to its owner: some of a model can be better than none. A failure leaves it to gc.
        let _ = match fs::exists(&self.blob) {
            Ok(true) => fs::remove_file(&self.path),
            _ => fs::rename(&self.path, &self.blob),
        };
    }
}
