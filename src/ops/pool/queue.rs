//! The queue of requests that wait for a model to load.

use std::collections::VecDeque;

use crate::core::error::{Class, Error, Result};

/// Requests that wait to load, by their tickets.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

impl Queue {
    /// Queues a request. The first in the queue is about to load and does not count.
    ///
    /// # Errors
    /// `Busy` if too many are waiting.
    pub(super) fn enter(&mut self, places: usize) -> Result<u64> {
        if self.waiting.len() > places {
            let text = "server busy, please try again.  maximum pending requests exceeded";
            return Err(Error::plain(Class::Busy, text));
        }
        self.next_ticket += 1;
        self.waiting.push_back(self.next_ticket);
        Ok(self.next_ticket)
    }

    /// Removes a request from the queue.
    pub(super) fn leave(&mut self, ticket: Option<u64>) {
        self.waiting.retain(|known| Some(*known) != ticket);
    }

    /// The first request.
    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.front().copied()
    }

    /// True for the first request, and for one without a ticket if nothing waits.
    pub(super) fn is_first(&self, ticket: Option<u64>) -> bool {
        self.waiting
            .front()
            .is_none_or(|first| Some(*first) == ticket)
    }
}
