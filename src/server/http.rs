//! tiny_http, and nothing else that names it: listeners in, one [`Exchange`] a request out.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::sockets::{self, Sockets, Watch};
use super::ticket::Ticket;
use crate::error::{Error, Result};

/// A listening socket with tiny_http's threads behind it.
pub struct Door {
    server: Server,
    spare: Socket,
    sockets: Sockets,
    bodies: Bodies,
    /// Since when somebody waits to be accepted while nobody is, and how many were accepted by then.
    waiting: Option<(Instant, u64)>,
}

/// A listening socket.
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        match self {
            Socket::Tcp(listener) => listener.try_clone().map(Socket::Tcp),
            Socket::Unix(listener) => listener.try_clone().map(Socket::Unix),
        }
    }

    fn has_waiting(&self) -> bool {
        match self {
            Socket::Tcp(listener) => sockets::waiting(listener) > 0,
            Socket::Unix(_) => false,
        }
    }

    fn is_unix(&self) -> bool {
        matches!(self, Socket::Unix(_))
    }

    /// Connects to the socket itself and leaves at once.
    fn visit(&self) -> io::Result<()> {
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

    fn serve(self) -> Result<Server> {
        let server = match self {
            Socket::Tcp(listener) => Server::from_listener(listener, None),
            Socket::Unix(listener) => Server::from_listener(listener, None),
        };
        server.map_err(|error| Error::failed(format!("cannot serve: {error}")))
    }
}

impl Door {
    /// Opens a door on a listening socket. Accepted TCP connections inherit its no-delay option.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn open(socket: Socket, sockets: Sockets) -> Result<Self> {
        if let Socket::Tcp(listener) = &socket {
            // Without it a streamed record waits up to 40 ms for the one before; it still works.
            let _ = rustix::net::sockopt::set_tcp_nodelay(listener, true);
        }
        let spare = socket
            .try_clone()
            .map_err(|error| Error::failed(format!("cannot serve: {error}")))?;
        Ok(Door {
            server: socket.serve()?,
            spare,
            sockets,
            bodies: Bodies::default(),
            waiting: None,
        })
    }

    /// Leaves the sockets to whoever handed them over: closed, tiny_http would remove the file of one.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// The next request, if one comes in time. tiny_http stops accepting after an error (too many
    /// open files, say); then this starts it again on a copy of the socket.
    ///
    /// # Errors
    /// If it cannot be started again.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Exchange>> {
        if self.sockets.has_unread(self.spare.is_unix()) {
            // tiny_http counts a thread as free that it has given a connection already, and the next
            // one waits behind a connection that may stay for hours. A visitor makes it start one
            // more thread, which takes whoever waits. Without descriptors there is no visit.
            let _ = self.spare.visit();
        }
        match self.server.recv_timeout(wait) {
            Ok(None) => {
                if self.has_lost_acceptor() {
                    self.waiting = None;
                    self.again()?;
                }
                Ok(None)
            }
            Ok(Some(request)) => {
                let watch = self.sockets.watch(request.remote_addr().copied());
                let unread_bytes = request.body_length().unwrap_or(0);
                self.waiting = None;
                let chunked = |header: &Header| header.field.equiv("Transfer-Encoding");
                let chunks_left = request.headers().iter().any(chunked);
                Ok(Some(Exchange {
                    ticket: ticket(&request),
                    request,
                    watch,
                    unread_bytes,
                    chunks_left,
                    held: Held(self.bodies.clone(), 0),
                }))
            }
            Err(_) => {
                thread::sleep(wait);
                self.again().map(|()| None)
            }
        }
    }

    /// True if somebody waits to be accepted and nobody is: without descriptors the thread that accepts
    /// panics.
    fn has_lost_acceptor(&mut self) -> bool {
        if !self.spare.has_waiting() {
            self.waiting = None;
            return false;
        }
        let accepted = self.sockets.accepted();
        match self.waiting {
            Some((since, before)) if before == accepted => since.elapsed() >= ACCEPT_MAX,
            _ => {
                self.waiting = Some((Instant::now(), accepted));
                false
            }
        }
    }

    /// Lets tiny_http accept anew, on a copy of the socket.
    fn again(&mut self) -> Result<()> {
        let again = self
            .spare
            .try_clone()
            .map_err(|error| Error::failed(format!("cannot serve: {error}")))?;
        let old = std::mem::replace(&mut self.server, again.serve()?);
        // It ends by connecting to itself, which takes long where too many wait to be accepted.
        let ended = thread::Builder::new().spawn(move || drop(old));
        ended
            .map(drop)
            .map_err(|error| Error::failed(format!("cannot serve: {error}")))
    }
}

