//! What a script may ask of every command that runs a model: when it may begin, how much of the machine
//! it may take, how long, and how often it is tried.

use std::fmt::Display;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::again;
use super::out::Out;
use super::parse::Parsed;
use super::spec::{Flag, maybe, option, switch};
use crate::bytes;
use crate::cache::Cache;
use crate::config::Config;
use crate::duration::KeepAlive;
use crate::error::{Class, Error, Result};

/// The commands that have these flags.
pub const COMMANDS: &[&str] = &[
    "run", "map", "choose", "chat", "embed", "nearest", "rerank", "replay",
];

/// Their flags.
pub const FLAGS: &[Flag] = &[
    option(
        "timeout",
        None,
        "DURATION",
        "end after so long, such as 90s, with what is printed by then and status 10",
    ),
    option("threads", None, "N", "compute with N threads"),
    option(
        "nice",
        None,
        "N",
        "leave the processor to others: from 0 to 19, the most",
    ),
    option(
        "mem-max",
        None,
        "BYTES",
        "take no more memory than this, such as 6G, beside the file of the weights; else status 11",
    ),
    option(
        "lock",
        None,
        "NAME",
        "let no other puna with this lock run meanwhile; if one does: status 9",
    ),
    maybe("wait", "DURATION", "wait for the lock, so long or for ever"),
    switch("skip", None, "end with status 0 if the lock is held"),
    option(
        "retry",
        None,
        "N",
        "try N times again, a second later, then two, four and so on, if network, server or memory failed before \
         anything was printed; map does so for each record",
    ),
    switch(
        "no-cache",
        None,
        "neither use nor keep computed prompts: see puna cache",
    ),
];

/// When the command has to end, if `--timeout` says so.
static UNTIL: OnceLock<Instant> = OnceLock::new();

/// The time that is left, if there is an end.
pub fn left() -> Option<Duration> {
    let until = UNTIL.get()?;
    Some(until.saturating_duration_since(Instant::now()))
}

fn is_over() -> bool {
    left().is_some_and(|left| left.is_zero())
}

/// That the time was over before something.
pub fn timed_out(what: impl Display) -> Error {
    let text = format!("timed out: {what}, see --timeout");
    Error::plain(Class::TimedOut, text)
}

/// The folder of the locks in the cache.
const LOCKS: &str = "locks";
/// How often a lock is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Most tries.
const RETRIES_MAX: usize = 1000;
/// The longest pause between two.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// True if a command has these flags.
pub fn covers(command: &str) -> bool {
    COMMANDS.contains(&command)
}

/// Puts the flags in force; the lock holds while what is returned lives. `None`: it is to be skipped.
///
/// # Errors
/// `Usage`; `Busy` if the lock is held.
pub fn enter(parsed: &Parsed, config: &mut Config) -> Result<Option<Option<File>>> {
    if !covers(parsed.command.name) {
        return Ok(Some(None));
    }
    retries(parsed)?;
    // One that is beyond all clocks is none.
    if let Some(until) = limit(parsed)?.and_then(|limit| Instant::now().checked_add(limit)) {
        UNTIL.get_or_init(|| until);
    }
    if let Some(threads) = parsed.number("threads", 1..=1024)? {
        config.threads = Some(threads);
    }
    if let Some(text) = parsed.value("mem-max") {
        config.memory_max = Some(bytes::parse(text)?);
    }
    if parsed.has("no-cache") {
        config.cache_max = Some(0);
    }
    again::with_short_spins(); // Before standard input is read and a lock is taken.
    if let Some(nice) = parsed.number("nice", 0..=19)? {
        let now = rustix::process::getpriority_process(None).unwrap_or(0);
        // A priority that cannot be lowered any more is low enough.
        let _ = rustix::process::setpriority_process(None, now.max(nice as i32));
    }
    let (wait, skip) = (parsed.has("wait"), parsed.has("skip"));
    match parsed.value("lock") {
        None if wait || skip => Err(Error::usage("--wait and --skip need --lock")),
        None => Ok(Some(None)),
        Some(_) if wait && skip => Err(Error::usage("--wait and --skip exclude each other")),
        Some(name) => lock(name, parsed.value("wait"), wait, config).map_or_else(
            |error| match error.class() {
                Class::Busy if skip => Ok(None),
                _ => Err(error),
            },
            |file| Ok(Some(Some(file))),
        ),
    }
}

