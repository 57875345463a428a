//! Archives of models: tar files in the OCI image layout, so that other tools can handle them too.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};

use serde_json::{Value as Json, json};
use tar::{Archive, Builder, EntryType, Header};

use crate::core::digest::{Digest, HashingWriter};
use crate::core::error::{Class, Error, Result};
use crate::core::name::Name;
use crate::core::regular_file;
use crate::format::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::system::store::{Entry, Store};

/// Bytes of the header of a member, and where "ustar" stands in it.
const HEADER_BYTES: u64 = 512;
const MAGIC_AT: usize = 257;
const LAYOUT: &str = "{\"imageLayoutVersion\":\"1.0.0\"}";
const NAME_KEY: &str = "org.opencontainers.image.ref.name";
/// Most members of an archive: more than any set of models has.
const MEMBERS_MAX: usize = 100_000;

/// Writes models to an archive.
///
/// # Errors
/// If a blob is damaged or missing, or the file cannot be written.
pub fn export(store: &Store, entries: &[Entry], out: &mut dyn Write) -> Result<()> {
    let failed = |error| Error::io("write", "the archive", error);
    let mut tar = Builder::new(out);
    let manifests = entries.iter().map(|entry| store.manifest_of(entry));
    let manifests: Vec<Vec<u8>> = manifests.collect::<Result<_>>()?;
    let index = entries.iter().zip(&manifests).map(|(entry, bytes)| {
        json!({
            "mediaType": entry.manifest.media_type,
            "digest": entry.digest.to_string(),
            "size": bytes.len(),
            "annotations": { NAME_KEY: entry.name.full() },
        })
    });
    let index: Vec<Json> = index.collect();
    let index = json!({ "schemaVersion": 2, "manifests": index }).to_string();
    let mut put = |path: &str, size: u64, reader: &mut dyn Read| {
        let mut header = Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_entry_type(EntryType::Regular);
        tar.append_data(&mut header, path, reader).map_err(failed)
    };
    put("oci-layout", LAYOUT.len() as u64, &mut LAYOUT.as_bytes())?;
    put("index.json", index.len() as u64, &mut index.as_bytes())?;
    let mut written = HashSet::new();
    for (entry, bytes) in entries.iter().zip(&manifests) {
        if written.insert(entry.digest) {
            put(&member(&entry.digest), bytes.len() as u64, &mut &bytes[..])?;
        }
        for layer in entry.manifest.blobs() {
            let digest = layer.digest()?;
            if !written.insert(digest) {
                continue;
            }
            let path = store.sound_layer(layer)?;
            let mut file = Hashed {
                file: regular_file::named(&path)?,
                hash: HashingWriter::new(io::sink()),
            };
            put(&member(&digest), layer.size_bytes(), &mut file)?;
            // It would be refused when it is imported, perhaps when nothing else is left.
            if file.hash.digest() != digest {
                return Err(Error::damaged(path, "its content has another digest"));
            }
        }
    }
    tar.finish().map_err(failed)
}

/// A file that is hashed while it is read.
struct Hashed {
    file: File,
    hash: HashingWriter<io::Sink>,
}

impl Read for Hashed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.hash.push(&bytes[..count]);
        Ok(count)
    }
}

fn member(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Imports the models of an archive into the store. Returns their names.
///
/// # Errors
/// `Damaged` if the file is not such an archive, or its content does not match its index; `Denied` if a model of the
/// user has the name of one and `replace` is false. Then none of its models gets a name.
pub fn import(store: &Store, reader: &mut dyn Read, replace: bool) -> Result<Vec<Name>> {
    let unread = |error| Error::io("read", "the archive", error);
    let mut start = Vec::new();
    let mut head = reader.take(HEADER_BYTES);
    head.read_to_end(&mut start).map_err(unread)?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Err(broken("it is compressed: gunzip -c it first"));
    }
    if !start
        .get(MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(b"ustar"))
    {
        return Err(broken("it is not a tar file"));
    }
    let mut archive = Archive::new(start.chain(reader));
    let members = archive.entries().map_err(broken)?;
    let (mut index, mut seen) = (None, HashSet::new());
    for (number, member) in members.enumerate() {
        let mut member = member.map_err(broken)?;
        let path = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        let path = path.trim_start_matches("./").to_string();
        let kind = member.header().entry_type();
        if kind.is_dir() || kind.is_pax_global_extensions() {
            continue;
        }
        if !kind.is_file() {
            return Err(broken(format_args!("{path} is not a regular file")));
        }
        if !seen.insert(path.clone()) || number > MEMBERS_MAX {
            return Err(broken(format_args!(
                "duplicate file {path}, or too many files"
            )));
        }
        match path.as_str() {
            "oci-layout" => {}
            "index.json" => index = Some(small(&mut member, &path)?),
            _ => {
                let hex = path.strip_prefix("blobs/sha256/").unwrap_or_default();
                let digest = Digest::parse(&format!("sha256:{hex}"));
                let digest = digest.map_err(|_| broken(format_args!("unexpected file {path}")))?;
                store.must_have_room(member.size())?;
                if store.blob(&digest).is_err() {
                    store.put_upload(&digest, &mut member).map_err(unstored)?;
                }
            }
        }
    }
    let index = index.ok_or_else(|| broken("it has no index.json"))?;
    let index: Json = serde_json::from_slice(&index).map_err(broken)?;
    let listed = index["manifests"].as_array().cloned().unwrap_or_default();
    let mut models = Vec::new();
    for one in &listed {
        models.push(model(store, one)?);
    }
    if !replace {
        for (name, _, bytes) in &models {
            store.check_replaceable(name, Some(&Digest::compute(bytes)))?;
        }
    }
    for (name, manifest, bytes) in &models {
        store.keep_replaced(name)?;
        let guard = store.share()?;
        store.write_manifest(guard, name, manifest, bytes)?;
        // Our store files a manifest under its name, and needs no blob for it.
        store.discard(&Digest::compute(bytes))?;
    }
    Ok(models.into_iter().map(|(name, ..)| name).collect())
}

/// A model from the index, after a check of its manifest and of all its blobs.
fn model(store: &Store, listed: &Json) -> Result<(Name, Manifest, Vec<u8>)> {
    let text = listed["annotations"][NAME_KEY].as_str();
    let name = Name::parse(text.ok_or_else(|| broken("a model has no name"))?)?;
    let digest = listed["digest"].as_str().unwrap_or_default();
    let digest = Digest::parse(digest).map_err(broken)?;
    let bytes = store.blob_bytes(&digest, MANIFEST_BYTES_MAX)?;
    let manifest = Manifest::parse(&bytes).map_err(broken)?;
    if manifest.layers.is_empty() {
        return Err(broken(format_args!("{name} has no layers")));
    }
    for layer in &manifest.layers {
        store.sound_layer(layer)?;
    }
    Ok((name, manifest, bytes))
}

fn broken(why: impl Display) -> Error {
    Error::plain(Class::Damaged, format!("the archive: {why}"))
}

/// A blob that could not be stored: what is not allowed or has no room is no fault of the archive.
fn unstored(error: Error) -> Error {
    match error.class() {
        Class::Denied => error,
        _ => broken(error),
    }
}

/// Reads a small member into memory.
fn small(member: &mut dyn Read, path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = member.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        Err(broken(format_args!("{path} is too large")))
    } else {
        Ok(bytes)
    }
}
