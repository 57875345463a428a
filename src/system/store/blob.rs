//! Blobs: files named by their digest. The content is hashed while it is written and renamed only
//! when complete, so a blob always has the digest in its name.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::Store;
use super::unfinished::Unfinished;
use crate::core::digest::{Digest, HashingWriter};
use crate::core::error::{Error, Result};
use crate::core::regular_file;
use crate::format::manifest::Layer;

/// Buffer size for copying.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// How a file comes into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// A reflink where the file system supports it, otherwise a copy.
    Copy,
    /// A hard link: no second copy, but the file must not change.
    Link,
}

impl Store {
    /// The path of an existing blob, in our store or Ollama's.
    ///
    /// # Errors
    /// `Damaged` if it is missing.
    pub fn blob(&self, digest: &Digest) -> Result<PathBuf> {
        let found = self.roots().find_map(|(root, _)| existing(root, digest));
        found.ok_or_else(|| Error::damaged(self.blob_path(digest), "the blob is missing"))
    }

    /// As [`Store::blob`]; also checks the length, and that a linked file has not changed since it was
    /// linked.
    ///
    /// # Errors
    /// `Damaged` if the blob is missing, has another length or was changed.
    pub fn sound_blob(&self, digest: &Digest, size_bytes: u64) -> Result<PathBuf> {
        let path = self.blob(digest)?;
        let meta = fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?;
        if meta.len() != size_bytes {
            return Err(Error::damaged(
                &path,
                format!("{} bytes instead of {size_bytes}", meta.len()),
            ));
        }
        match regular_file::text(&stamp_path(&path)) {
            Ok(stamp) if stamp != stamp_of(&meta) => Err(Error::damaged(
                &path,
                "the linked file has changed; create the model again",
            )),
            _ => Ok(path),
        }
    }

    /// As [`Store::sound_blob`], for a layer of a manifest.
    ///
    /// # Errors
    /// As there; also if the layer has no valid digest.
    pub fn sound_layer(&self, layer: &Layer) -> Result<PathBuf> {
        self.sound_blob(&layer.digest()?, layer.size_bytes())
    }

    /// Reads a small blob into memory.
    ///
    /// # Errors
    /// If it is missing or larger than `bytes_max`.
    pub fn blob_bytes(&self, digest: &Digest, bytes_max: u64) -> Result<Vec<u8>> {
        let path = self.blob(digest)?;
        let meta = fs::metadata(&path).map_err(|error| Error::io("read", &path, error))?;
        if meta.len() > bytes_max {
            return Err(Error::damaged(
                &path,
                format!("larger than {bytes_max} bytes"),
            ));
        }
        let mut bytes = Vec::new();
        let read = regular_file::named(&path)?.read_to_end(&mut bytes);
        read.map_err(|error| Error::io("read", &path, error))?;
        Ok(bytes)
    }

