//! An answer on the command line: from this process or a server, printed as it is generated.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::turn_args::Ask;
use crate::cli::context;
use crate::cli::out::{self, Out, Unit};
use crate::cli::parsed::Parsed;
use crate::cli::repl::wrap::Wrap;
use crate::cli::shape::Shape;
use crate::core::duration;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Delta, Finish, Message, Reason, Think, Usage};
use crate::core::turn::{OutputConstraint, Part};
use crate::format::wire::native::encode::{ChatRecord, GenerateRecord, Record};
use crate::format::wire::native::{ChatRequest, Common, GenerateRequest, Message as WireMessage};
use crate::format::wire::options::to_json;
use crate::ops::model::{self, Model};
use crate::ops::pool::{Policy, Pool};
use crate::ops::turn::{self, Request, Turn};
use crate::system::client::{Client, Records};
use crate::system::config::Config;
use crate::system::engine::{BUILT_FOR_GPU, Level, Sink};
use crate::system::machine;

/// Interval at which an answer from a server checks for cancellation.
const LOOK: Duration = Duration::from_millis(50);

/// A model that runs in this process.
pub struct Here {
    pool: Pool,
    model: Model,
    log: (Level, Sink),
}

impl Here {
    /// Finds the model in the store; the first answer loads it.
    ///
    /// # Errors
    /// If the model's name or file, or the value of `--log`, is wrong.
    pub fn open(operand: &str, policy: Policy, parsed: &Parsed, config: &Config) -> Result<Self> {
        let log = out::log(parsed.value("log"))?;
        Ok(Here {
            model: model::open(&context::store(config), operand)?,
            pool: Pool::new(config.clone(), policy, log),
            log,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Starts an answer without progress or notes.
    ///
    /// # Errors
    /// As [`Here::start`].
    pub fn quietly(&self, request: Request) -> Result<Turn> {
        turn::start(&self.pool, request, &mut |_| {})
    }

    /// Starts an answer and shows the load's progress on a terminal.
    ///
    /// # Errors
    /// If the model cannot be loaded or the request is invalid.
    pub fn start(&self, request: Request, out: &Out) -> Result<Turn> {
        let progress = out.progress("loading", Unit::Percent);
        let turn = turn::start(&self.pool, request, &mut |fraction| {
            progress.show((fraction * 100.0) as u64, 100)
        })?;
        drop(progress);
        if self.log.0 == Level::Debug {
            turn.notes().iter().for_each(|note| out.note(note));
        }
        Ok(turn)
    }
}

/// Answers once in this process; returns the name of the device that computed the answer.
///
/// # Errors
/// As [`Here::open`] and [`Here::start`].
pub fn here(
    ask: &Ask,
    parsed: &Parsed,
    config: &Config,
    (started, cancel): (Instant, &Arc<AtomicBool>),
    printer: &mut Printer,
) -> Result<Option<String>> {
    let here = Here::open(&ask.model, Policy::OneShot, parsed, config)?;
    let request = Request {
        started,
        cancel: cancel.clone(),
        ..ask.request(&here.model)
    };
    let mut turn = here.start(request, printer.out)?;
    for delta in &mut turn {
        printer.print(delta?)?;
    }
    let device = match machine::gpus().first() {
        Some(gpu) if turn.device() == "CPU" && ask.options.int("num_gpu") != Some(0) => {
            let why = match BUILT_FOR_GPU {
                true => "its driver does not answer",
                false => "see 'make help' for a build that uses it",
            };
            format!("CPU (this machine has a GPU by {gpu}: {why})")
        }
        _ => turn.device(),
    };
    Ok(Some(device))
}

/// A callback that receives an answer delta by delta.
pub type Take<'a> = &'a mut dyn FnMut(Delta) -> Result<()>;

/// Sends the request to a server and passes its answer to `take`.
///
/// # Errors
/// The server's error, `Network` if it cannot be reached, or an error from `take`.
fn by_server(client: &Client, ask: &Ask, keep_alive: Option<&str>, take: Take) -> Result<()> {
    for (given, what) in [
        (
            matches!(ask.constraint, OutputConstraint::Grammar(_)),
            "--grammar",
        ),
        (ask.tool_choice.is_some(), "--tool-choice"),
        (ask.overflow.is_some(), "--overflow"),
    ] {
        if given {
            client.must_be_puna(what)?;
        }
    }
    let seconds = |text: &str| text.parse::<f64>().map_or_else(|_| text.into(), Into::into);
    let (format, grammar) = match &ask.constraint {
        OutputConstraint::None => (None, String::new()),
        OutputConstraint::Json => (Some("json".into()), String::new()),
        OutputConstraint::Schema(schema) => (Some(schema.clone()), String::new()),
        OutputConstraint::Grammar(text) => (None, text.clone()),
    };
    let common = Common {
        model: ask.model.clone(),
        stream: Some(true),
        options: to_json(&ask.options),
        keep_alive: keep_alive.map(seconds),
        truncate: Some(ask.forgets),
        shift: Some(false),
        think: ask.think.map(|think| match think {
            Think::On | Think::Off => think.is_on().into(),
            Think::Level(_) => think.level().into(),
        }),
        format,
        grammar,
        tool_choice: ask.tool_choice.clone(),
        overflow: ask.overflow.map_or("", Part::word).to_string(),
        ..Common::default()
    };
    if ask.raw {
        let body = GenerateRequest {
            common,
            prompt: ask.prompt.clone(),
            raw: true,
            ..GenerateRequest::default()
        };
        let records: Records<GenerateRecord> = client.post("/api/generate", &body)?;
        return take_records(records, take, &ask.constraint, GenerateRecord::deltas);
    }
    let messages = ask.conversation();
    let body = ChatRequest {
        common,
        messages: messages.iter().map(WireMessage::from).collect(),
        tools: ask.tools.0.clone(),
    };
    let records: Records<ChatRecord> = client.post("/api/chat", &body)?;
    take_records(records, take, &ask.constraint, ChatRecord::deltas)
}

/// As [`by_server`], but returns as soon as `cancel` is set, even while the server is silent: a separate
/// thread reads the answer and stops at the next delta.
///
/// # Errors
/// As [`by_server`]; `Cancelled`.
pub fn by_server_until(
    client: &Arc<Client>,
    ask: &Ask,
    keep_alive: Option<String>,
    cancel: &AtomicBool,
    take: Take,
) -> Result<()> {
    let (sender, receiver) = sync_channel::<Result<Delta>>(16);
    let (client, ask) = (client.clone(), ask.clone());
    thread::spawn(move || {
        let mut take = |delta| sender.send(Ok(delta)).map_err(|_| Error::cancelled());
        if let Err(error) = by_server(&client, &ask, keep_alive.as_deref(), &mut take) {
            // The receiver has returned already.
            let _ = sender.send(Err(error));
        }
    });
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(delta) => take(delta?)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::cancelled());
        }
    }
}

