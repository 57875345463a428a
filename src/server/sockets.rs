//! The sockets below tiny_http, which hides them: finds the one of a request, notices when its
//! client leaves, and ends connections that tiny_http must not touch again.

#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{self, Shutdown};

/// How often every watched connection is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// How long a client may take nothing of its answer.
const SEND_MAX: Duration = Duration::from_secs(30);

/// The connections of requests under way.
#[derive(Clone)]
pub struct Sockets(Arc<Table>);

struct Table {
    watched: Mutex<Vec<Weak<Watch>>>,
    unix_path: Option<PathBuf>,
}

/// The connection of one request. Dropping it ends the watching, not the connection.
pub struct Watch {
    socket: Option<OwnedFd>,
    inode: u64,
    gone: Arc<AtomicBool>,
}

impl Watch {
    /// Set once the client has left or the server wants the request to end.
    pub fn gone(&self) -> Arc<AtomicBool> {
        self.gone.clone()
    }

    /// Writes a last response and ends the connection, without reading what the client still
    /// sends. False if the connection is not known.
    pub fn end_with(&self, response: &[u8]) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        // A client that does not take it gets no answer: the connection ends either way.
        let _ = rustix::io::write(socket, response);
        net::shutdown(socket, Shutdown::Both).is_ok()
    }

    fn look(&self) {
        let Some(socket) = &self.socket else { return };
        let mut polled = [PollFd::new(socket, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let over = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let is_over = poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().intersects(over);
        if is_over || peer_has_closed(socket) {
            self.gone.store(true, Ordering::Relaxed);
        }
    }
}

/// True if the peer of a TCP connection has closed its side. POLLRDHUP cannot tell that: it is
/// also there once tiny_http has shut the reading side after `Connection: close`.
#[cfg(target_os = "linux")]
fn peer_has_closed(socket: &OwnedFd) -> bool {
    /// TCP_ESTABLISHED of the kernel's tcp_states.h.
    const ESTABLISHED: u8 = 1;
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the buffer is as long as `length` says, and all zeroes are a good `tcp_info`; the
    // kernel writes at most `length` bytes into it.
    let state = unsafe {
        let result = libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        (result == 0).then(|| info.assume_init().tcpi_state)
    };
    state.is_some_and(|state| state != ESTABLISHED)
}

/// Elsewhere a client that leaves is noticed when both sides are closed.
#[cfg(not(target_os = "linux"))]
fn peer_has_closed(_: &OwnedFd) -> bool {
    false
}

impl Sockets {
    /// A table whose thread looks at every watched connection until the process ends.
    pub fn new(unix_path: Option<PathBuf>) -> std::io::Result<Self> {
        let table = Arc::new(Table {
            watched: Mutex::default(),
            unix_path,
        });
        let sockets = Sockets(table.clone());
        let look = move || {
            loop {
                thread::sleep(LOOK);
                table.live().iter().for_each(|watch| watch.look());
            }
        };
        thread::Builder::new().name("sockets".into()).spawn(look)?;
        Ok(sockets)
    }

    /// Watches the connection of a request that came from `peer`; `None` is a Unix peer.
    pub fn watch(&self, peer: Option<SocketAddr>) -> Arc<Watch> {
        let mut watched = self
            .0
            .watched
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        watched.retain(|watch| watch.strong_count() > 0);
        let taken: Vec<u64> = watched
            .iter()
            .filter_map(Weak::upgrade)
            .map(|watch| watch.inode)
            .collect();
        let socket = match peer {
            Some(peer) => find(|socket| peer_of(socket) == Some(peer))
                .into_iter()
                .next(),
            None => self.only_unix(&taken),
        };
        if let Some(socket) = &socket {
            // Without it a client that reads nothing would hold its handler, and the model, forever.
            let _ = net::sockopt::set_socket_timeout(
                socket,
                net::sockopt::Timeout::Send,
                Some(SEND_MAX),
            );
        }
        let inode = socket.as_ref().map_or(0, inode);
        let watch = Arc::new(Watch {
            socket,
            inode,
            gone: Arc::default(),
        });
        watched.push(Arc::downgrade(&watch));
        watch
    }

    /// Tells every request under way to end.
    pub fn end_all(&self) {
        self.0
            .live()
            .iter()
            .for_each(|watch| watch.gone.store(true, Ordering::Relaxed));
    }

    /// Requests under way.
    pub fn count(&self) -> usize {
        self.0.live().len()
    }

    /// Unix peers have no address. The connection is known if it is the only one without a
    /// request; else a client that leaves is noticed when the answer is written.
    fn only_unix(&self, taken: &[u64]) -> Option<OwnedFd> {
        let path = self.0.unix_path.as_ref()?;
        let mut free = find(|socket| {
            let local = net::getsockname(socket)
                .ok()
                .and_then(|name| rustix::net::SocketAddrUnix::try_from(name).ok());
            let is_ours = local.and_then(|local| local.path_bytes().map(<[u8]>::to_vec))
                == Some(path.as_os_str().as_encoded_bytes().to_vec());
            is_ours && net::getpeername(socket).is_ok() && !taken.contains(&inode(&socket))
        });
        let first = free.pop()?;
        free.iter()
            .all(|other| inode(other) == inode(&first))
            .then_some(first)
    }
}

impl Table {
    fn live(&self) -> Vec<Arc<Watch>> {
        let watched = self
            .watched
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        watched.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Duplicates of our descriptors that `wanted` accepts.
fn find(wanted: impl Fn(BorrowedFd) -> bool) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    for number in descriptors() {
        // SAFETY: the number was open a moment ago. If it was closed or used anew since, the calls
        // below fail or look at another socket, which `wanted` then judges; a duplicate is judged
        // again, so what is returned is what was wanted. Nothing is ever closed through it.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        if !wanted(borrowed) {
            continue;
        }
        if let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(borrowed, 3)
            && wanted(copy.as_fd())
        {
            found.push(copy);
        }
    }
    found
}

/// Numbers of our open descriptors, on Linux and on systems with /dev/fd.
fn descriptors() -> Vec<RawFd> {
    let folder = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect()
}

fn peer_of(socket: BorrowedFd) -> Option<SocketAddr> {
    net::getpeername(socket).ok()??.try_into().ok()
}

fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}
