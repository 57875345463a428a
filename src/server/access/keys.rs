//! API keys for a server that other machines can reach: each key's name, rights and rate limits.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::lock::LockExt;
use crate::core::regular_file;

/// Largest key file.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Shortest key; a shorter one could be guessed.
const KEY_BYTES_MIN: usize = 16;

/// The keys of a key file.
pub struct Keys {
    path: PathBuf,
    keys: RwLock<Vec<Arc<Key>>>,
}

/// A key and its usage. Only the hash of the key is stored.
struct Key {
    what: What,
    under_way: AtomicUsize,
    /// When it was last used, and how many requests were left in its rate limit then.
    left: Mutex<(Instant, f64)>,
}

/// A parsed line of the file.
#[derive(Debug, Clone, PartialEq)]
struct What {
    name: String,
    manages: bool,
    hash: Digest,
    per_minute: Option<f64>,
    at_once: Option<usize>,
}

/// Permission for one request; it counts against the key's `at-once` limit until dropped.
pub struct Pass(Arc<Key>);

impl Pass {
    /// The key's name.
    pub fn name(&self) -> &str {
        &self.0.what.name
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The reason why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status: 401, 403 or 429.
    pub status: u16,
    /// The reason, as the error message.
    pub why: &'static str,
    /// Seconds after which a retry may succeed (`Retry-After`).
    pub after_s: Option<u64>,
}

impl Keys {
    /// Reads a file of keys.
    ///
    /// # Errors
    /// If it cannot be read, other users may read it, or a line is invalid; messages never contain a key.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Keys {
            keys: RwLock::new(fresh(parsed(path)?)),
            path: path.to_path_buf(),
        })
    }

    /// Reads the file again. Keys whose lines did not change keep their counts; if the file is invalid
    /// the old keys stay in force.
    ///
    /// # Errors
    /// As [`Keys::read`].
    pub fn reload(&self) -> Result<()> {
        let read = fresh(parsed(&self.path)?);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let known = |new: Arc<Key>| {
            let old = keys.iter().find(|old| old.what == new.what);
            old.cloned().unwrap_or(new)
        };
        *keys = read.into_iter().map(known).collect();
        Ok(())
    }

    /// True for a known key, whatever it may do.
    pub fn knows(&self, key: Option<&str>) -> bool {
        key.is_some_and(|key| self.find(key).is_some())
    }

    fn find(&self, key: &str) -> Option<Arc<Key>> {
        let hash = Digest::compute(key.as_bytes());
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        // Every byte of every key is compared, so that the time taken reveals nothing.
        let mut found = None;
        for known in keys.iter() {
            if same(&known.what.hash, &hash) {
                found = Some(known.clone());
            }
        }
        found
    }

    /// Checks a request by its key; `manages` says that it changes the store.
    ///
    /// # Errors
    /// The reason why it is refused: no key, an unknown one, a missing right, or a limit.
    pub fn judge(&self, key: Option<&str>, manages: bool, now: Instant) -> Result<Pass, Refusal> {
        let refused = |status, why, after_s| Refusal {
            status,
            why,
            after_s,
        };
        let key = key.ok_or(refused(401, "an API key is needed", None))?;
        let found = self.find(key);
        let key = found.ok_or(refused(401, "the API key is not known", None))?;
        if manages && !key.what.manages {
            return Err(refused(
                403,
                "this API key may use models, not manage them",
                None,
            ));
        }
        let under_way = key.under_way.fetch_add(1, Ordering::Relaxed);
        let pass = Pass(key);
        if pass.0.what.at_once.is_some_and(|most| under_way >= most) {
            return Err(refused(
                429,
                "too many requests at once with this API key",
                Some(1),
            ));
        }
        match pass.0.consume(now) {
            Ok(()) => Ok(pass),
            Err(seconds) => Err(refused(
                429,
                "too many requests per minute with this API key",
                Some(seconds),
            )),
        }
    }
}

impl Key {
    /// Takes one request from the rate limit; else returns the seconds until one is available.
    fn consume(&self, now: Instant) -> Result<(), u64> {
        let Some(per_minute) = self.what.per_minute else {
            return Ok(());
        };
        let mut left = self.left.locked();
        let since = now.saturating_duration_since(left.0).as_secs_f64();
        let there = (left.1 + since * per_minute / 60.0).min(per_minute);
        *left = (now, if there >= 1.0 { there - 1.0 } else { there });
        if there >= 1.0 {
            Ok(())
        } else {
            Err(((1.0 - there) * 60.0 / per_minute).ceil() as u64)
        }
    }
}

/// Compares in constant time.
fn same(left: &Digest, right: &Digest) -> bool {
    let (left, right) = (left.hex(), right.hex());
    let pairs = left.bytes().zip(right.bytes());
    std::hint::black_box(pairs.fold(0, |all, (left, right)| all | (left ^ right))) == 0
}

