//! The prefix cache: computed prompt prefixes, stored in the cache directory. The same 4 000 tokens of
//! instructions, sent every hour, are computed only once.
//!
//! A file's first line is the SHA-256 of all that follows, its second line is its head, then come the
//! tokens, the state after them and its checkpoints. A file reveals the prompt to everyone who can read it,
//! so only its owner can access the folder.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::model::Model;
use crate::core::digest::{Digest, HashingWriter};
use crate::core::error::Result;
use crate::core::lock::LockExt;
use crate::system::cache_dir::{Cache, Cached};
use crate::system::config::Config;
use crate::system::engine::Spec;
use crate::system::engine::prefix::{
    BUILD, Candidate, Prefix, Prefixes, TOKENS_MIN, common, usable,
};

/// The folder in the cache.
const FOLDER: &str = "prefixes";
/// The format of the files.
const FORMAT: &str = "puna prefix 1";
/// Most bytes of all files together, if the user chose nothing...
const BYTES_MAX: u64 = 2 << 30;
/// ...and at most 1/20 of the free disk.
const FREE_SHARE: u64 = 20;
/// Longest head of a file.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Most tokens of one file.
const TOKENS_MAX: usize = 1 << 22;
/// A prefix is kept only if restoring all of it takes at most 1/5 of the time of computing it.
const GAIN_MIN: f32 = 5.0;
/// Bytes per microsecond at which a file is read, checked and restored: 92 MB of SmolLM2's 4 000 tokens
/// took 0.13 s on two cores of an EPYC; a slower disk still leaves a gain.
const RESTORED_BYTES_A_US: f32 = 400.0;

/// The head of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    format: String,
    /// The model, as the user named it.
    model: String,
    tokens: usize,
    pace_us: f32,
    state_bytes: usize,
    /// Position and bytes of each checkpoint.
    #[serde(alias = "marks")]
    checkpoints: Vec<(usize, usize)>,
}

/// A head and the tokens after it.
type Known = Arc<(Head, Vec<i32>)>;

/// The stored prefixes that one model, as it was loaded, can use.
#[derive(Debug)]
pub struct PrefixCache {
    cache: Cache,
    bytes_max: u64,
    label: String,
    /// The start of all its file names.
    group: String,
    /// Heads by file name; `None` for an unreadable file.
    known: Mutex<HashMap<String, Option<Known>>>,
}

/// One file of the prefix cache, for listings.
pub struct Listed {
    /// The file's name.
    pub name: String,
    /// Its model, as the user named it.
    pub model: String,
    /// The number of tokens.
    pub tokens: usize,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// The files of all models; none without a cache directory.
pub fn files(config: &Config) -> Vec<Cached> {
    cache(config).map_or_else(|_| Vec::new(), |cache| cache.files())
}

/// The folder of the files.
///
/// # Errors
/// If there is no cache directory.
pub fn cache(config: &Config) -> Result<Cache> {
    Ok(Cache::new(config.cache()?, FOLDER))
}

/// The contents of the prefix cache, the least recently used first.
pub fn list(config: &Config) -> Vec<Listed> {
    let Ok(cache) = cache(config) else {
        return Vec::new();
    };
    let files = cache.files().into_iter();
    let listed = files.map(|file| {
        let name = file.name();
        let head = head_of(&cache, &name);
        Listed {
            model: head
                .as_ref()
                .map_or(String::new(), |known| known.0.model.clone()),
            tokens: head.map_or(0, |known| known.0.tokens),
            bytes: file.bytes,
            used: file.used,
            name,
        }
    });
    listed.collect()
}

/// Most bytes of all files together.
pub fn bytes_max(config: &Config, cache: &Cache) -> u64 {
    let own = cache.files().iter().map(|file| file.bytes).sum::<u64>();
    let free = cache.free_bytes().unwrap_or(0).saturating_add(own);
    config.cache_max.unwrap_or(BYTES_MAX.min(free / FREE_SHARE))
}

impl PrefixCache {
    /// For a model with this load spec; `None` if nothing is to be stored.
    pub fn new(config: &Config, model: &Model, spec: &Spec) -> Option<Arc<Self>> {
        if config.cache_max == Some(0) {
            return None;
        }
        let cache = cache(config).ok()?;
        let bytes_max = bytes_max(config, &cache);
        let adapter = spec.adapter.as_ref();
        let adapter = adapter.map(|(path, scale)| Some((identity(path)?, *scale)));
        let what = format!(
            "{FORMAT} {BUILD} {} {:?} {:?}",
            identity(&spec.path)?,
            adapter.map(|known| known.unwrap_or_default()),
            spec.attention,
        );
        let group = Digest::compute(what.as_bytes()).hex();
        Some(Arc::new(PrefixCache {
            cache,
            bytes_max,
            label: model.label.clone(),
            group: group[..16].to_string(),
            known: Mutex::default(),
        }))
    }

