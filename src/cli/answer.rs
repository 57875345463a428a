//! An answer on the command line: from this process or a server, printed as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::ask::Ask;
use super::out::{self, Out, Unit};
use super::parse::Parsed;
use super::shape::Shape;
use super::wrap::Wrap;
use crate::api::native::{ChatRequest, Common, GenerateRequest, Message as WireMessage};
use crate::api::options::to_json;
use crate::api::records::{self, ChatRecord, GenerateRecord, Record};
use crate::chat::{self, Part, Promise, Request, Turn};
use crate::client::{Client, Records};
use crate::config::Config;
use crate::duration;
use crate::engine::{BUILT_FOR_GPU, Level, Sink};
use crate::error::{Class, Error, Result};
use crate::machine;
use crate::message::{Delta, Finish, Message, Reason, Think, Usage};
use crate::model::{self, Model};
use crate::pool::{Policy, Pool};

/// How often an answer that comes from a server looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// A model in this process.
pub struct Here {
    pool: Pool,
    model: Model,
    log: (Level, Sink),
}

impl Here {
    /// Finds the model; it is loaded with the first answer.
    ///
    /// # Errors
    /// What is wrong with the name, the file, or `--log`.
    pub fn open(operand: &str, policy: Policy, parsed: &Parsed, config: &Config) -> Result<Self> {
        let log = out::log(parsed.value("log"))?;
        Ok(Here {
            model: model::open(&super::store(config), operand)?,
            pool: Pool::new(config.clone(), policy, log),
            log,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Starts an answer without a word about it.
    ///
    /// # Errors
    /// As [`Here::start`].
    pub fn quietly(&self, request: Request) -> Result<Turn> {
        chat::start(&self.pool, request, &mut |_| {})
    }

    /// Starts an answer, with the load's progress on a terminal.
    ///
    /// # Errors
    /// Everything that can be wrong with the model or the request.
    pub fn start(&self, request: Request, out: &Out) -> Result<Turn> {
        let progress = out.progress("loading", Unit::Percent);
        let turn = chat::start(&self.pool, request, &mut |fraction| {
            progress.show((fraction * 100.0) as u64, 100)
        })?;
        drop(progress);
        if self.log.0 == Level::Debug {
            turn.notes().iter().for_each(|note| out.note(note));
        }
        Ok(turn)
    }
}

/// Answers once in this process; returns where it was computed.
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
            format!("CPU (a GPU by {gpu} is there: {why})")
        }
        _ => turn.device(),
    };
    Ok(Some(device))
}

/// What takes an answer, piece by piece.
pub type Take<'a> = &'a mut dyn FnMut(Delta) -> Result<()>;

/// Lets a server answer.
///
/// # Errors
/// What the server says, or that it cannot be reached; what `take` says.
fn by_server(client: &Client, ask: &Ask, keep_alive: Option<&str>, take: Take) -> Result<()> {
    for (given, what) in [
        (matches!(ask.promise, Promise::Grammar(_)), "--grammar"),
        (ask.tool_choice.is_some(), "--tool-choice"),
        (ask.overflow.is_some(), "--overflow"),
    ] {
        if given {
            client.must_be_puna(what)?;
        }
    }
    let seconds = |text: &str| text.parse::<f64>().map_or_else(|_| text.into(), Into::into);
    let (format, grammar) = match &ask.promise {
        Promise::None => (None, String::new()),
        Promise::Json => (Some("json".into()), String::new()),
        Promise::Schema(schema) => (Some(schema.clone()), String::new()),
        Promise::Grammar(text) => (None, text.clone()),
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
        return take_records(records, take, &ask.promise, GenerateRecord::deltas);
    }
    let messages = ask.conversation();
    let body = ChatRequest {
        common,
        messages: messages.iter().map(WireMessage::from).collect(),
        tools: ask.tools.0.clone(),
    };
    let records: Records<ChatRecord> = client.post("/api/chat", &body)?;
    take_records(records, take, &ask.promise, ChatRecord::deltas)
}

/// The same, but ends as soon as `cancel` is set, also while the server says nothing: it answers a
/// thread of its own, which ends with its next word.
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
            // Nobody listens any more: the other side was quicker.
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

/// Hands on what a server answers. What was promised is checked here once more: not every server
/// keeps a promise.
fn take_records<T: serde::de::DeserializeOwned>(
    records: Records<T>,
    take: Take,
    promise: &Promise,
    deltas: impl Fn(T) -> Vec<Delta>,
) -> Result<()> {
    let mut text = String::new();
    for record in records {
        for delta in deltas(record?) {
            let reason = match &delta {
                Delta::Text(more) if *promise != Promise::None => {
                    text.push_str(more);
                    None
                }
                Delta::Finish(finish) => Some(finish.reason),
                _ => None,
            };
            take(delta)?;
            match reason {
                Some(Reason::Stop) => return promise.check(&text),
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }
    Err(Error::plain(
        Class::Network,
        "the server ended the answer in the middle",
    ))
}

/// Writes the answer: as it comes, or as one record at the end.
pub struct Printer<'a> {
    /// Where it goes.
    pub out: &'a mut Out,
    /// With `--json`, the record in the making.
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
    /// A printer for an answer of `model`.
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

    /// The same, with lines broken between words.
    pub fn wrapped(mut self) -> Self {
        self.wrap = Some(Wrap::default());
        self
    }

    /// The same, with the answer printed whole at its end, in a shape.
    pub fn shaped(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Prints a piece of the answer.
    ///
    /// # Errors
    /// `Closed` if the reader has gone, else what the system says.
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
            Delta::Text(_) if !self.shape.is_plain() => Ok(()), // Told at the end.
            Delta::Text(text) => self.text(&text),
            Delta::Call { index, call } => {
                let line = records::call_json(&call, index).to_string();
                let before = if self.wrote { "\n" } else { "" }; // A record has a line of its own.
                self.newlines = 1; // Text behind a record begins a line of its own.
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

    /// Newlines at the end of a text wait for more text, so that the answer ends with one.
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

    /// Writes the word that waits for its end.
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

    /// What was answered so far, as a message of the conversation.
    pub fn message(&self) -> Message {
        self.message.clone()
    }

    /// Ends an answer that was cut off.
    ///
    /// # Errors
    /// As [`Printer::print`].
    pub fn cut(mut self) -> Result<()> {
        self.end_thinking();
        // Of half an answer there may be nothing to show in that shape.
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

    /// Ends the answer.
    ///
    /// # Errors
    /// As [`Printer::print`]; and if the answer had no end.
    pub fn finish(mut self) -> Result<Finish> {
        self.end_thinking();
        let unended = || Error::failed("the answer stopped without an end");
        let finish = self.finish.take().ok_or_else(unended)?;
        match self.shape() {
            // What was promised and cut is told of by another status.
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

/// Prints what an answer cost, and where it was computed, on standard error.
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
