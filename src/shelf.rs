//! Opened models of a server, each kept as long as its files are what they were: a request for a model
//! that is known asks the system about a few files and opens none.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Result;
use crate::model::{self, Model};
use crate::name::Name;
use crate::store::Store;

/// Most models that are kept; beyond that all are opened anew, which takes milliseconds.
const MODELS_MAX: usize = 64;

/// What tells a file from another one at its path: device, inode, length, and when it was changed, in
/// seconds and nanoseconds. `None` where no file is.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The models, by what the user called them, each with the stamps of its files.
#[derive(Default)]
pub struct Shelf(Mutex<HashMap<String, Kept>>);

type Kept = (Vec<Stamp>, Arc<Model>);

impl Shelf {
    /// Opens a model of the store, as [`model::of_name`] does.
    ///
    /// # Errors
    /// As [`model::of_name`]; what went wrong is not kept.
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
        let mut models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stamps, model)) = models.get(label)
            && *stamps == with_files(model)
        {
            return Ok(model.clone());
        }
        models.remove(label);
        drop(models); // Opening may take a while.
        let model = Arc::new(model::of_name(store, label, name)?);
        // A name that is spelled otherwise has no file of its own that would tell of a change.
        if manifests.iter().any(Option::is_some) {
            let mut models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if models.len() >= MODELS_MAX {
                models.clear();
            }
            models.insert(label.to_string(), (with_files(&model), model.clone()));
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
