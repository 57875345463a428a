//! The model directory: names map to manifests, manifests to blobs. No other module reads or writes it.
//!
//! The layout is Ollama's, so Ollama's own store can be read in place as a second source, which is
//! never written. A manifest is renamed into place only after every blob it names exists, so a
//! process killed at any moment leaves a valid store.

mod blob;
mod check;
mod collect;
mod lock;
mod partial;
mod pulled;
mod replaced;
mod sending;
mod unfinished;

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::name::{self, Name};
use crate::core::regular_file;
use crate::format::manifest::{MANIFEST_BYTES_MAX, Manifest};
use unfinished::{UNFINISHED, sync_folder, write_whole};

pub use blob::Take;
pub use check::Checked;
pub use collect::{GARBAGE_AGE, Garbage, Usage};
pub use lock::Guard;
pub use partial::{Hashing, Partial};
pub use sending::Sending;

/// The store that a model is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Our own store, read and written.
    Ours,
    /// Ollama's store, only read.
    Ollama,
}

/// A model in a store.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name as spelt in the store.
    pub name: Name,
    /// The parsed manifest.
    pub manifest: Manifest,
    /// Digest of the manifest's bytes: the model's identity.
    pub digest: Digest,
    /// When the manifest was written.
    pub modified: SystemTime,
    /// The store it is in.
    pub origin: Origin,
}

/// The result of a listing.
#[derive(Debug, Default)]
pub struct Listing {
    /// Models, newest first; one of ours hides Ollama's of the same name.
    pub entries: Vec<Entry>,
    /// Files in place of a manifest that cannot be read as one, each with the reason.
    pub broken: Vec<String>,
}

/// Our own store, and Ollama's as a second source.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    second: Option<PathBuf>,
    keeps_unused: bool,
}

impl Store {
    /// A store at `root`, with Ollama's at `second`. Does no I/O.
    pub fn new(root: PathBuf, second: Option<PathBuf>) -> Self {
        Store {
            second: second.filter(|second| *second != root),
            root,
            keeps_unused: false,
        }
    }

    /// Sets whether a replaced model leaves its unused blobs in place until `gc`.
    pub fn keeping_unused(self, keeps_unused: bool) -> Self {
        Store {
            keeps_unused,
            ..self
        }
    }

    /// Our own store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Finds a model: exact spelling before any case, our store before Ollama's.
    ///
    /// # Errors
    /// `NoModel` with the nearest names; `Damaged` if its manifest is broken.
    pub fn find(&self, name: &Name) -> Result<Entry> {
        for (root, origin) in self.roots() {
            match self.entry(root, name, origin) {
                Err(error) if error.is_not_found() => {}
                found => return found,
            }
        }
        let listing = self.list()?;
        if let Some(entry) = listing
            .entries
            .iter()
            .find(|entry| entry.name.folds_to(name))
        {
            return Ok(entry.clone());
        }
        let known: Vec<String> = listing
            .entries
            .iter()
            .map(|entry| entry.name.to_string())
            .collect();
        let wanted = name.to_string();
        let wanted = wanted.strip_suffix(":latest").unwrap_or(&wanted);
        Err(Error::no_model(
            wanted,
            name::nearest(wanted, known.iter().map(String::as_str)),
        ))
    }

    /// Paths of a name's manifest in our store and in Ollama's, whether or not the files exist.
    pub fn manifest_paths(&self, name: &Name) -> impl Iterator<Item = PathBuf> {
        self.roots().map(|(root, _)| self.manifest_path(root, name))
    }