    /// Stores bytes as a blob. The caller must have the shared lock.
    ///
    /// # Errors
    /// If it cannot be written; no file is left behind.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<(Digest, u64)> {
        self.put_reader(bytes, Path::new("memory"), &mut |_| {})
    }

    /// Stores a file as a blob and leaves the file itself in place. `progress` gets the bytes done.
    /// The caller must have the shared lock.
    ///
    /// # Errors
    /// If it cannot be read or written; no file is left behind.
    pub fn put_file(
        &self,
        source: &Path,
        take: Take,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Digest, u64)> {
        let open = || regular_file::named(source);
        if take == Take::Link {
            return self.link_file(source, &open()?, progress);
        }
        let unfinished = Unfinished::create(&self.blobs()?)?;
        if !reflink(&unfinished.file, &open()?) {
            drop(unfinished);
            return self.put_reader(open()?, source, progress);
        }
        let read = File::open(&unfinished.path)
            .map_err(|error| Error::io("read", &unfinished.path, error))?;
        let (digest, size_bytes) = hash(read, source, progress)?;
        self.keep(unfinished, &digest, size_bytes)?;
        Ok((digest, size_bytes))
    }

    /// Stores a reader's bytes, if they have this digest.
    ///
    /// # Errors
    /// `Usage` if the digest differs; if it cannot be read or written. No file is left behind.
    pub fn put_upload(&self, digest: &Digest, reader: &mut dyn Read) -> Result<()> {
        let _guard = self.share()?;
        let source = Path::new("the upload");
        let (unfinished, found, size_bytes) = self.write(reader, source, &mut |_| {})?;
        if found != *digest {
            return Err(Error::usage(format!(
                "digest mismatch, expected \"{digest}\", got \"{found}\""
            )));
        }
        self.keep(unfinished, digest, size_bytes)
    }

    /// Stores a reader's bytes; errors name it as `source`. The caller must have the shared lock.
    ///
    /// # Errors
    /// If it cannot be read or written; no file is left behind.
    pub fn put_stream(
        &self,
        reader: &mut dyn Read,
        source: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Digest, u64)> {
        self.put_reader(reader, source, progress)
    }

    /// Stores the file that `make` writes to the path passed to it. The caller must have the shared lock.
    ///
    /// # Errors
    /// Those of `make`; if the file cannot be read. No file is left behind.
    pub fn put_made(&self, make: &mut dyn FnMut(&Path) -> Result<()>) -> Result<(Digest, u64)> {
        let unfinished = Unfinished::create(&self.blobs()?)?;
        make(&unfinished.path)?;
        let read = File::open(&unfinished.path);
        let read = read.map_err(|error| Error::io("read", &unfinished.path, error))?;
        let (digest, size_bytes) = hash(read, &unfinished.path, &mut |_| {})?;
        self.keep(unfinished, &digest, size_bytes)?;
        Ok((digest, size_bytes))
    }

    fn put_reader(
        &self,
        reader: impl Read,
        source: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Digest, u64)> {
        let (unfinished, digest, size_bytes) = self.write(reader, source, progress)?;
        self.keep(unfinished, &digest, size_bytes)?;
        Ok((digest, size_bytes))
    }

    /// Writes a reader's bytes to an unfinished file; returns it with its digest and length.
    fn write(
        &self,
        mut reader: impl Read,
        source: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Unfinished, Digest, u64)> {
        let unfinished = Unfinished::create(&self.blobs()?)?;
        let mut writer = HashingWriter::new(&unfinished.file);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = reader
                .read(&mut piece)
                .map_err(|error| Error::io("read", source, error))?;
            if count == 0 {
                break;
            }
            writer
                .write_all(&piece[..count])
                .map_err(|error| Error::io("write", self.root(), error))?;
            progress(writer.written_bytes());
        }
        let (digest, size_bytes) = (writer.digest(), writer.written_bytes());
        Ok((unfinished, digest, size_bytes))
    }

    fn link_file(
        &self,
        source: &Path,
        file: &File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(Digest, u64)> {
        let (digest, size_bytes) = hash(file, source, progress)?;
        let path = self.blobs()?.join(digest.file_name());
        let stamp = stamp_path(&path);
        if path.is_file() && !stamp.exists() {
            return Ok((digest, size_bytes)); // Our own copy is safer than a link.
        }
        let meta = file
            .metadata()
            .map_err(|error| Error::io("read", source, error))?;
        // A hard link to a symbolic link could dangle, so link the file that it points to.
        let real = fs::canonicalize(source).map_err(|error| Error::io("read", source, error))?;
        let unfinished = Unfinished::create(&self.blobs()?)?;
        fs::remove_file(&unfinished.path)
            .and_then(|()| fs::hard_link(&real, &unfinished.path))
            .map_err(|error| Error::io("link", source, error))?;
        // Write the stamp first, so that a link never exists without one.
        super::write_whole(&stamp, stamp_of(&meta).as_bytes())?;
        unfinished.rename(&path)?;
        Ok((digest, size_bytes))
    }

    /// True if the blob in our own store is a link to a file elsewhere.
    pub fn is_linked(&self, digest: &Digest) -> bool {
        let blobs = self.blobs();
        blobs.is_ok_and(|blobs| stamp_path(&blobs.join(digest.file_name())).exists())
    }

    /// Copies a blob from Ollama's store into ours. The caller must have the shared lock.
    ///
    /// # Errors
    /// If it is missing, damaged, or cannot be copied.
    pub fn adopt(&self, digest: &Digest) -> Result<()> {
        if existing(self.root(), digest).is_some() {
            return Ok(());
        }
        let source = self.blob(digest)?;
        let (found, _) = self.put_file(&source, Take::Copy, &mut |_| {})?;
        if found == *digest {
            Ok(())
        } else {
            Err(Error::damaged(source, "its content has a different digest"))
        }
    }

    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        for path in [stamp_path(&path), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Renames a finished file to its digest, unless the store has its own copy of that digest and
    /// length, which is not a link.
    fn keep(&self, unfinished: Unfinished, digest: &Digest, size_bytes: u64) -> Result<()> {
        let path = self.blob_path(digest);
        let stamp = stamp_path(&path);
        match fs::metadata(&path) {
            Ok(meta) if meta.len() == size_bytes && !stamp.exists() => Ok(()),
            _ => {
                unfinished.rename(&path)?;
                // The blob is no longer a link. Usually there was no stamp, so an error is expected.
                let _ = fs::remove_file(stamp);
                Ok(())
            }
        }
    }

    /// Maps a digest to a path; no other function does.
    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs").join(digest.file_name())
    }

    pub(super) fn blobs(&self) -> Result<PathBuf> {
        let folder = self.root().join("blobs");
        fs::create_dir_all(&folder).map_err(|error| Error::io("make", &folder, error))?;
        Ok(folder)
    }
}

/// A blob's path under a root if it exists; very old stores wrote a colon in the name.
fn existing(root: &Path, digest: &Digest) -> Option<PathBuf> {
    let names = [digest.file_name(), digest.to_string()];
    names
        .into_iter()
        .map(|name| root.join("blobs").join(name))
        .find(|path| path.is_file())
}

fn hash(file: impl Read, source: &Path, progress: &mut dyn FnMut(u64)) -> Result<(Digest, u64)> {
    struct Counted<'a, R>(R, u64, &'a mut dyn FnMut(u64));
    impl<R: Read> Read for Counted<'_, R> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let count = self.0.read(bytes)?;
            self.1 += count as u64;
            (self.2)(self.1);
            Ok(count)
        }
    }
    Digest::read_from(Counted(file, 0, progress)).map_err(|error| Error::io("read", source, error))
}

/// Shares the blocks of `source` with `target`, where the file system supports it.
#[cfg(target_os = "linux")]
fn reflink(target: &File, source: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn reflink(_: &File, _: &File) -> bool {
    false
}

/// The path of a linked blob's stamp: the length and modification time when it was linked.
fn stamp_path(blob: &Path) -> PathBuf {
    let mut path = blob.as_os_str().to_owned();
    path.push("-link");
    path.into()
}

fn stamp_of(meta: &fs::Metadata) -> String {
    let modified = meta
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!(
        "{} {}\n",
        meta.len(),
        modified.unwrap_or_default().as_nanos()
    )
}
