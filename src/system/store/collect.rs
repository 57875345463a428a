//! Removes models, unused blobs and unfinished files, and measures disk usage.
//!
//! Starting a command never collects anything: only `rm`, `gc`, create and pull do.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::replaced::Replaced;
use super::unfinished::UNFINISHED;
use super::{Entry, Origin, Store, walk};
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::format::manifest::Manifest;

/// `gc` leaves younger files: they may belong to an operation that is still running.
pub const GARBAGE_AGE: Duration = Duration::from_secs(3600);

/// A file that no model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// The file's path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// `blob`, `partial`, `unfinished` or `replaced`.
    pub what: &'static str,
}

/// Disk usage of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The model's name; `(partial)`, `(unused)` or `(replaced)` for files of no model.
    pub what: String,
    /// Size of all its blobs, in bytes.
    pub bytes: u64,
    /// Size of the blobs that no other model uses, in bytes.
    pub own_bytes: u64,
}

impl Store {
    /// Removes a model and the blobs that no other model uses. While another process is writing, the
    /// blobs stay until a later collection.
    ///
    /// # Errors
    /// `NoModel`; `Denied` for a model of Ollama's store.
    pub fn remove(&self, name: &Name) -> Result<()> {
        let entry = self.find(name)?;
        if entry.origin == Origin::Ollama {
            let message =
                format!("cannot remove {name}: it is in Ollama's store, which puna only reads");
            return Err(Error::plain(Class::Denied, message));
        }
        let path = self.manifest_path(self.root(), &entry.name);
        fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))?;
        self.forget_pulled(&entry.name);
        let mut unused = self.forget_replaced(&entry.name);
        unused.extend(entry.manifest.digests());
        for folder in path.ancestors().skip(1).take(3) {
            if fs::remove_dir(folder).is_err() {
                break; // Not empty: it contains other models.
            }
        }
        self.collect_unused(unused).map(drop)
    }

    /// Removes the unused blobs of `manifest`, unless another process is writing; returns their count.
    pub(super) fn collect(&self, manifest: &Manifest) -> Result<usize> {
        self.collect_unused(manifest.digests().into_iter().collect())
    }

    /// Removes those of these blobs that no model uses, unless another process is writing.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn release(&self, digests: &[Digest]) -> Result<()> {
        self.collect_unused(digests.to_vec()).map(drop)
    }

    fn collect_unused(&self, mut unused: Vec<Digest>) -> Result<usize> {
        let Some(_guard) = self.try_exclude()? else {
            return Ok(0); // Another process is writing: a later collection removes the blobs.
        };
        for garbage in self.unfinished(SystemTime::now()) {
            // A failure here is harmless: a later collection tries again.
            let _ = fs::remove_file(garbage.path);
        }
        let Some(used) = self.used()? else {
            return Ok(0);
        };
        let replaced = self.replaced_blobs();
        unused.retain(|digest| !used.contains_key(digest) && !replaced.contains(digest));
        for digest in &unused {
            self.remove_blob(digest)?;
        }
        Ok(unused.len())
    }

    /// Removes unused files that are at least `age` old and returns them; `dry` only lists them. What was replaced
    /// less than a day ago stays, however young `age` is, unless `replaced` asks for it too.
    ///
    /// # Errors
    /// `Busy` if another process is writing; if a manifest cannot be read, since it may use any blob.
    pub fn gc(&self, age: Duration, replaced: bool, dry: bool) -> Result<Vec<Garbage>> {
        let _guard = self.exclude()?;
        let before = SystemTime::now()
            .checked_sub(age)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let used = self.used()?.ok_or_else(|| {
            Error::failed("a manifest cannot be read and may use any blob; see 'puna ls'")
        })?;
        let mut garbage = self.unfinished(before);
        let now = SystemTime::now();
        let (staying, over): (Vec<_>, Vec<_>) =
            { self.replaced().into_iter() }.partition(|one| one.stays(now) && !replaced);
        let staying: Vec<Digest> = staying.iter().flat_map(Replaced::blobs).collect();
        garbage.extend(over.into_iter().map(|one| Garbage {
            path: one.path,
            bytes: one.bytes,
            what: "replaced",
        }));
        let mut files = Vec::new();
        walk(&self.root().join("blobs"), 1, &mut files)?;
        for path in files {
            let name = file_name(&path);
            let what = match Digest::parse(&name) {
                Ok(digest) if !used.contains_key(&digest) && !staying.contains(&digest) => "blob",
                Err(_) if name.contains("-partial") => "partial",
                _ => continue,
            };
            garbage.extend(old(&path, before, what));
        }
        for file in garbage.iter().filter(|_| !dry) {
            match Digest::parse(&file_name(&file.path)) {
                Ok(digest) => self.remove_blob(&digest)?,
                Err(_) => fs::remove_file(&file.path)
                    .map_err(|error| Error::io("remove", &file.path, error))?,
            }
        }
        Ok(garbage)
    }

    /// The disk usage of each model, largest first, then of files that belong to no model.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        let entries = self.ours().list()?.entries;
        let used = uses(&entries);
        let length = |digest: &Digest| {
            let path = self.blob_path(digest);
            fs::metadata(path).map_or(0, |meta| meta.len())
        };
        let mut all = Vec::new();
        for entry in &entries {
            let digests = entry.manifest.digests();
            let own = digests.iter().filter(|digest| used.get(digest) == Some(&1));
            all.push(Usage {
                what: entry.name.to_string(),
                own_bytes: own.map(length).sum(),
                bytes: digests.iter().map(length).sum(),
            });
        }
        all.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.what.cmp(&b.what)));
        let mut files = Vec::new();
        walk(&self.root().join("blobs"), 1, &mut files)?;
        let mut rest = [("(partial)", 0), ("(unused)", 0), ("(replaced)", 0)];
        let replaced = self.replaced_blobs();
        for path in files {
            let name = file_name(&path);
            let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
            match Digest::parse(&name) {
                Ok(digest) if used.contains_key(&digest) => {}
                Ok(digest) if replaced.contains(&digest) => rest[2].1 += bytes,
                Ok(_) => rest[1].1 += bytes,
                Err(_) if name.ends_with("-link") => {}
                Err(_) => rest[0].1 += bytes,
            }
        }
        let rest = rest.into_iter().filter(|(_, bytes)| *bytes > 0);
        all.extend(rest.map(|(what, bytes)| Usage {
            what: what.into(),
            bytes,
            own_bytes: bytes,
        }));
        Ok(all)
    }

    /// How many models use each blob; `None` if a manifest cannot be read, since it may use any blob.
    fn used(&self) -> Result<Option<HashMap<Digest, usize>>> {
        let ours = self.ours().list()?;
        Ok(ours.broken.is_empty().then(|| uses(&ours.entries)))
    }

    fn ours(&self) -> Store {
        Store::new(self.root().to_path_buf(), None)
    }

    /// Unfinished files of killed processes that were last modified before `before`.
    fn unfinished(&self, before: SystemTime) -> Vec<Garbage> {
        let mut files = Vec::new();
        // A failure here is harmless: a later collection lists them again.
        let _ = walk(&self.root().join("blobs"), 1, &mut files);
        let _ = walk(&self.root().join("manifests"), 4, &mut files);
        let files = files
            .iter()
            .filter(|path| file_name(path).starts_with(UNFINISHED));
        files
            .filter_map(|path| old(path, before, "unfinished"))
            .collect()
    }
}

/// How many of these models use each blob.
fn uses(entries: &[Entry]) -> HashMap<Digest, usize> {
    let mut uses = HashMap::new();
    for digest in entries.iter().flat_map(|entry| entry.manifest.digests()) {
        *uses.entry(digest).or_insert(0) += 1;
    }
    uses
}

fn file_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

fn old(path: &Path, before: SystemTime, what: &'static str) -> Option<Garbage> {
    let meta = fs::symlink_metadata(path).ok()?;
    let is_old = meta.modified().is_ok_and(|modified| modified <= before);
    is_old.then(|| Garbage {
        path: path.to_path_buf(),
        bytes: meta.len(),
        what,
    })
}
