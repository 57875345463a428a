//! The cache directory: files that can be recreated, so that losing them costs only time.
//! Only this module touches it.
//!
//! A file is written under a temporary name and renamed when it is complete. Writers of one folder exclude
//! each other by a lock, so that two processes never create the same large file twice.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::core::error::{Error, Result};
use crate::core::regular_file;

/// Prefix of the names of unfinished files.
const UNFINISHED: &str = ".puna-";
/// Name of a folder's lock file.
const LOCK: &str = ".lock";

/// True if files can be created in a folder, or in its nearest existing parent.
pub fn is_writable(folder: &Path) -> bool {
    let there = folder.ancestors().find(|folder| folder.exists());
    let access = rustix::fs::Access::WRITE_OK;
    there.is_some_and(|folder| folder.is_dir() && rustix::fs::access(folder, access).is_ok())
}

/// A folder of the cache.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// A file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// Its path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

impl Cached {
    /// Its name in the folder.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

impl Cache {
    /// The folder of this name in the cache directory. Touches nothing.
    pub fn new(root: &Path, folder: &str) -> Self {
        Cache {
            folder: root.join(folder),
        }
    }

    /// The file of this name, written by `make` if it does not exist; others who want it wait.
    ///
    /// # Errors
    /// The error of `make`, or if the folder cannot be written; then nothing is left behind.
    pub fn file(
        &self,
        name: &str,
        make: &mut dyn FnMut(&mut File) -> Result<()>,
    ) -> Result<PathBuf> {
        let path = self.folder.join(name);
        if touch(&path) {
            return Ok(path);
        }
        let _guard = self.lock()?;
        if touch(&path) {
            return Ok(path); // Another process was faster.
        }
        let unfinished = Unfinished(self.folder.join(format!("{UNFINISHED}{name}")));
        let mut file = private(&unfinished.0)?;
        make(&mut file)?;
        file.sync_all()
            .and_then(|()| fs::rename(&unfinished.0, &path))
            .map_err(|error| Error::io("write", &path, error))?;
        Ok(path)
    }

    /// Writes a file of this name. It is not synced: after a crash of the machine it may be damaged, so
    /// readers must check it.
    ///
    /// # Errors
    /// The system's error.
    pub fn put(&self, name: &str, pieces: &[&[u8]]) -> Result<()> {
        let _guard = self.lock()?;
        let path = self.folder.join(name);
        let unfinished = Unfinished(self.folder.join(format!("{UNFINISHED}{name}")));
        let mut file = private(&unfinished.0)?;
        let written = pieces.iter().try_for_each(|piece| file.write_all(piece));
        written
            .and_then(|()| fs::rename(&unfinished.0, &path))
            .map_err(|error| Error::io("write", &path, error))
    }

    /// Opens a file; `used` records that it is used.
    pub fn open(&self, name: &str, used: bool) -> Option<File> {
        let path = self.folder.join(name);
        if used {
            touch(&path);
        }
        regular_file::open(&path).ok()
    }

    /// Removes a file, if it exists.
    pub fn remove(&self, name: &str) {
        // Another process may have been faster; a file that remains is found again.
        let _ = fs::remove_file(self.folder.join(name));
    }

    /// Removes the least recently used files until the others have at most this many bytes.
    pub fn trim(&self, bytes_max: u64) {
        let files = self.files();
        let mut bytes: u64 = files.iter().map(|file| file.bytes).sum();
        for file in files {
            if bytes <= bytes_max {
                return;
            }
            bytes -= file.bytes;
            self.remove(&file.name());
        }
    }

    /// Free bytes of the folder's file system, if the system reports them.
    pub fn free_bytes(&self) -> Option<u64> {
        let existing = self.folder.ancestors().find(|folder| folder.exists())?;
        let stat = rustix::fs::statvfs(existing).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Checks that the folder can be listed, if there is one.
    ///
    /// # Errors
    /// If it cannot.
    pub fn check_readable(&self) -> Result<()> {
        match fs::read_dir(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("read", &self.folder, error))
            }
            _ => Ok(()),
        }
    }

    /// All files, the least recently used first.
    pub fn files(&self) -> Vec<Cached> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut files: Vec<Cached> = entries
            .filter(|entry| entry.file_name() != LOCK)
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some(Cached {
                    path: entry.path(),
                    bytes: meta.len(),
                    used: meta.modified().ok()?,
                })
            })
            .collect();
        files.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
        files
    }

    /// Removes the files that were not used after `since`, unless one is being written; with `dry` only
    /// returns them.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn remove_unused(&self, since: SystemTime, dry: bool) -> Result<Vec<Cached>> {
        let mut files = self.files();
        files.retain(|file| file.used <= since);
        if dry || files.is_empty() {
            return Ok(files);
        }
        let Some(_guard) = self.try_lock()? else {
            return Ok(Vec::new());
        };
        for file in &files {
            fs::remove_file(&file.path).map_err(|error| Error::io("remove", &file.path, error))?;
        }
        Ok(files)
    }

    /// A named lock, held while the file is open; `None` if somebody else holds it.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn named_lock(&self, name: &str) -> Result<Option<File>> {
        self.folder()?;
        let path = self.folder.join(name);
        tried(private(&path)?, &path)
    }

    fn lock(&self) -> Result<File> {
        let (path, file) = self.lock_file()?;
        file.lock()
            .map_err(|error| Error::io("lock", path, error))?;
        Ok(file)
    }

    fn try_lock(&self) -> Result<Option<File>> {
        let (path, file) = self.lock_file()?;
        tried(file, &path)
    }

    /// Makes the folder.
    fn folder(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| Error::io("make", &self.folder, error))
    }

    fn lock_file(&self) -> Result<(PathBuf, File)> {
        self.folder()?;
        let path = self.folder.join(LOCK);
        let file = private(&path)?;
        Ok((path, file))
    }
}

/// The file, if its lock is free.
fn tried(file: File, path: &Path) -> Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", path, error)),
    }
}

/// Opens a file that only its owner may read: the cache may reveal prompts.
fn private(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::io("write", path, error))
}

/// Records that a file is used; false if it does not exist.
fn touch(path: &Path) -> bool {
    match File::options().append(true).open(path) {
        // A file system that keeps no times only makes the file look unused.
        Ok(file) => _ = file.set_modified(SystemTime::now()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(_) => return path.is_file(), // Only readable: good enough to use.
    }
    true
}

/// A file that is removed again unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the rename there is nothing to remove: that error is expected.
        let _ = fs::remove_file(&self.0);
    }
}
