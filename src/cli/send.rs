//! `create --host`: sends the files of a Modelfile to a server, which creates the model.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::out::{Out, Unit};
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::name::Name;
use crate::core::regular_file;
use crate::format::wire::native::create::Progress;
use crate::format::wire::{native, options};
use crate::ops::create::{Changes, Source};
use crate::ops::{model, shards};
use crate::system::client::Client;

/// Has a server create the model `name`; files that the server has already are not sent.
///
/// # Errors
/// If a file cannot be read; the server's error, or `Network` if it cannot be reached.
pub fn create(
    client: &Client,
    name: &Name,
    (source, changes): (&Source, &Changes),
    quantize: Option<&str>,
    out: &mut Out,
) -> Result<()> {
    let mut body = json!({
        "model": name.to_string(),
        "template": changes.template,
        "system": changes.system,
        "license": changes.licenses,
        "parameters": options::to_json(&changes.options),
        "messages": changes
            .messages
            .iter()
            .map(|(role, text)| native::Message::new(role, text))
            .collect::<Vec<_>>(),
        "quantize": quantize.unwrap_or_default(),
        "renderer": changes.config.renderer,
        "parser": changes.config.parser,
        "requires": changes.config.requires,
    });
    let mut files = Map::new();
    match source {
        Source::Model(from) => body["from"] = from.to_string().into(),
        source => sent(client, source, &mut files, out)?,
    }
    if let Some(projector) = &changes.projector {
        sent(client, projector, &mut files, out)?;
    }
    if !files.is_empty() {
        body["files"] = files.into();
    }
    if let Some(adapter) = &changes.adapter {
        let mut files = Map::new();
        sent(client, adapter, &mut files, out)?;
        body["adapters"] = files.into();
    }
    let progress = out.progress("creating", Unit::Bytes);
    for record in client.follow::<Progress>("/api/create", &body)? {
        let record = record?;
        progress.show(record.completed, record.total);
    }
    Ok(())
}

/// Sends the files of a source and adds their names and digests to `sent_files`.
fn sent(
    client: &Client,
    source: &Source,
    sent_files: &mut Map<String, Json>,
    out: &mut Out,
) -> Result<()> {
    for (name, path) in files(source)? {
        let unread = |error| Error::io("read", &path, error);
        let opened = || regular_file::named(&path);
        let (digest, size_bytes) = Digest::read_from(opened()?).map_err(unread)?;
        if !client.has_blob(&digest)? {
            let progress = out.progress(&name, Unit::Bytes);
            client.put_blob(&digest, opened()?, &mut |done| {
                progress.show(done, size_bytes)
            })?;
        }
        sent_files.insert(name, digest.to_string().into());
    }
    Ok(())
}

/// The files of a source, with their names.
fn files(source: &Source) -> Result<Vec<(String, PathBuf)>> {
    let named = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        (name.to_string_lossy().into_owned(), path.to_path_buf())
    };
    match source {
        Source::File(path, _) => {
            let paths = shards::beside(path, &model::header_of_named(path)?)?;
            Ok(paths.iter().map(|path| named(path)).collect())
        }
        Source::Shards(paths) => Ok(paths.iter().map(|path| named(path)).collect()),
        Source::Folder(folder) => Ok(folder.needed()),
        Source::Blob(..) | Source::Model(_) => Err(Error::usage(
            "the server's own files need not be sent to it",
        )),
    }
}
