//! Threads that may not start: a limit of processes is an error, where the standard library's short forms panic.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread::{self, Builder, JoinHandle, Scope, ScopedJoinHandle};

use super::error::{Error, Result};
use super::lock::LockExt;

/// Starts a thread.
///
/// # Errors
/// The system's, in words.
pub fn spawn<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    Builder::new().spawn(body).map_err(|error| failed(&error))
}

/// Starts a thread in a scope.
///
/// # Errors
/// The system's, in words.
pub fn spawn_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let spawned = Builder::new().spawn_scoped(scope, body);
    spawned.map_err(|error| failed(&error))
}

/// Checks that so many threads can start, for code of others that panics where one cannot.
///
/// # Errors
/// The system's, in words.
pub fn check_room(count: usize) -> Result<()> {
    // Each waits until all have started, or until one could not.
    let (hold, held) = channel::<()>();
    let held = Mutex::new(held);
    thread::scope(|scope| {
        let threads = (0..count).map(|_| spawn_in(scope, || _ = held.locked().recv()));
        let started = threads.collect::<Result<Vec<_>>>();
        drop(hold);
        started.map(drop)
    })
}

/// Runs something in a thread of its own and waits for it; in this thread where no other can start.
///
/// # Errors
/// The words of a panic, in a thread of its own.
pub fn beside<T: Send>(mut body: impl FnMut() -> T + Send) -> thread::Result<T> {
    let ended = thread::scope(|scope| {
        let thread = spawn_in(scope, &mut body);
        thread.ok().map(ScopedJoinHandle::join)
    });
    ended.unwrap_or_else(|| Ok(body()))
}

fn failed(error: &io::Error) -> Error {
    Error::failed(format!("cannot start a thread: {error}"))
}