fn lock(name: &str, time: Option<&str>, wait: bool, config: &Config) -> Result<File> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Error::usage(format!(
            "--lock is a name of letters, digits, '.', '_' and '-', not '{name}'"
        )));
    }
    let until = match time
        .filter(|time| !time.is_empty())
        .map(KeepAlive::parse_lenient)
    {
        None if wait => None,
        None => Some(Instant::now()),
        Some(Ok(KeepAlive::For(time))) => Some(Instant::now() + time),
        Some(Ok(KeepAlive::Forever)) => None,
        Some(Err(error)) => return Err(error),
    };
    let cache = Cache::new(config.cache()?, LOCKS);
    loop {
        if let Some(file) = cache.named_lock(name)? {
            return Ok(file);
        }
        let text = format!("another puna holds the lock '{name}'");
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(Error::plain(Class::Busy, text));
        }
        if is_over() {
            return Err(timed_out(text));
        }
        thread::sleep(LOOK);
    }
}

/// How often `--retry` tries again.
///
/// # Errors
/// `Usage` for what is no number.
pub fn retries(parsed: &Parsed) -> Result<usize> {
    Ok(parsed.number("retry", 0..=RETRIES_MAX)?.unwrap_or(0))
}

/// True if another try may go better.
pub fn may_pass(error: &Error) -> bool {
    matches!(error.class(), Class::Network | Class::Busy | Class::Memory)
}

/// Waits before another try.
pub fn pause(tries: usize, config: &Config) {
    let pause = config.network.pause.saturating_mul(1 << tries.min(10));
    thread::sleep(pause.min(PAUSE_MAX).min(left().unwrap_or(PAUSE_MAX)));
}

/// Does what a command does, again if `--retry` says so.
///
/// # Errors
/// The last try's.
pub fn patiently(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    // Who reads standard input as it comes cannot read it again.
    let whole = matches!(parsed.command.name, "run" | "choose");
    let retries = if whole { retries(parsed)? } else { 0 };
    let mut tries = 0;
    loop {
        let done = (parsed.command.run)(parsed, config, out);
        match done {
            Err(error) if tries < retries && may_pass(&error) && !out.has_written() => {
                out.note(&format!("{error}: tries again"));
                pause(tries, config);
                if is_over() {
                    return Err(timed_out(error));
                }
                tries += 1;
            }
            done => return done,
        }
    }
}

/// When a command has to end.
pub struct Deadline {
    /// Set once it is over.
    pub over: Arc<AtomicBool>,
    flags: Arc<Mutex<Vec<Weak<AtomicBool>>>>,
}

impl Deadline {
    /// By `--timeout`, from the start of the command on.
    pub fn new() -> Self {
        let deadline = Deadline {
            over: Arc::default(),
            flags: Arc::default(),
        };
        if let Some(left) = left() {
            let (over, flags) = (deadline.over.clone(), deadline.flags.clone());
            thread::spawn(move || {
                thread::sleep(left);
                let flags = flags
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                over.store(true, Ordering::Relaxed);
                let flags = flags.iter().filter_map(Weak::upgrade);
                flags.for_each(|flag| flag.store(true, Ordering::Relaxed));
            });
        }
        deadline
    }

    /// A flag for one answer, which sets it too when it ends.
    pub fn flag(&self) -> Arc<AtomicBool> {
        let mut flags = self
            .flags
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let flag = Arc::new(AtomicBool::new(self.over.load(Ordering::Relaxed)));
        flags.retain(|flag| flag.strong_count() > 0);
        flags.push(Arc::downgrade(&flag));
        flag
    }

    /// Says of what was cancelled that the time was over.
    ///
    /// # Errors
    /// `TimedOut` for `Cancelled`; others as they are.
    pub fn tell<T>(&self, done: Result<T>) -> Result<T> {
        match done {
            Err(error)
                if error.class() == Class::Cancelled && self.over.load(Ordering::Relaxed) =>
            {
                Err(timed_out("the answer is not whole"))
            }
            done => done,
        }
    }
}

fn limit(parsed: &Parsed) -> Result<Option<Duration>> {
    let limit = |text: &str| match KeepAlive::parse_lenient(text) {
        Ok(KeepAlive::For(limit)) if !limit.is_zero() => Ok(limit),
        _ => Err(Error::usage(format!(
            "--timeout is a time, such as 90s, not '{text}'"
        ))),
    };
    parsed.value("timeout").map(limit).transpose()
}
