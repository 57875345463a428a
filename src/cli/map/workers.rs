//! The threads of `map`: one reads records, workers answer them, and the caller's thread prints (`printer.rs`).
//!
//! Records go to the workers and outcomes to the printer over channels. Once the window is full, a
//! record is read only after an earlier one was printed, so that an endless input needs bounded memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::decides::Decides;
use super::journal::{Done, Journal, Outcome, key};
use super::printer::{Header, Printer};
use super::progress::Position;
use super::template::Template;
use crate::cli::encoding::Encoding;
use crate::cli::records::{Format, Record, Records};
use crate::cli::run::turn_args::Ask;
use crate::cli::run_limits;
use crate::cli::shape::Shape;
use crate::core::error::{Class, Error, Result};
use crate::core::lock::LockExt;
use crate::core::message::{Delta, Finish, Message, Think};
use crate::core::name::nearest;
use crate::core::threads::spawn;
use crate::core::turn::{OutputConstraint, TurnRequest};
use crate::ops::backend::Backend;
use crate::ops::turn;
use crate::system::config::Config;

/// Interval at which an idle worker checks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Records between reading and printing, per concurrent answer: enough that a long answer does not
/// stall the other workers.
const WINDOW: usize = 8;

/// A record to be answered by a worker.
struct Task {
    record: u64,
    input: Record,
    /// The prompt and its journal key, or the record's error.
    prompt: Result<(String, String)>,
}

/// The state that all workers share.
pub struct Job {
    /// The loaded model, or a server.
    pub backend: Backend,
    /// The request of every record, without its prompt.
    pub ask: Ask,
    /// Decides instead of generating.
    pub decides: Option<Decides>,
    /// Retries per record after a failure that may be temporary.
    pub retries: usize,
    /// The changes to an answer before it is printed.
    pub shape: Shape,
    /// The configuration, which has the pause between retries.
    pub config: Config,
    /// Set once nothing is printed any more.
    pub stop: AtomicBool,
    /// Set once the deadline has passed.
    pub over: Arc<AtomicBool>,
}

/// The source of the prompts: records of standard input and a template.
pub struct Source {
    /// The template that turns a record into a prompt.
    pub template: Template,
    /// Everything that answers depend on besides their prompts.
    pub settings: String,
    /// The format of the records.
    pub format: Format,
    /// The encoding of the records.
    pub encoding: Encoding,
    /// Names of columns to add, which the records must not have.
    pub added: Vec<String>,
}

/// Answers up to `jobs` records at once and prints the outcomes; returns how many records failed.
///
/// # Errors
/// If input or output fail, or if an error would fail every record.
pub fn map(
    job: Job,
    source: Source,
    (jobs, journal): (usize, Option<Journal>),
    mut printer: Printer,
) -> Result<usize> {
    let window = WINDOW * jobs;
    let (permits, permitted) = sync_channel(window);
    let (to_workers, tasks) = sync_channel(window);
    let (to_printer, done) = channel();
    let reader = Reader {
        source,
        header: printer.header(),
        position: printer.position(),
        permits,
        to_workers,
    };
    let reading = spawn(move || reader.read())?;
    let (job, tasks) = (Arc::new(job), Arc::new(Mutex::new(tasks)));
    let journal = journal.map(|journal| Arc::new(Mutex::new(journal)));
    let start = |_| {
        let (job, tasks, to_printer) = (job.clone(), tasks.clone(), to_printer.clone());
        let journal = journal.clone();
        spawn(move || job.answer_all(&tasks, journal.as_deref(), &to_printer))
    };
    let workers = (0..jobs).map(start).collect::<Result<Vec<_>>>()?;
    drop((to_printer, tasks));
    let printed = printer.print_all(&done, &permitted, journal.as_deref());
    // In every case the workers must stop computing before the process exits.
    job.stop.store(true, Ordering::Relaxed);
    drop((done, permitted));
    for worker in workers {
        // A worker's panic was printed, and the printer noticed that its record is missing.
        let _ = worker.join();
    }
    if job.over.load(Ordering::Relaxed) {
        return Err(Error::cancelled()); // Do not join the reader: it may wait for a line forever.
    }
    printed?;
    // The workers have returned by themselves, so the reader has too.
    let read = reading.join();
    read.unwrap_or_else(|_| Err(Error::failed("reading standard input failed")))?;
    printer.finish()
}

