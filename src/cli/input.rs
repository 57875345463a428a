//! Standard input under `--timeout`: whoever waits for it is told when the time is over.

use std::io::{self, BufRead, Read, StdinLock};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::contract::{left, timed_out};
use crate::error::Error;

/// Standard input; reading it ends when the time is over.
pub struct Input {
    inner: StdinLock<'static>,
    /// Bytes that were read and not consumed.
    left: usize,
}

impl Input {
    /// Locks it.
    pub fn new() -> Self {
        Input {
            inner: io::stdin().lock(),
            left: 0,
        }
    }

    /// Waits until there is something to read.
    fn wait(&self) -> io::Result<()> {
        while let Some(left) = left() {
            let mut polled = [PollFd::new(&self.inner, PollFlags::IN)];
            match poll(
                &mut polled,
                Some(&Timespec::try_from(left).unwrap_or_default()),
            ) {
                Ok(0) if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
                Ok(0) | Err(Errno::INTR) => {}
                // What else is wrong reading tells.
                Ok(_) | Err(_) => break,
            }
        }
        Ok(())
    }

    /// What became of reading it, in words.
    pub fn error(error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::TimedOut => timed_out("standard input has not ended"),
            _ => Error::io("read", "standard input", error),
        }
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
