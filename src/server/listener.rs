//! The sockets that a server listens on.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

/// Timeout for connecting to our own socket.
pub(super) const VISIT_MAX: Duration = Duration::from_millis(100);

/// A listening socket.
pub enum Socket {
    /// A TCP listener.
    Tcp(TcpListener),
    /// A Unix listener.
    Unix(UnixListener),
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Socket::Tcp(listener) => listener.try_clone().map(Socket::Tcp),
            Socket::Unix(listener) => listener.try_clone().map(Socket::Unix),
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    /// Connects to this socket and disconnects at once.
    pub(super) fn visit(&self) -> io::Result<()> {
        match self {
            Socket::Tcp(listener) => {
                let mut address = listener.local_addr()?;
                if address.ip().is_unspecified() {
                    address.set_ip(match address {
                        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                    });
                }
                TcpStream::connect_timeout(&address, VISIT_MAX).map(drop)
            }
            Socket::Unix(listener) => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().unwrap_or(Path::new(""));
                UnixStream::connect(path).map(drop)
            }
        }
    }
}
