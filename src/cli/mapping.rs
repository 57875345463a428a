//! The three parts of `map`: who reads records, who answers them, and who prints.
//!
//! Records go to the workers and outcomes to the printer over channels; a record is read only when
//! one before it was printed, so that an endless input needs no memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::ask::Ask;
use super::fill::Template;
use super::journal::{Journal, Outcome, key};
use super::out::{self, Out};
use super::records::{Format, Record, Records};
use crate::chat::{self, Promise, Request};
use crate::error::{Class, Error, Result};
use crate::message::{Delta, Message, Reason, Think};
use crate::model::Model;
use crate::pool::Pool;

/// How often a worker without work looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// A prompt on its way to a worker.
pub struct Task {
    record: u64,
    input: Record,
    /// The prompt and its key, or what is wrong with the record.
    prompt: Result<(String, String)>,
}

/// A task that is done.
pub struct Done {
    record: u64,
    input: Json,
    key: Option<String>,
    outcome: Outcome,
    /// It stands in the journal already.
    is_old: bool,
}

/// What all workers share.
pub struct Work {
    /// The engine.
    pub pool: Pool,
    /// The model.
    pub model: Model,
    /// What each record is asked with; only the prompt differs.
    pub ask: Ask,
    /// Set when nobody prints any more.
    pub stop: AtomicBool,
}

/// Reads records and makes prompts of them.
pub struct Reader {
    /// The prompts' template.
    pub template: Template,
    /// What answers depend on beside their prompts.
    pub settings: String,
    /// Takes one for each record that is read and not printed yet.
    pub permits: SyncSender<()>,
    /// Where prompts go.
    pub to_workers: SyncSender<Task>,
}

impl Reader {
    /// Reads until the input ends or nobody prints any more.
    ///
    /// # Errors
    /// If the input cannot be read on; what was read before is answered.
    pub fn read(self, format: Format) -> Result<()> {
        let mut records = Records::new(std::io::stdin().lock(), format);
        for number in 0.. {
            if self.permits.send(()).is_err() {
                return Ok(()); // Nobody prints any more.
            }
            let Some(record) = records.next()? else {
                return Ok(());
            };
            if self.to_workers.send(self.task(number, record)).is_err() {
                return Ok(()); // As above.
            }
        }
        Ok(())
    }

    fn task(&self, record: u64, read: Result<Record>) -> Task {
        match read {
            Ok(input) => {
                let prompt = self.template.fill(&input.text, &|name| input.field(name));
                let keyed = prompt.map(|prompt| {
                    let key = key(&prompt, &self.settings);
                    (prompt, key)
                });
                Task {
                    record,
                    input,
                    prompt: keyed,
                }
            }
            Err(error) => Task {
                record,
                input: Record::default(),
                prompt: Err(error),
            },
        }
    }
}

