//! The sockets below tiny_http, which hides them: finds the socket of a request, detects that its
//! client has disconnected, and closes connections that tiny_http must not touch again.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, Shutdown};

use super::limits::{ConnectionLimits, Seen};
use super::listener::Socket;
use crate::core::lock::LockExt;

/// How often every watched connection is checked.
const LOOK: Duration = Duration::from_millis(100);

/// How long the rest of a refused client's request is read and discarded.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// How long a client may read nothing of its answer.
const SEND_MAX: Duration = Duration::from_secs(30);

/// Most TCP connections at once; tiny_http has a thread for each.
const CONNECTIONS_MAX: usize = 1024;
/// Most sockets to inherit from the parent process.
const INHERITED_MAX: usize = 16;
/// Most file descriptors to request from the system.
const DESCRIPTORS_MAX: u64 = 16_384;

/// The connections of all requests in progress.
#[derive(Clone)]
pub struct Sockets(Arc<Table>);

struct Table {
    watched: Mutex<Vec<Weak<Watch>>>,
    /// Inodes of connections whose requests arrived since the last check.
    requested: Mutex<Vec<u64>>,
    /// TCP connections seen since the start.
    accepted: AtomicU64,
    /// Whether the last check found unread bytes on a connection without a request: TCP and Unix.
    unread: [AtomicBool; 2],
    unix_path: Option<PathBuf>,
    tcp_port: Option<u16>,
}

/// The connection of one request. Dropping it stops the watching but leaves the connection open.
pub struct Watch {
    socket: Option<OwnedFd>,
    inode: u64,
    gone: Arc<AtomicBool>,
}

impl Watch {
    /// The flag that is set once the client has disconnected or the server cancels the request.
    pub fn gone(&self) -> Arc<AtomicBool> {
        self.gone.clone()
    }

