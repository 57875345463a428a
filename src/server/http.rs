//! The wrapper around tiny_http, which no other file names: returns one [`Exchange`] for each request that the
//! front hands on.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::context::RequestContext;
use super::front::head::{Framing, NUMBER_HEADER, last_answer};
use super::front::{Requests, Watch};
use crate::core::error::{Error, Result};

/// tiny_http behind the front.
pub struct Listener {
    server: Server,
    spare: UnixListener,
    requests: Requests,
    bodies: Bodies,
}

impl Listener {
    /// Serves the front's private socket.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub fn open(socket: UnixListener, requests: Requests) -> Result<Self> {
        let spare = socket.try_clone().map_err(|error| failed(&error))?;
        Ok(Listener {
            server: start(socket)?,
            spare,
            requests,
            bodies: Bodies::default(),
        })
    }

    /// Returns the next request, or `None` after `wait`. tiny_http stops accepting after an error
    /// (such as too many open files); this then restarts it on a copy of the socket.
    ///
    /// # Errors
    /// If it cannot be restarted.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Exchange>> {
        match self.server.recv_timeout(wait) {
            Ok(request) => Ok(request.and_then(|request| self.exchange(request))),
            Err(_) => {
                thread::sleep(wait);
                let socket = self.spare.try_clone().map_err(|error| failed(&error))?;
                let old = std::mem::replace(&mut self.server, start(socket)?);
                std::mem::forget(old); // Dropping it would remove the socket's file.
                Ok(None)
            }
        }
    }

    /// The request with what the front knows of it; `None` if the front has not handed it on.
    fn exchange(&self, request: Request) -> Option<Exchange> {
        let mut headers = request.headers().iter();
        let number = headers.find(|header| header.field.equiv(NUMBER_HEADER))?;
        let watch = self.requests.take(number.value.as_str().parse().ok()?)?;
        let chunked = |header: &Header| header.field.equiv("Transfer-Encoding");
        Some(Exchange {
            context: context(&request, &watch),
            unread_bytes: match watch.framing {
                Framing::Length(bytes) => usize::try_from(bytes).unwrap_or(usize::MAX),
                Framing::Chunked | Framing::ToEnd => 0,
            },
            chunks_left: request.headers().iter().any(chunked),
            request,
            watch,
            held: Held(self.bodies.clone(), 0),
        })
    }
}

/// Starts tiny_http on a socket.
fn start(socket: UnixListener) -> Result<Server> {
    Server::from_listener(socket, None)
        .map_err(|error| Error::failed(format!("cannot serve: {error}")))
}

fn failed(error: &io::Error) -> Error {
    Error::failed(format!("cannot serve: {error}"))
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

/// Reading a body is given up if it takes longer than this...
const GRACE: Duration = Duration::from_secs(10);
/// ...and arrives more slowly than this, in bytes per second.
const RATE_BYTES_MIN: u64 = 16 << 10;
/// Bodies are read in pieces of this size.
const PIECE_BYTES: usize = 16 << 10;
/// Most bytes of all bodies at once: one of the largest size and some small ones.
const BODIES_BYTES_MAX: usize = 80 << 20;
/// Space for a body larger than this is reserved before it is read.
const LARGE_BYTES: usize = 1 << 20;
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
        self.watch.peer.is_none()
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
        self.watch.limit_body(true);
        let body = self.read_body(bytes_max);
        self.watch.limit_body(false);
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
            let is_cut = |count: usize| count == 0 && self.unread_bytes > 0;
            let count = match read {
                Ok(count) if !is_cut(count) => count,
                _ if self.watch.has_stalled() => return Err(NoBody::Slow),
                _ => return Err(NoBody::Broken),
            };
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
            let time_max = GRACE + Duration::from_secs(body.len() as u64 / RATE_BYTES_MIN);
            if started.elapsed() > time_max {
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
        // tiny_http does not drain chunks, as a long body comes; it would parse them as the next request.
        if self.chunks_left {
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
    fn refuse(mut self, reply: &Reply) {
        self.context.status = reply.status;
        let phrase = StatusCode(reply.status).default_reason_phrase();
        let text = last_answer((reply.status, phrase), reply.kind, &reply.body);
        let mut writer = self.request.into_writer();
        // A failure means that the client has disconnected; nothing is left to do.
        let _ = writer
            .write_all(text.as_bytes())
            .and_then(|()| writer.flush());
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

fn context(request: &Request, watch: &Watch) -> RequestContext {
    let headers = request.headers().iter();
    let mut ids = headers.filter(|header| header.field.equiv("X-Request-Id"));
    let path = request.url().split('?').next().unwrap_or_default();
    let id = ids.next().map(|header| header.value.as_str());
    RequestContext::new(id, watch.peer, request.method().to_string(), path)
}

/// A reader of a request's body.
struct Body<'a>(&'a mut Exchange);

impl Read for Body<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.0.request.as_reader().read(bytes)?;
        self.0.unread_bytes = self.0.unread_bytes.saturating_sub(count);
        if count == 0 && self.0.unread_bytes > 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
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
