//! The request for a pull, and the steps that a pull reports.

use std::sync::atomic::AtomicBool;

use crate::core::digest::Digest;
use crate::core::error::Result;
use crate::core::name::Name;
use crate::format::wire::native::create::Progress;
use crate::format::wire::native::transfer;
use crate::ops::create::{Changes, Source, create};
use crate::system::store::{Guard, Store};

/// A progress event of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The manifest is being requested.
    Manifest,
    /// Progress of one blob.
    Blob {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        total: u64,
        /// Complete bytes.
        completed: u64,
    },
    /// Every blob is complete and its digest verified.
    Verifying,
    /// The manifest is being written.
    Writing,
    /// Blobs that only the previous model of that name used were removed.
    Removing,
}

impl Step {
    /// The API's progress record of the event.
    pub fn record(&self) -> Progress {
        match self {
            Step::Manifest => Progress::new("pulling manifest"),
            Step::Blob {
                digest,
                total,
                completed,
            } => transfer::blob("pulling", digest, (*total, *completed)),
            Step::Verifying => Progress::new("verifying sha256 digest"),
            Step::Writing => Progress::new("writing manifest"),
            Step::Removing => Progress::new("removing unused layers"),
        }
    }
}

/// The parameters of a pull.
pub struct Request<'a> {
    /// The model's name.
    pub name: &'a Name,
    /// Use http instead of https.
    pub insecure: bool,
    /// Rate limit in bytes per second.
    pub rate: Option<u64>,
    /// The digest that the manifest must have.
    pub locked: Option<Digest>,
    /// Replace a model of that name that was made here.
    pub replace: bool,
    /// Set to cancel the pull.
    pub cancel: &'a AtomicBool,
}

impl Request<'_> {
    /// Checks that the pull of a manifest with this digest replaces no model that was made here, unless it may.
    ///
    /// # Errors
    /// `Denied` if it would.
    pub fn check_replaceable(&self, store: &Store, digest: Option<&Digest>) -> Result<()> {
        if self.replace {
            return Ok(());
        }
        store.check_replaceable(self.name, digest)
    }

    /// Creates the model from a fetched blob, and records that it is as its registry has it.
    ///
    /// # Errors
    /// As [`create`].
    pub fn create(&self, store: &Store, guard: Guard, blob: (Digest, String)) -> Result<()> {
        let source = Source::Blob(blob.0, blob.1);
        store.keep_replaced(self.name)?;
        create(store, self.name, &source, &Changes::default(), &mut |_| {})?;
        drop(guard);
        store.mark_pulled(self.name)
    }
}
