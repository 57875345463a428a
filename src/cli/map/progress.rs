//! How far `map` is: a status line on a terminal, or lines for a log.
//!
//! The time left is estimated from the share of the input that has been answered, so it needs a file as standard input.

use std::fs::File;
use std::io::{Seek, stdin};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cli::out::{self, Out, StatusLine};
use crate::core::clock::words;

/// Interval of the lines for a log.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Longest time without a look at the clock.
pub const TICK: Duration = Duration::from_millis(500);

/// The progress of the reader.
#[derive(Debug, Default)]
pub struct Position {
    /// Records.
    pub records: AtomicU64,
    /// Bytes of standard input.
    pub bytes: AtomicU64,
}

/// The progress of a run.
pub struct Progress {
    position: Arc<Position>,
    /// Bytes of standard input, if it is a file.
    total: Option<u64>,
    started: Instant,
    printed: u64,
    failed: u64,
    status: StatusLine,
    /// When the next line for a log is due; `None`: no such lines.
    line_due: Option<Instant>,
}

impl Progress {
    /// The progress of a run that starts now; with `lines`, told in lines even if it is a terminal that reads them.
    pub fn new(position: Arc<Position>, lines: bool, out: &Out) -> Self {
        let started = Instant::now();
        Progress {
            position,
            total: bytes_left(),
            started,
            printed: 0,
            failed: 0,
            status: if lines {
                StatusLine::hidden()
            } else {
                out.status_line()
            },
            line_due: lines.then(|| started + LINE_INTERVAL),
        }
    }

    /// Does what writes to the terminal, with the status line out of its way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.status.aside(write)
    }

    /// Counts a printed record.
    pub fn count(&mut self, failed: bool) {
        self.printed += 1;
        self.failed += u64::from(failed);
        self.look();
    }

    /// Shows what is due.
    pub fn look(&mut self) {
        let now = Instant::now();
        if self.line_due.is_some_and(|due| due <= now) {
            self.line_due = Some(now + LINE_INTERVAL);
            out::complain(&self.text());
        } else if self.status.is_shown() {
            self.status.show(self.text());
        }
    }

    /// Removes the status line; tells the whole run in a line, if lines were asked for.
    pub fn finish(&self) {
        self.status.clear();
        if self.line_due.is_some() {
            let took = words(self.started.elapsed());
            out::complain(&format!("{} in {took}", self.counts()));
        }
    }

    fn counts(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let rate = self.printed as f64 / seconds.max(1e-3);
        let records = out::counted(self.printed as usize, "record");
        let failed = match self.failed {
            0 => String::new(),
            count => format!(", {count} failed"),
        };
        format!("{records}{failed}, {rate:.1}/s")
    }

    fn text(&self) -> String {
        let left = self.share().map_or(String::new(), |share| {
            let elapsed = self.started.elapsed();
            let left = elapsed.mul_f64((1.0 - share) / share);
            let percent = (share * 100.0) as u64;
            format!(", {percent}%, {} left", words(left))
        });
        self.counts() + &left
    }

    /// The share of the input that is answered, if it is known and not nothing.
    fn share(&self) -> Option<f64> {
        let read = self.position.records.load(Ordering::Relaxed);
        let bytes = self.position.bytes.load(Ordering::Relaxed);
        let total = self.total.filter(|total| *total > 0)?;
        let share = bytes as f64 / total as f64 * self.printed as f64 / read.max(1) as f64;
        (share > 0.0).then_some(share.min(1.0))
    }
}

/// The bytes that are left to read, if standard input is a file.
fn bytes_left() -> Option<u64> {
    let mut file = File::from(stdin().as_fd().try_clone_to_owned().ok()?);
    let length = file.metadata().ok().filter(|known| known.is_file())?.len();
    length.checked_sub(file.stream_position().ok()?)
}
