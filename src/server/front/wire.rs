//! Bytes from and to sockets without waiting for more, and the last words to a client.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, Shutdown};

use super::head::{Refusal, last_answer};
use crate::core::json;
use crate::core::network::JSON_KIND;
use crate::format::wire::native::ErrorBody;

/// How long the rest of a refused client's request is read and discarded, so that it gets to read the answer.
const DRAIN_MAX: Duration = Duration::from_secs(1);
/// Bytes of it that are read at once.
const DRAIN_BYTES: usize = 64 << 10;

/// Waits for one of these; false if the time ran out.
pub fn wait(polled: &mut [PollFd], limit: Option<Duration>) -> bool {
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    });
    loop {
        match poll(polled, limit.as_ref()) {
            Err(Errno::INTR) => {}
            Ok(count) => return count > 0,
            Err(_) => return false,
        }
    }
}

/// Appends what has come, at most so many bytes; false at the end, or if the connection broke.
pub fn receive(socket: impl AsFd, buffer: &mut Vec<u8>, most: usize) -> bool {
    let start = buffer.len();
    buffer.resize(start + most, 0);
    let received = net::recv(socket, &mut buffer[start..], RecvFlags::DONTWAIT);
    let (is_open, count) = match received {
        Ok((_, 0)) => (false, 0),
        Ok((_, count)) => (true, count),
        Err(error) => (is_passing(error), 0),
    };
    buffer.truncate(start + count);
    is_open
}

/// Sends the beginning of a buffer and removes it; false if the connection broke.
pub fn pass(socket: impl AsFd, buffer: &mut Vec<u8>) -> bool {
    match net::send(socket, buffer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(count) => {
            buffer.drain(..count);
            true
        }
        Err(error) => is_passing(error),
    }
}

fn is_passing(error: Errno) -> bool {
    matches!(error, Errno::AGAIN | Errno::INTR)
}

/// Answers a request that goes no further; the connection then ends.
pub fn refuse(client: &OwnedFd, refusal: Refusal) {
    let body = json::line(&ErrorBody {
        error: refusal.why.to_string(),
    });
    let status = (refusal.status, phrase(refusal.status));
    let text = last_answer(status, JSON_KIND, &body);
    // A client that does not read it gets no answer: the connection is closed either way.
    let _ = net::send(
        client,
        text.as_bytes(),
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    );
}

/// Answers that the server is busy, without waiting for the request.
pub fn refuse_busy(client: &OwnedFd) {
    let why = "server busy, please try again.  maximum pending requests exceeded";
    refuse(client, Refusal { status: 503, why });
    shut(client, Shutdown::Write);
}

/// Closes one side of a connection, or both.
pub fn shut(client: &OwnedFd, sides: Shutdown) {
    // The client may have closed it.
    let _ = net::shutdown(client, sides);
}

fn phrase(status: u16) -> &'static str {
    match status {
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Bad Request",
    }
}

/// Closes a connection whose client may still send: discards that for a while, at most so many bytes, so that it gets to
/// read the answer. Then its sends fail.
pub fn end(client: &OwnedFd, bytes_max: usize) {
    shut(client, Shutdown::Write);
    let (started, mut bytes, mut discarded) = (Instant::now(), Vec::new(), 0);
    loop {
        let left = DRAIN_MAX.saturating_sub(started.elapsed());
        let mut polled = [PollFd::new(client, PollFlags::IN)];
        let is_over = left.is_zero() || discarded > bytes_max;
        if is_over || !wait(&mut polled, Some(left)) {
            // Otherwise the system lets a client wait a minute for room to send more.
            let _ = net::sockopt::set_socket_linger(client, Some(Duration::ZERO));
            return;
        }
        discarded += bytes.len();
        bytes.clear();
        if !receive(client, &mut bytes, DRAIN_BYTES) {
            return;
        }
    }
}
