//! Downloads one blob from a registry into the store: several parts at once, resuming an earlier
//! attempt, hashed during the download.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::rate_limit::Limiter;
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result, cause};
use crate::core::lock::LockExt;
use crate::core::threads::spawn_in;
use crate::system::registry::{Fault, Piece, Place, Registry};
use crate::system::store::{Partial, Store};

/// Size of one read, in bytes; cancellation is checked between reads.
const READ_BYTES: usize = 64 << 10;
/// Limit on successive attempts that bring no bytes.
const TRIES_MAX: u32 = 6;
/// Interval between progress reports, as in the reference.
const REPORT_INTERVAL: Duration = Duration::from_millis(60);
/// Interval between saves of the complete ranges.
const SAVE_INTERVAL: Duration = Duration::from_secs(2);
/// Interval between checks whether another process has finished the blob.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The parameters of a download.
pub struct Download<'a> {
    pub store: &'a Store,
    pub registry: &'a Registry,
    pub place: &'a Place,
    pub url: &'a str,
    /// The blob's digest; if it is not known before, a substitute that names the partial file.
    pub digest: Digest,
    pub size: u64,
    pub limiter: &'a Limiter,
    pub cancel: &'a AtomicBool,
}

/// The state that the threads of a download share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Set when all threads must stop.
    stop: AtomicBool,
    /// Complete bytes.
    completed: AtomicU64,
}

struct State {
    /// Complete ranges, sorted.
    done: Vec<Range<u64>>,
    todo: VecDeque<Range<u64>>,
    working: usize,
    /// True once the registry turned out not to support ranges.
    single: bool,
    /// True once a worker has the whole blob as its part; the others stop.
    single_taken: bool,
    resolved: Option<String>,
    error: Option<Error>,
}