/// Reads records and turns them into prompts.
struct Reader {
    source: Source,
    /// Gets the names of the columns before the first record goes to the workers.
    header: Arc<Header>,
    position: Arc<Position>,
    /// Contains one item for each record that is read and not printed yet.
    permits: SyncSender<()>,
    /// The queue of the workers.
    to_workers: SyncSender<Task>,
}

impl Reader {
    /// Reads until the input ends or the printer has stopped.
    ///
    /// # Errors
    /// If the input cannot be read; the records read before are still answered.
    fn read(self) -> Result<()> {
        let stdin = std::io::stdin().lock();
        let mut records = Records::new(stdin, self.source.format, self.source.encoding);
        for number in 0.. {
            if self.permits.send(()).is_err() {
                return Ok(()); // The printer has stopped.
            }
            let record = records.next()?;
            if number == 0
                && let Some(names) = records.names()
            {
                self.check(&names)?;
                // This is the only place that sets it, once.
                let _ = self.header.set(names);
            }
            let Some(record) = record else {
                return Ok(());
            };
            self.position
                .bytes
                .store(records.bytes(), Ordering::Relaxed);
            self.position.records.store(number + 1, Ordering::Relaxed);
            if self.to_workers.send(self.task(number, record)).is_err() {
                return Ok(()); // The workers have stopped.
            }
        }
        Ok(())
    }

    /// Checks the names of the columns: those of the prompt must be there, and those to add must not.
    fn check(&self, names: &[String]) -> Result<()> {
        let count = |name: &str| names.iter().filter(|known| *known == name).count();
        for name in self.source.template.fields() {
            let text = match count(name) {
                0 => {
                    let near = nearest(name, names.iter().map(String::as_str));
                    let near = near.first().map(|near| format!(": is it {near}?"));
                    let near = near.unwrap_or_default();
                    format!("the first line names no column '{name}'{near}")
                }
                1 => continue,
                _ => format!("the first line names two columns '{name}'"),
            };
            return Err(Error::usage(text));
        }
        match self.source.added.iter().find(|name| count(name) > 0) {
            Some(name) => Err(Error::usage(format!("there is a column '{name}' already"))),
            None => Ok(()),
        }
    }

    fn task(&self, record: u64, input: Record) -> Task {
        let prompt = self.prompt(&input).map(|prompt| {
            let key = key(&prompt, &self.source.settings);
            (prompt, key)
        });
        Task {
            record,
            input,
            prompt,
        }
    }

    /// The prompt for a record.
    fn prompt(&self, input: &Record) -> Result<String> {
        input.check()?;
        if let Some(name) = self.source.added.iter().find(|name| input.has_member(name)) {
            let text = format!("it has a member '{name}' already");
            return Err(Error::usage(text));
        }
        let template = &self.source.template;
        template.fill(&input.text, &|name| input.field(name))
    }
}

