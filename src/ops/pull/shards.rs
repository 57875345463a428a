//! Pulls a sharded model from a Hugging Face repository. Its registry refuses such models, so the
//! files are downloaded one by one and joined.

use super::download::Download;
use super::rate_limit::Limiter;
use super::{Request, Step};
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::format::gguf::Shard;
use crate::ops::shards;
use crate::system::registry::{HubFile, Place, Registry};
use crate::system::store::{Entry, Store};

/// The preferred type where the name gives none.
const USUAL: &str = "Q4_K_M";

/// True if the registry's error means that the model is sharded.
pub fn is_refusal(name: &Name, error: &Error) -> bool {
    let (host, _, _) = name.remote();
    matches!(host, "hf.co" | "huggingface.co") && error.to_string().contains("sharded")
}

/// The shards that a name selects.
///
/// # Errors
/// `NoModel` if none match.
pub fn find(registry: &Registry, place: &Place) -> Result<Vec<HubFile>> {
    let files = registry.hub_files(place)?;
    chosen(files, &place.tag).ok_or_else(|| {
        Error::plain(
            Class::NoModel,
            format!("{place}: the repository has no GGUF of that type"),
        )
    })
}

/// The `from` field of a joined model's layer: the first shard's name and a digest of all shards'
/// digests.
pub fn origin(files: &[HubFile]) -> String {
    let digests: Vec<String> = files.iter().map(|file| file.digest.hex()).collect();
    let all = Digest::compute(digests.concat().as_bytes()).hex();
    let first = files.first().map_or("", |file| file.path.as_str());
    format!("{first}@{}", &all[..12])
}

/// Pulls a sharded model.
///
/// # Errors
/// As [`super::pull`].
pub fn pull(
    store: &Store,
    registry: &Registry,
    (place, request): (&Place, &Request),
    report: &mut dyn FnMut(Step),
) -> Result<()> {
    let files = find(registry, place)?;
    let origin = origin(&files);
    let there = joined(store, request.name, &origin);
    if there
        .as_ref()
        .is_some_and(|(entry, _)| store.is_pulled(entry))
    {
        return Ok(());
    }
    request.check_replaceable(store, None)?;
    let guard = store.share()?;
    let digest = match there {
        Some((_, digest)) => digest,
        None => fetched(store, registry, (place, request), &files, report)?,
    };
    report(Step::Writing);
    request.create(store, guard, (digest, origin))?;
    let parts: Vec<Digest> = files.iter().map(|file| file.digest).collect();
    store.release(&parts)
}

/// The model of that name, with the digest of its weights, if they were joined from these shards.
fn joined(store: &Store, name: &Name, origin: &str) -> Option<(Entry, Digest)> {
    let entry = store.find(name).ok()?;
    let layer = entry.manifest.layer("model")?;
    let digest = layer.digest().ok()?;
    let is_same = layer.from == origin && store.sound_layer(layer).is_ok();
    is_same.then_some((entry, digest))
}

/// Fetches the shards and joins them; returns the digest of the whole.
fn fetched(
    store: &Store,
    registry: &Registry,
    (place, request): (&Place, &Request),
    files: &[HubFile],
    report: &mut dyn FnMut(Step),
) -> Result<Digest> {
    let missing = files
        .iter()
        .filter(|file| store.sound_blob(&file.digest, file.size).is_err());
    let missing = missing.map(|file| file.size.saturating_sub(store.partial_bytes(&file.digest)));
    let whole: u64 = files.iter().map(|file| file.size).sum();
    store.must_have_room(missing.sum::<u64>().saturating_add(whole))?;
    let limiter = Limiter::new(request.rate);
    let mut paths = Vec::new();
    for file in files {
        let mut report_bytes = |completed| {
            report(Step::Blob {
                digest: file.digest,
                total: file.size,
                completed,
            });
        };
        let download = Download {
            store,
            registry,
            place,
            url: &place.file_url(&file.path),
            digest: file.digest,
            size: file.size,
            limiter: &limiter,
            cancel: request.cancel,
        };
        download.run(&mut report_bytes)?;
        report_bytes(file.size);
        paths.push(store.sound_blob(&file.digest, file.size)?);
    }
    report(Step::Verifying);
    shards::put(store, &paths, &mut |_, _| {}).map(|(digest, _)| digest)
}

/// The set of shards that a tag selects: by a weight type in any case, or by a file name.
fn chosen(files: Vec<HubFile>, tag: &str) -> Option<Vec<HubFile>> {
    let mut sets: Vec<(String, Vec<HubFile>)> = Vec::new();
    for file in files
        .iter()
        .filter(|file| Shard::parse(&file.path).is_some_and(|shard| shard.number == 1))
    {
        let Some(shard) = Shard::parse(&file.path) else {
            continue;
        };
        let paths = shard.files();
        let parts = paths
            .iter()
            .map(|path| files.iter().find(|file| file.path == *path).cloned());
        if let Some(parts) = parts.collect::<Option<Vec<_>>>() {
            sets.push((shard.prefix.to_string(), parts));
        }
    }
    sets.sort_by_key(|(prefix, _)| (prefix.len(), prefix.clone()));
    let wanted = if tag == "latest" { USUAL } else { tag };
    let found = sets.iter().position(|(prefix, parts)| {
        is_of_type(prefix, wanted) || parts.iter().any(|part| part.path.eq_ignore_ascii_case(tag))
    });
    let found = found.or((tag == "latest" && !sets.is_empty()).then_some(0))?;
    Some(sets.swap_remove(found).1)
}

/// True if a file's name ends with a weight type, or a folder of its path has that name.
fn is_of_type(prefix: &str, wanted: &str) -> bool {
    let (prefix, wanted) = (prefix.to_lowercase(), wanted.to_lowercase());
    let ends = prefix
        .strip_suffix(&wanted)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_', '/']));
    ends || prefix.rsplit('/').skip(1).any(|folder| folder == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_selects_its_set_of_shards() {
        let file = |path: &str| HubFile {
            path: path.into(),
            digest: Digest::compute(path.as_bytes()),
            size: 1,
        };
        let files: Vec<HubFile> = [
            "README.md",
            "m-Q8_0-00001-of-00002.gguf",
            "m-Q8_0-00002-of-00002.gguf",
            "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf",
            "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf",
            "m-IQ4_K_M-00001-of-00002.gguf", // The second shard is missing.
        ]
        .map(file)
        .to_vec();
        for (tag, first) in [
            ("latest", Some("Q4_K_M/m-Q4_K_M-00001-of-00002.gguf")),
            ("q8_0", Some("m-Q8_0-00001-of-00002.gguf")),
            (
                "m-Q8_0-00001-of-00002.gguf",
                Some("m-Q8_0-00001-of-00002.gguf"),
            ),
            ("IQ4_K_M", None),
            ("F16", None),
        ] {
            let found = chosen(files.clone(), tag);
            assert_eq!(
                found.as_ref().map(|files| files[0].path.as_str()),
                first,
                "{tag}"
            );
            assert!(found.is_none_or(|files| files.len() == 2));
        }
        assert_eq!(chosen(vec![file("x.gguf")], "latest"), None);
    }
}
