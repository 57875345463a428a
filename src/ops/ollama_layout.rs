//! The file that llama.cpp loads: a model's own, or one derived from it, made once and cached.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::model::Model;
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::regular_file;
use crate::format::gguf::{Header, Plan, RULES};
use crate::system::cache_dir::{Cache, Cached};
use crate::system::config::Config;

/// The folder of derived files in the cache.
const FOLDER: &str = "derived";
/// Copy in pieces of this size, and check in between whether the load was cancelled.
const PIECE_BYTES: u64 = 64 << 20;

/// The file to load for a model. `progress` gets the copied fraction, 0..=1, and cancels by returning
/// false.
///
/// # Errors
/// An unsupported layout; no space or permission to write the derived file; `Cancelled`.
pub fn weights(
    config: &Config,
    model: &Model,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<PathBuf> {
    let plan = model.header.plan(regular_file::named(&model.weights)?);
    let plan = plan.map_err(|why| Error::failed(format!("cannot load {}: {why}", model.label)))?;
    match plan {
        Some(plan) => made(config, model, ("weights", &plan), progress),
        None => Ok(model.weights.clone()),
    }
}

/// The projector of a vision model, for programs that read images; `None` for other models.
///
/// # Errors
/// As for [`weights`].
pub fn projector(config: &Config, model: &Model) -> Result<Option<PathBuf>> {
    if model.projector.is_some() {
        return Ok(model.projector.clone());
    }
    let plan = model
        .header
        .projector_plan(regular_file::named(&model.weights)?);
    let plan = plan.map_err(|why| Error::failed(format!("{}: {why}", model.label)))?;
    plan.map(|plan| made(config, model, ("projector", &plan), &mut |_| true))
        .transpose()
}

/// A file derived from a model's, from the cache or created now.
fn made(
    config: &Config,
    model: &Model,
    (what, plan): (&str, &Plan),
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<PathBuf> {
    let path = &model.weights;
    let name = file_name(path, what)?;
    cache(config)?.file(&name, &mut |target| {
        write(
            plan,
            &model.header,
            (path, &regular_file::named(path)?),
            target,
            progress,
        )
    })
}

/// All derived files.
pub fn files(config: &Config) -> Vec<Cached> {
    cache(config).map_or_else(|_| Vec::new(), |cache| cache.files())
}

/// The cache of derived files.
///
/// # Errors
/// If there is no cache directory.
pub fn cache(config: &Config) -> Result<Cache> {
    Ok(Cache::new(config.cache()?, FOLDER))
}

/// The name of the file derived from this one, by its present state and the rules in force.
fn file_name(path: &Path, what: &str) -> Result<String> {
    let wrong = |error| Error::io("read", path, error);
    let real = path.canonicalize().map_err(wrong)?;
    let meta = real.metadata().map_err(wrong)?;
    let modified = meta.modified().map_err(wrong)?;
    let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = format!(
        "{}\n{} {} {RULES} {what}",
        real.display(),
        meta.len(),
        modified.as_nanos()
    );
    Ok(format!("{}.gguf", Digest::compute(text.as_bytes()).hex()))
}

fn write(
    plan: &Plan,
    header: &Header,
    (path, source): (&Path, &File),
    target: &mut File,
    progress: &mut dyn FnMut(f32) -> bool,
) -> Result<()> {
    let unreadable = |error| Error::io("read", path, error);
    let unwritable = |error| Error::io("write", "the derived file in the cache", error);
    let (bytes, runs) = plan.header(header, source).map_err(unreadable)?;
    if runs.iter().map(|run| run.bytes).sum::<u64>() > header.file_bytes {
        return Err(Error::damaged(path, "its tensors overlap"));
    }
    target.write_all(&bytes).map_err(unwritable)?;
    let all: u64 = runs.iter().map(|run| run.bytes).sum();
    let mut copied = 0;
    for run in runs {
        let mut from = source;
        from.seek(SeekFrom::Start(run.source)).map_err(unreadable)?;
        target
            .seek(SeekFrom::Start(run.target))
            .map_err(unwritable)?;
        let mut left = run.bytes;
        while left > 0 {
            // std copies from file to file in the kernel, which shares blocks where it can.
            let piece = &mut from.take(left.min(PIECE_BYTES));
            let count = io::copy(piece, target).map_err(unwritable)?;
            if count == 0 {
                return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= count;
            copied += count;
            if !progress(copied as f32 / all as f32) {
                return Err(Error::cancelled());
            }
        }
    }
    Ok(())
}
