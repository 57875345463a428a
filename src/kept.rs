//! Computed beginnings of prompts, kept in the cache directory: who sends the same 4 000 tokens of
//! instructions every hour pays for them once.
//!
//! A file's first line is the SHA-256 of all that follows, its second says what it is, then come the
//! tokens, the state behind them and its marks. What a file holds can be read by whoever reads it,
//! like the prompt itself: its folder is its owner's alone.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Cached};
use crate::config::Config;
use crate::digest::{Digest, HashingWriter};
use crate::engine::Spec;
use crate::engine::prefix::{BUILD, Offer, Prefix, Prefixes, TOKENS_MIN, common, usable};
use crate::error::Result;
use crate::model::Model;

/// The folder in the cache.
const FOLDER: &str = "prefixes";
/// Names the format of the files.
const FORMAT: &str = "puna prefix 1";
/// Most bytes of all files together, if the user chose nothing...
const BYTES_MAX: u64 = 2 << 30;
/// ...and the part of the free disk that they may take (one in so many).
const FREE_SHARE: u64 = 20;
/// Longest line that says what a file is.
const HEAD_BYTES_MAX: u64 = 64 << 10;
/// Most tokens of one.
const TOKENS_MAX: usize = 1 << 22;
/// Bytes a microsecond at which a file is read, checked and set: 92 MB of SmolLM2's 4 000 tokens took
/// 0.13 s on two cores of an EPYC; a slower disk still leaves a gain.
const RESTORED_BYTES_A_US: f32 = 400.0;

/// What a file is.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Head {
    format: String,
    /// What the user called the model.
    model: String,
    tokens: usize,
    pace_us: f32,
    state_bytes: usize,
    /// Place and bytes of each mark.
    marks: Vec<(usize, usize)>,
}

/// A head and the tokens behind it.
type Known = Arc<(Head, Vec<i32>)>;

/// The beginnings that one model, as it was loaded, can use.
#[derive(Debug)]
pub struct Kept {
    cache: Cache,
    bytes_max: u64,
    label: String,
    /// All names of its files begin so.
    group: String,
    /// Heads by the names of their files: `None` for what cannot be read.
    known: Mutex<HashMap<String, Option<Known>>>,
}

/// What one file holds, for listings.
pub struct Listed {
    /// The file's name.
    pub name: String,
    /// What its model was called.
    pub model: String,
    /// Tokens.
    pub tokens: usize,
    /// Its length.
    pub bytes: u64,
    /// When it was last of use.
    pub used: SystemTime,
}

/// The files, whatever their model; none where there is no cache directory.
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

/// What the files hold, the longest unused first.
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

/// Most bytes that the files may have.
pub fn bytes_max(config: &Config, cache: &Cache) -> u64 {
    let own = cache.files().iter().map(|file| file.bytes).sum::<u64>();
    let free = cache.free_bytes().unwrap_or(0).saturating_add(own);
    config.cache_max.unwrap_or(BYTES_MAX.min(free / FREE_SHARE))
}

