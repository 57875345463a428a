//! What ends a computation on the CPU before its end: nobody wants any of its results any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// llama.cpp's status of a decode that an [`Interrupt`] ended; nothing of it is in the cache.
pub const INTERRUPTED: i32 = 2;

/// The cancel flags of those whose tokens are in the batch that is computed just now.
#[derive(Default)]
pub struct Interrupt {
    cancels: Mutex<Vec<Arc<AtomicBool>>>,
}

impl Interrupt {
    /// From now on the results are for these; for nobody in particular if there are none.
    pub fn set(&self, cancels: impl Iterator<Item = Arc<AtomicBool>>) {
        let mut set = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        set.clear();
        set.extend(cancels);
    }

    /// True once all of them have gone. Asked after each node of a graph, some hundred times a decode.
    pub fn is_due(&self) -> bool {
        let cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner);
        !cancels.is_empty() && cancels.iter().all(|cancel| cancel.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_once_all_have_gone() {
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