    /// Writes a last response and closes the connection. Discards for a while what the client still
    /// sends, so that it gets to read the response; then its sends fail. Returns false if the
    /// connection is unknown.
    pub fn end_with(&self, response: &[u8]) -> bool {
        let Some(socket) = &self.socket else {
            return false;
        };
        // A client that does not read it gets no answer: the connection is closed either way.
        let _ = rustix::io::write(socket, response);
        let _ = net::shutdown(socket, Shutdown::Write);
        if !drained(socket) {
            // Otherwise the system lets a client wait a minute for room to send more.
            let _ = net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
        net::shutdown(socket, Shutdown::Both).is_ok()
    }

    /// Sets the timeout for reads from the client; `None` removes it.
    pub fn limit_reads(&self, wait: Option<Duration>) {
        if let Some(socket) = &self.socket {
            // Without it a client that sends nothing blocks its handler until it disconnects.
            let _ = net::sockopt::set_socket_timeout(socket, net::sockopt::Timeout::Recv, wait);
        }
    }

    /// Waits until the client has sent more, without consuming it.
    ///
    /// # Errors
    /// If the client has disconnected, or its connection is unknown.
    pub fn await_bytes(&self) -> io::Result<()> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let socket = self.socket.as_ref().ok_or_else(ended)?;
        let mut polled = [PollFd::new(socket, PollFlags::IN)];
        poll(&mut polled, None)?;
        let mut byte = [0; 1];
        match net::recv(socket, &mut byte[..], net::RecvFlags::PEEK)? {
            (_, 0) => Err(ended()),
            _ => Ok(()),
        }
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

/// Reads and discards input for up to [`DRAIN_MAX`]. Returns true if the client closed its side.
fn drained(socket: &OwnedFd) -> bool {
    let started = Instant::now();
    let mut bytes = [0; 64 << 10];
    loop {
        let wait = DRAIN_MAX.saturating_sub(started.elapsed());
        let limited = net::sockopt::set_socket_timeout(
            socket,
            net::sockopt::Timeout::Recv,
            Some(wait.max(Duration::from_millis(1))),
        );
        if wait.is_zero() || limited.is_err() {
            return false;
        }
        match net::recv(socket, &mut bytes[..], net::RecvFlags::empty()) {
            Ok((_, 0)) => return true,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// True if the peer of a TCP connection has closed its side. POLLRDHUP does not show that: it is
/// also set once tiny_http has shut the reading side after `Connection: close`.
#[cfg(target_os = "linux")]
fn peer_has_closed(socket: &OwnedFd) -> bool {
    /// TCP_ESTABLISHED of the kernel's tcp_states.h.
    const ESTABLISHED: u8 = 1;
    tcp_info(socket.as_fd()).is_some_and(|info| info[0] != ESTABLISHED)
}

/// The kernel's `struct tcp_info` of a socket, as bytes; zeroes where an older kernel fills less.
#[cfg(target_os = "linux")]
fn tcp_info(socket: BorrowedFd) -> Option<[u8; 256]> {
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the buffer is `length` bytes long, and the kernel writes at most that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(info)
}

/// Bytes received over a TCP connection since it was opened; 0 if unknown.
#[cfg(target_os = "linux")]
fn received_bytes(socket: BorrowedFd) -> u64 {
    /// Offset of `tcpi_bytes_received` in the kernel's struct.
    const PLACE: usize = 128;
    tcp_info(socket).map_or(0, |info| {
        let bytes = info[PLACE..PLACE + 8].try_into();
        bytes.map_or(0, u64::from_ne_bytes)
    })
}

/// The number of connections waiting for a listener to accept them; 0 if unknown.
#[cfg(target_os = "linux")]
pub fn waiting(listener: &impl AsFd) -> u32 {
    /// Offset of `tcpi_unacked`, which is this count for a listener.
    const PLACE: usize = 24;
    tcp_info(listener.as_fd()).map_or(0, |info| {
        let count = info[PLACE..PLACE + 4].try_into();
        count.map_or(0, u32::from_ne_bytes)
    })
}

/// Other systems do not report this count.
#[cfg(not(target_os = "linux"))]
pub fn waiting(_: &impl AsFd) -> u32 {
    0
}

/// On other systems only the number of connections is limited.
#[cfg(not(target_os = "linux"))]
fn received_bytes(_: BorrowedFd) -> u64 {
    0
}

/// On other systems a disconnected client is detected once both sides are closed.
#[cfg(not(target_os = "linux"))]
fn peer_has_closed(_: &OwnedFd) -> bool {
    false
}

impl Sockets {
    /// Starts a thread that checks every connection until the process exits; the TCP connections are
    /// those to `tcp_port`.
    pub fn new(unix_path: Option<PathBuf>, tcp_port: Option<u16>) -> std::io::Result<Self> {
        let table = Arc::new(Table {
            watched: Mutex::default(),
            requested: Mutex::default(),
            accepted: AtomicU64::default(),
            unread: Default::default(),
            unix_path,
            tcp_port,
        });
        let sockets = Sockets(table.clone());
        let mut connection_limits = ConnectionLimits::new(CONNECTIONS_MAX.min(raise_limit() / 4));
        let look = move || {
            loop {
                thread::sleep(LOOK);
                table.live().iter().for_each(|watch| watch.look());
                table.check_limits(&mut connection_limits);
            }
        };
        thread::Builder::new().name("sockets".into()).spawn(look)?;
        Ok(sockets)
    }

    /// Watches the connection of a request from `peer`; `None` is a Unix peer.
    pub fn watch(&self, peer: Option<SocketAddr>) -> Arc<Watch> {
        let mut watched = self.0.watched.locked();
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
            // Without it a client that reads nothing would block its handler, and the model, forever.
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
        drop(watched);
        self.0.requested().push(inode);
        watch
    }

    /// Cancels every request in progress.
    pub fn end_all(&self) {
        self.0
            .live()
            .iter()
            .for_each(|watch| watch.gone.store(true, Ordering::Relaxed));
    }

    /// TCP connections accepted so far, as of the last check.
    pub fn accepted(&self) -> u64 {
        self.0.accepted.load(Ordering::Relaxed)
    }

    /// True if the last check found unread bytes on a TCP or Unix connection; reading it resets it.
    pub fn has_unread(&self, unix: bool) -> bool {
        self.0.unread[usize::from(unix)].swap(false, Ordering::Relaxed)
    }

    /// The number of requests in progress.
    pub fn count(&self) -> usize {
        self.0.live().len()
    }

    /// Unix peers have no address. The connection is identified if it is the only one without a
    /// request; otherwise a disconnected client is detected when the answer is written.
    fn only_unix(&self, taken: &[u64]) -> Option<OwnedFd> {
        let path = self.0.unix_path.as_ref()?;
        let mut free = find(|socket| is_unix(socket, path) && !taken.contains(&inode(&socket)));
        let first = free.pop()?;
        free.iter()
            .all(|other| inode(other) == inode(&first))
            .then_some(first)
    }
}

impl Table {
    fn live(&self) -> Vec<Arc<Watch>> {
        let watched = self.watched.locked();
        watched.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Table {
    fn requested(&self) -> MutexGuard<'_, Vec<u64>> {
        self.requested.locked()
    }

    /// Checks all connections and closes the TCP connections that exceed a limit.
    fn check_limits(&self, connection_limits: &mut ConnectionLimits) {
        let mut busy = std::mem::take(&mut *self.requested());
        busy.extend(self.live().iter().map(|watch| watch.inode));
        let mut seen = Vec::new();
        let mut sockets = HashMap::new();
        for number in descriptors() {
            // SAFETY: as in `find`: the number was open a moment ago, and what it refers to now is
            // only inspected.
            let socket = unsafe { BorrowedFd::borrow_raw(number) };
            let is_tcp = self.is_tcp(socket);
            let path = self.unix_path.as_ref();
            let is_unix = || path.is_some_and(|path| is_unix(socket, path));
            if !is_tcp && !is_unix() {
                continue;
            }
            let id = inode(&socket);
            if !busy.contains(&id)
                && rustix::io::ioctl_fionread(socket).is_ok_and(|bytes| bytes > 0)
            {
                self.unread[usize::from(!is_tcp)].store(true, Ordering::Relaxed);
            }
            if !is_tcp {
                continue;
            }
            // tiny_http has two descriptors for each connection.
            if sockets.insert(id, number).is_none() {
                let received_bytes = received_bytes(socket);
                seen.push(Seen { id, received_bytes });
            }
        }
        let fresh = connection_limits.count_new(&seen);
        self.accepted.fetch_add(fresh, Ordering::Relaxed);
        for id in connection_limits.look(Instant::now(), &seen, &busy) {
            // SAFETY: as above. The socket is checked again; if another connection reuses its number
            // after that check, that one is closed instead.
            let socket = unsafe { BorrowedFd::borrow_raw(sockets[&id]) };
            if inode(&socket) == id && self.is_tcp(socket) {
                // It may have closed by itself.
                let _ = net::shutdown(socket, Shutdown::Both);
            }
        }
    }

    /// True for an accepted connection to our port.
    fn is_tcp(&self, socket: BorrowedFd) -> bool {
        let local: Option<SocketAddr> = net::getsockname(socket)
            .ok()
            .and_then(|name| name.try_into().ok());
        local.is_some_and(|local| Some(local.port()) == self.tcp_port) && peer_of(socket).is_some()
    }
}

/// Raises the limit of open descriptors as far as the system allows, up to [`DESCRIPTORS_MAX`].
/// Returns the limit in force.
fn raise_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .unwrap_or(DESCRIPTORS_MAX)
        .min(DESCRIPTORS_MAX);
    let current = limit.current.unwrap_or(DESCRIPTORS_MAX);
    if current >= wanted {
        return current as usize;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => wanted as usize,
        Err(_) => current as usize,
    }
}

/// The listening sockets that the parent process left open from descriptor 3 on, as systemd does.
///
/// # Errors
/// If one of the descriptors is not a listening socket.
pub fn inherited(count: usize) -> io::Result<Vec<Socket>> {
    let numbers = 3..3 + count.min(INHERITED_MAX) as RawFd;
    let sockets = numbers.map(|number| {
        // SAFETY: it is only duplicated; if it is not open the call fails, and nothing is closed.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        let copy = rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?;
        if !net::sockopt::socket_acceptconn(&copy)? {
            return Err(io::Error::other(format!(
                "descriptor {number} is not a listening socket"
            )));
        }
        match net::getsockname(&copy)?.address_family() {
            net::AddressFamily::UNIX => Ok(Socket::Unix(copy.into())),
            _ => Ok(Socket::Tcp(copy.into())),
        }
    });
    sockets.collect()
}

/// Duplicates of the process's descriptors that `wanted` accepts.
fn find(wanted: impl Fn(BorrowedFd) -> bool) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    for number in descriptors() {
        // SAFETY: the number was open a moment ago. If it was closed or reused since, the calls
        // below fail or inspect another socket, which `wanted` then checks; a duplicate is checked
        // again, so only accepted sockets are returned. Nothing is ever closed through it.
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

/// Numbers of the process's open descriptors above 2, on Linux and on systems with /dev/fd.
fn descriptors() -> Vec<RawFd> {
    let folder = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        // No descriptor is left to read the folder with, so all of them are in use.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let limit = limit.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
        return (3..limit as RawFd).collect();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect()
}

/// True for an accepted connection to this path.
pub(super) fn is_unix(socket: BorrowedFd, path: &Path) -> bool {
    let local = net::getsockname(socket)
        .ok()
        .and_then(|name| rustix::net::SocketAddrUnix::try_from(name).ok());
    let bytes = local.as_ref().and_then(|local| local.path_bytes());
    bytes == Some(path.as_os_str().as_encoded_bytes()) && net::getpeername(socket).is_ok()
}

fn peer_of(socket: BorrowedFd) -> Option<SocketAddr> {
    net::getpeername(socket).ok()??.try_into().ok()
}

fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}