impl Download<'_> {
    /// Downloads the blob, or waits while another process or thread does. `progress` gets the number
    /// of complete bytes.
    ///
    /// # Errors
    /// Errors of the registry or the disk; `Cancelled`. Complete bytes stay for the next attempt.
    pub fn run(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        let partial = loop {
            if self.is_there() {
                return Ok(());
            }
            match self.store.partial(&self.digest, self.size)? {
                Some(partial) => break partial,
                None => thread::sleep(CHECK_INTERVAL),
            }
            progress(self.store.partial_bytes(&self.digest));
            self.check_cancelled()?;
        };
        if self.is_there() {
            partial.discard();
            return Ok(());
        }
        let found = self.fetch(&partial, progress)?;
        partial.finish(found, self.store)
    }

    /// Downloads a file whose digest is not known before; returns the digest.
    ///
    /// # Errors
    /// As [`Download::run`]; `Busy` if another process downloads it.
    pub fn run_unnamed(&self, progress: &mut dyn FnMut(u64)) -> Result<Digest> {
        let busy = || Error::plain(Class::Busy, "another puna process is fetching this file");
        let partial = self
            .store
            .partial(&self.digest, self.size)?
            .ok_or_else(busy)?;
        let found = self.fetch(&partial, progress)?;
        partial.finish_as(found, self.store)?;
        Ok(found)
    }

    fn is_there(&self) -> bool {
        self.store.sound_blob(&self.digest, self.size).is_ok()
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) {
            Err(Error::cancelled())
        } else {
            Ok(())
        }
    }

    /// Downloads the missing ranges; returns the digest of the whole.
    fn fetch(&self, partial: &Partial, progress: &mut dyn FnMut(u64)) -> Result<Digest> {
        let done = partial.done();
        let todo = missing(&done, self.size, self.registry.network().part_bytes);
        let workers = self.registry.network().streams.min(todo.len());
        let shared = Shared {
            completed: AtomicU64::new(done.iter().map(|range| range.end - range.start).sum()),
            state: Mutex::new(State {
                done,
                todo,
                working: workers,
                single: false,
                single_taken: false,
                resolved: None,
                error: None,
            }),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        };
        let digest = thread::scope(|scope| {
            let hasher = spawn_in(scope, || self.hash(partial, &shared))?;
            let work = || spawn_in(scope, || self.work(partial, &shared));
            let failed: Vec<Error> = (0..workers).filter_map(|_| work().err()).collect();
            // Fewer workers do, but for none.
            let count = failed.len();
            shared.state().working -= count;
            if let Some(error) = failed.into_iter().next().filter(|_| count == workers) {
                shared.state().error = Some(error);
            }
            let watched = self.watch(partial, &shared, progress);
            shared.stop.store(true, Ordering::Relaxed);
            shared.changed.notify_all();
            let hashed = hasher.join();
            let hashed = hashed.unwrap_or_else(|_| Err(Error::failed("the hashing thread failed")));
            watched.and(hashed)
        });
        partial.save(&shared.state().done)?;
        digest
    }

    /// Reports progress and saves the complete ranges until all workers have stopped.
    fn watch(
        &self,
        partial: &Partial,
        shared: &Shared,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let (mut saved, mut reported) = (Instant::now(), 0);
        loop {
            let state = shared.state();
            let woken = shared
                .changed
                .wait_timeout_while(state, REPORT_INTERVAL, |state| state.working > 0);
            let mut state = woken.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let (ended, done) = (state.working == 0, state.done.clone());
            drop(state);
            let completed = shared.completed.load(Ordering::Relaxed).min(self.size);
            if completed > reported {
                reported = completed;
                progress(reported);
            }
            if ended {
                return Ok(());
            }
            self.check_cancelled()?;
            if saved.elapsed() > SAVE_INTERVAL {
                partial.save(&done)?;
                saved = Instant::now();
            }
        }
    }

    /// Hashes the blob in order, as far as it is complete.
    fn hash(&self, partial: &Partial, shared: &Shared) -> Result<Digest> {
        let mut hashing = partial.reader()?;
        loop {
            let state = shared.state();
            let end = front(&state.done);
            let ended = shared.stop.load(Ordering::Relaxed);
            if end == hashing.bytes() && end < self.size {
                if ended {
                    return Err(Error::cancelled()); // Whatever set `stop` reports the cause.
                }
                // Batches of what arrived within one interval: those bytes are still in memory.
                drop(shared.changed.wait_timeout(state, REPORT_INTERVAL));
                continue;
            }
            drop(state);
            hashing.advance(end)?;
            if end == self.size {
                return Ok(hashing.digest());
            }
        }
    }

    /// A worker: downloads one part after another.
    fn work(&self, partial: &Partial, shared: &Shared) {
        loop {
            let mut state = shared.state();
            let next = match state.single {
                false => state.todo.pop_front(),
                true if state.single_taken => None,
                true => {
                    state.single_taken = true;
                    Some(0..self.size)
                }
            };
            drop(state);
            let Some(range) = next.filter(|_| !shared.stop.load(Ordering::Relaxed)) else {
                break;
            };
            if let Err(error) = self.part(partial, shared, range) {
                shared.state().error.get_or_insert(error);
                shared.stop.store(true, Ordering::Relaxed);
                break;
            }
        }
        shared.state().working -= 1;
        shared.changed.notify_all();
    }

    /// Downloads a part; retries as long as bytes arrive.
    fn part(&self, partial: &Partial, shared: &Shared, range: Range<u64>) -> Result<()> {
        let (mut place, mut tries) = (range.start, 0);
        loop {
            let before = place;
            let fault = match self.attempt(partial, shared, &range, &mut place) {
                Ok(()) => return Ok(()),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Passing(error, wanted)) => (error, wanted),
            };
            tries = if place > before { 0 } else { tries + 1 };
            if tries == TRIES_MAX {
                let text = format!("max retries exceeded: {}", fault.0);
                return Err(Error::plain(Class::Network, text));
            }
            let pause = self.registry.pause(tries, fault.1);
            let started = Instant::now();
            while started.elapsed() < pause {
                if shared.stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::sleep(CHECK_INTERVAL.min(pause));
            }
        }
    }

    /// Requests the rest of a part. `place` advances with every byte that is stored.
    fn attempt(
        &self,
        partial: &Partial,
        shared: &Shared,
        range: &Range<u64>,
        place: &mut u64,
    ) -> Result<(), Fault> {
        let single = *range == (0..self.size);
        // Without range support, request the whole blob and skip the bytes that are complete.
        let wanted = if single && shared.state().single {
            0..self.size
        } else {
            *place..range.end
        };
        let mut resolved = shared.state().resolved.clone();
        let piece = self.registry.piece(
            self.place,
            self.url,
            (wanted.clone(), self.size),
            &mut resolved,
        );
        shared.state().resolved = resolved;
        let mut piece = piece?;
        if piece.whole && !single {
            // The registry ignores ranges: one worker downloads the whole blob, the others stop.
            shared.state().single = true;
            return Ok(());
        }
        if piece.start != wanted.start {
            shared.state().single = true;
        }
        skip(&mut piece, *place)?;
        self.read(partial, shared, &mut piece, place, range.end)?;
        if piece.whole && piece.reader.read(&mut [0]).is_ok_and(|count| count > 0) {
            let text = format!(
                "the registry sends more than the {} bytes of {}",
                self.size, self.digest
            );
            return Err(Fault::Final(Error::plain(Class::Damaged, text)));
        }
        Ok(())
    }

    /// Reads a response up to the end of its range and stores the bytes.
    fn read(
        &self,
        partial: &Partial,
        shared: &Shared,
        piece: &mut Piece,
        place: &mut u64,
        end: u64,
    ) -> Result<(), Fault> {
        let mut bytes = vec![0; READ_BYTES];
        while *place < end {
            if shared.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let wanted = (end - *place).min(READ_BYTES as u64) as usize;
            let count = match piece.reader.read(&mut bytes[..wanted]) {
                Ok(0) => return Err(cut("the connection closed too early")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(cut(&cause(&error))),
            };
            partial.write(*place, &bytes[..count])?;
            shared.add(*place..*place + count as u64);
            *place += count as u64;
            self.limiter.throttle(count);
        }
        Ok(())
    }
}

