//! The receiving end of a job: its events, in order.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::Event;
use crate::core::error::{Error, Result};

/// How often a waiting reader checks whether the event is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// The events of one job. Dropping it cancels the job.
pub struct Answer {
    events: Receiver<Event>,
    cancel: Arc<AtomicBool>,
    /// An event that [`Answer::wait`] has received.
    held: RefCell<Option<Event>>,
}

impl Answer {
    pub(super) fn new(events: Receiver<Event>, cancel: Arc<AtomicBool>) -> Self {
        Answer {
            events,
            cancel,
            held: RefCell::default(),
        }
    }

    /// Waits for the next event, but not longer than this; false if none has come.
    pub fn wait(&self, most: Duration) -> bool {
        if self.held.borrow().is_none() {
            match self.events.recv_timeout(most) {
                Ok(event) => *self.held.borrow_mut() = Some(event),
                // `next` says that the engine has stopped.
                Err(RecvTimeoutError::Disconnected) => {}
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
        true
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// If the engine's thread has stopped.
    pub fn next(&self) -> Result<Event> {
        if let Some(event) = self.held.take() {
            return Ok(event);
        }
        self.events.recv().map_err(|_| {
            Error::failed("the answer was abandoned: its reader stalled, or the engine failed")
        })
    }

    /// Waits for the next event, or until `over` is set.
    ///
    /// # Errors
    /// As [`Answer::next`]; `Cancelled`.
    pub fn next_until(&self, over: &AtomicBool) -> Result<Event> {
        loop {
            match self.events.recv_timeout(LOOK) {
                Ok(event) => return Ok(event),
                Err(RecvTimeoutError::Disconnected) => return self.next(),
                Err(RecvTimeoutError::Timeout) if over.load(Ordering::Relaxed) => {
                    return Err(Error::cancelled());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}
