//! The deadline that `--timeout` sets, and the cancellation of what runs then.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::core::error::{Class, Error, Result};
use crate::core::lock::LockExt;
use crate::core::threads::spawn;

/// The command's deadline, if `--timeout` was given.
static UNTIL: OnceLock<Instant> = OnceLock::new();

/// Sets the deadline; the first one holds.
pub fn set(until: Instant) {
    UNTIL.get_or_init(|| until);
}

/// The time left until the deadline; `None` without `--timeout`.
pub fn left() -> Option<Duration> {
    let until = UNTIL.get()?;
    Some(until.saturating_duration_since(Instant::now()))
}

/// True once the deadline has passed.
pub fn is_over() -> bool {
    left().is_some_and(|left| left.is_zero())
}

/// The error of a command that reached its deadline; `what` says what was not finished.
pub fn timed_out(what: impl Display) -> Error {
    let text = format!("timed out: {what}, see --timeout");
    Error::plain(Class::TimedOut, text)
}

/// The deadline of a command and the cancellation flags that it sets.
pub struct Deadline {
    /// Set once the deadline has passed.
    pub over: Arc<AtomicBool>,
    flags: Arc<Mutex<Vec<Weak<AtomicBool>>>>,
}

impl Deadline {
    /// The deadline of `--timeout`, counted from the start of the command.
    ///
    /// # Errors
    /// If no thread can watch it.
    pub fn new() -> Result<Self> {
        let deadline = Deadline {
            over: Arc::default(),
            flags: Arc::default(),
        };
        if is_over() {
            // Not left to a thread, which a busy machine may start late.
            deadline.over.store(true, Ordering::Relaxed);
        } else if let Some(left) = left() {
            let (over, flags) = (deadline.over.clone(), deadline.flags.clone());
            spawn(move || {
                thread::sleep(left);
                let flags = flags.locked();
                over.store(true, Ordering::Relaxed);
                let flags = flags.iter().filter_map(Weak::upgrade);
                flags.for_each(|flag| flag.store(true, Ordering::Relaxed));
            })?;
        }
        Ok(deadline)
    }

    /// The cancellation flag of one answer. It is set when the deadline passes.
    pub fn flag(&self) -> Arc<AtomicBool> {
        let mut flags = self.flags.locked();
        let flag = Arc::new(AtomicBool::new(self.over.load(Ordering::Relaxed)));
        flags.retain(|flag| flag.strong_count() > 0);
        flags.push(Arc::downgrade(&flag));
        flag
    }

    /// Turns a cancellation by the deadline into a timeout.
    ///
    /// # Errors
    /// `TimedOut` for `Cancelled` after the deadline; other errors unchanged.
    pub fn check<T>(&self, done: Result<T>) -> Result<T> {
        match done {
            Err(error)
                if error.class() == Class::Cancelled && self.over.load(Ordering::Relaxed) =>
            {
                Err(timed_out("the answer is not complete"))
            }
            done => done,
        }
    }
}
