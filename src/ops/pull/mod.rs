//! Pulls a model from a registry into the store: the manifest, the missing blobs, and the name last.

mod download;
mod rate_limit;
mod request;
mod shards;

pub use request::{Request, Step};

use std::fmt::Display;

use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::format::manifest::Manifest;
use crate::system::registry::{Place, Registry};
use crate::system::store::Store;
use download::Download;
use rate_limit::Limiter;

pub use rate_limit::rate;

/// Size limit of a blob: 2^50 bytes.
const BLOB_BYTES_MAX: i64 = 1 << 50;

/// Pulls a model.
///
/// # Errors
/// `NoModel`, `Network`, `Denied`, `Damaged`; a full disk. Complete bytes stay for the next attempt,
/// and no incomplete file gets its final name.
pub fn pull(
    store: &Store,
    registry: &Registry,
    request: &Request,
    report: &mut dyn FnMut(Step),
) -> Result<()> {
    report(Step::Manifest);
    let place = registry.place(request.name, request.insecure)?;
    let found = match &request.locked {
        Some(digest) => locked(registry, &place, digest),
        None => manifest(registry, &place),
    };
    let (bytes, manifest) = match found {
        Err(error) if shards::is_refusal(request.name, &error) => {
            return shards::pull(store, registry, (&place, request), report);
        }
        found => found?,
    };
    let digest = Digest::compute(&bytes);
    request.check_replaceable(store, Some(&digest))?;
    let guard = store.share()?;
    let blobs = blobs(&manifest)?;
    let missing = blobs
        .iter()
        .filter(|(digest, size)| store.sound_blob(digest, *size).is_err());
    let bytes_missing =
        missing.map(|(digest, size)| size.saturating_sub(store.partial_bytes(digest)));
    store.must_have_room(bytes_missing.sum())?;
    let limiter = Limiter::new(request.rate);
    for (digest, size) in blobs {
        let blob = |completed| Step::Blob {
            digest,
            total: size,
            completed,
        };
        if store.sound_blob(&digest, size).is_err() {
            let download = Download {
                store,
                registry,
                place: &place,
                url: &place.blob_url(&digest),
                digest,
                size,
                limiter: &limiter,
                cancel: request.cancel,
            };
            download.run(&mut |completed| {
                if completed < size {
                    report(blob(completed));
                }
            })?;
        }
        report(blob(size));
    }
    report(Step::Verifying); // Every blob was hashed while it was downloaded.
    report(Step::Writing);
    store.keep_replaced(request.name)?;
    let removed = store.write_manifest(guard, request.name, &manifest, &bytes)?;
    store.mark_pulled(request.name)?;
    if removed {
        report(Step::Removing);
    }
    Ok(())
}

/// Pulls the GGUF file at an http or https URL and creates a model from it.
///
/// # Errors
/// As [`pull`]; if the file is not a GGUF.
pub fn pull_file(
    store: &Store,
    registry: &Registry,
    (url, request): (&str, &Request),
    report: &mut dyn FnMut(Step),
) -> Result<()> {
    report(Step::Manifest);
    request.check_replaceable(store, None)?;
    let place = Place::from_url(url)?;
    let size = registry.length(&place, url)?;
    let known = Digest::compute(url.as_bytes());
    store.must_have_room(size.saturating_sub(store.partial_bytes(&known)))?;
    let guard = store.share()?;
    let limiter = Limiter::new(request.rate);
    let download = Download {
        store,
        registry,
        place: &place,
        url,
        digest: known,
        size,
        limiter: &limiter,
        cancel: request.cancel,
    };
    let mut report_bytes = |digest: Digest, completed: u64| {
        report(Step::Blob {
            digest,
            total: size,
            completed,
        });
    };
    let digest = download.run_unnamed(&mut |completed| report_bytes(known, completed))?;
    report_bytes(digest, size);
    report(Step::Verifying);
    report(Step::Writing);
    let file = url.split(['?', '#']).next().unwrap_or_default();
    let file = file.rsplit('/').next().unwrap_or_default();
    request.create(store, guard, (digest, file.to_string()))
}

