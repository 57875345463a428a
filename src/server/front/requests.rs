//! The requests in hand, as the front and their handlers share them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::head::Framing;
use crate::core::lock::LockExt;

/// The connection of one request.
pub struct Watch {
    /// The client's address; `None` on the Unix socket.
    pub peer: Option<SocketAddr>,
    /// The length of the body, as the client gave it.
    pub framing: Framing,
    gone: Arc<AtomicBool>,
    is_handled: AtomicBool,
    is_limited: AtomicBool,
    has_stalled: AtomicBool,
}

impl Watch {
    /// The flag that is set once the client has disconnected or the server cancels the request.
    pub fn gone(&self) -> Arc<AtomicBool> {
        self.gone.clone()
    }

    /// Sets whether the body is given up if its bytes stop coming.
    pub fn limit_body(&self, limited: bool) {
        self.is_limited.store(limited, Ordering::Relaxed);
    }

    /// True if the body was given up.
    pub fn has_stalled(&self) -> bool {
        self.has_stalled.load(Ordering::Relaxed)
    }

    /// True once the request has reached its handler.
    pub(super) fn is_handled(&self) -> bool {
        self.is_handled.load(Ordering::Relaxed)
    }

    /// True if the body is given up when its bytes stop coming; so is one that comes before a handler has the request.
    pub(super) fn is_limited(&self) -> bool {
        !self.is_handled() || self.is_limited.load(Ordering::Relaxed)
    }

    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    pub(super) fn stall(&self) {
        self.has_stalled.store(true, Ordering::Relaxed);
    }
}

/// The requests in hand.
#[derive(Clone, Default)]
pub struct Requests(Arc<Table>);

#[derive(Default)]
struct Table {
    last: AtomicU64,
    /// Those that no handler has yet.
    waiting: Mutex<HashMap<u64, Arc<Watch>>>,
    all: Mutex<Vec<Weak<Watch>>>,
    is_closed: AtomicBool,
}

impl Requests {
    /// Begins a request and gives it a number; `None` once the server stops.
    pub(super) fn begin(
        &self,
        peer: Option<SocketAddr>,
        framing: Framing,
    ) -> Option<(u64, Arc<Watch>)> {
        if self.0.is_closed.load(Ordering::Relaxed) {
            return None;
        }
        let watch = Arc::new(Watch {
            peer,
            framing,
            gone: Arc::default(),
            is_handled: AtomicBool::new(false),
            is_limited: AtomicBool::new(false),
            has_stalled: AtomicBool::new(false),
        });
        let number = self.0.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.waiting.locked().insert(number, watch.clone());
        let mut all = self.0.all.locked();
        all.retain(|watch| watch.strong_count() > 0);
        all.push(Arc::downgrade(&watch));
        Some((number, watch))
    }

    /// Hands a request to its handler; `None` for a number that is not in use.
    pub fn take(&self, number: u64) -> Option<Arc<Watch>> {
        let watch = self.0.waiting.locked().remove(&number)?;
        watch.is_handled.store(true, Ordering::Relaxed);
        Some(watch)
    }

    /// Forgets a request that no handler took.
    pub(super) fn forget(&self, number: u64) {
        self.0.waiting.locked().remove(&number);
    }

    /// Begins no further requests.
    pub fn close(&self) {
        self.0.is_closed.store(true, Ordering::Relaxed);
    }

    /// Cancels every request in hand.
    pub fn end_all(&self) {
        let all = self.0.all.locked();
        all.iter()
            .filter_map(Weak::upgrade)
            .for_each(|watch| watch.leave());
    }

    /// The number of requests in hand.
    pub fn count(&self) -> usize {
        let all = self.0.all.locked();
        all.iter().filter(|watch| watch.strong_count() > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_hand_until_front_and_handler_have_left_it() {
        let requests = Requests::default();
        let (number, watch) = requests.begin(None, Framing::Length(0)).unwrap();
        assert!(!watch.is_handled() && requests.take(number + 1).is_none());
        let handler = requests.take(number).unwrap();
        assert!(watch.is_handled() && requests.take(number).is_none());
        drop(watch);
        assert_eq!(requests.count(), 1);
        requests.end_all();
        assert!(handler.gone().load(Ordering::Relaxed));
        drop(handler);
        assert_eq!(requests.count(), 0);
        requests.close();
        assert!(requests.begin(None, Framing::Length(0)).is_none());
    }
}