/// Passes on a server's deltas. Checks the output constraint again, because not every server
/// enforces it.
fn take_records<T: serde::de::DeserializeOwned>(
    records: Records<T>,
    take: Take,
    constraint: &OutputConstraint,
    deltas: impl Fn(T) -> Vec<Delta>,
) -> Result<()> {
    let mut text = String::new();
    for record in records {
        for delta in deltas(record?) {
            let reason = match &delta {
                Delta::Text(more) if *constraint != OutputConstraint::None => {
                    text.push_str(more);
                    None
                }
                Delta::Finish(finish) => Some(finish.reason),
                _ => None,
            };
            take(delta)?;
            match reason {
                Some(Reason::Stop) => return crate::ops::turn::check(constraint, &text),
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }
    Err(Error::plain(
        Class::Network,
        "the server closed the connection before the answer was complete",
    ))
}

/// Writes the answer as it is generated, or as one record at the end.
pub struct Printer<'a> {
    /// The output streams.
    pub out: &'a mut Out,
    /// With `--json`, the record under construction.
    record: Option<GenerateRecord>,
    shows_thinking: bool,
    thinks: bool,
    wrote: bool,
    newlines: usize,
    wrap: Option<Wrap>,
    shape: Shape,
    message: Message,
    finish: Option<Finish>,
}

impl<'a> Printer<'a> {
    /// A printer for an answer from `model`. With `json` it prints one record at the end.
    pub fn new(out: &'a mut Out, model: &str, json: bool, shows_thinking: bool) -> Self {
        Printer {
            out,
            record: json.then(|| GenerateRecord::new(model)),
            shows_thinking,
            thinks: false,
            wrote: false,
            newlines: 0,
            wrap: None,
            shape: Shape::default(),
            message: Message::new("assistant", ""),
            finish: None,
        }
    }

    /// Breaks lines between words.
    pub fn wrapped(mut self) -> Self {
        self.wrap = Some(Wrap::default());
        self
    }

    /// Prints the answer in this shape once it is complete.
    pub fn shaped(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Prints a delta of the answer.
    ///
    /// # Errors
    /// `Closed` if the reader has gone, else the system's error.
    pub fn print(&mut self, delta: Delta) -> Result<()> {
        self.message.add(&delta);
        if let Some(record) = &mut self.record {
            if let Delta::Finish(finish) = &delta {
                self.finish = Some(Finish {
                    context: Vec::new(),
                    ..(**finish).clone()
                });
            }
            record.add(delta);
            return Ok(());
        }
        match delta {
            Delta::Thinking(text) if self.shows_thinking => {
                self.thinks = true;
                self.out.think(&text);
                Ok(())
            }
            Delta::Thinking(_) | Delta::Logprob(_) => Ok(()),
            Delta::Text(_) if !self.shape.is_plain() => Ok(()), // Printed at the end.
            Delta::Text(text) => self.text(&text),
            Delta::Call { index, call } => {
                let line = crate::format::wire::native::calls::call_json(&call, index).to_string();
                let before = if self.wrote { "\n" } else { "" }; // A call starts on a new line.
                self.newlines = 1; // Text after a call starts on a new line.
                self.wrote = true;
                self.end_thinking();
                self.flush()?;
                self.out.write(&format!("{before}{line}"))
            }
            Delta::Finish(finish) => {
                self.finish = Some(*finish);
                Ok(())
            }
        }
    }

    /// Prints text. Trailing newlines wait for more text, so that the answer ends with exactly one.
    fn text(&mut self, text: &str) -> Result<()> {
        let text = out::harmless(text);
        let body = text.trim_end_matches('\n');
        let newlines = text.len() - body.len();
        if body.is_empty() {
            self.newlines += newlines;
            return Ok(());
        }
        self.end_thinking();
        self.wrote = true;
        let held = "\n".repeat(std::mem::replace(&mut self.newlines, newlines));
        let text = held + body;
        match &mut self.wrap {
            Some(wrap) => self.out.write(&wrap.push(&text, out::width())),
            None => self.out.write(&text),
        }
    }

    /// Writes the answer in its shape, if it has one.
    fn shape(&mut self) -> Result<()> {
        let answer = std::mem::take(&mut self.message.content);
        if self.shape.is_plain() || (answer.is_empty() && self.wrote) {
            return Ok(());
        }
        let text = self.shape.apply(&out::harmless(&answer))?;
        self.text(&text)
    }

    /// Writes the word that wrapping has buffered.
    fn flush(&mut self) -> Result<()> {
        match &mut self.wrap {
            Some(wrap) => self.out.write(&wrap.finish(out::width())),
            None => Ok(()),
        }
    }

    fn end_thinking(&mut self) {
        if std::mem::take(&mut self.thinks) {
            self.out.think("\n");
        }
    }

    /// The answer so far, as an assistant message.
    pub fn message(&self) -> Message {
        self.message.clone()
    }

    /// Finishes an answer that was cut off.
    ///
    /// # Errors
    /// As [`Printer::print`].
    pub fn cut(mut self) -> Result<()> {
        self.end_thinking();
        // Half an answer may have nothing to show in that shape.
        if let Err(error) = self.shape()
            && error.class() == Class::Closed
        {
            return Err(error);
        }
        self.flush()?;
        match self.record {
            Some(record) => self.out.json(&[record]),
            None => self.out.write("\n"),
        }
    }

    /// Finishes the answer.
    ///
    /// # Errors
    /// As [`Printer::print`], and if the answer had no final record.
    pub fn finish(mut self) -> Result<Finish> {
        self.end_thinking();
        let unended = || Error::failed("the answer has no final record");
        let finish = self.finish.take().ok_or_else(unended)?;
        match self.shape() {
            // The caller reports a cut answer with its own status.
            Err(_) if self.shape.reads_json() && finish.reason != Reason::Stop => {
                return Ok(finish);
            }
            shaped => shaped?,
        }
        self.flush()?;
        match self.record {
            Some(mut record) => {
                record.context.clear();
                self.out.json(&[record])?;
            }
            None => self.out.write("\n")?,
        }
        Ok(finish)
    }
}

/// Prints the token counts, durations and device of an answer on standard error.
pub fn tell_timings(out: &Out, usage: &Usage, device: Option<&str>) {
    let line = |label: &str, value: String| out.tell(&format!("{label:<22}{value}"));
    line("total duration:", duration::display(usage.total));
    line("load duration:", duration::display(usage.load));
    line(
        "prompt eval count:",
        format!("{} token(s)", usage.prompt_tokens),
    );
    if usage.cached_tokens > 0 {
        line(
            "prompt cached count:",
            format!("{} token(s)", usage.cached_tokens),
        );
    }
    line("prompt eval duration:", duration::display(usage.prompt));
    line("prompt eval rate:", rate(usage.prompt_tokens, usage.prompt));
    line("eval count:", format!("{} token(s)", usage.answer_tokens));
    line("eval duration:", duration::display(usage.answer));
    line("eval rate:", rate(usage.answer_tokens, usage.answer));
    if let Some(device) = device {
        line("device:", device.to_string());
    }
}

fn rate(tokens: usize, duration: Duration) -> String {
    match duration.as_secs_f64() {
        0.0 => "-".into(),
        seconds => format!("{:.2} tokens/s", tokens as f64 / seconds),
    }
}
