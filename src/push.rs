//! A model of the store to a registry: every blob that it lacks, then the manifest as it is stored.

use crate::api::create::Progress;
use crate::api::transfer;
use crate::digest::Digest;
use crate::error::{Class, Error, Result};
use crate::name::Name;
use crate::registry::{Registry, Upload};
use crate::store::{Sending, Store};

/// What a push tells about its progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The model is looked up.
    Manifest,
    /// It was not found.
    Missing,
    /// So much of a blob is there.
    Blob {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        total: u64,
        /// How much of it is there.
        completed: u64,
    },
    /// All blobs are there: the manifest is sent.
    Writing,
}

impl Step {
    /// The API's record of it.
    pub fn record(&self) -> Progress {
        match self {
            Step::Manifest => Progress::of("retrieving manifest"),
            Step::Missing => Progress::of("couldn't retrieve manifest"),
            Step::Blob {
                digest,
                total,
                completed,
            } => transfer::blob("pushing", digest, (*total, *completed)),
            Step::Writing => Progress::of("pushing manifest"),
        }
    }
}

/// Pushes a model.
///
/// # Errors
/// `NoModel`; what the registry says, or that it cannot be reached.
pub fn push(
    store: &Store,
    registry: &Registry,
    (name, insecure): (&Name, bool),
    report: &mut dyn FnMut(Step),
) -> Result<()> {
    report(Step::Manifest);
    let entry = store.find(name).inspect_err(|_| report(Step::Missing))?;
    let bytes = store.manifest_of(&entry)?;
    let place = registry.place(&entry.name, insecure)?;
    for layer in entry.manifest.blobs() {
        let (digest, size) = (layer.digest()?, layer.size_bytes());
        let path = store.sound_layer(layer)?;
        let from = Name::parse(&layer.from)
            .ok()
            .filter(|_| !layer.from.is_empty());
        let from = from.map(|from| from.remote().1);
        let mut tell = |completed| {
            report(Step::Blob {
                digest,
                total: size,
                completed,
            });
        };
        let sending = store.sending(&digest, &place.blob_url(&digest));
        let upload = Upload {
            digest: &digest,
            path: &path,
            from: from.as_deref(),
            begun: sending.as_ref().and_then(Sending::address),
        };
        let sent = registry.upload(&place, &upload, &mut |completed, rest| {
            sending.iter().for_each(|sending| sending.note(rest));
            tell(completed);
        });
        sent.map_err(|error| refused(error, name))?;
        sending.into_iter().for_each(Sending::end);
        tell(size);
    }
    report(Step::Writing);
    registry
        .put_manifest(&place, &bytes)
        .map_err(|error| refused(error, name))
}

fn refused(error: Error, name: &Name) -> Error {
    match error.class() {
        Class::Denied => Error::plain(Class::Denied, format!("cannot push {name}: {error}")),
        _ => error,
    }
}
