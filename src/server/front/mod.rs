//! The front of the server: accepts connections, reads the heads of requests strictly, and hands one request of a
//! connection at a time to the HTTP library, over a socket that only this process can reach.
//!
//! The HTTP library reads requests faster than they are answered, keeps what it cannot parse open for ever, and takes
//! lengths that do not fit for none. What it gets from here is none of these.

mod body;
mod connections;
pub mod head;
mod inner;
mod relay;
mod requests;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::listener::Socket;
use connections::Connections;
use relay::{Refused, Relay};

pub use inner::Inner;
pub use requests::{Requests, Watch};

/// How often a thread that accepts connections checks whether to stop.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};
/// How long to wait after a connection could not be accepted: no descriptor is left.
const REST: Duration = Duration::from_millis(50);
/// Most connections at once.
const CONNECTIONS_MAX: usize = 1024;
/// Descriptors of a connection: the client's socket, and three for both ends of its way to the HTTP library.
const DESCRIPTORS_EACH: usize = 4;
/// Descriptors that the rest of the process needs.
const DESCRIPTORS_OTHERS: usize = 24;

/// The front.
pub struct Front {
    inner: Inner,
    requests: Requests,
    refused: Refused,
    connections: Connections,
}

impl Front {
    /// A front of what listens at `inner`, for a process that may open so many descriptors. `refused` is told of heads
    /// that never become a request.
    pub fn new(
        inner: Inner,
        requests: Requests,
        refused: Refused,
        descriptors: usize,
    ) -> Arc<Self> {
        let room = descriptors.saturating_sub(DESCRIPTORS_OTHERS) / DESCRIPTORS_EACH;
        Arc::new(Front {
            inner,
            requests,
            refused,
            connections: Connections::new(room.clamp(2, CONNECTIONS_MAX)),
        })
    }

    /// Accepts connections until `stop` is set, each with a thread of its own.
    pub fn accept(self: &Arc<Self>, socket: &Socket, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut polled, Some(&LOOK)), Ok(1..)) {
                continue;
            }
            match socket.accept() {
                Ok((client, peer)) => self.open(client, peer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => thread::sleep(REST),
            }
        }
    }

    fn open(self: &Arc<Self>, client: OwnedFd, peer: Option<SocketAddr>) {
        let client = Arc::new(client);
        let Some(seat) = self.connections.seat(&client) else {
            return wire::refuse_busy(&client);
        };
        let (front, socket) = (self.clone(), client.clone());
        let serve = move || {
            let shared = (&front.inner, &front.requests, &front.refused);
            Relay::new(shared, (socket, peer), seat).serve();
        };
        let started = thread::Builder::new()
            .name("connection".into())
            .spawn(serve);
        if started.is_err() {
            wire::refuse_busy(&client);
        }
    }
}
