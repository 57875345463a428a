//! The three parts of `map`: who reads records, who answers them, and who prints.
//!
//! Records go to the workers and outcomes to the printer over channels; a record is read only when
//! one before it was printed, so that an endless input needs no memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::ask::Ask;
use super::contract;
use super::fill::Template;
use super::journal::{Journal, Outcome, key};
use super::out::{self, Out};
use super::records::{Format, Record, Records};
use crate::chat::{self, Promise, Request};
use crate::config::Config;
use crate::error::{Class, Error, Result};
use crate::message::{Delta, Finish, Message, Reason, Think};
use crate::model::Model;
use crate::pool::Pool;

/// How often a worker without work looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Records between reading and printing, for each answer at once: enough that a long one holds up
/// no others.
const WINDOW: usize = 8;

/// A prompt on its way to a worker.
struct Task {
    record: u64,
    input: Record,
    /// The prompt and its key, or what is wrong with the record.
    prompt: Result<(String, String)>,
}

/// A task that is done.
struct Done {
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
    /// How often a record is tried again that failed for a reason that may pass.
    pub retries: usize,
    /// How long the pauses are.
    pub config: Config,
    /// Set when nobody prints any more.
    pub stop: AtomicBool,
    /// Set when the time is over.
    pub over: Arc<AtomicBool>,
}

/// Where prompts come from.
pub struct Source {
    /// Their template.
    pub template: Template,
    /// What answers depend on beside their prompts.
    pub settings: String,
    /// How the records of standard input are written.
    pub format: Format,
}

/// Answers so many records at once, and prints the outcomes; returns how many failed.
///
/// # Errors
/// If input or output break, or what would be wrong with all records.
pub fn map(
    work: Work,
    source: Source,
    (jobs, journal): (usize, Option<Journal>),
    json: bool,
    out: &mut Out,
) -> Result<usize> {
    let window = WINDOW * jobs;
    let (permits, permitted) = sync_channel(window);
    let (to_workers, tasks) = sync_channel(window);
    let (to_printer, done) = channel();
    let reader = Reader {
        source,
        permits,
        to_workers,
    };
    let reading = thread::spawn(move || reader.read());
    let (work, tasks) = (Arc::new(work), Arc::new(Mutex::new(tasks)));
    let journal = journal.map(|journal| Arc::new(Mutex::new(journal)));
    let start = |_| {
        let (work, tasks, to_printer) = (work.clone(), tasks.clone(), to_printer.clone());
        let journal = journal.clone();
        thread::spawn(move || work.answer_all(&tasks, journal.as_deref(), &to_printer))
    };
    let workers: Vec<_> = (0..jobs).map(start).collect();
    drop((to_printer, tasks));
    let printer = Printer {
        json,
        answers_json: matches!(work.ask.promise, Promise::Json | Promise::Schema(_)),
        out,
        journal: journal.as_deref(),
        failures: 0,
    };
    let printed = printer.print_all(&done, &permitted);
    // However it ended: nothing may compute while the process ends.
    work.stop.store(true, Ordering::Relaxed);
    drop((done, permitted));
    for worker in workers {
        // A panic in it was told, and its record was missed.
        let _ = worker.join();
    }
    if work.over.load(Ordering::Relaxed) {
        return Err(Error::cancelled()); // The reader may wait for a line for ever.
    }
    let failures = printed?;
    // The workers have ended by themselves, so the reader has too.
    let read = reading.join();
    read.unwrap_or_else(|_| Err(Error::failed("reading standard input failed")))?;
    Ok(failures)
}

/// Reads records and makes prompts of them.
struct Reader {
    source: Source,
    /// Takes one for each record that is read and not printed yet.
    permits: SyncSender<()>,
    /// Where prompts go.
    to_workers: SyncSender<Task>,
}

impl Reader {
    /// Reads until the input ends or nobody prints any more.
    ///
    /// # Errors
    /// If the input cannot be read on; what was read before is answered.
    fn read(self) -> Result<()> {
        let mut records = Records::new(std::io::stdin().lock(), self.source.format);
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
                let prompt = self
                    .source
                    .template
                    .fill(&input.text, &|name| input.field(name));
                let keyed = prompt.map(|prompt| {
                    let key = key(&prompt, &self.source.settings);
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
    fn answer_all(
        &self,
        tasks: &Mutex<Receiver<Task>>,
        journal: Option<&Mutex<Journal>>,
        to_printer: &Sender<Result<Done>>,
    ) {
        while !self.is_over() {
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
            if self.is_over() {
                return; // What was cut is no outcome.
            }
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
            dropped: 0,
            ms: 0,
            error: None,
        };
        match prompt.and_then(|prompt| self.patiently(&prompt, &mut outcome)) {
            Ok(()) => {}
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => outcome.error = Some(error.to_string()),
        }
        outcome.ms = started.elapsed().as_millis() as u64;
        Ok(outcome)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.over.load(Ordering::Relaxed)
    }

    /// Answers a prompt, again if that may go better.
    fn patiently(&self, prompt: &str, outcome: &mut Outcome) -> Result<()> {
        let mut tries = 0;
        loop {
            match self.answer(prompt.to_string(), outcome) {
                Err(error) if tries < self.retries && contract::may_pass(&error) => {
                    contract::pause(tries, &self.config);
                    tries += 1;
                }
                done => return done,
            }
        }
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
        let finished = self.say(request, &mut said);
        outcome.output = self.in_one_line(said.content.trim());
        let Some(finish) = finished? else {
            return Ok(());
        };
        outcome.tokens = finish.usage.answer_tokens;
        outcome.dropped = finish.usage.truncated_tokens;
        if self.ask.promise != Promise::None && finish.reason == Reason::Length {
            return Err(Error::plain(
                Class::Cut,
                "the answer was cut before it was whole",
            ));
        }
        Ok(())
    }

    /// Adds to the message what is said, up to an error or the end.
    fn say(&self, request: Request, said: &mut Message) -> Result<Option<Box<Finish>>> {
        for delta in chat::start(&self.pool, request, &mut |_| {})? {
            let delta = delta?;
            if self.is_over() {
                return Err(Error::cancelled());
            }
            said.add(&delta);
            if let Delta::Finish(finish) = delta {
                return Ok(Some(finish));
            }
        }
        Ok(None)
    }

    /// JSON without the line breaks that it may have between its values.
    fn in_one_line(&self, text: &str) -> String {
        let json = matches!(self.ask.promise, Promise::Json | Promise::Schema(_));
        let value = json
            .then(|| serde_json::from_str::<Json>(text).ok())
            .flatten();
        value.map_or_else(|| text.to_string(), |value| value.to_string())
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
struct Printer<'a> {
    /// Outcomes are printed as JSON.
    json: bool,
    /// Answers are JSON: they stand on a line as they are.
    answers_json: bool,
    out: &'a mut Out,
    /// Where they are noted.
    journal: Option<&'a Mutex<Journal>>,
    /// Records that failed so far.
    failures: usize,
}

impl Printer<'_> {
    /// Prints all; returns how many failed.
    ///
    /// # Errors
    /// If the output cannot be written, or what would be wrong with all records.
    fn print_all(
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
        self.out
            .note_dropped(&format!("record {}: ", done.record + 1), outcome.dropped);
        if self.json {
            let mut record = serde_json::json!({
                "input": done.input,
                "output": outcome.output,
                "tokens": outcome.tokens,
                "ms": outcome.ms,
            });
            if outcome.dropped > 0 {
                record["dropped"] = outcome.dropped.into();
            }
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
