//! Connection limits: which connections to close because a request head is too slow or too long, or
//! because there are too many connections.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a client may take to send the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A head longer than this that is not complete after [`HEAD_GRACE`] closes the connection.
const HEAD_BYTES_MAX: u64 = 64 << 10;
const HEAD_GRACE: Duration = Duration::from_secs(1);
/// No receive buffer holds more than this, so tiny_http is reading it: an endless head.
const FLOOD_BYTES: u64 = 16 << 20;

/// A connection in the current check.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Its unique id: the socket's inode.
    pub id: u64,
    /// Bytes received since it was opened.
    pub received_bytes: u64,
}

/// The connection limits, and the state of every connection.
#[derive(Debug)]
pub struct ConnectionLimits {
    connections_max: usize,
    known: HashMap<u64, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Bytes received by the end of its last request.
    before: u64,
    /// When the head in progress began to arrive.
    head_since: Option<Instant>,
    idle_since: Instant,
    in_request: bool,
}

impl ConnectionLimits {
    /// Starts without connections; allows `connections_max` at once.
    pub fn new(connections_max: usize) -> Self {
        ConnectionLimits {
            connections_max,
            known: HashMap::new(),
        }
    }

    /// The number of connections that the last check did not see.
    pub fn count_new(&self, seen: &[Seen]) -> u64 {
        let new = |one: &&Seen| !self.known.contains_key(&one.id);
        seen.iter().filter(new).count() as u64
    }

    /// Checks all connections; `in_request` are those with a request since the last check. Returns the
    /// ids of the connections to close.
    pub fn look(&mut self, now: Instant, seen: &[Seen], in_request: &[u64]) -> Vec<u64> {
        let mut gone = Vec::new();
        let mut idle = Vec::new();
        let mut known = HashMap::with_capacity(seen.len());
        for one in seen {
            let mut state = *self.known.get(&one.id).unwrap_or(&Known {
                before: 0,
                head_since: None,
                idle_since: now,
                in_request: false,
            });
            if in_request.contains(&one.id) {
                state.in_request = true;
                state.idle_since = now;
            } else if std::mem::take(&mut state.in_request) {
                state.before = one.received_bytes;
                state.head_since = None;
            } else if state.dawdles(now, one.received_bytes) {
                gone.push(one.id);
            }
            if !state.in_request {
                idle.push((state.idle_since, one.id));
            }
            known.insert(one.id, state);
        }
        self.known = known;
        let over = seen.len().saturating_sub(self.connections_max);
        idle.retain(|(_, id)| !gone.contains(id));
        idle.sort_unstable();
        let over = over.saturating_sub(gone.len());
        gone.extend(idle.iter().take(over).map(|(_, id)| *id));
        gone
    }
}

impl Known {
    /// True if a request head takes too long or is too long.
    fn dawdles(&mut self, now: Instant, received_bytes: u64) -> bool {
        let bytes = received_bytes.saturating_sub(self.before);
        if bytes == 0 {
            return false;
        }
        let elapsed = now - *self.head_since.get_or_insert(now);
        elapsed >= HEAD_MAX
            || (bytes > HEAD_BYTES_MAX && elapsed >= HEAD_GRACE)
            || bytes > FLOOD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(id: u64, received_bytes: u64) -> Seen {
        Seen { id, received_bytes }
    }

    #[test]
    fn heads_have_a_time_and_a_length() {
        let mut connection_limits = ConnectionLimits::new(10);
        let now = Instant::now();
        // 1 sends nothing, 2 a part of a head, 3 a long one, 4 a flood, 5 is in a request.
        let all = [
            seen(1, 0),
            seen(2, 10),
            seen(3, 100_000),
            seen(4, 1 << 30),
            seen(5, 1 << 30),
        ];
        assert_eq!(connection_limits.look(now, &all, &[5]), [4]);
        assert_eq!(connection_limits.look(now + SECOND, &all, &[5]), [3, 4]);
        assert_eq!(
            connection_limits.look(now + 11 * SECOND, &all[..2], &[]),
            [2]
        );
    }

    #[test]
    fn bytes_before_the_end_of_a_request_are_not_a_head() {
        let mut connection_limits = ConnectionLimits::new(10);
        let now = Instant::now();
        assert!(
            connection_limits
                .look(now, &[seen(1, 500)], &[1])
                .is_empty()
        );
        for second in 1..60 {
            let later = now + second * SECOND;
            assert!(
                connection_limits
                    .look(later, &[seen(1, 900)], &[])
                    .is_empty()
            );
        }
        // A second head begins and is never completed.
        let later = now + 60 * SECOND;
        assert!(
            connection_limits
                .look(later, &[seen(1, 910)], &[])
                .is_empty()
        );
        assert_eq!(
            connection_limits.look(later + 10 * SECOND, &[seen(1, 911)], &[]),
            [1]
        );
    }

    #[test]
    fn excess_connections_close_longest_idle_first() {
        let mut connection_limits = ConnectionLimits::new(2);
        let now = Instant::now();
        assert!(
            connection_limits
                .look(now, &[seen(1, 0), seen(2, 0)], &[1])
                .is_empty()
        );
        let all = [seen(1, 0), seen(2, 0), seen(3, 0), seen(4, 0)];
        assert_eq!(connection_limits.look(now + SECOND, &all, &[1]), [2, 3]);
    }
}
