//! Which models came from a registry as they are. All others were made here, copied or changed: no pull replaces them
//! unasked.

use std::fs;
use std::path::PathBuf;

use super::unfinished::write_whole;
use super::{Entry, Origin, Store};
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::core::regular_file;

/// The folder of the records; each has the digest of the manifest that was pulled.
const FOLDER: &str = "pulled";

impl Store {
    /// Records that a model is as its registry has it.
    ///
    /// # Errors
    /// If the record cannot be written; the model then counts as made here.
    pub fn mark_pulled(&self, name: &Name) -> Result<()> {
        let entry = self.find(name)?;
        let text = format!("{}\n", entry.digest);
        write_whole(&self.record(&entry.name), text.as_bytes())
    }

    /// True for a model of our store that came from a registry and has not been changed since.
    pub fn is_pulled(&self, entry: &Entry) -> bool {
        let text = regular_file::text(&self.record(&entry.name)).unwrap_or_default();
        let recorded = Digest::parse(text.trim()).ok();
        entry.origin == Origin::Ours && recorded == Some(entry.digest)
    }

    /// Checks that a pull of this manifest replaces no model that was made here.
    ///
    /// # Errors
    /// `Denied` if it would.
    pub fn check_replaceable(&self, name: &Name, digest: Option<&Digest>) -> Result<()> {
        let entry = match self.find(name) {
            Ok(entry) if entry.origin == Origin::Ours => entry,
            _ => return Ok(()),
        };
        if Some(&entry.digest) == digest || self.is_pulled(&entry) {
            return Ok(());
        }
        let text = format!(
            "{} was made here: --replace puts another in its place",
            entry.name
        );
        Err(Error::plain(Class::Denied, text))
    }

    /// Forgets the record of a model that was removed.
    pub(super) fn forget_pulled(&self, name: &Name) {
        // A record without its model means nothing: a new one has another digest.
        let _ = fs::remove_file(self.record(name));
    }

    fn record(&self, name: &Name) -> PathBuf {
        self.root.join(FOLDER).join(name.path())
    }
}
