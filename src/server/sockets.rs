//! File descriptors: how many there may be, and those that the parent process left open.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::net;

use super::listener::Socket;

/// Most sockets to inherit from the parent process.
const INHERITED_MAX: usize = 16;
/// Most file descriptors to request from the system.
const DESCRIPTORS_MAX: u64 = 16_384;

/// Raises the limit of open descriptors as far as the system allows, up to [`DESCRIPTORS_MAX`].
/// Returns the limit in force.
pub fn raise_limit() -> usize {
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
