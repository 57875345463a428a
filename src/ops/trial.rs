//! The trial of a model that was never computed with on this machine: a process of its own loads it and computes one
//! token first. A file that passes our checks and still ends llama.cpp then ends that process and not this one.
//!
//! A model that passed is remembered in the cache, by the digest of its weights, the build and the settings that
//! choose the code; it then costs one look at the disk. One that failed is not: what looks like a crash may have
//! been a lack of memory, and who asks again pays no more than a load.

use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::prefix_cache::identity;
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::system::cache_dir::{self, Cache};
use crate::system::config::{Config, library_variables};
use crate::system::engine::Spec;
use crate::system::engine::prefix::BUILD;
use crate::system::machine;

/// The word on the command line of the process that tries a model.
pub const WORD: &str = "--try-model";
/// The folder in the cache: an empty file for each model that passed.
const FOLDER: &str = "tried";
/// How often a waiting request checks whether its client is still connected.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// The slowest disk that is waited for.
const DISK_BYTES_A_SECOND: u64 = 10 << 20;
/// Bytes of the last words of the process that are kept.
const WORDS_BYTES: usize = 8 << 10;
/// The signals with which llama.cpp, the C++ runtime and the processor end a process.
const CRASHES: [Signal; 6] = [
    Signal::ABORT,
    Signal::SEGV,
    Signal::BUS,
    Signal::FPE,
    Signal::ILL,
    Signal::TRAP,
];

/// Tries a model unless it is known; returns a note if no process can be started for that. A process that `ends_soon`,
/// after one answer, takes the risk itself where nothing can be remembered: it would pay for each answer.
///
/// # Errors
/// `Damaged` if llama.cpp ends when it computes with the model; `Cancelled`; `TimedOut`.
pub fn check(
    config: &Config,
    spec: &Spec,
    (cancel, ends_soon): (&AtomicBool, bool),
) -> Result<Option<String>> {
    let root = config.cache().ok();
    let root = root.filter(|root| !ends_soon || cache_dir::is_writable(root));
    let cache = root.map(|root| Cache::new(root, FOLDER));
    let name = cache.as_ref().and_then(|_| name(spec));
    let known = cache.as_ref().zip(name.as_deref());
    match known {
        Some((cache, name)) if cache.open(name, true).is_some() => return Ok(None),
        None if ends_soon => return Ok(None),
        _ => {}
    }
    let mut child = match command(spec).spawn() {
        Ok(child) => child,
        Err(error) => {
            return Ok(Some(format!(
                "cannot try the model in a process of its own: {error}"
            )));
        }
    };
    let limit = patience(config, spec).and_then(|limit| Instant::now().checked_add(limit));
    let words = last_words(&mut child, cancel, limit);
    let status = child
        .wait()
        .map_err(|error| Error::io("wait for", program(), error))?;
    verdict(spec, status, &words?)?;
    if let Some((cache, name)) = known.filter(|_| status.success()) {
        // Where it cannot be remembered, the next load tries it again.
        let _ = cache.put(name, &[]);
    }
    Ok(None)
}

/// How long the first token may take: as long as a load may stand still, and the time of reading the file.
fn patience(config: &Config, spec: &Spec) -> Option<Duration> {
    let bytes = std::fs::metadata(&spec.path).map_or(0, |meta| meta.len());
    let reading = Duration::from_secs(bytes / DISK_BYTES_A_SECOND);
    config.load_stall.map(|stall| stall.saturating_add(reading))
}

/// The name of the file that remembers a model: all that chooses the code it is computed with.
fn name(spec: &Spec) -> Option<String> {
    let adapter = spec.adapter.as_ref();
    let adapter = adapter.map(|(path, _)| identity(path));
    let what = format!(
        "{BUILD} {} {:?} {:?} {} {} {}",
        identity(&spec.path)?,
        adapter,
        spec.attention,
        spec.repack,
        env!("CARGO_PKG_VERSION"),
        machine::processor().unwrap_or_default(),
    );
    Some(Digest::compute(what.as_bytes()).hex())
}

/// The running program; on Linux also if its file has been replaced meanwhile.
fn program() -> PathBuf {
    match cfg!(target_os = "linux") {
        true => PathBuf::from("/proc/self/exe"),
        false => std::env::current_exe().unwrap_or_else(|_| "puna".into()),
    }
}