impl Kept {
    /// For a model that is loaded so; `None` where nothing is to be kept.
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
        let group = Digest::of(what.as_bytes()).hex();
        Some(Arc::new(Kept {
            cache,
            bytes_max,
            label: model.label.clone(),
            group: group[..16].to_string(),
            known: Mutex::default(),
        }))
    }

    /// Names of the files that are there.
    fn names(&self) -> Vec<String> {
        let names = self.cache.files().into_iter().map(|file| file.name());
        names.filter(|name| name.starts_with(&self.group)).collect()
    }

    /// What a file holds, read once.
    fn head(&self, name: &str) -> Option<Known> {
        let mut known = self.known();
        let head = known.entry(name.to_string());
        head.or_insert_with(|| head_of(&self.cache, name)).clone()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Option<Known>>> {
        self.known
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn read(&self, name: &str) -> Option<Prefix> {
        let mut file = BufReader::new(self.cache.open(name, true)?);
        let mut sum = String::new();
        file.by_ref().take(80).read_line(&mut sum).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        if Digest::of(&bytes).hex() != sum.trim_end() {
            return None;
        }
        let mut rest = &bytes[..];
        let (head, tokens) = parse(&mut rest)?;
        let mut take = |count: usize| {
            let (piece, left) = rest.split_at_checked(count)?;
            rest = left;
            Some(piece.to_vec())
        };
        let state = take(head.state_bytes)?;
        let marks = head.marks.iter();
        let marks = marks.map(|(place, count)| Some((*place, take(*count)?)));
        Some(Prefix {
            marks: marks.collect::<Option<_>>()?,
            pace_us: head.pace_us,
            tokens,
            state,
        })
    }
}

impl Prefixes for Kept {
    fn best(&self, prompt: &[i32], whole: usize) -> Option<Offer> {
        let offers = self.names().into_iter().filter_map(|name| {
            let known = self.head(&name)?;
            let (head, tokens) = (&known.0, &known.1);
            let common = common(tokens, prompt);
            let marks = head.marks.iter().map(|(place, _)| *place);
            let usable = usable(tokens.len(), common, marks, whole);
            let restored_us = head.state_bytes as f32 / RESTORED_BYTES_A_US;
            let pays = usable >= TOKENS_MIN && restored_us < usable as f32 * head.pace_us;
            // Where two prompts part is of use even if nothing can be set back to there.
            (common >= TOKENS_MIN).then_some(Offer {
                name,
                usable: if pays { usable } else { 0 },
                common,
                tokens: tokens.len(),
            })
        });
        offers.max_by_key(|offer| (offer.usable, offer.common, Reverse(offer.tokens)))
    }

    fn load(&self, offer: &Offer) -> Option<Prefix> {
        let prefix = self.read(&offer.name);
        let expected = self.head(&offer.name);
        // The head was read without its checksum.
        let sound = prefix.filter(|prefix| expected.is_some_and(|known| known.1 == prefix.tokens));
        if sound.is_none() {
            self.cache.remove(&offer.name);
            self.known().insert(offer.name.clone(), None);
        }
        sound
    }

    fn keep(&self, prefix: &Prefix) {
        let count = |(place, bytes): &(usize, Vec<u8>)| (*place, bytes.len());
        let head = Head {
            format: FORMAT.into(),
            model: self.label.clone(),
            tokens: prefix.tokens.len(),
            pace_us: prefix.pace_us,
            state_bytes: prefix.state.len(),
            marks: prefix.marks.iter().map(count).collect(),
        };
        let head = serde_json::to_string(&head).unwrap_or_default() + "\n";
        let tokens: Vec<u8> = { prefix.tokens.iter() }
            .flat_map(|token| token.to_le_bytes())
            .collect();
        let mut pieces = vec![head.as_bytes(), &tokens, &prefix.state];
        pieces.extend(prefix.marks.iter().map(|(_, bytes)| &bytes[..]));
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if bytes as u64 > self.bytes_max {
            return;
        }
        let mut hash = HashingWriter::new(std::io::sink());
        pieces.iter().for_each(|piece| hash.push(piece));
        let sum = hash.digest().hex() + "\n";
        pieces.insert(0, sum.as_bytes());
        // What is the beginning of this one, and can be cut out of it, need not stay.
        let covered = |name: &String| {
            let tokens = self.head(name).map(|known| known.1.clone());
            tokens
                .is_some_and(|tokens| prefix.marks.is_empty() && prefix.tokens.starts_with(&tokens))
        };
        let old: Vec<String> = self.names().into_iter().filter(covered).collect();
        old.iter().for_each(|name| self.cache.remove(name));
        self.cache.trim(self.bytes_max.saturating_sub(bytes as u64));
        let name = format!("{}-{}", self.group, &Digest::of(&tokens).hex()[..16]);
        self.known().remove(&name);
        // A disk that is full, or a folder that nobody may write, costs the next run its time.
        let _ = self.cache.put(&name, &pieces);
    }
}

/// What a file is called by its content: the digest in a blob's name, or what a change of it shows.
fn identity(path: &Path) -> Option<String> {
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

/// Reads what a file is, and its tokens.
fn parse(file: &mut impl BufRead) -> Option<(Head, Vec<i32>)> {
    let mut line = String::new();
    file.by_ref()
        .take(HEAD_BYTES_MAX)
        .read_line(&mut line)
        .ok()?;
    let head: Head = serde_json::from_str(&line).ok()?;
    if head.format != FORMAT || head.tokens > TOKENS_MAX {
        return None;
    }
    let mut bytes = vec![0; head.tokens * 4];
    file.read_exact(&mut bytes).ok()?;
    let tokens = bytes.chunks_exact(4);
    let tokens = tokens.map(|four| i32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    Some((head, tokens.collect()))
}