fn fresh(lines: Vec<What>) -> Vec<Arc<Key>> {
    let key = |what: What| {
        Arc::new(Key {
            left: Mutex::new((Instant::now(), what.per_minute.unwrap_or(0.0))),
            under_way: AtomicUsize::new(0),
            what,
        })
    };
    lines.into_iter().map(key).collect()
}

fn parsed(path: &Path) -> Result<Vec<What>> {
    use std::os::unix::fs::MetadataExt;
    let failed = |error| Error::io("read", path, error);
    let meta = std::fs::metadata(path).map_err(failed)?;
    if meta.mode() & 0o077 != 0 {
        let text = format!(
            "other users may read the keys in {0}: chmod 600 {0}",
            path.display()
        );
        return Err(Error::plain(Class::Denied, text));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(Error::usage(format!(
            "{} is too large for a key file",
            path.display()
        )));
    }
    let text = regular_file::text(path).map_err(failed)?;
    lines(&text)
        .map_err(|(line, why)| Error::usage(format!("{}, line {line}: {why}", path.display())))
}

/// Parses the lines: name, right, key and limits; skips empty lines and comments.
fn lines(text: &str) -> Result<Vec<What>, (usize, String)> {
    let mut all: Vec<What> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: String| (at + 1, why);
        let what = one(line).map_err(wrong)?;
        if all
            .iter()
            .any(|known| known.name == what.name || known.hash == what.hash)
        {
            return Err(wrong("the name or key is used twice".into()));
        }
        all.push(what);
    }
    if all.is_empty() {
        Err((1, "the file has no key".into()))
    } else {
        Ok(all)
    }
}

fn one(line: &str) -> Result<What, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(right), Some(key)) = (words.next(), words.next(), words.next()) else {
        return Err("a line must be a name, 'use' or 'manage', and a key".into());
    };
    let manages = match right {
        "use" => false,
        "manage" => true,
        other => {
            return Err(format!(
                "the right must be 'use' or 'manage', not '{other}'"
            ));
        }
    };
    if key.len() < KEY_BYTES_MIN {
        return Err(format!(
            "a key must have at least {KEY_BYTES_MIN} characters"
        ));
    }
    let mut what = What {
        name: name.into(),
        manages,
        hash: Digest::compute(key.as_bytes()),
        per_minute: None,
        at_once: None,
    };
    for word in words {
        let limit = word.split_once('=').and_then(|(name, number)| {
            let number: u32 = number.parse().ok().filter(|number| *number > 0)?;
            Some((name, number))
        });
        match limit {
            Some(("per-minute", number)) => what.per_minute = Some(number.into()),
            Some(("at-once", number)) => what.at_once = Some(number as usize),
            _ => {
                return Err(format!(
                    "a limit must be per-minute=N or at-once=N, not '{word}'"
                ));
            }
        }
    }
    Ok(what)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keys(text: &str) -> Keys {
        Keys {
            path: PathBuf::new(),
            keys: RwLock::new(fresh(lines(text).unwrap())),
        }
    }

    #[test]
    fn keys_have_rights_and_limits() {
        let keys = keys(
            "# who\nbot use 0123456789abcdef per-minute=2 at-once=1\nroot manage fedcba9876543210\n",
        );
        let now = Instant::now();
        let judge = |key: &str, manages, seconds| {
            let judged = keys.judge(Some(key), manages, now + Duration::from_secs(seconds));
            judged.map_err(|refusal| refusal.status)
        };
        assert_eq!(keys.judge(None, false, now).err().unwrap().status, 401);
        for wrong in ["", "0123456789abcde", "0123456789abcdef0", "root"] {
            assert_eq!(judge(wrong, false, 0).err(), Some(401), "{wrong}");
        }
        assert_eq!(judge("fedcba9876543210", true, 0).unwrap().name(), "root");
        let bot = "0123456789abcdef";
        assert_eq!(judge(bot, true, 0).err(), Some(403));
        let first = judge(bot, false, 0).unwrap();
        assert_eq!(judge(bot, false, 0).err(), Some(429), "one at once");
        drop(first);
        judge(bot, false, 1).unwrap();
        assert_eq!(judge(bot, false, 2).err(), Some(429), "two a minute");
        judge(bot, false, 40).unwrap();
    }

    #[test]
    fn errors_about_lines_do_not_quote_keys() {
        for (text, words) in [
            ("", "no key"),
            ("a use short", "at least 16"),
            ("a own 0123456789abcdef", "'use' or 'manage'"),
            ("a use", "a name, 'use' or"),
            ("a use 0123456789abcdef much", "per-minute=N"),
            ("a use 0123456789abcdef at-once=0", "at-once=N"),
            ("a use 0123456789abcdef\na use 0123456789abcdeX", "twice"),
            ("a use 0123456789abcdef\nb use 0123456789abcdef", "twice"),
        ] {
            let (_, why) = lines(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
            assert!(!why.contains("0123456789abcdef"), "{why}");
        }
    }
}