/// The process: its settings are those of the load, and nothing else comes from this one.
fn command(spec: &Spec) -> Command {
    let path = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut command = Command::new(program());
    command.arg0("puna").arg(WORD).arg(path(&spec.path));
    command.args(spec.adapter.iter().map(|(adapter, _)| path(adapter)));
    command.env_clear().envs(library_variables());
    command
        .env("PUNA_CONFIG", "")
        .env("PUNA_CACHE_MAX", "0")
        .env(
            "PUNA_FLASH_ATTENTION",
            if spec.attention.flash { "1" } else { "0" },
        )
        .env("PUNA_KV_CACHE_TYPE", spec.attention.kv.name())
        .env("PUNA_REPACK", if spec.repack { "1" } else { "0" })
        .env("PUNA_NUM_THREADS", spec.threads.to_string())
        // llama.cpp would start a debugger to print where it ended.
        .env("GGML_NO_BACKTRACE", "1");
    command
        // Ctrl-C is for this process, which then ends the other.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Waits until the process has closed its standard error, and returns the end of what it wrote there. Kills it if it
/// takes too long or nobody waits any more.
fn last_words(child: &mut Child, cancel: &AtomicBool, limit: Option<Instant>) -> Result<Vec<u8>> {
    let mut words = Vec::new();
    let Some(mut pipe) = child.stderr.take() else {
        return Ok(words);
    };
    while read(&mut pipe, &mut words) {
        let error = if cancel.load(Ordering::Relaxed) {
            Error::cancelled()
        } else if limit.is_some_and(|limit| Instant::now() >= limit) {
            let text = "timed out: the first token of the model took too long";
            Error::plain(Class::TimedOut, text)
        } else {
            continue;
        };
        let _ = child.kill(); // It may have ended meanwhile.
        return Err(error);
    }
    Ok(words)
}

/// Reads what has come, after a moment at most; false at the end.
fn read(pipe: &mut ChildStderr, words: &mut Vec<u8>) -> bool {
    let mut polled = [PollFd::new(&*pipe, PollFlags::IN)];
    if !matches!(poll(&mut polled, Some(&LOOK)), Ok(1..)) {
        return true;
    }
    let mut piece = [0; 4096];
    match pipe.read(&mut piece) {
        Ok(0) | Err(_) => false,
        Ok(count) => {
            words.extend(&piece[..count]);
            let surplus = words.len().saturating_sub(WORDS_BYTES);
            words.drain(..surplus);
            true
        }
    }
}

/// The verdict on the model, from how the process ended. An error that llama.cpp reports is none here: the load reports
/// it again.
fn verdict(spec: &Spec, status: ExitStatus, words: &[u8]) -> Result<()> {
    let Some(signal) = status.signal() else {
        return Ok(());
    };
    if CRASHES.iter().all(|crash| crash.as_raw() != signal) {
        let text = format!("the process that tried the model was ended by signal {signal}");
        return Err(Error::plain(Class::Memory, text));
    }
    let words = String::from_utf8_lossy(words);
    let reason = reason(&words).unwrap_or_else(|| format!("signal {signal}"));
    Err(Error::damaged(
        &spec.path,
        format!("llama.cpp ends when it computes with it: {reason}"),
    ))
}

/// The failed assertion among the last words, without the folder of its source file.
fn reason(words: &str) -> Option<String> {
    let marks = ["GGML_", "terminate called", "what():", "fatal error"];
    let found = words.lines().find_map(|line| {
        let at = marks.iter().find_map(|mark| line.find(mark))?;
        let file = line[..at].trim().rsplit(['/', ' ']).next();
        Some(format!("{} {}", file.unwrap_or_default(), &line[at..]))
    })?;
    Some(found.trim().chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_assertion_without_its_folder() {
        let words =
            "x\npuna: llama.cpp aborts: /root/ggml/ggml.c:3208: GGML_ASSERT(a / 2 == b) failed\ny";
        let read = reason(words).unwrap();
        assert_eq!(read, "ggml.c:3208: GGML_ASSERT(a / 2 == b) failed");
        let thrown = "terminate called after throwing an instance of 'std::length_error'";
        assert_eq!(reason(thrown).as_deref(), Some(thrown));
        assert_eq!(reason("nothing"), None);
    }
}
