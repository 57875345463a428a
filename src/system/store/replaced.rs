//! Models that were made here and then replaced by a pull: manifest and blobs stay for a day, out of the reach of
//! collections, so that a mistake can be undone by hand.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::unfinished::write_whole;
use super::{Origin, Store, walk};
use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::core::name::Name;
use crate::core::regular_file;
use crate::format::manifest::Manifest;

/// The folder of the manifests: below the path of a name, each is named by its digest in hex.
const FOLDER: &str = "replaced";
/// How long they stay.
pub const GRACE: Duration = Duration::from_secs(86_400);
/// Levels of folders: those of a name, and the file.
const DEPTH: usize = 5;

/// A manifest that was replaced.
pub struct Replaced {
    /// Its file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was replaced.
    pub since: SystemTime,
    manifest: Manifest,
}

impl Replaced {
    /// True while it and its blobs stay.
    pub fn stays(&self, now: SystemTime) -> bool {
        // A clock that went back makes nothing older.
        now.duration_since(self.since).unwrap_or_default() < GRACE
    }

    /// Its blobs.
    pub fn blobs(&self) -> BTreeSet<Digest> {
        self.manifest.digests()
    }
}

impl Store {
    /// Keeps the manifest of a model that a pull is about to replace, unless a registry has it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_replaced(&self, name: &Name) -> Result<()> {
        let entry = match self.find(name) {
            Ok(entry) if entry.origin == Origin::Ours && !self.is_pulled(&entry) => entry,
            _ => return Ok(()),
        };
        let path = self.folder_of(&entry.name).join(entry.digest.hex());
        write_whole(&path, &self.manifest_of(&entry)?)
    }

    /// Removes the manifests that were replaced under a name, because the model itself is removed on purpose; returns
    /// their blobs.
    pub(super) fn forget_replaced(&self, name: &Name) -> Vec<Digest> {
        let folder = self.folder_of(name);
        let all = self.replaced().into_iter();
        let here = all.filter(|one| one.path.starts_with(&folder));
        let blobs = here.flat_map(|one| one.blobs()).collect();
        // Most names have none.
        let _ = fs::remove_dir_all(folder);
        blobs
    }

    /// All manifests that were replaced and not collected yet; those that cannot be read are left out.
    pub(super) fn replaced(&self) -> Vec<Replaced> {
        let mut files = Vec::new();
        let _ = walk(&self.root.join(FOLDER), DEPTH, &mut files);
        let read = |path: PathBuf| {
            let text = regular_file::text(&path).ok()?;
            let since = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
            Some(Replaced {
                manifest: Manifest::parse(text.as_bytes()).ok()?,
                bytes: text.len() as u64,
                path,
                since,
            })
        };
        files.into_iter().filter_map(read).collect()
    }

    /// The blobs of the manifests that stay.
    pub(super) fn replaced_blobs(&self) -> Vec<Digest> {
        let now = SystemTime::now();
        let staying = self.replaced().into_iter().filter(|one| one.stays(now));
        staying.flat_map(|one| one.blobs()).collect()
    }

    fn folder_of(&self, name: &Name) -> PathBuf {
        self.root.join(FOLDER).join(name.path())
    }
}
