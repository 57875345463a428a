//! The resume note of an upload: the address for the rest of a blob, so that an interrupted push can
//! resume in another process.
//!
//! The note is stored beside the blob as `sha256-HEX-partial-push-PLACE`; `gc` removes it like any
//! unfinished file. An upload address is a secret, so only the user may read the note.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::Store;
use crate::core::digest::Digest;

/// Size limit of a note, in bytes.
const ADDRESS_BYTES_MAX: u64 = 64 << 10;

/// The note for one blob and one destination, locked while it lives.
pub struct Sending {
    path: PathBuf,
    file: File,
}

impl Store {
    /// The note for uploading a blob to `place`, empty if it is new. `None` if another process has it
    /// locked or it cannot be written: the blob is then sent without one.
    pub fn sending(&self, digest: &Digest, place: &str) -> Option<Sending> {
        let place = Digest::compute(place.as_bytes()).hex();
        let name = format!("{}-partial-push-{}", digest.file_name(), &place[..12]);
        let path = self.blobs().ok()?.join(name);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(&path).ok()?;
        file.try_lock().ok()?;
        Some(Sending { path, file })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // An upload that never began leaves nothing to resume. gc removes what cannot be removed here.
        if self.file.metadata().is_ok_and(|meta| meta.len() == 0) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Sending {
    /// The saved address; `None` if the note is empty or incomplete.
    pub fn address(&self) -> Option<String> {
        let mut text = String::new();
        let mut file = (&self.file).take(ADDRESS_BYTES_MAX);
        file.read_to_string(&mut text).ok()?;
        // Without the final newline it was not written completely.
        text.strip_suffix('\n').map(str::to_string)
    }

    /// Saves the address for the rest of the blob.
    pub fn note(&self, address: &str) {
        // A failure is harmless: the next push starts from the beginning.
        let _ = self.file.set_len(0);
        let _ = self.file.write_all_at(format!("{address}\n").as_bytes(), 0);
    }

    /// Removes the note after the blob was sent.
    pub fn end(self) {
        let _ = fs::remove_file(&self.path); // gc removes leftovers.
    }
}
