//! Threads that may not start: a limit of processes is an error, where the standard library's short forms panic.

use std::io;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

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
    let (hold, held) = channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let started: Result<Vec<_>> = (0..count)
        .map(|_| {
            let held = held.clone();
            spawn(move || _ = held.locked().recv())
        })
        .collect();
    drop(hold);
    for thread in started? {
        // They only wait.
        let _ = thread.join();
    }
    Ok(())
}

fn failed(error: &io::Error) -> Error {
    Error::failed(format!("cannot start a thread: {error}"))
}
