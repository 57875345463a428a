//! One connection: reads a head, hands the request to the HTTP library, and passes body and answer on until both are complete.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::net::{self, Shutdown};

use super::body::Body;
use super::connections::Seat;
use super::head::{self, AnswerHead, Framing, HEAD_BYTES_MAX, Refusal, RequestHead};
use super::inner::Inner;
use super::requests::{Requests, Watch};
use super::wire::{end, pass, receive, refuse, refuse_busy, shut, wait};

/// How long a client may take to send the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// How long a client may send nothing of a body that its handler waits for.
const BODY_STALL_MAX: Duration = Duration::from_secs(10);
/// How long a client may read nothing of its answer: otherwise it would block its handler, and the model, forever.
const SEND_MAX: Duration = Duration::from_secs(30);
/// Bytes in each direction that wait to be passed on.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes of a head are read in pieces of this size: what follows it stays in the system's buffer.
const PIECE_BYTES: usize = 16 << 10;
/// A longer body is handed on in chunks: the HTTP library allocates all of a body that its handler does not read.
const LENGTH_BYTES_MAX: u64 = 1 << 20;
/// The HTTP library reads a body of at most this length before its handler gets the request.
const FIRST_BYTES: u64 = 1 << 10;
/// The HTTP library counts a thread as free although it has assigned it a connection, and the next connection waits behind one
/// that may stay open for hours. After this time a further connection makes it start one more thread.
const KICK: Duration = Duration::from_millis(20);
/// How often the limits of time are checked.
const LOOK: Duration = Duration::from_millis(500);

/// Gets the client and the status of a head that was refused, and so never became a request.
pub type Refused = Box<dyn Fn(Option<SocketAddr>, u16) + Send + Sync>;

/// A connection of a client.
pub struct Relay<'a> {
    socket: &'a Inner,
    requests: &'a Requests,
    refused: &'a Refused,
    client: Arc<OwnedFd>,
    peer: Option<SocketAddr>,
    seat: Seat,
    /// The way to the HTTP library, once there was a request.
    inner: Option<UnixStream>,
    /// Bytes of the client that are not passed on yet.
    input: Vec<u8>,
}

/// The step after a request.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// The next one.
    Request,
    /// The end: the request is complete.
    Close,
    /// The end, once the client has read the answer: it may still be sending.
    End,
    /// The end at once: the client has gone, or stalls.
    Drop,
}

impl<'a> Relay<'a> {
    /// A connection that was just accepted.
    pub fn new(
        (socket, requests, refused): (&'a Inner, &'a Requests, &'a Refused),
        (client, peer): (Arc<OwnedFd>, Option<SocketAddr>),
        seat: Seat,
    ) -> Self {
        Relay {
            socket,
            requests,
            refused,
            client,
            peer,
            seat,
            inner: None,
            input: Vec::new(),
        }
    }

    /// Serves the connection until it ends.
    pub fn serve(mut self) {
        loop {
            let next = match self.head() {
                Ok(None) => Next::Drop,
                Ok(Some(head)) => {
                    self.seat.set_idle(false);
                    let next = self.exchange(&head);
                    self.seat.set_idle(true);
                    next
                }
                Err(refusal) => {
                    (self.refused)(self.peer, refusal.status);
                    refuse(&self.client, refusal);
                    return end(&self.client, HEAD_BYTES_MAX);
                }
            };
            match next {
                Next::Request => {}
                Next::End => return end(&self.client, usize::MAX),
                Next::Close => return shut(&self.client, Shutdown::Write),
                Next::Drop => return shut(&self.client, Shutdown::Both),
            }
        }
    }

    /// Reads the head of the next request; `None` at the end of the connection, or if the head comes too slowly.
    fn head(&mut self) -> Result<Option<RequestHead>, Refusal> {
        let mut since: Option<Instant> = None;
        loop {
            self.input.drain(..head::empty_lines(&self.input));
            let length = head::length(&self.input);
            if length.unwrap_or(self.input.len()) > HEAD_BYTES_MAX {
                return Err(Refusal {
                    status: 431,
                    why: "the head of the request is too long",
                });
            }
            if let Some(length) = length {
                let bytes: Vec<u8> = self.input.drain(..length).collect();
                return RequestHead::parse(&bytes).map(Some);
            }
            if !self.input.is_empty() {
                since.get_or_insert_with(Instant::now);
            }
            let left = since.map(|since| HEAD_MAX.saturating_sub(since.elapsed()));
            let mut polled = [PollFd::new(&*self.client, PollFlags::IN)];
            let is_late = left.is_some_and(|left| left.is_zero());
            if is_late || !wait(&mut polled, left) {
                return Ok(None);
            }
            if !receive(&*self.client, &mut self.input, PIECE_BYTES) {
                return Ok(None);
            }
        }
    }

    /// Passes one request and its answer on.
    fn exchange(&mut self, head: &RequestHead) -> Next {
        let Some((number, watch)) = self.requests.begin(self.peer, head.framing) else {
            refuse_busy(&self.client);
            return Next::End;
        };
        let inner = match self.inner.take() {
            Some(inner) => Ok(inner),
            None => self.socket.connect(),
        };
        let next = match inner {
            Ok(inner) => {
                let passing = Passing::new(head, number, watch);
                let (next, is_open) = passing.run(self, &inner);
                self.inner = is_open.then_some(inner);
                next
            }
            Err(_) => {
                refuse_busy(&self.client);
                Next::End
            }
        };
        self.requests.forget(number);
        next
    }
}

/// A request and its answer under way.
struct Passing<'a> {
    head: &'a RequestHead,
    watch: Arc<Watch>,
    started: Instant,
    /// The body as it comes, and what of it waits for the HTTP library.
    body: Body,
    in_chunks: bool,
    request: Vec<u8>,
    /// True once no more of the body is sent: its chunks are wrong, it stalled, or the HTTP library does not read it.
    is_cut: bool,
    /// True once the HTTP library knows that.
    is_shut: bool,
    /// When the client last sent something of the body, or read something of the answer.
    sent_at: Instant,
    read_at: Instant,
    /// Bytes of the HTTP library, and those of them that wait for the client.
    raw: Vec<u8>,
    answer: Vec<u8>,
    /// The body of the answer, once its head has passed.
    answer_body: Option<Body>,
    closes: bool,
    /// True once the HTTP library has closed its side.
    has_ended: bool,
    kicks: u32,
}

