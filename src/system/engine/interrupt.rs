//! Aborts a computation on the CPU once all of its results are unwanted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::core::lock::LockExt;

/// llama.cpp's status of a decode that an [`Interrupt`] aborted; the cache contains nothing from it.
pub const INTERRUPTED: i32 = 2;

/// The cancel flags of the jobs whose tokens are in the current batch.
#[derive(Default)]
pub struct Interrupt {
    cancels: Mutex<Vec<Arc<AtomicBool>>>,
}

impl Interrupt {
    /// Sets the cancel flags for the next computation; without any it is never aborted.
    pub fn set(&self, cancels: impl Iterator<Item = Arc<AtomicBool>>) {
        let mut set = self.cancels.locked();
        set.clear();
        set.extend(cancels);
    }

    /// True once all flags are set. llama.cpp checks it after each graph node, some hundred times per
    /// decode.
    pub fn is_due(&self) -> bool {
        let cancels = self.cancels.locked();
        !cancels.is_empty() && cancels.iter().all(|cancel| cancel.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_is_due_after_all_clients_left() {
        let interrupt = Interrupt::default();
        assert!(!interrupt.is_due());
        let cancels = [Arc::new(AtomicBool::new(true)), Arc::default()];
        interrupt.set(cancels.iter().cloned());
        assert!(!interrupt.is_due());
        cancels[1].store(true, Ordering::Relaxed);
        assert!(interrupt.is_due());
        interrupt.set([].into_iter());
        assert!(!interrupt.is_due());
    }
}
