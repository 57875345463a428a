//! Sharded GGUF models: finds the shards beside the first one and joins them into one blob.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::model;
use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::regular_file;
use crate::format::gguf::{self, Header, Run, Shard};
use crate::system::store::Store;

/// The paths of all shards of the model at `path`, in order; `path` alone if it is not sharded.
///
/// # Errors
/// `Usage` if the model is sharded and the file's name is not, or a shard is missing.
pub fn beside(path: &Path, header: &Header) -> Result<Vec<PathBuf>> {
    if header.shard_count() == 1 {
        return Ok(vec![path.to_path_buf()]);
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let shard = Shard::parse(&file).ok_or_else(|| {
        Error::usage(format!(
            "{} is one of {} shards; their names must have the form NAME-00001-of-{:05}.gguf",
            path.display(),
            header.shard_count(),
            header.shard_count()
        ))
    })?;
    let paths: Vec<PathBuf> = shard
        .files()
        .iter()
        .map(|file| path.with_file_name(file))
        .collect();
    match paths.iter().find(|path| !path.is_file()) {
        Some(missing) => Err(Error::usage(format!(
            "the shard {} is missing",
            missing.display()
        ))),
        None => Ok(paths),
    }
}

/// Joins the shards and stores the result; returns its digest and header. `progress` gets the bytes
/// done and their total. The caller must have the shared lock.
///
/// # Errors
/// If they are not shards of one model, or cannot be read or written; no file is left behind.
pub fn put(
    store: &Store,
    paths: &[PathBuf],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(Digest, Header)> {
    let headers: Vec<Header> = paths
        .iter()
        .map(|path| model::header(path))
        .collect::<Result<_>>()?;
    let first = paths
        .first()
        .ok_or_else(|| Error::usage("there are no shards"))?;
    let merged = gguf::merged(&headers, regular_file::named(first)?)
        .map_err(|why| Error::usage(format!("{}: {why}", first.display())))?;
    let last = merged.runs.last();
    let total = last.map_or(0, |(_, run)| run.target + run.bytes);
    let mut whole = Whole {
        head: Cursor::new(merged.head),
        at: 0,
        files: paths
            .iter()
            .map(|path| regular_file::named(path))
            .collect::<Result<_>>()?,
        runs: merged.runs.into_iter(),
        run: None,
    };
    let (digest, _) = store.put_stream(&mut whole, first, &mut |done| progress(done, total))?;
    let header = model::header(&store.blob(&digest)?)?;
    Ok((digest, header))
}

/// A reader of the joined file.
struct Whole {
    head: Cursor<Vec<u8>>,
    /// Number of bytes read so far.
    at: u64,
    files: Vec<File>,
    runs: std::vec::IntoIter<(usize, Run)>,
    /// Shard, current run, and the number of its bytes still to read.
    run: Option<(usize, Run, u64)>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.piece(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Whole {
    fn piece(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.head.read(buffer)?;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        loop {
            if self.run.is_none() {
                let Some((index, run)) = self.runs.next() else {
                    return Ok(0);
                };
                self.files[index].seek(SeekFrom::Start(run.source))?;
                self.run = Some((index, run, run.bytes));
            }
            let Some((index, run, left)) = &mut self.run else {
                return Ok(0);
            };
            // The gap between tensors is filled with zeros.
            let gap = run.target.saturating_sub(self.at);
            if gap > 0 {
                let count = buffer.len().min(gap as usize);
                buffer[..count].fill(0);
                return Ok(count);
            }
            if *left == 0 {
                self.run = None;
                continue;
            }
            let count = buffer
                .len()
                .min(usize::try_from(*left).unwrap_or(usize::MAX));
            let count = self.files[*index].read(&mut buffer[..count])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            *left -= count as u64;
            return Ok(count);
        }
    }
}