    /// Names of the files that exist.
    fn names(&self) -> Vec<String> {
        let names = self.cache.files().into_iter().map(|file| file.name());
        names.filter(|name| name.starts_with(&self.group)).collect()
    }

    /// The head and tokens of a file, read once.
    fn head(&self, name: &str) -> Option<Known> {
        if let Some(head) = self.known.locked().get(name) {
            return head.clone();
        }
        // The lock is not held while the file is read; a second reader only reads it again.
        let head = head_of(&self.cache, name);
        self.known.locked().insert(name.to_string(), head.clone());
        head
    }

    /// Reads a file: each piece straight to where it stays, since a large model's has hundreds of megabytes.
    fn read(&self, name: &str) -> Option<Prefix> {
        let mut file = BufReader::new(self.cache.open(name, true)?);
        let mut left = file.get_ref().metadata().ok()?.len();
        let mut sum = String::new();
        file.by_ref().take(80).read_line(&mut sum).ok()?;
        let mut hash = HashingWriter::new(std::io::sink());
        let mut line = Vec::new();
        let mut start = file.by_ref().take(HEAD_BYTES_MAX);
        start.read_until(b'\n', &mut line).ok()?;
        hash.push(&line);
        let head = head_from(&line)?;
        let mut take = |count: usize| {
            left = left.checked_sub(count as u64)?; // A head may say anything.
            let mut piece = vec![0; count];
            file.read_exact(&mut piece).ok()?;
            hash.push(&piece);
            Some(piece)
        };
        let tokens = tokens_from(&take(head.tokens * 4)?);
        let state = take(head.state_bytes)?;
        let checkpoints = head.checkpoints.iter();
        let checkpoints = checkpoints.map(|(place, count)| Some((*place, take(*count)?)));
        let prefix = Prefix {
            checkpoints: checkpoints.collect::<Option<_>>()?,
            pace_us: head.pace_us,
            tokens,
            state,
        };
        (hash.digest().hex() == sum.trim_end()).then_some(prefix)
    }
}

impl Prefixes for PrefixCache {
    fn best(&self, prompt: &[i32], window: usize) -> Option<Candidate> {
        let candidates = self.names().into_iter().filter_map(|name| {
            let known = self.head(&name)?;
            let (head, tokens) = (&known.0, &known.1);
            let common = common(tokens, prompt);
            let checkpoints = head.checkpoints.iter().map(|(place, _)| *place);
            let usable = usable(tokens.len(), common, checkpoints, window);
            let restored_us = head.state_bytes as f32 / RESTORED_BYTES_A_US;
            let pays = usable >= TOKENS_MIN && restored_us < usable as f32 * head.pace_us;
            // The place where two prompts diverge is useful even if nothing can be restored there.
            (common >= TOKENS_MIN).then_some(Candidate {
                name,
                usable: if pays { usable } else { 0 },
                common,
                tokens: tokens.len(),
            })
        });
        candidates.max_by_key(|candidate| {
            (
                candidate.usable,
                candidate.common,
                Reverse(candidate.tokens),
            )
        })
    }

