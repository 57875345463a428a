//! Standard output and standard error; no other file writes to them, except the bars of `transfer_display.rs`.
//!
//! Output is the answer and nothing else; notes and progress go to standard error, progress only
//! if that is a terminal.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};
use unicode_width::UnicodeWidthStr;

use crate::core::error::{Error, Result};
use crate::core::json;
use crate::system::config::has_unicode;
use crate::system::engine::{Level, Sink};

/// Standard output and standard error, with what is known about them.
pub struct Out {
    /// True if output goes to a terminal.
    pub output_is_terminal: bool,
    quiet: bool,
    error_is_terminal: bool,
    has_written: bool,
}

impl Out {
    /// The streams of this process.
    pub fn new() -> Self {
        Out {
            output_is_terminal: io::stdout().is_terminal(),
            error_is_terminal: io::stderr().is_terminal(),
            quiet: false,
            has_written: false,
        }
    }

    /// Turns notes and progress off or on.
    pub fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// Writes a part of the answer and flushes it.
    ///
    /// # Errors
    /// `Closed` if the reader has gone, else the system's error.
    pub fn write(&mut self, text: &str) -> Result<()> {
        self.has_written |= !text.is_empty();
        let mut output = io::stdout().lock();
        let written = output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush());
        written.map_err(|error| Error::io("write", "standard output", error))
    }

    /// True if any output was written.
    pub fn has_written(&self) -> bool {
        self.has_written
    }

    /// Standard output for binary data.
    pub fn bytes(&mut self) -> impl Write {
        io::stdout().lock()
    }

    /// Writes a piece of thinking to standard error and flushes it.
    pub fn think(&self, text: &str) {
        let mut error = io::stderr().lock();
        // Thinking is not part of the answer, so a failed write does not fail the command.
        let _ = error
            .write_all(harmless(text).as_bytes())
            .and_then(|()| error.flush());
    }

    /// Writes the user's own text unchanged, except that a terminal gets no control characters.
    ///
    /// # Errors
    /// As [`Out::write`].
    pub fn plain(&mut self, text: &str) -> Result<()> {
        let text = self.sanitized(text).into_owned();
        self.write(&text)
    }

    fn sanitized<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.output_is_terminal {
            harmless(text).into()
        } else {
            text.into()
        }
    }

    /// Writes several lines of tab-separated fields; tabs, newlines and backslashes are escaped.
    ///
    /// # Errors
    /// As [`Out::write`].
    pub fn records(&mut self, records: &[Vec<String>]) -> Result<()> {
        let line = |fields: &Vec<String>| {
            fields
                .iter()
                .map(|field| escaped(&self.sanitized(field)))
                .collect::<Vec<_>>()
                .join("\t")
        };
        let text: String = records.iter().map(|fields| line(fields) + "\n").collect();
        self.write(&text)
    }

    /// Writes values as JSON, one per line.
    ///
    /// # Errors
    /// As [`Out::write`].
    pub fn json<T: serde::Serialize>(&mut self, values: &[T]) -> Result<()> {
        let text: String = values
            .iter()
            .map(|value| json::line(value) + "\n")
            .collect();
        self.write(&text)
    }

    /// Writes lines of tab-separated fields or, with `json`, objects whose fields have these names.
    ///
    /// # Errors
    /// As [`Out::write`].
    pub fn named(&mut self, json: bool, names: &[&str], records: &[Vec<Value>]) -> Result<()> {
        if json {
            let names = || names.iter().map(ToString::to_string);
            let object = |fields: &Vec<Value>| names().zip(fields.clone()).collect::<Map<_, _>>();
            return self.json(&records.iter().map(object).collect::<Vec<_>>());
        }
        let text = |field: &Value| field.as_str().map_or(field.to_string(), str::to_string);
        let line = |fields: &Vec<Value>| fields.iter().map(text).collect();
        self.records(&records.iter().map(line).collect::<Vec<_>>())
    }

    /// Writes a table with a header and aligned columns, for terminals. Cells under a name that begins with `>` are
    /// aligned to the right.
    ///
    /// # Errors
    /// As [`Out::write`].
    pub fn table(&mut self, header: &[&str], rows: &[Vec<String>]) -> Result<()> {
        let right: Vec<bool> = header.iter().map(|name| name.starts_with('>')).collect();
        let names = header
            .iter()
            .map(|name| name.trim_start_matches('>').to_string());
        let mut lines = vec![names.collect::<Vec<_>>()];
        lines.extend(rows.iter().cloned());
        self.write(&aligned(&lines, &right))
    }

    /// Prints a note on standard error after the program's name, unless quiet.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            complain(text);
        }
    }

    /// Notes how many tokens of a prompt were dropped, if any were. `whose` is the beginning of the note.
    pub fn note_dropped(&self, whose: &str, tokens: usize) {
        if tokens > 0 {
            self.note(&format!(
                "{whose}{tokens} tokens were dropped to make the prompt fit"
            ));
        }
    }

    /// Writes a line that the user asked for to standard error, unchanged, even if quiet.
    pub fn report(&self, line: &str) {
        // A failure to write standard error cannot be reported.
        let _ = writeln!(io::stderr(), "{line}");
    }

    /// A progress bar if standard error is a terminal; otherwise a hidden one.
    pub fn progress(&self, what: &str, unit: Unit) -> Progress {
        if self.shows_progress() {
            let target = ProgressDrawTarget::stderr_with_hz(10);
            let bar = ProgressBar::with_draw_target(Some(0), target);
            style(&bar, what, unit);
            Progress(bar)
        } else {
            Progress(ProgressBar::hidden())
        }
    }

    /// A progress bar for a load, which gets 0 to 1; it is cleared when this is dropped.
    pub fn loading(&self) -> impl FnMut(f32) + use<> {
        let progress = self.progress("loading", Unit::Percent);
        move |fraction| progress.show((fraction * 100.0) as u64, 100)
    }

    /// A line of text below everything else if standard error is a terminal; otherwise a hidden one.
    pub fn status_line(&self) -> StatusLine {
        if !self.shows_progress() {
            return StatusLine::hidden();
        }
        let target = ProgressDrawTarget::stderr_with_hz(5);
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::with_template("{wide_msg}").expect("a template of our own"));
        StatusLine(bar)
    }

    /// True if bars are shown: if standard error is a terminal, unless quiet.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && self.error_is_terminal
    }
}