impl<'a> Passing<'a> {
    fn new(head: &'a RequestHead, number: u64, watch: Arc<Watch>) -> Self {
        let framing = match head.framing {
            Framing::Length(bytes) if bytes > LENGTH_BYTES_MAX => Framing::Chunked,
            framing => framing,
        };
        let now = Instant::now();
        Passing {
            head,
            watch,
            started: now,
            body: Body::new(head.framing),
            in_chunks: framing == Framing::Chunked,
            request: head.written(number, framing),
            is_cut: false,
            is_shut: false,
            sent_at: now,
            read_at: now,
            raw: Vec::new(),
            answer: Vec::new(),
            answer_body: None,
            closes: head.closes,
            has_ended: false,
            kicks: 0,
        }
    }

    /// Passes bytes on until the answer is complete. Returns what follows, and whether the way to the HTTP library stays
    /// usable.
    fn run(mut self, relay: &mut Relay, inner: &UnixStream) -> (Next, bool) {
        // Not the flag that cancels the request: its handler sets that, too, when the answer is out.
        let mut has_left = false;
        loop {
            self.read_body(&mut relay.input);
            self.shut(inner);
            if self.is_answered() {
                break;
            }
            let wants_body = self.wants_body() && relay.input.is_empty();
            let mut from = PollFlags::empty();
            from.set(PollFlags::IN, wants_body);
            from.set(PollFlags::OUT, !self.answer.is_empty());
            from.set(LEFT, !has_left);
            let mut to = PollFlags::empty();
            to.set(PollFlags::OUT, !self.request.is_empty());
            to.set(PollFlags::IN, self.answer.len() < BUFFER_BYTES);
            let client = relay.client.clone();
            let mut polled = [PollFd::new(&*client, from), PollFd::new(inner, to)];
            // A side that has ended would end every wait.
            let sides = if self.has_ended { 1 } else { 2 };
            wait(&mut polled[..sides], Some(self.patience()));
            let [from, to] = [polled[0].revents(), polled[1].revents()];
            if from.intersects(LEFT | PollFlags::HUP | PollFlags::ERR) && !has_left {
                has_left = true;
                self.watch.leave();
            }
            if from.intersects(PollFlags::HUP | PollFlags::ERR) {
                return (Next::Drop, false);
            }
            let is_broken = (from.contains(PollFlags::IN) && !self.receive(relay))
                || (from.contains(PollFlags::OUT) && !self.send(&client));
            if is_broken {
                self.watch.leave();
                return (Next::Drop, false);
            }
            if to.contains(PollFlags::OUT) && !pass(inner, &mut self.request) {
                // It answers without reading the rest.
                self.is_cut = true;
                self.request.clear();
            }
            if to.intersects(PollFlags::IN | PollFlags::HUP) && !self.read_answer(inner) {
                return (Next::Drop, false);
            }
            if !self.is_in_time(relay) {
                self.watch.leave();
                return (Next::Drop, false);
            }
        }
        let is_whole = self.body.is_complete() && self.request.is_empty() && !self.is_cut;
        if !is_whole {
            (Next::End, false)
        } else if self.closes || has_left {
            (Next::Close, false)
        } else {
            (Next::Request, true)
        }
    }