impl Job {
    /// Answers tasks until the queue is closed or the run is over.
    fn answer_all(
        &self,
        tasks: &Mutex<Receiver<Task>>,
        journal: Option<&Mutex<Journal>>,
        to_printer: &Sender<Result<Done>>,
    ) {
        while !self.is_over() {
            let waiting = tasks.locked();
            let task = waiting.recv_timeout(LOOK);
            drop(waiting);
            let task = match task {
                Ok(task) => task,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let key = task.prompt.as_ref().ok().map(|(_, key)| key.clone());
            let old = journal.zip(key.as_deref()).and_then(|(journal, key)| {
                let journal = journal.locked();
                journal.done(task.record, key).cloned()
            });
            let is_old = old.is_some();
            let outcome =
                old.map_or_else(|| self.outcome(task.prompt.map(|(prompt, _)| prompt)), Ok);
            if self.is_over() {
                return; // A cancelled answer is not an outcome.
            }
            let done = outcome.map(|outcome| Done {
                record: task.record,
                input: task.input,
                key,
                outcome,
                is_old,
            });
            if to_printer.send(done).is_err() {
                return; // The printer has stopped.
            }
        }
    }

    /// The outcome of a prompt; an error of this record is part of its outcome.
    ///
    /// # Errors
    /// Errors that would fail every other record too, such as a model that does not load.
    fn outcome(&self, prompt: Result<String>) -> Result<Outcome> {
        let started = Instant::now();
        let mut outcome = Outcome {
            output: String::new(),
            thinking: None,
            probability: None,
            tokens: 0,
            dropped: 0,
            cut: None,
            ms: 0,
            error: None,
        };
        match prompt.and_then(|prompt| self.with_retries(&prompt, &mut outcome)) {
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

    /// Answers a prompt, with retries after failures that may be temporary.
    fn with_retries(&self, prompt: &str, outcome: &mut Outcome) -> Result<()> {
        let mut tries = 0;
        loop {
            match self.answer(prompt.to_string(), outcome) {
                Err(error) if tries < self.retries && run_limits::may_pass(&error) => {
                    run_limits::pause(tries, &self.config);
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
        if let (Some(decides), Backend::Local(local)) = (&self.decides, &self.backend) {
            let (answer, probability) = decides.answer(local, ask, &self.over)?;
            outcome.output = answer;
            outcome.probability = probability;
            return Ok(());
        }
        let mut turn = ask.turn();
        if self.thinks() {
            turn.think.get_or_insert(Think::Off);
        }
        let mut message = Message::default();
        let finished = self.collect(turn, &mut message);
        outcome.output = self.in_one_line(message.content.trim());
        outcome.thinking = message.thinking.clone();
        let Some(finish) = finished? else {
            return Ok(());
        };
        outcome.tokens = finish.usage.answer_tokens;
        outcome.dropped = finish.usage.truncated_tokens;
        outcome.cut = turn::cut(&self.ask.turn, self.backend.model(), &finish);
        self.ask.turn.check_complete(&message, finish.reason)?;
        self.shape.values(&outcome.output).map(drop)
    }

    /// Adds the answer's deltas to the message, up to an error or the end.
    fn collect(&self, turn: TurnRequest, message: &mut Message) -> Result<Option<Box<Finish>>> {
        // An answer of this process sets its flag when it ends, so that each has its own.
        let cancel = match &self.backend {
            Backend::Local(_) => Arc::default(),
            Backend::Remote(_) => self.over.clone(),
        };
        let answer = self
            .backend
            .start(turn, &cancel, Instant::now(), &mut |_| {})?;
        for delta in answer {
            let delta = delta?;
            if self.is_over() {
                return Err(Error::cancelled());
            }
            message.add(&delta);
            if let Delta::Finish(finish) = delta {
                return Ok(Some(finish));
            }
        }
        Ok(None)
    }

    /// The answer; if it is JSON, without line breaks between its values.
    fn in_one_line(&self, text: &str) -> String {
        let json = matches!(
            self.ask.turn.constraint,
            OutputConstraint::Json | OutputConstraint::Schema(_)
        );
        let value = json
            .then(|| serde_json::from_str::<Json>(text).ok())
            .flatten();
        value.map_or_else(|| text.to_string(), |value| value.to_string())
    }

    /// True if the model can think. Thinking is turned off by default, because only answers are printed.
    fn thinks(&self) -> bool {
        let Backend::Local(local) = &self.backend else {
            return true; // Turning it off is no mistake with any model.
        };
        let template_choice = local.pool().template_choice(local.model());
        template_choice.is_ok_and(|template_choice| template_choice.can("thinking"))
    }
}

/// True for errors that would fail every other record too. The model is loaded by then.
fn is_fatal(error: &Error) -> bool {
    matches!(
        error.class(),
        Class::Memory
            | Class::Damaged
            | Class::NoModel
            | Class::NoText
            | Class::Schema
            | Class::Denied
            | Class::Network
    )
}
