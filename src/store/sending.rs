//! A blob on its way to a registry: where the registry takes the rest of it, so that a push which was
//! cut short goes on in another process.
//!
//! The note lies beside the blob as `sha256-HEX-partial-push-PLACE`, and `gc` removes it like any
//! other unfinished thing. An address to send to is a secret: nobody else may read the note.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use super::Store;
use crate::digest::Digest;

/// Longest address that is read back, in bytes.
const ADDRESS_BYTES_MAX: u64 = 64 << 10;

/// The note of one blob to one place. While it lives nobody else sends that blob there by it.
pub struct Sending {
    path: PathBuf,
    file: File,
}

impl Store {
    /// The note of a blob that goes to `place`, empty if none was begun. `None` if another process
    /// has it, or if it cannot be written: then the blob is sent without one.
    pub fn sending(&self, digest: &Digest, place: &str) -> Option<Sending> {
        let place = Digest::of(place.as_bytes()).hex();
        let name = format!("{}-partial-push-{}", digest.file_name(), &place[..12]);
        let path = self.blobs().ok()?.join(name);
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.mode(0o600).open(&path).ok()?;
        file.try_lock().ok()?;
        Some(Sending { path, file })
    }
}

impl Sending {
    /// Where the rest was to be sent.
    pub fn address(&self) -> Option<String> {
        let mut text = String::new();
        let mut file = (&self.file).take(ADDRESS_BYTES_MAX);
        file.read_to_string(&mut text).ok()?;
        // Without its end it was not written whole.
        text.strip_suffix('\n').map(str::to_string)
    }

    /// Notes where the rest is to be sent.
    pub fn note(&self, address: &str) {
        // Without a note the next push begins anew: slower, and as right.
        let _ = self.file.set_len(0);
        let _ = self.file.write_all_at(format!("{address}\n").as_bytes(), 0);
    }

    /// The blob is there.
    pub fn end(self) {
        let _ = fs::remove_file(&self.path); // What is left over, gc removes.
    }
}
