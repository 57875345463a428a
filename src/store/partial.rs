//! Blobs that are not whole yet: their bytes beside the whole ones, and which of them are there.
//!
//! `sha256-HEX-partial` holds the bytes, `sha256-HEX-partial-0` says which of them can be trusted;
//! neither name is a digest, so that no reader takes them for a blob. They survive until the blob
//! is whole or `gc` finds that they are old.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Store;
use super::blob::PIECE_BYTES;
use crate::digest::{Digest, HashingWriter};
use crate::error::{Class, Error, Result};

/// The ranges that are there, as they are written down.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct State {
    size: u64,
    done: Vec<(u64, u64)>,
}

/// A blob in the making. While it lives nobody else works on it.
pub struct Partial {
    digest: Digest,
    size: u64,
    path: PathBuf,
    file: File,
}

impl Store {
    /// Opens what is there of a blob, or begins it. `None`: another process or thread is at it.
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
        // Whoever had the lock may have finished, and renamed this very file.
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

    /// Checks that there is room for so many more bytes.
    ///
    /// # Errors
    /// With both numbers.
    pub fn must_have_room(&self, bytes: u64) -> Result<()> {
        let Ok(stat) = rustix::fs::statvfs(&self.blobs()?) else {
            return Ok(()); // Where nothing tells, the disk does.
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        match bytes > free {
            true => Err(Error::failed(format!(
                "not enough room in {}: needs {bytes} bytes, {free} free",
                self.root().display()
            ))),
            false => Ok(()),
        }
    }

    /// What there is of a blob already, in bytes.
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
    /// Gives the file its length. What was written down counts only if the file had it before.
    fn prepare(&self) -> Result<()> {
        let failed = |error| Error::io("write", &self.path, error);
        let length = self.file.metadata().map_err(failed)?.len();
        if length != self.size {
            self.forget();
            self.file.set_len(self.size).map_err(failed)?;
        }
        Ok(())
    }

    /// Its length when it is whole.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The ranges that are there, in order, none touching another.
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

    /// Writes bytes at a place.
    ///
    /// # Errors
    /// What the system says: a full disk, most of all.
    pub fn write(&self, place: u64, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, place);
        written.map_err(|error| Error::io("write", &self.path, error))
    }

    /// Notes which ranges are there; their bytes are on the disk before that is.
    ///
    /// # Errors
    /// What the system says.
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

    /// Reads what is there, for its hash.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn reader(&self) -> Result<Hashing> {
        let file = File::open(&self.path).map_err(|error| Error::io("read", &self.path, error))?;
        Ok(Hashing {
            file,
            path: self.path.clone(),
            writer: HashingWriter::new(io::sink()),
            piece: vec![0; PIECE_BYTES],
        })
    }

    /// Gives the blob its name, if it has this digest; what has another is forgotten.
    ///
    /// # Errors
    /// `Damaged` in the words that clients know.
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

    /// Gives the blob the name of the digest that was found.
    ///
    /// # Errors
    /// What the system says.
    pub fn finish_as(self, found: Digest, store: &Store) -> Result<()> {
        let target = store.blob_path(&found);
        let failed = |error| Error::io("write", &target, error);
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.path, &target).map_err(failed)?;
        self.forget();
        super::sync_folder(target.parent().expect("a blob lies in a folder"))
    }

    /// Drops all of it.
    pub fn discard(&self) {
        self.forget();
        // What cannot be removed is found to be wrong again, or is removed by gc.
        let _ = fs::remove_file(&self.path);
    }

    fn forget(&self) {
        let _ = fs::remove_file(state_path(&self.path)); // As in discard.
    }
}

/// A blob's bytes on their way through the hash.
pub struct Hashing {
    file: File,
    path: PathBuf,
    writer: HashingWriter<io::Sink>,
    piece: Vec<u8>,
}

impl Hashing {
    /// Reads on up to `end`.
    ///
    /// # Errors
    /// If the file cannot be read so far.
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

    /// Bytes that went through.
    pub fn bytes(&self) -> u64 {
        self.writer.written_bytes()
    }

    /// The digest of what went through.
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

/// What was written down; nothing if that is broken.
fn read_state(path: &Path) -> Option<State> {
    let text = fs::read(state_path(path)).ok()?;
    serde_json::from_slice(&text).ok()
}