    /// Takes what has come of the body apart and appends it to the request.
    fn read_body(&mut self, input: &mut Vec<u8>) {
        while self.wants_body() && !input.is_empty() {
            let Ok((framing, content)) = self.body.next(input) else {
                self.is_cut = true;
                return;
            };
            let bytes = &input[framing..framing + content];
            if self.in_chunks && content > 0 {
                let size = format!("{content:x}\r\n");
                self.request.extend_from_slice(size.as_bytes());
            }
            self.request.extend_from_slice(bytes);
            if self.in_chunks && content > 0 {
                self.request.extend_from_slice(b"\r\n");
            }
            if self.in_chunks && self.body.is_complete() {
                self.request.extend_from_slice(b"0\r\n\r\n");
            }
            input.drain(..framing + content);
        }
    }

    fn wants_body(&self) -> bool {
        !self.body.is_complete() && !self.is_cut && self.request.len() < BUFFER_BYTES
    }

    /// Ends a request whose body is cut, once the rest of it is sent; its handler sees that.
    fn shut(&mut self, inner: &UnixStream) {
        if self.is_cut && self.request.is_empty() && !self.is_shut {
            self.is_shut = true;
            // The HTTP library may have closed it already.
            let _ = net::shutdown(inner, Shutdown::Write);
        }
    }

    fn is_answered(&self) -> bool {
        let complete = self.answer_body.as_ref().is_some_and(Body::is_complete);
        complete && self.answer.is_empty()
    }

    fn receive(&mut self, relay: &mut Relay) -> bool {
        self.sent_at = Instant::now();
        receive(&*relay.client, &mut relay.input, BUFFER_BYTES)
    }

    fn send(&mut self, client: &OwnedFd) -> bool {
        self.read_at = Instant::now();
        pass(client, &mut self.answer)
    }

    /// Reads from the HTTP library; false if it ends before the answer is complete.
    fn read_answer(&mut self, inner: &UnixStream) -> bool {
        let before = self.raw.len();
        let is_open = receive(inner, &mut self.raw, BUFFER_BYTES);
        self.has_ended = !is_open;
        if self.raw.len() > before && self.answer.is_empty() {
            self.read_at = Instant::now(); // The client had nothing to read until now.
        }
        while self.answer_body.is_none() {
            let Some(length) = head::length(&self.raw) else {
                return is_open && self.raw.len() <= HEAD_BYTES_MAX;
            };
            if !self.pass_head(length) {
                return false;
            }
        }
        let Some(body) = &mut self.answer_body else {
            return false;
        };
        while !self.raw.is_empty() && !body.is_complete() {
            let Ok((framing, content)) = body.next(&self.raw) else {
                return false;
            };
            self.answer.extend(self.raw.drain(..framing + content));
        }
        self.closes |= !is_open;
        // An answer without a length is complete when it ends.
        is_open || body.end()
    }

    /// Passes the head of the answer on; says that the connection ends where it does.
    fn pass_head(&mut self, length: usize) -> bool {
        let bytes: Vec<u8> = self.raw.drain(..length).collect();
        let Some(head) = AnswerHead::parse(&bytes, self.head.is_head) else {
            return false;
        };
        if head.is_interim {
            self.answer.extend_from_slice(&bytes);
            return true;
        }
        // A client that waited for leave to send its body and was refused may send it or not.
        let is_unsure = self.head.awaits_leave && !self.body.is_complete();
        self.closes |= head.closes || is_unsure;
        if self.closes && !head.closes {
            self.answer.extend_from_slice(&bytes[..length - 2]);
            self.answer.extend_from_slice(b"Connection: close\r\n\r\n");
        } else {
            self.answer.extend_from_slice(&bytes);
        }
        self.answer_body = Some(Body::new(head.framing));
        true
    }

    /// How long to wait for the next byte.
    fn patience(&self) -> Duration {
        if self.watch.is_handled() { LOOK } else { KICK }
    }

    /// Checks the limits of time; false if the connection is given up.
    fn is_in_time(&mut self, relay: &Relay) -> bool {
        let comes_first = match self.head.framing {
            Framing::Length(bytes) => bytes <= FIRST_BYTES,
            _ => false,
        };
        let is_sent = self.request.is_empty() && (self.body.is_complete() || !comes_first);
        if is_sent && !self.watch.is_handled() && self.started.elapsed() > KICK * (1 << self.kicks)
        {
            self.kicks = (self.kicks + 1).min(10);
            // It fails if no descriptor is left; the next one may not.
            let _ = relay.socket.connect();
        }
        let waits = self.wants_body() && self.request.is_empty();
        if waits && self.watch.is_limited() && self.sent_at.elapsed() > BODY_STALL_MAX {
            self.watch.stall();
            self.is_cut = true;
            if !self.watch.is_handled() {
                refuse(
                    &relay.client,
                    Refusal {
                        status: 408,
                        why: "the request body comes too slowly",
                    },
                );
                return false;
            }
        }
        self.answer.is_empty() || self.read_at.elapsed() <= SEND_MAX
    }
}

/// Set in `revents` once the client has closed its side.
#[cfg(target_os = "linux")]
const LEFT: PollFlags = PollFlags::RDHUP;
/// Other systems show only that both sides are closed.
#[cfg(not(target_os = "linux"))]
const LEFT: PollFlags = PollFlags::empty();
