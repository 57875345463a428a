//! The sockets that a server listens on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// A listening socket.
pub enum Socket {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A Unix listener.
    Unix(UnixListener),
}

impl Socket {
    /// Accepts a connection; its peer's address is `None` on a Unix socket.
    pub(super) fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
        match self {
            Socket::Tcp(listener) => {
                let (client, peer) = listener.accept()?;
                // Otherwise a streamed record waits up to 40 ms for the previous one; a failure costs only that delay.
                let _ = client.set_nodelay(true);
                Ok((client.into(), Some(peer)))
            }
            Socket::Unix(listener) => listener.accept().map(|(client, _)| (client.into(), None)),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}
