//! Pushes a model to a registry: the blobs that it lacks, then the manifest, byte for byte.

use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::format::wire::native::create::Progress;
use crate::format::wire::native::transfer;
use crate::system::registry::{Registry, Upload};
use crate::system::store::{Sending, Store};

/// A progress event of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The model is being looked up in the store.
    Manifest,
    /// The model was not found.
    Missing,
    /// Progress of one blob.
    Blob {
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        total: u64,
        /// Bytes that the registry has.
        completed: u64,
    },
    /// All blobs are at the registry; the manifest is being sent.
    Writing,
}

impl Step {
    /// The API's progress record of the event.
    pub fn record(&self) -> Progress {
        match self {
            Step::Manifest => Progress::new("retrieving manifest"),
            Step::Missing => Progress::new("couldn't retrieve manifest"),
            Step::Blob {
                digest,
                total,
                completed,
            } => transfer::blob("pushing", digest, (*total, *completed)),
            Step::Writing => Progress::new("pushing manifest"),
        }
    }
}

/// Pushes a model.
///
/// # Errors
/// `NoModel`; the registry's error, or a network error.
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
        let mut report_bytes = |completed| {
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
            report_bytes(completed);
        });
        sent.map_err(|error| refused(error, name))?;
        sending.into_iter().for_each(Sending::end);
        report_bytes(size);
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
