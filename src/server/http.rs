//! The wrapper around tiny_http, which no other file names: serves listening sockets and returns one
//! [`Exchange`] per request.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::context::RequestContext;
use super::listener::Socket;
use super::sockets::{Sockets, Watch, waiting};
use crate::core::error::{Error, Result};

/// A listening socket with tiny_http's threads behind it.
pub struct Listener {
    server: Server,
    spare: Socket,
    sockets: Sockets,
    bodies: Bodies,
    /// When connections began to wait without any being accepted, and the count accepted by then.
    waiting: Option<(Instant, u64)>,
}

impl Listener {
    /// Serves a listening socket. Accepted TCP connections inherit its no-delay option.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn open(socket: Socket, sockets: Sockets) -> Result<Self> {
        if let Socket::Tcp(listener) = &socket {
            // Without it a streamed record waits up to 40 ms for the previous one; a failure costs
            // only that delay.
            let _ = rustix::net::sockopt::set_tcp_nodelay(listener, true);
        }
        let spare = socket
            .try_clone()
            .map_err(|error| Error::failed(format!("cannot serve: {error}")))?;
        Ok(Listener {
            server: start(socket)?,
            spare,
            sockets,
            bodies: Bodies::default(),
            waiting: None,
        })
    }

    /// Leaves inherited sockets open: on close, tiny_http would remove the file of a Unix socket.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Returns the next request, or `None` after `wait`. tiny_http stops accepting after an error
    /// (such as too many open files); this then restarts it on a copy of the socket.
    ///
    /// # Errors
    /// If it cannot be restarted.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Exchange>> {
        if self.sockets.has_unread(self.spare.is_unix()) {
            // tiny_http counts a thread as free although it has assigned it a connection, and the
            // next connection waits behind one that may stay open for hours. A connection of our own
            // makes it start one more thread, which serves the waiting one. The connection fails if
            // no descriptor is left.
            let _ = self.spare.visit();
        }
        match self.server.recv_timeout(wait) {
            Ok(None) => {
                if self.has_lost_acceptor() {
                    self.waiting = None;
                    self.restart()?;
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
                    context: context(&request),
                    request,
                    watch,
                    unread_bytes,
                    chunks_left,
                    held: Held(self.bodies.clone(), 0),
                }))
            }
            Err(_) => {
                thread::sleep(wait);
                self.restart().map(|()| None)
            }
        }
    }

    /// True if connections wait and none is accepted: the accepting thread panics when no descriptor
    /// is left.
    fn has_lost_acceptor(&mut self) -> bool {
        let has_waiting = match &self.spare {
            Socket::Tcp(listener) => waiting(listener) > 0,
            Socket::Unix(_) => false,
        };
        if !has_waiting {
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

    /// Restarts tiny_http on a copy of the socket.
    fn restart(&mut self) -> Result<()> {
        let socket = self
            .spare
            .try_clone()
            .map_err(|error| Error::failed(format!("cannot serve: {error}")))?;
        let old = std::mem::replace(&mut self.server, start(socket)?);
        // It stops by connecting to itself, which takes long if many connections wait.
        let ended = thread::Builder::new().spawn(move || drop(old));
        ended
            .map(drop)
            .map_err(|error| Error::failed(format!("cannot serve: {error}")))
    }
}

/// Starts tiny_http on a socket.
fn start(socket: Socket) -> Result<Server> {
    let server = match socket {
        Socket::Tcp(listener) => Server::from_listener(listener, None),
        Socket::Unix(listener) => Server::from_listener(listener, None),
    };
    server.map_err(|error| Error::failed(format!("cannot serve: {error}")))
}

/// One request, and the methods that answer it.
pub struct Exchange {
    /// The request context: id, key and access-log fields.
    pub context: RequestContext,
    request: Request,
    watch: Arc<Watch>,
    unread_bytes: usize,
    /// True while the end of a chunked body has not been read.
    chunks_left: bool,
    held: Held,
}

/// Total bytes held by the bodies of all requests in progress.
type Bodies = Arc<AtomicUsize>;

/// The share of [`Bodies`] of one request, in bytes; dropping it releases them.
struct Held(Bodies, usize);

impl Held {
    /// Reserves more bytes. Returns false if the total then exceeds [`BODIES_BYTES_MAX`].
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

/// Why a body was not read.
pub enum NoBody {
    /// It exceeds the size limit.
    TooLong,
    /// It arrives too slowly.
    Slow,
    /// The requests in progress already hold too many bytes.
    Full,
    /// It could not be read: invalid chunks, or the client disconnected.
    Broken,
}

/// Reading a body is given up if nothing arrives for this long...
const STALL_MAX: Duration = Duration::from_secs(10);
/// ...or if it arrives more slowly than this, in bytes per second.
const RATE_BYTES_MIN: u64 = 16 << 10;
/// Bodies are read in pieces of this size.
const PIECE_BYTES: usize = 16 << 10;
/// Most bytes of all bodies at once: one of the largest size and some small ones.
const BODIES_BYTES_MAX: usize = 80 << 20;
/// Space for a body larger than this is reserved before it is read.
const LARGE_BYTES: usize = 1 << 20;
/// If connections wait this long and none is accepted, the accepting thread is considered dead.
const ACCEPT_MAX: Duration = Duration::from_millis(500);
/// An unread body up to this length is read and discarded after the answer; a connection with a
/// longer one is closed instead.
const DRAIN_BYTES_MAX: usize = 1 << 20;
/// tiny_http allocates the whole unread body when it drops a request. Up to this length that is only
/// address space, which the closed connection never fills; a request that declares more is leaked
/// instead of dropped.
const DROP_BYTES_MAX: usize = 1 << 30;

/// A complete answer, sent in one piece.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    /// The HTTP status code.
    pub status: u16,
    /// `Content-Type`; empty sends no such header.
    pub kind: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Exchange {
    /// The method, in upper case.
    pub fn method(&self) -> String {
        self.request.method().to_string()
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.request.url().split('?').next().unwrap_or_default()
    }

    /// The first header with this name, ignoring case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.request.headers().iter();
        headers
            .find(|header| header.field.as_str().as_str().eq_ignore_ascii_case(name))
            .map(|header| header.value.as_str())
    }

    /// True if it arrived over the Unix socket.
    pub fn is_local(&self) -> bool {
        self.request.remote_addr().is_none()
    }

    /// True if `Content-Length` is not a number, or the body's length or the host is given twice: two
    /// parsers could then see different requests (request smuggling).
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
        // tiny_http treats every transfer coding as chunked.
        let chunked = |header: &Header| header.value.as_str().eq_ignore_ascii_case("chunked");
        of("Content-Length").count() + of("Transfer-Encoding").count() > 1
            || !of("Content-Length").all(number)
            || !of("Transfer-Encoding").all(chunked)
            || of("Host").count() > 1
    }

    /// The connection of the request.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Reads the whole body, at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The reason it was not read; the answer then closes the connection.
    pub fn body(&mut self, bytes_max: usize) -> Result<Vec<u8>, NoBody> {
        if self.unread_bytes > bytes_max {
            return Err(NoBody::TooLong);
        }
        // If space were only reserved as bytes arrive, several large bodies at once would all fail.
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
            let stall_timeout = STALL_MAX + Duration::from_secs(body.len() as u64 / RATE_BYTES_MIN);
            if started.elapsed() > stall_timeout {
                return Err(NoBody::Slow);
            }
        }
    }

    /// A reader of the body, without a size limit.
    pub fn reader(&mut self) -> impl Read {
        Body(self)
    }

    /// Sends a complete answer, with further headers.
    pub fn reply(mut self, reply: Reply, more: &[(&'static str, String)]) {
        // tiny_http does not drain chunks; it would parse them as the next request.
        if self.unread_bytes > DRAIN_BYTES_MAX || self.chunks_left {
            return self.refuse(&reply);
        }
        self.context.status = reply.status;
        let kind = (!reply.kind.is_empty()).then(|| ("Content-Type", reply.kind.to_string()));
        let headers = reply.headers.iter().chain(more).cloned().chain(kind);
        // A value that is not valid in a header is left out.
        let headers = headers
            .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
            .collect();
        let length = reply.body.len();
        let body = io::Cursor::new(reply.body.into_bytes());
        let response = Response::new(StatusCode(reply.status), headers, body, Some(length), None)
            .with_chunked_threshold(usize::MAX);
        // A failure means that the client has disconnected; nothing is left to do.
        let _ = self.request.respond(response);
    }

    /// Answers and closes the connection without reading the rest of the body.
    pub fn refuse(mut self, reply: &Reply) {
        self.context.status = reply.status;
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

    /// Starts a chunked answer; the connection is watched until the writer is dropped.
    pub fn stream(
        mut self,
        status: u16,
        kind: &str,
        more: &[(&'static str, String)],
    ) -> io::Result<Chunks> {
        self.context.status = status;
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
            _context: self.context,
        })
    }
}

fn context(request: &Request) -> RequestContext {
    let headers = request.headers().iter();
    let mut ids = headers.filter(|header| header.field.equiv("X-Request-Id"));
    let from = request.remote_addr();
    let from = from.map_or("unix".to_string(), ToString::to_string);
    let path = request.url().split('?').next().unwrap_or_default();
    let id = ids.next().map(|header| header.value.as_str());
    RequestContext::new(id, from, request.method().to_string(), path)
}

/// A reader of a request's body.
struct Body<'a>(&'a mut Exchange);

impl Read for Body<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        // The first access to the body sends `100 Continue` to a client that waits for it.
        let _ = self.0.request.as_reader();
        if self.0.unread_bytes > DROP_BYTES_MAX {
            // If a body ends too early, tiny_http drops its reader and allocates the missing bytes.
            self.0.watch.await_bytes()?;
        }
        let count = self.0.request.as_reader().read(bytes)?;
        self.0.unread_bytes = self.0.unread_bytes.saturating_sub(count);
        self.0.chunks_left &= count > 0 || bytes.is_empty();
        Ok(count)
    }
}

/// The writer of a chunked answer.
pub struct Chunks {
    writer: Box<dyn Write + Send>,
    chunked: bool,
    _watch: Arc<Watch>,
    _context: RequestContext,
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

    /// Writes the last chunk and flushes.
    pub fn end(mut self) -> io::Result<()> {
        if self.chunked {
            self.writer.write_all(b"0\r\n\r\n")?;
        }
        self.writer.flush()
    }
}
