//! Standard input under `--timeout`: reads fail once the deadline has passed.

use std::fs::File;
use std::io::{self, BufRead, Read, StdinLock};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::deadline::{left, timed_out};
use super::encoding::Encoding;
use crate::core::error::{Error, Result};
use crate::core::lock::LockExt;

/// Standard input; a read fails with `TimedOut` once the deadline has passed.
pub struct Input {
    inner: StdinLock<'static>,
    /// Bytes in the buffer that are not consumed yet.
    left: usize,
}

impl Input {
    /// Locks standard input for as long as the value lives.
    pub fn new() -> Self {
        Input {
            inner: io::stdin().lock(),
            left: 0,
        }
    }

    /// Waits until input is available or the deadline passes.
    fn wait(&self) -> io::Result<()> {
        match left() {
            Some(_) => wait(&self.inner),
            None => Ok(()), // The read itself waits.
        }
    }

    /// Turns an I/O error of standard input into the crate's error.
    pub fn error(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::TimedOut => timed_out("standard input has not ended"),
            _ => Error::io("read", "standard input", error),
        }
    }
}

/// Waits until a file has input or has ended, or the deadline passes.
fn wait(file: &impl AsFd) -> io::Result<()> {
    loop {
        let left = left();
        let most = left.map(|left| Timespec::try_from(left).unwrap_or_default());
        let mut polled = [PollFd::new(file, PollFlags::IN)];
        match poll(&mut polled, most.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(0) | Err(Errno::INTR) => {}
            // The read itself reports any other error.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// A file, perhaps a FIFO whose writer takes its time.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        wait(&self.0)?;
        self.0.read(bytes)
    }
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(bytes)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            self.wait()?;
        }
        let bytes = self.inner.fill_buf()?;
        self.left = bytes.len();
        Ok(bytes)
    }

    fn consume(&mut self, count: usize) {
        self.left -= count;
        self.inner.consume(count);
    }
}

/// Standard input as it was read, if it is read again: see [`keep`].
static KEPT: Mutex<Option<Vec<u8>>> = Mutex::new(None);
/// True if standard input is kept.
static KEEPS: AtomicBool = AtomicBool::new(false);

/// Keeps standard input once it is read: the command may run a second time. It may be large, so that no copy of it
/// stays otherwise.
pub fn keep() {
    KEEPS.store(true, Ordering::Relaxed);
}

/// All of standard input. `Usage` if it is larger than `bytes_max`.
pub fn standard_input(bytes_max: u64) -> Result<Vec<u8>> {
    let kept = KEPT.locked().take();
    let bytes = match kept {
        Some(bytes) => bytes,
        None => {
            let mut bytes = Vec::new();
            let mut input = Input::new().take(bytes_max + 1);
            let read = input.read_to_end(&mut bytes);
            read.map_err(Input::error)?;
            bytes
        }
    };
    if KEEPS.load(Ordering::Relaxed) {
        *KEPT.locked() = Some(bytes.clone());
    }
    if bytes.len() as u64 > bytes_max {
        Err(Error::usage(format!(
            "standard input is larger than {} MiB",
            bytes_max >> 20
        )))
    } else {
        Ok(bytes)
    }
}

/// Reads a file that the command line names, or standard input for `-`.
pub fn read_input(path: &str, bytes_max: u64) -> Result<Vec<u8>> {
    if path == "-" {
        return standard_input(bytes_max);
    }
    if path.is_empty() {
        return Err(Error::usage("the name of a file is empty"));
    }
    let mut bytes = Vec::new();
    let read =
        opened(path).and_then(|file| Patient(file).take(bytes_max + 1).read_to_end(&mut bytes));
    read.map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => timed_out(format!("{path} has not ended")),
        _ => Error::io("read", path, error),
    })?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::usage(format!(
            "{path} is larger than {} MiB",
            bytes_max >> 20
        )));
    }
    Ok(bytes)
}

/// The text of a file that the command line names, or of standard input for `-`; UTF-8.
pub fn read_text(path: &str, bytes_max: u64) -> Result<String> {
    decoded(path, bytes_max, Encoding::Strict)
}

/// The text of a file that the command line names, or of standard input for `-`, in this encoding.
pub fn decoded(path: &str, bytes_max: u64, encoding: Encoding) -> Result<String> {
    let name = if path == "-" { "standard input" } else { path };
    encoding.decode(read_input(path, bytes_max)?, name)
}

/// Opens anything but a folder. A FIFO without a writer does not block here.
fn opened(path: &str) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    }
}
