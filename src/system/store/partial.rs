//! Partial blobs: their bytes, and which ranges of them are complete.
//!
//! `sha256-HEX-partial` contains the bytes, `sha256-HEX-partial-0` lists the ranges that can be
//! trusted. Neither name is a digest, so no reader mistakes them for a blob. They remain until the
//! blob is complete or `gc` finds them old enough.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Store;
use super::blob::PIECE_BYTES;
use crate::core::digest::{Digest, HashingWriter};
use crate::core::error::{Class, Error, Result};
use crate::core::regular_file;

/// The complete ranges, as saved in the state file.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    size: u64,
    done: Vec<(u64, u64)>,
}

/// A blob being downloaded, locked against other processes and threads while it lives.
pub struct Partial {
    digest: Digest,
    size: u64,
    path: PathBuf,
    file: File,
}

impl Store {
    /// Opens the partial file of a blob, or creates it. `None` if another process or thread has it
    /// locked or has just finished it.
    ///
    /// # Errors
    /// If it cannot be written, or there is no room for it.
    pub fn partial(&self, digest: &Digest, size: u64) -> Result<Option<Partial>> {
        let path = self
            .blobs()?
            .join(format!("{}-partial", digest.file_name()));
        let failed = |error| Error::io("write", &path, error);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        // The previous holder of the lock may have finished and renamed this very file.
        let same = fs::metadata(&path).is_ok_and(|meta| is_same(&meta, &file));
        if !same {
            return Ok(None);
        }
        let partial = Partial {
            digest: *digest,
            size,
            path,
            file,
        };
        partial.prepare()?;
        Ok(Some(partial))
    }

    /// Checks that the disk has room for `bytes` more.
    ///
    /// # Errors
    /// If it has not; the message gives both numbers.
    pub fn must_have_room(&self, bytes: u64) -> Result<()> {
        let Ok(stat) = rustix::fs::statvfs(&self.blobs()?) else {
            return Ok(()); // Free space is unknown; a full disk fails the write instead.
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if bytes > free {
            Err(Error::failed(format!(
                "not enough room in {}: needs {bytes} bytes, {free} free",
                self.root().display()
            )))
        } else {
            Ok(())
        }
    }

    /// The number of complete bytes of a blob.
    pub fn partial_bytes(&self, digest: &Digest) -> u64 {
        let blobs = self.root().join("blobs");
        let path = blobs.join(format!("{}-partial", digest.file_name()));
        let ranges = read_state(&path)
            .map(|state| state.done)
            .unwrap_or_default();
        ranges
            .iter()
            .map(|(start, end)| end.saturating_sub(*start))
            .sum()
    }
}

impl Partial {
    /// Sets the file's length. Saved ranges are discarded if the length was different before.
    fn prepare(&self) -> Result<()> {
        let failed = |error| Error::io("write", &self.path, error);
        let length = self.file.metadata().map_err(failed)?.len();
        if length != self.size {
            self.forget();
            self.file.set_len(self.size).map_err(failed)?;
        }
        Ok(())
    }

    /// The complete blob's length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The complete ranges, sorted and merged.
    pub fn done(&self) -> Vec<Range<u64>> {
        let state = read_state(&self.path).filter(|state| state.size == self.size);
        let mut ranges = state.map(|state| state.done).unwrap_or_default();
        ranges.retain(|(start, end)| start < end && *end <= self.size);
        ranges.sort_unstable();
        let mut joined: Vec<Range<u64>> = Vec::new();
        for (start, end) in ranges {
            match joined.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                _ => joined.push(start..end),
            }
        }
        joined
    }

    /// Writes bytes at an offset.
    ///
    /// # Errors
    /// An I/O error, most often a full disk.
    pub fn write(&self, place: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, place);
        written.map_err(|error| Error::io("write", &self.path, error))
    }

    /// Saves the complete ranges, after syncing their bytes to disk.
    ///
    /// # Errors
    /// An I/O error.
    pub fn save(&self, done: &[Range<u64>]) -> Result<()> {
        let failed = |error| Error::io("write", &self.path, error);
        self.file.sync_data().map_err(failed)?;
        let state = State {
            size: self.size,
            done: done.iter().map(|range| (range.start, range.end)).collect(),
        };
        let text = serde_json::to_vec(&state).expect("numbers are written as JSON");
        super::write_whole(&state_path(&self.path), &text)
    }

    /// A reader that hashes the complete bytes.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn reader(&self) -> Result<Hashing> {
        let file = regular_file::named(&self.path)?;
        Ok(Hashing {
            file,
            path: self.path.clone(),
            writer: HashingWriter::new(io::sink()),
            piece: vec![0; PIECE_BYTES],
        })
    }

    /// Renames the file to its final name if `found` is the expected digest, otherwise discards it.
    ///
    /// # Errors
    /// `Damaged`, in the reference's wording, if the digest differs.
    pub fn finish(self, found: Digest, store: &Store) -> Result<()> {
        if found != self.digest {
            self.discard();
            return Err(Error::plain(
                Class::Damaged,
                format!(
                    "digest mismatch, file must be downloaded again: want {}, got {found}",
                    self.digest
                ),
            ));
        }
        self.finish_as(found, store)
    }

    /// Renames the file to the name of the digest that was found.
    ///
    /// # Errors
    /// An I/O error.
    pub fn finish_as(self, found: Digest, store: &Store) -> Result<()> {
        let target = store.blob_path(&found);
        let failed = |error| Error::io("write", &target, error);
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.path, &target).map_err(failed)?;
        self.forget();
        super::sync_folder(target.parent().expect("a blob lies in a folder"))
    }

    /// Removes the bytes and the saved ranges.
    pub fn discard(&self) {
        self.forget();
        // If this fails, the digest will not match next time, or gc removes the file.
        let _ = fs::remove_file(&self.path);
    }

    fn forget(&self) {
        let _ = fs::remove_file(state_path(&self.path)); // As in discard.
    }
}

/// Hashes a partial blob in order.
pub struct Hashing {
    file: File,
    path: PathBuf,
    writer: HashingWriter<io::Sink>,
    piece: Vec<u8>,
}

impl Hashing {
    /// Reads and hashes up to the offset `end`.
    ///
    /// # Errors
    /// If the file cannot be read that far.
    pub fn advance(&mut self, end: u64) -> Result<()> {
        let failed = |error| Error::io("read", &self.path, error);
        self.file
            .seek(SeekFrom::Start(self.writer.written_bytes()))
            .map_err(failed)?;
        while self.writer.written_bytes() < end {
            let left = (end - self.writer.written_bytes()).min(self.piece.len() as u64) as usize;
            let count = self.file.read(&mut self.piece[..left]).map_err(failed)?;
            if count == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            self.writer.push(&self.piece[..count]);
        }
        Ok(())
    }

    /// The number of bytes hashed.
    pub fn bytes(&self) -> u64 {
        self.writer.written_bytes()
    }

    /// The digest of the bytes hashed so far.
    pub fn digest(&self) -> Digest {
        self.writer.digest()
    }
}

fn is_same(meta: &fs::Metadata, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    file.metadata()
        .is_ok_and(|own| (own.dev(), own.ino()) == (meta.dev(), meta.ino()))
}

fn state_path(path: &Path) -> PathBuf {
    let mut state = path.as_os_str().to_owned();
    state.push("-0");
    state.into()
}

/// The saved ranges; `None` if the file is missing or invalid.
fn read_state(path: &Path) -> Option<State> {
    let text = regular_file::text(&state_path(path)).ok()?;
    serde_json::from_str(&text).ok()
}
