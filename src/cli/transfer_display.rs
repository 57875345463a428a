//! Shows a transfer of models: bars on a terminal, lines in a log, or JSON.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar};

use super::out::{Out, bar_style, error_width, human_bytes};
use super::waiting::Waiting;
use crate::core::clock::words;
use crate::core::error::{Error, Result};
use crate::core::name::Name;
use crate::format::wire::native::create::Progress as Record;

/// Terminals with fewer columns get bars without amounts.
const WIDE_COLUMNS: usize = 76;
/// The rate of a shorter transfer says nothing.
const RATE_AFTER: Duration = Duration::from_secs(1);

/// Shows the records of a transfer as bars, as lines, or as JSON.
pub struct Display<'a> {
    out: &'a mut Out,
    json: bool,
    name: String,
    /// Until the first part: the registry is asked.
    waiting: Option<Waiting>,
    bars: Bars,
    tenths: HashMap<String, u64>,
    failed: Option<Error>,
}

impl<'a> Display<'a> {
    /// Prints the records of a model as JSON, or for people.
    pub fn new(name: &Name, json: bool, out: &'a mut Out) -> Self {
        let name = name.to_string();
        let asked = name.clone();
        let waiting = Waiting::new(out, move |so_far| {
            format!("looking up {asked}, {}", words(so_far))
        });
        Display {
            json,
            out,
            name,
            waiting: Some(waiting),
            bars: Bars::default(),
            tenths: HashMap::new(),
            failed: None,
        }
    }

    /// Shows a record; [`Display::success`] returns its error.
    pub fn add(&mut self, record: Record) {
        if let Err(error) = self.show(record) {
            self.failed.get_or_insert(error);
        }
    }

    /// Shows the record of success.
    ///
    /// # Errors
    /// As [`Display::show`], for this record or an earlier one.
    pub fn success(mut self) -> Result<()> {
        self.add(Record::new("success"));
        self.failed.map_or(Ok(()), Err)
    }

    /// Shows a record.
    ///
    /// # Errors
    /// With `--json`: `Closed` if the reader has gone, else the system's error.
    pub fn show(&mut self, record: Record) -> Result<()> {
        if !record.digest.is_empty() || record.status == "success" {
            self.waiting = None;
        }
        if self.json {
            return self.out.json(&[record]);
        }
        if record.digest.is_empty() {
            if record.status == "success" {
                self.finish();
            }
            return Ok(());
        }
        if self.out.shows_progress() {
            self.bars.show(&record);
            return Ok(());
        }
        let tenth = (record.completed * 10)
            .checked_div(record.total)
            .unwrap_or(10);
        let before = self.tenths.insert(record.digest, tenth);
        if tenth > before.unwrap_or(0) && before.is_some_and(|before| before < 10) {
            let total = human_bytes(record.total);
            self.out
                .note(&format!("{}: {}% of {total}", record.status, tenth * 10));
        }
        Ok(())
    }

    /// Replaces the bars by a line that says what came.
    fn finish(&mut self) {
        let bars = std::mem::take(&mut self.bars);
        if !self.out.shows_progress() {
            return;
        }
        let summary = bars.summary();
        drop(bars);
        self.out.note(&format!("{}: {summary}", self.name));
    }
}

/// One bar for each part of a transfer, one below the other, and one for the total of several.
#[derive(Default)]
struct Bars {
    multi: MultiProgress,
    parts: Vec<Part>,
    total: Option<ProgressBar>,
    started: Option<Instant>,
}

/// A part of a transfer.
struct Part {
    digest: String,
    bar: ProgressBar,
    /// Bytes that were there before.
    before: u64,
}

impl Bars {
    /// Shows the bytes of a part.
    fn show(&mut self, record: &Record) {
        self.started.get_or_insert_with(Instant::now);
        let known = self.parts.iter().find(|part| part.digest == record.digest);
        match known {
            Some(part) => part.bar.set_position(record.completed),
            None => {
                let place = self.parts.len();
                let bar = self.multi.insert(place, ProgressBar::new(record.total));
                start(&bar, &record.status, record.completed);
                self.parts.push(Part {
                    digest: record.digest.clone(),
                    bar,
                    before: record.completed,
                });
            }
        }
        if self.parts.len() < 2 {
            return;
        }
        let all = self.parts.iter().filter_map(|part| part.bar.length()).sum();
        let there = self.parts.iter().map(|part| part.bar.position()).sum();
        let bar = self.total.get_or_insert_with(|| {
            let bar = self.multi.add(ProgressBar::new(all));
            start(&bar, "in total", there);
            bar
        });
        bar.set_length(all);
        bar.set_position(there);
    }

    /// The bytes that came, and how fast: `98 MB in 12 seconds, 8.1 MB/s`.
    fn summary(&self) -> String {
        let new = |part: &Part| part.bar.position().saturating_sub(part.before);
        let bytes: u64 = self.parts.iter().map(new).sum();
        if bytes == 0 {
            return "up to date".to_string();
        }
        let time = self.started.map_or(Duration::ZERO, |at| at.elapsed());
        let rate = (time >= RATE_AFTER).then(|| (bytes as f64 / time.as_secs_f64()) as u64);
        let rate = rate.map_or(String::new(), |rate| format!(", {}/s", human_bytes(rate)));
        format!("{} in {}{rate}", human_bytes(bytes), words(time))
    }
}

/// Starts a bar from the bytes that are there already, which do not count for its rate.
fn start(bar: &ProgressBar, what: &str, there: u64) {
    // All names have the length of the first twelve digits of a digest and the word before it.
    bar.set_style(bar_style(if error_width() >= WIDE_COLUMNS {
        "{msg:20} {percent:>3}% {wide_bar} {decimal_bytes:>9} of {decimal_total_bytes:9} {decimal_bytes_per_sec:>11} {eta:>4}"
    } else {
        "{msg:20.20} {percent:>3}% {wide_bar} {eta:>4}"
    }));
    bar.set_message(what.to_string());
    bar.set_position(there);
    bar.reset_eta();
}

impl Drop for Bars {
    fn drop(&mut self) {
        // Bars that cannot be cleared stay on the screen.
        let _ = self.multi.clear();
    }
}