/// One request and the way to answer it.
pub struct Exchange {
    /// What accompanies it.
    pub ticket: Ticket,
    request: Request,
    watch: Arc<Watch>,
    unread_bytes: usize,
    /// True for a body in chunks whose end was not seen.
    chunks_left: bool,
    held: Held,
}

/// What the bodies of all requests under way hold together, in bytes.
type Bodies = Arc<AtomicUsize>;

/// The part of it that belongs to one request.
struct Held(Bodies, usize);

impl Held {
    /// False if there is no room for so many more.
    fn grow(&mut self, bytes: usize) -> bool {
        self.1 += bytes;
        self.0.fetch_add(bytes, Ordering::Relaxed) + bytes <= BODIES_BYTES_MAX
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Why there is no body.
pub enum NoBody {
    /// It is longer than it may be.
    TooLong,
    /// It comes too slowly.
    Slow,
    /// The requests under way hold too much already.
    Full,
    /// It could not be read: broken chunks, or the client left.
    Broken,
}

/// A body of which nothing comes for so long is given up...
const STALL_MAX: Duration = Duration::from_secs(10);
/// ...and one that comes at less than this, in bytes a second.
const RATE_BYTES_MIN: u64 = 16 << 10;
/// Bodies are read in pieces of this size.
const PIECE_BYTES: usize = 16 << 10;
/// Bytes of all bodies at once: one of the largest kind and some small ones.
const BODIES_BYTES_MAX: usize = 80 << 20;
/// A body of more than this has its room from the beginning.
const LARGE_BYTES: usize = 1 << 20;
/// A visit of the own socket takes no longer.
const VISIT_MAX: Duration = Duration::from_millis(100);
/// Whoever waits to be accepted for so long, while nobody else is, waits for a thread that is gone.
const ACCEPT_MAX: Duration = Duration::from_millis(500);
/// An unread body up to this length is read and dropped after the answer; a connection with a
/// longer one is ended instead.
const DRAIN_BYTES_MAX: usize = 1 << 20;
/// tiny_http allocates the whole of an unread body when it drops a request. Up to this length that
/// is only address space, which the ended connection never fills; a request that declares more is
/// never dropped.
const DROP_BYTES_MAX: usize = 1 << 30;

/// A whole answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// HTTP's number.
    pub status: u16,
    /// `Content-Type`; empty: none.
    pub kind: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Exchange {
    /// The method, in capitals.
    pub fn method(&self) -> String {
        self.request.method().to_string()
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.request.url().split('?').next().unwrap_or_default()
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.request.headers().iter();
        headers
            .find(|header| header.field.as_str().as_str().eq_ignore_ascii_case(name))
            .map(|header| header.value.as_str())
    }

    /// True if it came over the Unix socket.
    pub fn is_local(&self) -> bool {
        self.request.remote_addr().is_none()
    }

    /// True if the length of the body is no number or told in two ways: who reads the one way and who the
    /// other would see different requests.
    pub fn is_ambiguous(&self) -> bool {
        let headers = self.request.headers().iter();
        let of = |name: &'static str| {
            headers
                .clone()
                .filter(move |header| header.field.as_str().as_str().eq_ignore_ascii_case(name))
        };
        let number = |header: &Header| {
            header
                .value
                .as_str()
                .bytes()
                .all(|byte| byte.is_ascii_digit())
        };
        // tiny_http takes every coding for chunks.
        let chunked = |header: &Header| header.value.as_str().eq_ignore_ascii_case("chunked");
        of("Content-Length").count() + of("Transfer-Encoding").count() > 1
            || !of("Content-Length").all(number)
            || !of("Transfer-Encoding").all(chunked)
            || of("Host").count() > 1
    }

    /// The connection.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Reads the whole body.
    ///
    /// # Errors
    /// Why there is none; the answer then ends the connection.
    pub fn body(&mut self, bytes_max: usize) -> Result<Vec<u8>, NoBody> {
        if self.unread_bytes > bytes_max {
            return Err(NoBody::TooLong);
        }
        // Of several large bodies at once, each would fail if room were only taken as they come.
        if self.unread_bytes > LARGE_BYTES && !self.held.grow(self.unread_bytes) {
            return Err(NoBody::Full);
        }
        self.watch.limit_reads(Some(STALL_MAX));
        let body = self.read_body(bytes_max);
        self.watch.limit_reads(None);
        body
    }

    fn read_body(&mut self, bytes_max: usize) -> Result<Vec<u8>, NoBody> {
        let started = Instant::now();
        let mut body = Vec::new();
        let mut piece = [0; PIECE_BYTES];
        loop {
            let read = match self.request.as_reader().read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            let count = read.map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => NoBody::Slow,
                _ => NoBody::Broken,
            })?;
            self.unread_bytes = self.unread_bytes.saturating_sub(count);
            if count == 0 {
                self.chunks_left = false;
                return Ok(body);
            }
            if body.len() + count > bytes_max {
                return Err(NoBody::TooLong);
            }
            if self.held.1 < body.len() + count && !self.held.grow(count) {
                return Err(NoBody::Full);
            }
            body.extend_from_slice(&piece[..count]);
            let patience = STALL_MAX + Duration::from_secs(body.len() as u64 / RATE_BYTES_MIN);
            if started.elapsed() > patience {
                return Err(NoBody::Slow);
            }
        }
    }

    /// The body as it comes.
    pub fn reader(&mut self) -> impl Read {
        Body(self)
    }

    /// Answers at once.
    pub fn reply(mut self, reply: Reply, more: &[(&'static str, String)]) {
        // tiny_http does not drain chunks: it would read them as the next request.
        if self.unread_bytes > DRAIN_BYTES_MAX || self.chunks_left {
            return self.refuse(&reply);
        }
        self.ticket.status = reply.status;
        let kind = (!reply.kind.is_empty()).then(|| ("Content-Type", reply.kind.to_string()));
        let headers = reply.headers.iter().chain(more).cloned().chain(kind);
        // A value that cannot stand in a header is left out.
        let headers = headers
            .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
            .collect();
        let length = reply.body.len();
        let body = io::Cursor::new(reply.body.into_bytes());
        let response = Response::new(StatusCode(reply.status), headers, body, Some(length), None)
            .with_chunked_threshold(usize::MAX);
        // A client that has left gets no answer, and nobody needs to know.
        let _ = self.request.respond(response);
    }

    /// Answers and ends the connection without reading the rest of the body.
    pub fn refuse(mut self, reply: &Reply) {
        self.ticket.status = reply.status;
        let text = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            reply.status,
            StatusCode(reply.status).default_reason_phrase(),
            reply.kind,
            reply.body.len(),
            reply.body
        );
        self.watch.end_with(text.as_bytes());
        if self.unread_bytes > DROP_BYTES_MAX {
            std::mem::forget(self.request);
        }
    }

    /// Starts a chunked answer; the connection stays watched until the writer is dropped.
    pub fn stream(
        mut self,
        status: u16,
        kind: &str,
        more: &[(&'static str, String)],
    ) -> io::Result<Chunks> {
        self.ticket.status = status;
        let chunked = *self.request.http_version() >= (1, 1);
        let mut head = format!(
            "HTTP/1.1 {status} {}\r\n",
            StatusCode(status).default_reason_phrase()
        );
        head += &format!("Content-Type: {kind}\r\n");
        for (name, value) in more {
            head += &format!("{name}: {value}\r\n");
        }
        head += if chunked {
            "Transfer-Encoding: chunked\r\n\r\n"
        } else {
            "Connection: close\r\n\r\n"
        };
        let mut writer = self.request.into_writer();
        writer.write_all(head.as_bytes())?;
        Ok(Chunks {
            writer,
            chunked,
            _watch: self.watch,
            _ticket: self.ticket,
        })
    }
}

fn ticket(request: &Request) -> Ticket {
    let headers = request.headers().iter();
    let mut ids = headers.filter(|header| header.field.equiv("X-Request-Id"));
    let from = request.remote_addr();
    let from = from.map_or("unix".to_string(), ToString::to_string);
    let path = request.url().split('?').next().unwrap_or_default();
    let id = ids.next().map(|header| header.value.as_str());
    Ticket::new(id, from, request.method().to_string(), path)
}

/// A body that is read piece by piece.
struct Body<'a>(&'a mut Exchange);

impl Read for Body<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // The first look at the body lets a client send it that waits for leave.
        let _ = self.0.request.as_reader();
        if self.0.unread_bytes > DROP_BYTES_MAX {
            // Where a body ends too early, tiny_http drops its reader, and allocates what is missing.
            self.0.watch.await_bytes()?;
        }
        let count = self.0.request.as_reader().read(bytes)?;
        self.0.unread_bytes = self.0.unread_bytes.saturating_sub(count);
        self.0.chunks_left &= count > 0 || bytes.is_empty();
        Ok(count)
    }
}

/// A chunked answer under way.
pub struct Chunks {
    writer: Box<dyn Write + Send>,
    chunked: bool,
    _watch: Arc<Watch>,
    _ticket: Ticket,
}

impl Chunks {
    /// Writes one chunk and flushes it.
    pub fn write(&mut self, text: &str) -> io::Result<()> {
        if self.chunked {
            write!(self.writer, "{:x}\r\n{text}\r\n", text.len())?;
        } else {
            self.writer.write_all(text.as_bytes())?;
        }
        self.writer.flush()
    }

    /// Ends the answer.
    pub fn end(mut self) -> io::Result<()> {
        if self.chunked {
            self.writer.write_all(b"0\r\n\r\n")?;
        }
        self.writer.flush()
    }
}
