//! Locking without poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex whose holder panicked is used as it is: every value behind a lock in this crate is valid after
/// each single change.
pub trait LockExt<T> {
    /// Locks it.
    fn locked(&self) -> MutexGuard<'_, T>;
}

impl<T> LockExt<T> for Mutex<T> {
    fn locked(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
