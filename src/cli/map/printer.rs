//! Prints what `map` has answered, in the order of the records.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::Value as Json;

use super::journal::{Done, Journal, Outcome};
use super::progress::{Position, Progress, TICK};
use crate::cli::out::{self, Out};
use crate::cli::records::{Record, csv_row};
use crate::cli::shape::{self, Shape};
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::lock::LockExt;

/// The names of the columns of the records, once they are read.
pub type Header = OnceLock<Arc<Vec<String>>>;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line for each answer.
    Lines,
    /// Rows of TSV behind a line of names.
    Tabs,
    /// Rows of CSV behind a row of names.
    Commas,
    /// The records, JSON objects, with the answers as further members.
    Objects,
    /// Objects with input, output, tokens and time.
    Json,
}

/// How outcomes are printed.
pub struct Layout {
    /// The form of the output.
    pub form: Form,
    /// The changes to an answer before it is printed.
    pub shape: Shape,
    /// Names of columns or members that are added to the records; empty: only answers are printed.
    pub added: Vec<String>,
    /// A choice's probability is printed behind it.
    pub has_probability: bool,
    /// Answers are JSON on one line.
    pub answers_json: bool,
}

/// Prints outcomes in the order of their records.
pub struct Printer<'a> {
    layout: Layout,
    out: &'a mut Out,
    header: Arc<Header>,
    /// The row of names is printed.
    has_header: bool,
    position: Arc<Position>,
    progress: Progress,
    /// Records that failed so far.
    failures: usize,
}

impl<'a> Printer<'a> {
    /// A printer; with `lines`, progress is told in lines.
    pub fn new(layout: Layout, lines: bool, out: &'a mut Out) -> Self {
        let position = Arc::<Position>::default();
        Printer {
            layout,
            header: Arc::default(),
            has_header: false,
            progress: Progress::new(position.clone(), lines, out),
            position,
            out,
            failures: 0,
        }
    }

    /// Where the names of the columns are to be stored.
    pub fn header(&self) -> Arc<Header> {
        self.header.clone()
    }

    /// Where it is to be stored what was read.
    pub fn position(&self) -> Arc<Position> {
        self.position.clone()
    }

    /// Prints all outcomes.
    ///
    /// # Errors
    /// If the output cannot be written, or if an error would fail every record.
    pub fn print_all(
        &mut self,
        done: &Receiver<Result<Done>>,
        permitted: &Receiver<()>,
        journal: Option<&Mutex<Journal>>,
    ) -> Result<()> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        loop {
            let outcome = match done.recv_timeout(TICK) {
                Ok(outcome) => outcome?,
                Err(RecvTimeoutError::Timeout) => {
                    self.progress.look();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            waiting.insert(outcome.record, outcome);
            while let Some(outcome) = waiting.remove(&next) {
                self.print(outcome, journal)?;
                next += 1;
                // The reader may have returned already.
                let _ = permitted.try_recv();
            }
        }
        if waiting.is_empty() {
            Ok(())
        } else {
            Err(Error::failed(format!("record {} has no outcome", next + 1)))
        }
    }

    /// Ends the output; returns how many records failed.
    ///
    /// # Errors
    /// If the output cannot be written.
    pub fn finish(mut self) -> Result<usize> {
        self.print_header()?;
        self.progress.finish();
        Ok(self.failures)
    }

    fn print(&mut self, done: Done, journal: Option<&Mutex<Journal>>) -> Result<()> {
        self.print_header()?;
        if let (Some(journal), Some(key), false) = (journal, &done.key, done.is_old) {
            let mut journal = journal.locked();
            journal.note(done.record, key, &done.outcome)?;
        }
        let Done {
            record,
            input,
            mut outcome,
            ..
        } = done;
        let values = match &outcome.error {
            Some(_) => None,
            None => Some(self.layout.values(&outcome)),
        };
        let values = values.transpose().unwrap_or_else(|error| {
            // An answer of the journal that these flags cannot take apart.
            outcome.error = Some(error.to_string());
            None
        });
        let label = format!("record {}: ", record + 1);
        let failed = outcome.error.is_some();
        self.failures += usize::from(failed);
        let (layout, out, progress) = (&self.layout, &mut *self.out, &self.progress);
        progress.aside(|| {
            out.note_dropped(&label, outcome.dropped);
            if let Some(why) = outcome.error.as_ref().or(outcome.cut.as_ref()) {
                out.note(&format!("{label}{why}"));
            }
            layout.print(&input, outcome, values, out)
        })?;
        self.progress.count(failed);
        Ok(())
    }

    fn print_header(&mut self) -> Result<()> {
        let Some(columns) = self.header.get().filter(|_| !self.has_header) else {
            return Ok(());
        };
        self.has_header = true;
        let columns: Vec<String> = if self.layout.added.is_empty() {
            Vec::new()
        } else {
            columns.to_vec()
        };
        let names = self.layout.names();
        let names: Vec<String> = columns.into_iter().chain(names).collect();
        match self.layout.form {
            Form::Tabs => self.out.write(&(names.join("\t") + "\n")),
            Form::Commas => self.out.write(&(csv_row(&names) + "\n")),
            _ => Ok(()),
        }
    }
}

impl Layout {
    /// The parts of an answer.
    fn values(&self, outcome: &Outcome) -> Result<Vec<Json>> {
        let mut values = self.shape.values(&outcome.output)?;
        let wanted =
            self.has_probability && (self.added.is_empty() || self.added.len() > values.len());
        if let (true, Some(p)) = (wanted, outcome.probability) {
            values.push(match self.form {
                Form::Objects => p.into(),
                _ => format!("{p:.2}").into(),
            });
        }
        Ok(values)
    }