    /// Lists every model of both stores.
    ///
    /// # Errors
    /// If a folder exists but cannot be read.
    pub fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for (root, origin) in self.roots() {
            let mut files = Vec::new();
            walk(&root.join("manifests"), 4, &mut files)?;
            for file in files {
                self.list_one(root, &file, origin, &mut listing);
            }
        }
        let mut seen = HashSet::new(); // Ours come first and hide Ollama's.
        listing
            .entries
            .retain(|entry| seen.insert(entry.name.clone()));
        listing.entries.sort_by(|a, b| {
            b.modified
                .cmp(&a.modified)
                .then_with(|| a.name.cmp(&b.name))
        });
        Ok(listing)
    }

    fn list_one(&self, root: &Path, file: &Path, origin: Origin, listing: &mut Listing) {
        let relative = file.strip_prefix(root.join("manifests")).unwrap_or(file);
        let parts: Option<Vec<&str>> = relative.iter().map(|part| part.to_str()).collect();
        let name = match parts.as_deref() {
            Some([host, namespace, model, tag]) => Name::from_parts(host, namespace, model, tag),
            _ => None,
        };
        let Some(name) = name else {
            let is_ours = file
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(UNFINISHED));
            if !is_ours {
                listing
                    .broken
                    .push(format!("{}: not a model name", file.display()));
            }
            return;
        };
        match self.entry(root, &name, origin) {
            Ok(entry) => listing.entries.push(entry),
            // It was removed since the folder was read.
            Err(error) if error.is_not_found() && file.symlink_metadata().is_err() => {}
            Err(error) => listing.broken.push(error.to_string()),
        }
    }

    /// Writes a manifest under a name, releases the shared lock, and removes the blobs that only the
    /// previous manifest of that name used. Returns true if it removed any.
    ///
    /// # Errors
    /// If a blob that the manifest names is missing, or the file cannot be written.
    pub fn write_manifest(
        &self,
        guard: Guard,
        name: &Name,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<bool> {
        for digest in manifest.digests() {
            self.blob(&digest)?;
        }
        let name = &self.spelt(name)?;
        let old = self.entry(&self.root, name, Origin::Ours).ok();
        let path = self.manifest_path(&self.root, name);
        write_whole(&path, bytes)?;
        drop(guard); // Collecting needs the exclusive lock.
        match old {
            Some(old) if !self.keeps_unused => Ok(self.collect(&old.manifest)? > 0),
            _ => Ok(false),
        }
    }

    /// Copies a manifest to another name, and its blobs from Ollama's store where needed.
    ///
    /// # Errors
    /// `NoModel` if `source` does not exist.
    pub fn copy(&self, source: &Name, target: &Name) -> Result<()> {
        let guard = self.share()?;
        let entry = self.find(source)?;
        let target = &self.spelt(target)?;
        if entry.origin == Origin::Ours && entry.name == *target {
            return Ok(());
        }
        for digest in entry.manifest.digests() {
            self.adopt(&digest)?;
        }
        let bytes = self.manifest_of(&entry)?;
        self.write_manifest(guard, target, &entry.manifest, &bytes)
            .map(drop)
    }

    /// The name to write a manifest under, in the spelling of an existing one that differs only in case.
    fn spelt(&self, name: &Name) -> Result<Name> {
        let ours = Store::new(self.root.clone(), None).list()?;
        Ok(name.spelt_as(ours.entries.iter().map(|entry| &entry.name)))
    }

    /// Reads a model's entry from one of the two stores, by exact spelling.
    fn entry(&self, root: &Path, name: &Name, origin: Origin) -> Result<Entry> {
        let path = self.manifest_path(root, name);
        let (bytes, modified) = manifest_bytes(&path)?;
        let manifest =
            Manifest::parse(&bytes).map_err(|error| Error::damaged(&path, error.to_string()))?;
        Ok(Entry {
            name: name.clone(),
            manifest,
            digest: Digest::compute(&bytes),
            modified,
            origin,
        })
    }

    /// The bytes of an entry's manifest, as stored.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn manifest_of(&self, entry: &Entry) -> Result<Vec<u8>> {
        manifest_bytes(&self.manifest_path(self.root_of(entry.origin), &entry.name))
            .map(|(bytes, _)| bytes)
    }

    /// Maps a name to a path; no other function does.
    fn manifest_path(&self, root: &Path, name: &Name) -> PathBuf {
        root.join("manifests").join(name.path())
    }

    fn root_of(&self, origin: Origin) -> &Path {
        match (origin, &self.second) {
            (Origin::Ollama, Some(second)) => second,
            _ => &self.root,
        }
    }

    fn roots(&self) -> impl Iterator<Item = (&Path, Origin)> {
        let second = self.second.as_deref().map(|root| (root, Origin::Ollama));
        [(self.root.as_path(), Origin::Ours)]
            .into_iter()
            .chain(second)
    }
}

/// The bytes of a manifest and its modification time. The file is opened only once, since a listing
/// reads hundreds of them.
fn manifest_bytes(path: &Path) -> Result<(Vec<u8>, SystemTime)> {
    let read = || -> io::Result<(Vec<u8>, SystemTime)> {
        let mut file = regular_file::open(path)?;
        let meta = file.metadata()?;
        if meta.len() > MANIFEST_BYTES_MAX {
            return Err(io::Error::other("too large for a manifest"));
        }
        let mut bytes = vec![0; meta.len() as usize];
        file.read_exact(&mut bytes)?; // A manifest is renamed into place whole.
        Ok((bytes, meta.modified()?))
    };
    read().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::no_model(path.display().to_string(), vec![])
        }
        io::ErrorKind::InvalidData if path.is_dir() => {
            Error::no_model(path.display().to_string(), vec![])
        }
        io::ErrorKind::InvalidData => Error::damaged(path, error.to_string()),
        _ => Error::io("read", path, error),
    })
}

/// Adds the files exactly `depth` levels below `folder` to `files`.
fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for (path, is_folder) in entries(folder)? {
        if depth > 1 {
            walk(&path, depth - 1, files)?;
        } else if !is_folder {
            files.push(path);
        }
    }
    Ok(())
}

/// The entries of a folder, each with whether it is a folder; empty if the folder does not exist.
fn entries(folder: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let wrong = |error| Error::io("read", folder, error);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(wrong(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(wrong)?;
        let path = entry.path();
        let is_folder = match entry.file_type() {
            Ok(kind) if kind.is_file() => false,
            Ok(kind) if kind.is_dir() => true,
            _ => path.is_dir(), // A symbolic link, or a file system that reports no type.
        };
        found.push((path, is_folder));
    }
    Ok(found)
}