/// True if the registry has a different model under this name than the store.
///
/// # Errors
/// As [`pull`]; `NoModel` if the store has no model of that name.
pub fn is_outdated(
    store: &Store,
    registry: &Registry,
    name: &Name,
    insecure: bool,
) -> Result<bool> {
    let ours = store.find(name)?;
    let place = registry.place(&ours.name, insecure)?;
    match manifest(registry, &place) {
        Ok((bytes, _)) => Ok(Digest::compute(&bytes) != ours.digest),
        Err(error) if shards::is_refusal(&ours.name, &error) => {
            let theirs = shards::origin(&shards::find(registry, &place)?);
            Ok(ours
                .manifest
                .layer("model")
                .is_none_or(|layer| layer.from != theirs))
        }
        Err(error) => Err(error),
    }
}

/// The manifest with this digest: the tag's current one, or an older one that the registry still has.
fn locked(registry: &Registry, place: &Place, digest: &Digest) -> Result<(Vec<u8>, Manifest)> {
    let now = manifest(registry, place)?;
    let found = Digest::compute(&now.0);
    if found == *digest {
        return Ok(now);
    }
    let by_digest = Place {
        tag: digest.to_string(),
        ..place.clone()
    };
    match manifest(registry, &by_digest) {
        Ok(then) if Digest::compute(&then.0) == *digest => Ok(then),
        _ => {
            let text = format!("{place} does not match the lock file: want {digest}, got {found}");
            Err(Error::plain(Class::Damaged, text))
        }
    }
}

/// A usable manifest and its bytes.
fn manifest(registry: &Registry, place: &Place) -> Result<(Vec<u8>, Manifest)> {
    let prefixed =
        |error: Error| Error::plain(error.class(), format!("pull model manifest: {error}"));
    let bytes = registry.manifest(place).map_err(prefixed)?;
    if bytes.trim_ascii_start().starts_with(b"<") {
        return Err(broken(format_args!(
            "{place} answers with a web page; is a proxy or a login page in between?"
        )));
    }
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(broken)?;
    if manifest.layers.is_empty() {
        return Err(broken("it lists no layers"));
    }
    if manifest.layers.iter().any(|layer| layer.kind() == "tensor") {
        return Err(broken(
            "this model consists of MLX tensors, which puna does not run; look for its GGUF",
        ));
    }
    Ok((bytes, manifest))
}

fn broken(why: impl Display) -> Error {
    Error::plain(Class::Damaged, format!("pull model manifest: {why}"))
}

/// The blobs of a manifest with their sizes, without duplicates, in order, the config last.
fn blobs(manifest: &Manifest) -> Result<Vec<(Digest, u64)>> {
    let mut blobs: Vec<(Digest, u64)> = Vec::new();
    for layer in manifest.blobs() {
        let digest = layer.digest().map_err(broken)?;
        if !(0..=BLOB_BYTES_MAX).contains(&layer.size) {
            return Err(broken(format_args!("invalid layer size: {}", layer.size)));
        }
        let size = layer.size_bytes();
        match blobs.iter().find(|(known, _)| *known == digest) {
            Some((_, known)) if *known != size => {
                return Err(broken(format_args!("{digest} has two lengths")));
            }
            Some(_) => {}
            None => blobs.push((digest, size)),
        }
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::Layer;

    #[test]
    fn layers_that_cannot_be_are_refused() {
        let digest = Digest::compute(b"x");
        let good = Layer::new("model", digest, 7);
        let manifest = |layers: Vec<Layer>| Manifest::new((Digest::compute(b"c"), 1), layers);
        assert_eq!(
            blobs(&manifest(vec![good.clone(), good.clone()]))
                .unwrap()
                .len(),
            2
        );
        for (size, text) in [(-1, ""), (i64::MAX, ""), (8, ""), (7, "sha256:../../x")] {
            let mut bad = good.clone();
            bad.size = size;
            if !text.is_empty() {
                bad.digest = text.into();
            }
            assert!(
                blobs(&manifest(vec![good.clone(), bad])).is_err(),
                "{size} {text}"
            );
        }
    }
}