impl Work {
    /// Answers tasks until there are no more.
    pub fn answer_all(
        &self,
        tasks: &Mutex<Receiver<Task>>,
        journal: Option<&Mutex<Journal>>,
        to_printer: &Sender<Result<Done>>,
    ) {
        while !self.stop.load(Ordering::Relaxed) {
            let waiting = tasks
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            let task = waiting.recv_timeout(LOOK);
            drop(waiting);
            let task = match task {
                Ok(task) => task,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let key = task.prompt.as_ref().ok().map(|(_, key)| key.clone());
            let old = journal.zip(key.as_deref()).and_then(|(journal, key)| {
                let journal = journal
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                journal.done(task.record, key).cloned()
            });
            let is_old = old.is_some();
            let outcome =
                old.map_or_else(|| self.outcome(task.prompt.map(|(prompt, _)| prompt)), Ok);
            let done = outcome.map(|outcome| Done {
                record: task.record,
                input: task.input.json(),
                key,
                outcome,
                is_old,
            });
            if to_printer.send(done).is_err() {
                return; // Nobody prints any more.
            }
        }
    }

    /// The answer to a prompt. What is wrong with one record is its outcome.
    ///
    /// # Errors
    /// What would be wrong with all others too: a model that does not load.
    fn outcome(&self, prompt: Result<String>) -> Result<Outcome> {
        let started = Instant::now();
        let mut outcome = Outcome {
            output: String::new(),
            tokens: 0,
            ms: 0,
            error: None,
        };
        match prompt.and_then(|prompt| self.answer(prompt, &mut outcome)) {
            Ok(()) => {}
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => outcome.error = Some(error.to_string()),
        }
        outcome.ms = started.elapsed().as_millis() as u64;
        Ok(outcome)
    }

    fn answer(&self, prompt: String, outcome: &mut Outcome) -> Result<()> {
        if prompt.trim().is_empty() {
            return Err(Error::usage("the prompt is empty"));
        }
        let ask = Ask {
            prompt,
            ..self.ask.clone()
        };
        let request = ask.request(&self.model);
        let request = Request {
            think: request.think.or(self.thinks().then_some(Think::Off)),
            ..request
        };
        let mut said = Message::default();
        for delta in chat::start(&self.pool, request, &mut |_| {})? {
            let delta = delta?;
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::cancelled());
            }
            said.add(&delta);
            outcome.output = said.content.trim().to_string();
            if let Delta::Finish(finish) = delta {
                outcome.tokens = finish.usage.answer_tokens;
                outcome.output = self.in_one_line(std::mem::take(&mut outcome.output));
                if self.ask.promise != Promise::None && finish.reason == Reason::Length {
                    return Err(Error::plain(
                        Class::Cut,
                        "the answer was cut before it was whole",
                    ));
                }
            }
        }
        Ok(())
    }

    /// JSON without the line breaks that it may have between its values.
    fn in_one_line(&self, text: String) -> String {
        let json = matches!(self.ask.promise, Promise::Json | Promise::Schema(_));
        let value = json
            .then(|| serde_json::from_str::<Json>(&text).ok())
            .flatten();
        value.map_or(text, |value| value.to_string())
    }

    /// True if the model would think before each answer: of a record only the answer is wanted.
    fn thinks(&self) -> bool {
        let dialect = self.pool.dialect(&self.model);
        dialect.is_ok_and(|dialect| dialect.can("thinking"))
    }
}

/// True for what no other record would fare better with. The model is loaded by then.
fn is_fatal(error: &Error) -> bool {
    matches!(
        error.class(),
        Class::Memory
            | Class::Damaged
            | Class::NoModel
            | Class::NoText
            | Class::Schema
            | Class::Denied
    )
}

/// Prints outcomes in their order.
pub struct Printer<'a> {
    /// Outcomes are printed as JSON.
    pub json: bool,
    /// Answers are JSON: they stand on a line as they are.
    pub answers_json: bool,
    /// Where they go.
    pub out: &'a mut Out,
    /// Where they are noted.
    pub journal: Option<&'a Mutex<Journal>>,
    /// Records that failed so far.
    pub failures: usize,
}

impl Printer<'_> {
    /// Prints all; returns how many failed.
    ///
    /// # Errors
    /// If the output cannot be written, or what would be wrong with all records.
    pub fn print_all(
        mut self,
        done: &Receiver<Result<Done>>,
        permitted: &Receiver<()>,
    ) -> Result<usize> {
        let mut waiting = BTreeMap::new();
        let mut next = 0;
        for outcome in done {
            let outcome = outcome?;
            waiting.insert(outcome.record, outcome);
            while let Some(outcome) = waiting.remove(&next) {
                self.print(outcome)?;
                next += 1;
                // The reader may be done.
                let _ = permitted.try_recv();
            }
        }
        match waiting.is_empty() {
            true => Ok(self.failures),
            false => Err(Error::failed(format!("record {} was lost", next + 1))),
        }
    }

    fn print(&mut self, done: Done) -> Result<()> {
        let outcome = done.outcome;
        if let (Some(journal), Some(key), false) = (self.journal, &done.key, done.is_old) {
            let mut journal = journal
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            journal.note(done.record, key, &outcome)?;
        }
        if let Some(error) = &outcome.error {
            self.failures += 1;
            self.out
                .note(&format!("record {}: {error}", done.record + 1));
        }
        if self.json {
            let mut record = serde_json::json!({
                "input": done.input,
                "output": outcome.output,
                "tokens": outcome.tokens,
                "ms": outcome.ms,
            });
            if let Some(error) = outcome.error {
                record["error"] = error.into();
            }
            return self.out.json(&[record]);
        }
        let text = match outcome.error {
            Some(_) => String::new(),
            None => out::harmless(&outcome.output),
        };
        match self.answers_json {
            true => self.out.write(&(text + "\n")),
            false => self.out.records(&[vec![text]]),
        }
    }
}
