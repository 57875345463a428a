//! An answer on the command line: from this process or a server, printed as it is generated.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::cli::context;
use crate::cli::out::{self, Out};
use crate::cli::repl::wrap::Wrap;
use crate::cli::shape::Shape;
use crate::cli::waiting::Waiting;
use crate::core::duration;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Delta, Finish, Message, Reason, Usage};
use crate::core::options::Options;
use crate::core::turn::TurnRequest;
use crate::format::wire::native::encode::{GenerateRecord, Record};
use crate::ops::backend::{Answer, Backend, Local};
use crate::ops::pool::Policy;
use crate::ops::turn;
use crate::system::config::Config;
use crate::system::engine::{BUILT_FOR_GPU, Level, Sink};
use crate::system::machine;

/// Finds the model of a command in the store; the first answer loads it.
///
/// # Errors
/// If the model's name or file is wrong.
pub fn open(operand: &str, policy: Policy, log: (Level, Sink), config: &Config) -> Result<Local> {
    Local::open(operand, &context::store(config), config, policy, log)
}

/// Starts a turn and shows the load's progress on a terminal.
///
/// # Errors
/// As [`Backend::start`].
pub fn start(
    backend: &Backend,
    turn: TurnRequest,
    cancel: &Arc<AtomicBool>,
    started: Instant,
    out: &Out,
) -> Result<Answer> {
    let answer = backend.start(turn, cancel, started, &mut out.loading())?;
    if matches!(backend, Backend::Local(local) if local.level() == Level::Debug) {
        answer.notes().iter().for_each(|note| out.note(note));
    }
    Ok(answer)
}

/// Prints an answer as it comes; until then a terminal is told what it waits for.
///
/// # Errors
/// The answer's own, and those of [`Printer::print`].
pub fn print(answer: &mut Answer, printer: &mut Printer) -> Result<()> {
    let waiting = Waiting::for_answer(printer.out, answer.prompt_progress());
    let first = answer.next();
    drop(waiting);
    first.map_or(Ok(()), |delta| printer.print(delta?))?;
    answer.try_for_each(|delta| printer.print(delta?))
}

/// Notes that a limit cut an answer, if one did.
///
/// # Errors
/// `Cut` if it has to be whole.
pub fn report_cut(
    backend: &Backend,
    turn: &TurnRequest,
    finish: &Finish,
    whole: bool,
    out: &Out,
) -> Result<()> {
    match turn::cut(turn, backend.model(), finish) {
        Some(text) if whole => Err(Error::plain(Class::Cut, text)),
        Some(text) => {
            out.note(&text);
            Ok(())
        }
        None => Ok(()),
    }
}

/// The device that computed an answer, for `--verbose`; a CPU build that sees a GPU says so.
pub fn device(answer: &Answer, options: &Options) -> Option<String> {
    let device = answer.device()?;
    let gpus = machine::gpus();
    let gpu = gpus
        .first()
        .filter(|_| device == "CPU" && options.int("num_gpu") != Some(0));
    Some(match gpu {
        Some(gpu) => {
            let why = if BUILT_FOR_GPU {
                "its driver does not answer"
            } else {
                "see 'make help' for a build that uses it"
            };
            format!("CPU (this machine has a GPU by {gpu}: {why})")
        }
        None if answer.copies_weights() => format!("{device}, weights copied into its layout"),
        None => device,
    })
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
        for name in self.shape.missing(&answer) {
            self.out.note(&format!("the answer has no field '{name}'"));
        }
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
            None if self.wrote => self.out.write("\n"),
            None => Ok(()),
        }
    }

    /// Ends the line of an answer that failed.
    pub fn fail(mut self) {
        if self.wrote && self.record.is_none() {
            // The failure of the answer is the one to report.
            let _ = self.flush().and_then(|()| self.out.write("\n"));
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
pub fn print_timings(out: &Out, usage: &Usage, device: Option<&str>) {
    let line = |label: &str, value: String| out.report(&format!("{label:<22}{value}"));
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
    let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    line("prompt eval rate:", rate(computed, usage.prompt));
    line("eval count:", format!("{} token(s)", usage.answer_tokens));
    if usage.draft_tokens > 0 {
        let (kept, all) = (usage.draft_tokens_kept, usage.draft_tokens);
        line("drafts kept:", format!("{kept} of {all} token(s)"));
    }
    line("eval duration:", duration::display(usage.answer));
    // The first token comes with the prompt, so that one alone takes no time.
    let answer = if usage.answer_tokens > 1 {
        usage.answer
    } else {
        Duration::ZERO
    };
    line("eval rate:", rate(usage.answer_tokens, answer));
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
