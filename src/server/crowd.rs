//! Which connections must go: those that dawdle over the head of a request, send too much of one, or
//! are too many.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a client may take over the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A head that is longer, and not complete for a second, ends the connection.
const HEAD_BYTES_MAX: u64 = 64 << 10;
const HEAD_GRACE: Duration = Duration::from_secs(1);
/// More than this lies in no receive buffer: somebody reads it, and so it is a head without end.
const FLOOD_BYTES: u64 = 16 << 20;

/// A connection as it was seen now.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// What tells it from others.
    pub id: u64,
    /// Bytes that came over it since it was opened.
    pub received_bytes: u64,
}

/// What is known of every connection.
#[derive(Debug)]
pub struct Crowd {
    connections_max: usize,
    known: HashMap<u64, Known>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Bytes received when its last request ended.
    before: u64,
    /// Since when a head is under way.
    head_since: Option<Instant>,
    idle_since: Instant,
    in_request: bool,
}

impl Crowd {
    /// No connections yet, and at most so many at once.
    pub fn new(connections_max: usize) -> Self {
        Crowd {
            connections_max,
            known: HashMap::new(),
        }
    }

    /// How many of these the last look did not see.
    pub fn count_new(&self, seen: &[Seen]) -> u64 {
        let new = |one: &&Seen| !self.known.contains_key(&one.id);
        seen.iter().filter(new).count() as u64
    }

    /// Looks at all connections; `in_request` are those whose requests were or are handled since
    /// the last look. Returns the ids of those that must go.
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
    /// True if a head takes too long or is too long.
    fn dawdles(&mut self, now: Instant, received_bytes: u64) -> bool {
        let bytes = received_bytes.saturating_sub(self.before);
        if bytes == 0 {
            return false;
        }
        let took = now - *self.head_since.get_or_insert(now);
        took >= HEAD_MAX || (bytes > HEAD_BYTES_MAX && took >= HEAD_GRACE) || bytes > FLOOD_BYTES
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
        let mut crowd = Crowd::new(10);
        let now = Instant::now();
        // 1 sends nothing, 2 a part of a head, 3 a long one, 4 a flood, 5 is in a request.
        let all = [
            seen(1, 0),
            seen(2, 10),
            seen(3, 100_000),
            seen(4, 1 << 30),
            seen(5, 1 << 30),
        ];
        assert_eq!(crowd.look(now, &all, &[5]), [4]);
        assert_eq!(crowd.look(now + SECOND, &all, &[5]), [3, 4]);
        assert_eq!(crowd.look(now + 11 * SECOND, &all[..2], &[]), [2]);
    }

    #[test]
    fn what_came_before_a_requests_end_is_no_head() {
        let mut crowd = Crowd::new(10);
        let now = Instant::now();
        assert!(crowd.look(now, &[seen(1, 500)], &[1]).is_empty());
        for second in 1..60 {
            let later = now + second * SECOND;
            assert!(crowd.look(later, &[seen(1, 900)], &[]).is_empty());
        }
        // A second head begins, and does not end.
        let later = now + 60 * SECOND;
        assert!(crowd.look(later, &[seen(1, 910)], &[]).is_empty());
        assert_eq!(crowd.look(later + 10 * SECOND, &[seen(1, 911)], &[]), [1]);
    }

    #[test]
    fn of_too_many_the_longest_idle_go() {
        let mut crowd = Crowd::new(2);
        let now = Instant::now();
        assert!(crowd.look(now, &[seen(1, 0), seen(2, 0)], &[1]).is_empty());
        let all = [seen(1, 0), seen(2, 0), seen(3, 0), seen(4, 0)];
        assert_eq!(crowd.look(now + SECOND, &all, &[1]), [2, 3]);
    }
}
