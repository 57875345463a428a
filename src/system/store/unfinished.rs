//! Files that are not complete yet: written beside their place, synced, renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::core::error::{Error, Result};

/// Prefix of our unfinished files; it is valid neither for a blob nor for a manifest.
pub const UNFINISHED: &str = ".puna-";

/// Writes a file atomically: to a temporary file beside it, synced, then renamed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().expect("a manifest lies in a folder");
    fs::create_dir_all(folder).map_err(|error| Error::io("make", folder, error))?;
    let mut unfinished = Unfinished::create(folder)?;
    let written = unfinished.file().write_all(bytes);
    written.map_err(|error| Error::io("write", path, error))?;
    unfinished.rename(path)
}

/// Syncs a folder, so that a rename survives a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Error::io("sync", folder, error))
}

/// A temporary file in the store: removed on drop unless it was renamed.
pub(crate) struct Unfinished {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

impl Unfinished {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| Error::failed(format!("no random numbers: {error}")))?;
        let path = folder.join(format!("{UNFINISHED}{:016x}", u64::from_le_bytes(random)));
        let file = File::create_new(&path).map_err(|error| Error::io("write", folder, error))?;
        Ok(Unfinished { path, file })
    }

    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    pub(super) fn rename(self, target: &Path) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|error| Error::io("write", target, error))?;
        fs::rename(&self.path, target).map_err(|error| Error::io("write", target, error))?;
        sync_folder(target.parent().expect("a file lies in a folder"))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After the rename the file no longer exists, so an error is expected.
        let _ = fs::remove_file(&self.path);
    }
}