fn cut(why: &str) -> Fault {
    Fault::Passing(Error::plain(Class::Network, why), None)
}

/// Skips the bytes of a response before `place`.
fn skip(piece: &mut Piece, place: u64) -> Result<(), Fault> {
    let count = place.saturating_sub(piece.start);
    let skipped = io::copy(&mut (&mut piece.reader).take(count), &mut io::sink());
    match skipped {
        Ok(skipped) if skipped == count => Ok(()),
        _ => Err(cut("the connection closed too early")),
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.locked()
    }

    fn add(&self, range: Range<u64>) {
        let mut state = self.state();
        let before = covered(&state.done);
        add(&mut state.done, range);
        let after = covered(&state.done);
        self.completed.fetch_add(after - before, Ordering::Relaxed);
        drop(state);
        self.changed.notify_all();
    }
}

fn covered(done: &[Range<u64>]) -> u64 {
    done.iter().map(|range| range.end - range.start).sum()
}

/// Inserts a range into sorted ranges and merges those that touch it.
fn add(done: &mut Vec<Range<u64>>, range: Range<u64>) {
    let first = done.partition_point(|other| other.end < range.start);
    let last = done.partition_point(|other| other.start <= range.end);
    let mut joined = range;
    for other in &done[first..last] {
        joined = joined.start.min(other.start)..joined.end.max(other.end);
    }
    done.splice(first..last, [joined]);
}

/// The end of the contiguous bytes from the start.
fn front(done: &[Range<u64>]) -> u64 {
    match done.first() {
        Some(first) if first.start == 0 => first.end,
        _ => 0,
    }
}

/// The missing ranges, split into parts of at most `part` bytes.
fn missing(done: &[Range<u64>], size: u64, part: u64) -> VecDeque<Range<u64>> {
    let mut parts = VecDeque::new();
    let mut start = 0;
    let end = std::iter::once(size..size);
    for range in done.iter().cloned().chain(end) {
        while start < range.start {
            let end = (start + part).min(range.start);
            parts.push_back(start..end);
            start = end;
        }
        start = range.end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together() {
        let mut done = Vec::new();
        for range in [10..20, 0..5, 30..40, 5..10] {
            add(&mut done, range);
        }
        assert_eq!(done, [0..20, 30..40]);
        assert_eq!((front(&done), covered(&done)), (20, 30));
        assert_eq!(missing(&done, 45, 6), [20..26, 26..30, 40..45]);
        add(&mut done, 0..45);
        assert_eq!((done.len(), front(&done)), (1, 45));
        assert!(missing(&done, 45, 6).is_empty());
        assert_eq!(missing(&[], 0, 6).len(), 0);
    }
}
