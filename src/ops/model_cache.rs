//! The model cache of a server: opened models, each valid while its files are unchanged. A request for a
//! known model checks the metadata of a few files and opens none.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::model::{self, Model};
use crate::core::error::Result;
use crate::core::lock::LockExt;
use crate::core::name::Name;
use crate::system::store::Store;

/// Most cached models; beyond that all are opened again, which takes milliseconds.
const MODELS_MAX: usize = 64;

/// The identity of a file at a path: device, inode, length, and time of its last change, in seconds and
/// nanoseconds. `None` if the file does not exist.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The models by the names that the user gave, each with the stamps of its files.
#[derive(Default)]
pub struct ModelCache(Mutex<HashMap<String, Cached>>);

type Cached = (Vec<Stamp>, Arc<Model>);

impl ModelCache {
    /// Opens a model of the store, as [`model::open_name`] does.
    ///
    /// # Errors
    /// As [`model::open_name`]; errors are not cached.
    pub fn open(&self, store: &Store, label: &str, name: &Name) -> Result<Arc<Model>> {
        let manifests: Vec<Stamp> = store
            .manifest_paths(name)
            .map(|path| stamp(&path))
            .collect();
        let with_files = |model: &Model| {
            let files = [
                Some(&model.weights),
                model.adapter.as_ref(),
                model.projector.as_ref(),
            ];
            let files = files.into_iter().flatten().map(|path| stamp(path));
            manifests
                .iter()
                .copied()
                .chain(files)
                .collect::<Vec<Stamp>>()
        };
        // The lock is not held while files are looked at or read.
        let known = self.0.locked().get(label).cloned();
        if let Some((stamps, model)) = known
            && stamps == with_files(&model)
        {
            return Ok(model);
        }
        self.0.locked().remove(label);
        let model = Arc::new(model::open_name(store, label, name)?);
        // A name in another spelling has no file of its own that would show a change.
        if manifests.iter().any(Option::is_some) {
            let cached = (with_files(&model), model.clone());
            let mut models = self.0.locked();
            if models.len() >= MODELS_MAX {
                models.clear();
            }
            models.insert(label.to_string(), cached);
        }
        Ok(model)
    }
}

fn stamp(path: &Path) -> Stamp {
    let meta = fs::metadata(path).ok()?;
    Some((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.ctime(),
        meta.ctime_nsec(),
    ))
}