    /// The names of the answer's columns.
    fn names(&self) -> Vec<String> {
        let fields = self.shape.fields();
        match (self.added.is_empty(), fields.is_empty()) {
            (false, _) => self.added.clone(),
            (true, false) => fields.to_vec(),
            (true, true) if self.has_probability => vec!["output".into(), "probability".into()],
            (true, true) => vec!["output".to_string()],
        }
    }

    /// Prints a record; `values` are the parts of its answer, `None` if it failed.
    fn print(
        &self,
        input: &Record,
        outcome: Outcome,
        values: Option<Vec<Json>>,
        out: &mut Out,
    ) -> Result<()> {
        let values = values.unwrap_or_else(|| vec![Json::Null; self.names().len()]);
        let cells = || {
            values
                .iter()
                .map(|value| out::harmless(&shape::text(value)))
        };
        match self.form {
            Form::Json => out.write(&record(input, outcome)),
            Form::Lines if self.answers_json && self.shape.fields().is_empty() => {
                let line: String = cells().collect();
                out.write(&(line + "\n"))
            }
            Form::Lines => out.records(&[cells().collect()]),
            Form::Tabs => {
                let row = self.row(input, cells().map(|cell| out::escaped(&cell)).collect());
                out.plain(&(row.join("\t") + "\n"))
            }
            Form::Commas => {
                let row = self.row(input, cells().collect());
                out.plain(&(csv_row(&row) + "\n"))
            }
            Form::Objects => {
                let mut more = serde_json::Map::new();
                for (name, value) in self.added.iter().zip(values) {
                    // A record that has such a member keeps its own.
                    if !input.has_member(name) {
                        more.insert(name.clone(), self.member(value));
                    }
                }
                if let Some(error) = outcome.error {
                    more.insert("error".to_string(), error.into());
                }
                out.write(&with_members(input, &more))
            }
        }
    }

    /// A row of the output: the record's cells, the answer's, and those of the record that no column names.
    fn row(&self, input: &Record, answer: Vec<String>) -> Vec<String> {
        if self.added.is_empty() {
            return answer;
        }
        let (own, surplus) = input.cells().split_at(input.columns());
        [own, &answer, surplus].concat()
    }

    /// A part of an answer as a member of an object: a whole answer that is JSON is one, not its text.
    fn member(&self, value: Json) -> Json {
        match value.as_str() {
            Some(text) if self.answers_json && self.shape.fields().is_empty() => {
                serde_json::from_str(text).unwrap_or(value)
            }
            _ => value,
        }
    }
}

/// A record and its outcome as a line of JSON; the record is written as it was read.
fn record(input: &Record, outcome: Outcome) -> String {
    let mut record = serde_json::json!({
        "output": outcome.output,
        "tokens": outcome.tokens,
        "ms": outcome.ms,
    });
    if let Some(thinking) = outcome.thinking {
        record["thinking"] = thinking.into();
    }
    if let Some(probability) = outcome.probability {
        record["probability"] = probability.into();
    }
    if outcome.dropped > 0 {
        record["dropped"] = outcome.dropped.into();
    }
    if let Some(cut) = outcome.cut {
        record["cut"] = cut.into();
    }
    if let Some(error) = outcome.error {
        record["error"] = error.into();
    }
    format!(
        "{{\"input\":{},{}\n",
        input.json(),
        &json::line(&record)[1..]
    )
}

/// The object of a record with further members behind its own, which are written as they were read. Another record is
/// the member `input`.
fn with_members(input: &Record, more: &serde_json::Map<String, Json>) -> String {
    let more = json::line(more);
    let more = &more[1..];
    match input.object().and_then(|object| object.strip_suffix('}')) {
        Some(own) if more == "}" => format!("{own}}}\n"),
        Some(own) if own.trim_end().ends_with('{') => format!("{own}{more}\n"),
        Some(own) => format!("{own},{more}\n"),
        None => format!("{{\"input\":{},{more}\n", input.json()),
    }
}