    fn load(&self, candidate: &Candidate) -> Option<Prefix> {
        let prefix = self.read(&candidate.name);
        let expected = self.head(&candidate.name);
        // The limit may be lower than when the files were kept; this one was used last.
        self.cache.trim(self.bytes_max);
        // The head was read without a check of the file's checksum.
        let sound = prefix.filter(|prefix| expected.is_some_and(|known| known.1 == prefix.tokens));
        if sound.is_none() {
            self.cache.remove(&candidate.name);
            self.known.locked().insert(candidate.name.clone(), None);
        }
        sound
    }

    fn store(&self, prefix: &Prefix) {
        let count = |(place, bytes): &(usize, Vec<u8>)| (*place, bytes.len());
        let head = Head {
            format: FORMAT.into(),
            model: self.label.clone(),
            tokens: prefix.tokens.len(),
            pace_us: prefix.pace_us,
            state_bytes: prefix.state.len(),
            checkpoints: prefix.checkpoints.iter().map(count).collect(),
        };
        let head = serde_json::to_string(&head).unwrap_or_default() + "\n";
        let tokens: Vec<u8> = { prefix.tokens.iter() }
            .flat_map(|token| token.to_le_bytes())
            .collect();
        let mut pieces = vec![head.as_bytes(), &tokens, &prefix.state];
        pieces.extend(prefix.checkpoints.iter().map(|(_, bytes)| &bytes[..]));
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let restored_us = bytes as f32 / RESTORED_BYTES_A_US;
        let pays = restored_us * GAIN_MIN <= prefix.tokens.len() as f32 * prefix.pace_us;
        if bytes as u64 > self.bytes_max || !pays {
            return;
        }
        let mut hash = HashingWriter::new(std::io::sink());
        pieces.iter().for_each(|piece| hash.push(piece));
        let sum = hash.digest().hex() + "\n";
        pieces.insert(0, sum.as_bytes());
        // A file that is a prefix of this one, and can be cut from this one, is redundant.
        let covered = |name: &String| {
            let tokens = self.head(name).map(|known| known.1.clone());
            tokens.is_some_and(|tokens| {
                prefix.checkpoints.is_empty() && prefix.tokens.starts_with(&tokens)
            })
        };
        let old: Vec<String> = self.names().into_iter().filter(covered).collect();
        old.iter().for_each(|name| self.cache.remove(name));
        self.cache.trim(self.bytes_max.saturating_sub(bytes as u64));
        let name = format!("{}-{}", self.group, &Digest::compute(&tokens).hex()[..16]);
        self.known.locked().remove(&name);
        // A full disk, or a folder without write permission, only costs the next run time.
        let _ = self.cache.put(&name, &pieces);
    }
}

/// The identity of a file's content: the digest in a blob's name, or path, length and modification time.
pub fn identity(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy();
    if let Ok(digest) = Digest::parse(&name) {
        return Some(digest.hex());
    }
    let real = path.canonicalize().ok()?;
    let meta = real.metadata().ok()?;
    let modified = meta.modified().ok()?;
    let modified = modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(format!(
        "{} {} {}",
        real.display(),
        meta.len(),
        modified.as_nanos()
    ))
}

fn head_of(cache: &Cache, name: &str) -> Option<Known> {
    let mut file = BufReader::new(cache.open(name, false)?);
    file.by_ref().take(80).read_line(&mut String::new()).ok()?;
    parse(&mut file).map(Arc::new)
}

/// Reads a file's head and tokens.
fn parse(file: &mut impl BufRead) -> Option<(Head, Vec<i32>)> {
    let mut line = Vec::new();
    let mut start = file.by_ref().take(HEAD_BYTES_MAX);
    start.read_until(b'\n', &mut line).ok()?;
    let head = head_from(&line)?;
    let mut bytes = vec![0; head.tokens * 4];
    file.read_exact(&mut bytes).ok()?;
    Some((head, tokens_from(&bytes)))
}

fn head_from(line: &[u8]) -> Option<Head> {
    let head: Head = serde_json::from_slice(line).ok()?;
    (head.format == FORMAT && head.tokens <= TOKENS_MAX).then_some(head)
}

fn tokens_from(bytes: &[u8]) -> Vec<i32> {
    let tokens = bytes.chunks_exact(4);
    let tokens = tokens.map(|four| i32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    tokens.collect()
}
