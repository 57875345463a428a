//! Run limits of every command that runs a model: its lock, threads, priority, memory, time and retries.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use super::context::Context;
use super::deadline::{self, is_over, left, timed_out};
use super::flag::{Flag, Group, maybe, option, switch};
use super::out::Out;
use super::parsed::{Parsed, duration};
use super::reexec;
use super::stdin;
use super::table::Command;
use crate::core::bytes;
use crate::core::duration::KeepAlive;
use crate::core::error::{Class, Error, Result};
use crate::system::cache_dir::Cache;
use crate::system::config::Config;

/// The flags of every command that runs a model.
pub const FLAGS: &[Flag] = &[
    TIMEOUT, THREADS, NICE, MEM_MAX, LOCK, WAIT, SKIP, RETRY, NO_CACHE,
];

pub const TIMEOUT: Flag = option(
    "timeout",
    None,
    "DURATION",
    "stop after this time, such as 90s (status 10)",
)
.in_group(Group::Limits);
const THREADS: Flag =
    option("threads", None, "N", "compute with N threads").in_group(Group::Limits);
const NICE: Flag = option(
    "nice",
    None,
    "N",
    "lower the CPU priority: 0 to 19, the lowest",
)
.in_group(Group::Limits);
const MEM_MAX: Flag = option(
    "mem-max",
    None,
    "BYTES",
    "memory limit besides weights, e.g. 6G (status 11)",
)
.in_group(Group::Limits);
const LOCK: Flag = option(
    "lock",
    None,
    "NAME",
    "take this lock; status 9 if another puna holds it",
)
.in_group(Group::Limits);
const WAIT: Flag = maybe(
    "wait",
    "DURATION",
    "wait for the lock, at most this long if given",
)
.in_group(Group::Limits);
const SKIP: Flag = switch(
    "skip",
    None,
    "do nothing if the lock is held: status 0, or 121 for a decision",
)
.in_group(Group::Limits);
const RETRY: Flag = option(
    "retry",
    None,
    "N",
    "retry N times if network, server or memory fails",
)
.in_group(Group::Limits);
const NO_CACHE: Flag =
    switch("no-cache", None, "neither read nor write the prefix cache").in_group(Group::Limits);

/// The cache folder of the named locks.
const LOCKS: &str = "locks";
/// Interval at which a held lock is tried again.
const LOOK: Duration = Duration::from_millis(50);
/// Longest name of a lock.
const LOCK_NAME_BYTES_MAX: usize = 64;
/// Largest value of `--retry`.
const RETRIES_MAX: usize = 1000;
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Applies the flags. The lock is held until the returned file is dropped. `None` means that the lock is
/// held by another process and the command is to be skipped.
///
/// # Errors
/// `Usage`; `Busy` if the lock is held.
pub fn enter(
    command: &Command,
    parsed: &Parsed,
    config: &mut Config,
) -> Result<Option<Option<File>>> {
    if command.limits.is_empty() {
        return Ok(Some(None));
    }
    retries(parsed)?;
    // A deadline that overflows the clock means no deadline.
    if let Some(until) = limit(parsed)?.and_then(|limit| Instant::now().checked_add(limit)) {
        deadline::set(until);
    }
    if let Some(threads) = parsed.number(&THREADS, 1..=1024)? {
        config.threads = Some(threads);
    }
    if let Some(bytes) = parsed.read(&MEM_MAX, bytes::parse)? {
        config.memory_max = Some(bytes);
    }
    if parsed.has(&NO_CACHE) {
        config.cache_max = Some(0);
    }
    reexec::with_short_spins(); // Before standard input is read and a lock is taken.
    if let Some(nice) = parsed.number(&NICE, 0..=19)? {
        let now = rustix::process::getpriority_process(None).unwrap_or(0);
        // If the priority cannot be lowered, the command runs with the one it has.
        let _ = rustix::process::setpriority_process(None, now.max(nice as i32));
    }
    let (wait, skip) = (parsed.has(&WAIT), parsed.has(&SKIP));
    match parsed.value(&LOCK) {
        None if wait || skip => Err(Error::usage("--wait and --skip need --lock")),
        None => Ok(Some(None)),
        Some(_) if wait && skip => Err(Error::usage("--wait and --skip cannot be used together")),
        Some(name) => lock(name, parsed.value(&WAIT), wait, config).map_or_else(
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
    if name.is_empty()
        || name.len() > LOCK_NAME_BYTES_MAX
        || name.starts_with('.')
        || !name.chars().all(plain)
    {
        return Err(Error::usage(format!(
            "--lock must be a name of 1 to {LOCK_NAME_BYTES_MAX} letters, digits, '.', '_' and '-', not '{name}'"
        )));
    }
    let time = time
        .filter(|time| !time.is_empty())
        .map(|time| duration(WAIT.long, time))
        .transpose()?;
    let until = match time {
        None if wait => None,
        None => Some(Instant::now()),
        Some(KeepAlive::For(time)) => Some(Instant::now() + time),
        Some(KeepAlive::Forever) => None,
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

/// Notes a value that was written behind a flag with a blank, and so became a word of the prompt, where the value of the
/// flag is optional.
fn note_words(command: &Command, parsed: &Parsed, out: &Out) {
    let flags = command.all_flags().filter(|flag| flag.optional);
    for flag in flags.filter(|flag| parsed.value(flag) == Some("")) {
        let fits = |word: &&String| match flag.value {
            Some("DURATION") => KeepAlive::parse(word).is_ok(),
            _ => flag.words.contains(&word.as_str()),
        };
        if let Some(word) = parsed.operands.iter().skip(1).find(fits) {
            let long = flag.long;
            out.note(&format!(
                "'{word}' is a word of its own, not the value of --{long}: see --{long}={word}"
            ));
        }
    }
}

/// The number of retries that `--retry` allows; 0 without it.
///
/// # Errors
/// `Usage` unless it is a number up to [`RETRIES_MAX`].
pub fn retries(parsed: &Parsed) -> Result<usize> {
    Ok(parsed.number(&RETRY, 0..=RETRIES_MAX)?.unwrap_or(0))
}

/// True if a retry may succeed.
pub fn may_pass(error: &Error) -> bool {
    matches!(error.class(), Class::Network | Class::Busy | Class::Memory)
}

/// Sleeps before the next try; the pause doubles with each try, up to [`PAUSE_MAX`] and the deadline.
pub fn pause(tries: usize, config: &Config) {
    let pause = config.network.pause.saturating_mul(1 << tries.min(10));
    thread::sleep(pause.min(PAUSE_MAX).min(left().unwrap_or(PAUSE_MAX)));
}

/// Runs a command, again if `--retry` says so.
///
/// # Errors
/// The last try's.
pub fn run(command: &Command, parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let retries = if command.retries_whole {
        retries(parsed)?
    } else {
        0
    };
    if retries > 0 {
        stdin::keep();
    }
    note_words(command, parsed, out);
    let mut tries = 0;
    loop {
        let done = (command.run)(parsed, context, out);
        match done {
            Err(error) if tries < retries && may_pass(&error) && !out.has_written() => {
                out.note(&format!("{error}; retrying"));
                pause(tries, &context.config);
                if is_over() {
                    return Err(timed_out(error));
                }
                tries += 1;
            }
            done => return done,
        }
    }
}

fn limit(parsed: &Parsed) -> Result<Option<Duration>> {
    match parsed.duration(&TIMEOUT)? {
        None => Ok(None),
        Some(KeepAlive::For(limit)) if !limit.is_zero() => Ok(Some(limit)),
        Some(_) => Err(Error::usage("--timeout must be more than 0, and end")),
    }
}