fn style(bar: &ProgressBar, what: &str, unit: Unit) {
    bar.set_style(bar_style(match unit {
        Unit::Percent => "{msg} {wide_bar} {percent:>3}%",
        Unit::Bytes => {
            "{msg} {wide_bar} {decimal_bytes:>10} of {decimal_total_bytes} {decimal_bytes_per_sec} {eta}"
        }
    }));
    bar.set_message(what.to_string());
}

/// The style of a bar: in block characters, or in ASCII where the locale has no others.
pub fn bar_style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).expect("a template of our own");
    if has_unicode() {
        style
    } else {
        style.progress_chars("#> ")
    }
}

impl Default for Out {
    fn default() -> Self {
        Self::new()
    }
}

/// Prints an error or a note on standard error after the program's name.
pub fn complain(text: &str) {
    // A failure to write standard error cannot be reported.
    let text = harmless(text).replace('\n', "\\n");
    let _ = writeln!(io::stderr(), "puna: {text}");
}

/// True if standard output goes to this file.
pub fn is_output(file: &File) -> bool {
    let of = |file: BorrowedFd| rustix::fs::fstat(file).map(|stat| (stat.st_dev, stat.st_ino));
    of(file.as_fd()).ok() == of(io::stdout().as_fd()).ok()
}

/// Columns if the width of the terminal is unknown.
const COLUMNS: usize = 80;

/// Current number of columns of the terminal on standard error.
pub fn error_width() -> usize {
    columns(io::stderr())
}

/// Current number of columns of the terminal on standard output.
pub fn width() -> usize {
    columns(io::stdout())
}

fn columns(terminal: impl AsFd) -> usize {
    let size = rustix::termios::tcgetwinsize(terminal);
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { COLUMNS } else { columns }
}

/// The level of llama.cpp's log that the user asked for, and the sink that prints it.
///
/// # Errors
/// `Usage` for an unknown level.
pub fn log(level: Option<&str>) -> Result<(Level, Sink)> {
    let sink: Sink = |line| _ = writeln!(io::stderr(), "llama.cpp: {line}"); // As in `complain`.
    match level {
        None | Some("off") => Ok((Level::Off, sink)),
        Some("warn") => Ok((Level::Warn, sink)),
        Some("debug") => Ok((Level::Debug, sink)),
        Some(other) => Err(Error::usage(format!(
            "--log must be off, warn or debug, not '{other}'"
        ))),
    }
}

/// The unit of a progress bar.
#[derive(Debug, Clone, Copy)]
pub enum Unit {
    /// Percent.
    Percent,
    /// Bytes.
    Bytes,
}

