//! The open connections: how many there may be, and which one is closed for a new one.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::net::{Shutdown, shutdown};

use crate::core::lock::LockExt;

/// The open connections.
#[derive(Clone)]
pub struct Connections(Arc<Table>);

struct Table {
    most: usize,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    sockets: HashMap<u64, Entry>,
}

struct Entry {
    socket: Arc<OwnedFd>,
    /// Since when it has had no request; `None` while it has one.
    idle_since: Option<Instant>,
}

/// The place of an open connection; dropping it gives the place back.
pub struct Seat {
    connections: Connections,
    number: u64,
}

impl Connections {
    /// Room for so many connections.
    pub fn new(most: usize) -> Self {
        Connections(Arc::new(Table {
            most,
            open: Mutex::default(),
        }))
    }

    /// Takes a place for a connection. If all are taken, the one that has been idle for longest is closed; `None` if
    /// all have requests.
    pub fn seat(&self, socket: &Arc<OwnedFd>) -> Option<Seat> {
        let mut open = self.0.open.locked();
        if open.sockets.len() >= self.0.most {
            let idle = open.sockets.iter();
            let idle = idle.filter_map(|(number, entry)| Some((entry.idle_since?, *number)));
            let (_, oldest) = idle.min()?;
            if let Some(entry) = open.sockets.remove(&oldest) {
                // Its thread sees the end and returns.
                let _ = shutdown(&entry.socket, Shutdown::Both);
            }
        }
        open.last += 1;
        let number = open.last;
        let entry = Entry {
            socket: socket.clone(),
            idle_since: Some(Instant::now()),
        };
        open.sockets.insert(number, entry);
        Some(Seat {
            connections: self.clone(),
            number,
        })
    }
}

impl Seat {
    /// Records whether the connection has a request.
    pub fn set_idle(&self, idle: bool) {
        let mut open = self.connections.0.open.locked();
        if let Some(entry) = open.sockets.get_mut(&self.number) {
            entry.idle_since = idle.then(Instant::now);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.0.open.locked();
        open.sockets.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_longest_idle_connection_makes_room() {
        let connections = Connections::new(2);
        let pairs = [0; 4].map(|_| UnixStream::pair().unwrap());
        let sockets = pairs.each_ref().map(|(one, _)| {
            let socket: OwnedFd = one.try_clone().unwrap().into();
            Arc::new(socket)
        });
        let is_open = |at: usize| {
            let other: &UnixStream = &pairs[at].1;
            other.set_nonblocking(true).unwrap();
            let read = std::io::Read::read(&mut &*other, &mut [0]);
            read.is_err()
        };
        let first = connections.seat(&sockets[0]).unwrap();
        let second = connections.seat(&sockets[1]).unwrap();
        first.set_idle(false);
        let third = connections.seat(&sockets[2]).unwrap();
        assert!(is_open(0) && !is_open(1) && is_open(2));
        third.set_idle(false);
        assert!(connections.seat(&sockets[3]).is_none());
        drop((first, second));
        assert!(connections.seat(&sockets[3]).is_some());
    }
}
