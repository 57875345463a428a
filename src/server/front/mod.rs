//! The front of the server: accepts connections, reads the heads of requests strictly, and hands one request of a
//! connection at a time to tiny_http, over a socket that only this process can reach.
//!
//! tiny_http reads requests faster than they are answered, keeps what it cannot parse open for ever, and takes
//! lengths that do not fit for none. What it gets from here is none of these.

mod body;
mod connections;
pub mod head;
mod relay;
mod requests;
mod wire;

use std::fs::{self, DirBuilder};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::listener::Socket;
use crate::core::error::{Error, Result};
use connections::Connections;
use relay::Relay;

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
/// Descriptors of a connection: the client's socket, and three for both ends of its way to tiny_http.
const DESCRIPTORS_EACH: usize = 4;
/// Descriptors that the rest of the process needs.
const DESCRIPTORS_OTHERS: usize = 24;

/// The private socket between the front and tiny_http. Dropping it removes its folder.
pub struct Inner {
    folder: PathBuf,
    path: PathBuf,
}

impl Inner {
    /// Binds the socket in a new folder that only this user can open, below the first of these folders where that works.
    ///
    /// # Errors
    /// If it works in none of them.
    pub fn bind(folders: &[PathBuf]) -> Result<(Self, UnixListener)> {
        let mut failure = None;
        for folder in folders {
            match Inner::bind_in(folder) {
                Ok(bound) => return Ok(bound),
                Err(error) => failure = Some(Error::io("bind a socket below", folder, error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::failed("no folder for a socket")))
    }

    fn bind_in(parent: &Path) -> io::Result<(Self, UnixListener)> {
        remove_left(parent);
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder.recursive(true).create(parent)?;
        let folder = parent.join(format!("{PREFIX}{}", std::process::id()));
        builder.recursive(false).create(&folder)?;
        let path = folder.join("http.sock");
        let inner = Inner { folder, path };
        let listener = UnixListener::bind(&inner.path)?;
        Ok((inner, listener))
    }

    fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is left is removed by the next server.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The folders of private sockets: this and the process's number.
const PREFIX: &str = "puna-http-";

/// Removes the sockets of servers that were killed.
fn remove_left(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten();
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = folder.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_prefix(PREFIX));
        let is_ours = number.is_some_and(|number| number.parse::<u32>().is_ok());
        let path = folder.join("http.sock");
        if is_ours && UnixStream::connect(&path).is_err() {
            // Another server may be about to remove it, too, or has not bound it yet.
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir(&folder);
        }
    }
}

/// The front.
pub struct Front {
    inner: Inner,
    requests: Requests,
    connections: Connections,
}

impl Front {
    /// A front of what listens at `inner`, for a process that may open so many descriptors.
    pub fn new(inner: Inner, requests: Requests, descriptors: usize) -> Arc<Self> {
        let room = descriptors.saturating_sub(DESCRIPTORS_OTHERS) / DESCRIPTORS_EACH;
        Arc::new(Front {
            inner,
            requests,
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
        let serve = move || Relay::new(&front, socket, peer, seat).serve();
        let started = thread::Builder::new()
            .name("connection".into())
            .spawn(serve);
        if started.is_err() {
            wire::refuse_busy(&client);
        }
    }
}