/// A line that changes while a command works.
pub struct StatusLine(ProgressBar);

impl StatusLine {
    /// A line that never appears.
    pub fn hidden() -> Self {
        StatusLine(ProgressBar::hidden())
    }

    /// True if it appears on a terminal.
    pub fn is_shown(&self) -> bool {
        !self.0.is_hidden()
    }

    /// Shows another text.
    pub fn show(&self, text: String) {
        self.0.set_message(text);
    }

    /// Does what writes to the terminal, with the line out of its way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    /// Removes it.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// A progress bar that is cleared when it is dropped.
pub struct Progress(ProgressBar);

/// A bar appears only after this time.
const SHOW_AFTER: Duration = Duration::from_millis(300);

impl Progress {
    /// Shows that `done` of `total` units are complete.
    pub fn show(&self, done: u64, total: u64) {
        if !self.0.is_hidden() && self.0.elapsed() > SHOW_AFTER {
            self.0.set_length(total);
            self.0.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Text that is safe for a terminal: control characters other than newline and tab are removed, so
/// that a model cannot control the terminal.
pub fn harmless(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control() || matches!(c, '\n' | '\t'))
        .collect()
}

/// Escapes a field of a line: backslashes, tabs and line ends become a backslash and a letter or backslash.
pub fn escaped(field: &str) -> String {
    field
        .replace('\\', "\\\\")
        .replace('\t', "\\t")
        .replace('\r', "\\r")
        .replace('\n', "\\n")
}

/// Reverses [`escaped`]; a backslash before any other letter stays.
pub fn unescaped(field: &str) -> String {
    let mut plain = String::new();
    let mut rest = field;
    while let Some((before, from)) = rest.split_once('\\') {
        plain.push_str(before);
        let letter = from.chars().next();
        let meant = match letter {
            Some('t') => Some('\t'),
            Some('r') => Some('\r'),
            Some('n') => Some('\n'),
            Some('\\') => Some('\\'),
            _ => None,
        };
        plain.push(meant.unwrap_or('\\'));
        rest = if meant.is_some() { &from[1..] } else { from };
    }
    plain + rest
}

fn aligned(lines: &[Vec<String>], right: &[bool]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        lines
            .iter()
            .filter_map(|line| line.get(column))
            .map(|cell| cell.width())
            .max()
    };
    let widths: Vec<usize> = (0..columns)
        .map(|column| width(column).unwrap_or(0))
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| {
            let filling = " ".repeat(width.saturating_sub(cell.width()));
            if right.get(column) == Some(&true) {
                filling + cell
            } else {
                cell.clone() + &filling
            }
        });
        text.push_str(cells.collect::<Vec<_>>().join("    ").trim_end());
        text.push('\n');
    }
    text
}

/// A count of things with their name, in English.
pub fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {thing}{ending}")
}

/// Bytes in decimal units for people: `4.7 GB`.
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["TB", "GB", "MB", "KB"];
    for (power, unit) in (1..=4u32).rev().zip(UNITS) {
        let size = 1000u64.pow(power);
        if bytes >= size {
            let value = bytes as f64 / size as f64;
            return if value >= 10.0 || bytes.is_multiple_of(size) {
                format!("{} {unit}", bytes / size)
            } else {
                format!("{value:.1} {unit}")
            };
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1 KB"),
            (1234, "1.2 KB"),
            (9950, "9.9 KB"),
            (9999, "10.0 KB"),
            (10_000, "10 KB"),
            (999_999, "999 KB"),
            (4_661_224_676, "4.7 GB"),
            (10_000_000_000_000, "10 TB"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn fields_and_tables_are_lines() {
        assert_eq!(escaped("a\tb\\c\r\n"), "a\\tb\\\\c\\r\\n");
        assert_eq!(unescaped(&escaped("a\tb\\c\r\n")), "a\tb\\c\r\n");
        assert_eq!(unescaped("\\d+ \\"), "\\d+ \\");
        assert_eq!(
            aligned(
                &[
                    vec!["A".into(), "BB".into(), "CC".into()],
                    vec!["ccc".into(), "d".into(), "d".into()]
                ],
                &[false, true, false]
            ),
            "A      BB    CC\nccc     d    d\n"
        );
        let wide = aligned(
            &[
                vec!["草原".into(), "x".into()],
                vec!["ab".into(), "y".into()],
            ],
            &[],
        );
        assert_eq!(wide, "草原    x\nab      y\n");
        assert_eq!(harmless("a\x1b[31mb\u{7}\n\tc"), "a[31mb\n\tc");
    }
}
