//! `puna run` on a terminal without a prompt: an interactive session of prompts and answers.
//!
//! Only this file uses rustyline.

pub mod actions;
pub mod commands;
pub mod session;
pub mod wrap;

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, ColorMode, CompletionType, Context, Editor, Helper, KeyEvent};

use super::out::{self, Out};
use super::run::answer::{self, Printer};
use super::run::args::RunArgs;
use super::run::turn_args::{self, Ask};
use super::signals::Interrupt;
use super::silence::Silence;
use super::transcript::Transcript;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Message, Usage};
use crate::core::turn::Overflow;
use crate::ops::backend::Backend;
use crate::system::config::Config;
use commands::{Completion, ReplCommand};
use session::Session;

/// Hint on the first, empty line.
const HINT: &str = "Send a message (/? for help)";
/// Hint on an empty line of a prompt that `"""` has started.
const OPEN_HINT: &str = "... (\"\"\" ends the prompt)";
/// Lines of history that are stored.
const HISTORY_MAX: usize = 1000;

type Input = Editor<InputHelper, FileHistory>;

/// Runs a session until the user leaves.
///
/// # Errors
/// If the terminal, the model or the server fails at the start. Later failures are printed, and the
/// session continues.
pub fn talk(
    mut backend: Backend,
    ask: Ask,
    args: &RunArgs,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    let interrupt = Interrupt::on_signal()?;
    let mut transcript = Transcript::open(args.transcript.as_deref())?;
    let mut session = Session {
        verbose: args.verbose,
        wraps: args.wraps,
        keeps_history: config.history.is_some(),
        shows_thinking: args.shows_thinking,
        saved: Vec::new(),
        attached: Vec::new(),
        unanswered: None,
        keeps_all: transcript.is_some(),
        ask: if args.must_fit { ask } else { forgetting(ask) },
    };
    let mut input = editor(config).map_err(unreadable)?;
    if let Backend::Local(local) = &backend {
        replay(&local.model().messages, out)?;
    }
    loop {
        let line = match input.readline(">>> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                out.write("Use Ctrl + d or /bye to exit.\n")?;
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            // One wrong byte does not end a conversation.
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                survive(&Error::usage("the line is not UTF-8 and was dropped"), out)?;
                continue;
            }
            Err(error) => return Err(unreadable(error)),
        };
        if commands::unquoted(line.trim()).trim().is_empty() {
            continue;
        }
        remember(&mut input, &line, &session, config);
        let mut turning = TurnRunner {
            backend: &backend,
            interrupt: &interrupt,
            transcript: &mut transcript,
        };
        if !line.trim_start().starts_with('/') || session::dragged(&line).is_some() {
            if let Some(prompt) = prompt(&line, &mut session, &mut input, out)? {
                turning.run(&mut session, prompt, out)?;
            }
            continue;
        }
        match commands::parse(&line) {
            Ok(ReplCommand::Bye) => return Ok(()),
            Ok(ReplCommand::Retry) => turning.again(&mut session, out)?,
            Ok(command) => {
                let done = actions::execute(command, &mut session, &mut backend, args, config, out);
                done.or_else(|error| survive(&error, out))?;
            }
            Err(error) => match error.to_string() {
                help if help.starts_with(' ') => out.report(&help),
                _ => survive(&error, out)?,
            },
        }
    }
}

/// The prompt for a line. If the line is the path of a dragged file, it asks whether to attach the file.
fn prompt(
    line: &str,
    session: &mut Session,
    input: &mut Input,
    out: &mut Out,
) -> Result<Option<Message>> {
    let Some(path) = session::dragged(line) else {
        return Ok(Some(session.prompt(commands::unquoted(line.trim()))));
    };
    let question = format!("Attach {path} to the next prompt? [y/N] ");
    match input.readline(&question) {
        Ok(answer) if answer.trim().eq_ignore_ascii_case("y") => {
            match turn_args::attachment(&path, session.ask.encoding) {
                Ok(text) => session.attached.push(text),
                Err(error) => survive(&error, out)?,
            }
            Ok(None)
        }
        Ok(_) => Ok(Some(session.prompt(line.trim()))),
        Err(_) => Ok(None),
    }
}

/// The state that a turn needs besides the session.
struct TurnRunner<'a> {
    backend: &'a Backend,
    interrupt: &'a Interrupt,
    transcript: &'a mut Option<Transcript>,
}

impl TurnRunner<'_> {
    /// Answers the last prompt again. Its answer stays until there is another whole one.
    fn again(&mut self, session: &mut Session, out: &mut Out) -> Result<()> {
        if let Some(prompt) = session.unanswered.take() {
            return self.run(session, prompt, out).map(drop);
        }
        let before = session.ask.messages.clone();
        let Some(prompt) = session.undo() else {
            return survive(&Error::usage("no prompt to answer again"), out);
        };
        let had_answer = before.last().is_some_and(|last| last.role == "assistant");
        if !self.run(session, prompt, out)? && had_answer {
            session.unanswered = None;
            session.ask.messages = before;
            out.note("the earlier answer stays");
        }
        Ok(())
    }

    /// Sends the prompt, prints the answer and adds both to the conversation. After a failure it prints the
    /// error; the prompt is not in the conversation, and can be sent again. Returns true for a whole answer.
    fn run(&mut self, session: &mut Session, prompt: Message, out: &mut Out) -> Result<bool> {
        session.unanswered = None;
        session.ask.messages.push(prompt.clone());
        self.interrupt.forget();
        let mut printer = Printer::new(out, &session.ask.turn.model, false, session.shows_thinking);
        if session.wraps {
            printer = printer.wrapped();
        }
        let answered = self.answer(&session.ask, &mut printer);
        let reply = printer.message();
        let finish = match answered {
            Ok(device) => Some((printer.finish()?, device)),
            Err(error) if error.class() == Class::Cancelled => {
                printer.cut()?;
                None
            }
            Err(error) => {
                printer.fail();
                session.unanswered = session.ask.messages.pop();
                return survive(&error, out).map(|()| false);
            }
        };
        if !reply.content.is_empty() || !reply.tool_calls.is_empty() {
            session.ask.messages.push(reply.clone());
            if let Some(transcript) = self.transcript {
                let added = transcript.add(session.ask.system.as_deref(), &[prompt, reply]);
                added.or_else(|error| survive(&error, out))?;
            }
        }
        out.write("\n")?;
        let is_whole = finish.is_some();
        if let Some((finish, device)) = finish {
            let is_first = session.ask.messages.len() <= 2;
            print_usage(&finish.usage, is_first, out);
            if session.verbose {
                answer::print_timings(out, &finish.usage, device.as_deref());
            }
            answer::report_cut(self.backend, &session.ask.turn, &finish, false, out)?;
        }
        Ok(is_whole)
    }

    /// Prints the answer; returns the device that computed it.
    fn answer(&self, ask: &Ask, printer: &mut Printer) -> Result<Option<String>> {
        let cancel = self.interrupt.flag();
        let _silence = Silence::new();
        let mut answer = answer::start(
            self.backend,
            ask.turn(),
            &cancel,
            Instant::now(),
            printer.out,
        )?;
        answer::print(&mut answer, printer)?;
        Ok(answer::device(&answer, &ask.turn.options))
    }
}

/// A session drops its oldest messages if the conversation does not fit, unless the user chose otherwise.
fn forgetting(mut ask: Ask) -> Ask {
    if ask.turn.overflow == Overflow::Error {
        ask.turn.overflow = Overflow::Truncate;
    }
    ask
}

/// Notes what was dropped; `is_first` is true if there was one prompt only.
fn print_usage(usage: &Usage, is_first: bool, out: &Out) {
    let what = match is_first {
        true => "the prompt does not fit the context",
        false => "the start of the conversation no longer fits the context",
    };
    if usage.truncated_tokens > 0 {
        let dropped = usage.truncated_tokens;
        out.note(&format!("{what}: {dropped} tokens were dropped"));
    }
}

/// Prints an error so that the session can continue, unless the terminal is gone.
fn survive(error: &Error, out: &Out) -> Result<()> {
    match error.class() {
        Class::Closed => Err(Error::plain(Class::Closed, "the terminal is gone")),
        _ => {
            out.report(&format!("error: {error}"));
            Ok(())
        }
    }
}

/// Prints the messages of the model's Modelfile.
fn replay(messages: &[Message], out: &mut Out) -> Result<()> {
    for message in messages {
        let text = out::harmless(&message.content);
        match message.role.as_str() {
            "user" => out.write(&format!(">>> {text}\n"))?,
            "assistant" => out.write(&format!("{text}\n\n"))?,
            _ => {}
        }
    }
    Ok(())
}

fn unreadable(error: ReadlineError) -> Error {
    Error::failed(format!("cannot read from the terminal: {error}"))
}

fn editor(config: &Config) -> rustyline::Result<Input> {
    let colour = if config.plain {
        ColorMode::Disabled
    } else {
        ColorMode::Enabled
    };
    let settings = rustyline::Config::builder()
        .max_history_size(HISTORY_MAX)?
        .completion_type(CompletionType::List)
        .color_mode(colour)
        .bracketed_paste(true)
        .build();
    let mut input = Editor::with_config(settings)?;
    input.bind_sequence(KeyEvent::ctrl('J'), Cmd::Newline);
    input.set_helper(Some(InputHelper {
        config: config.clone(),
        files: FilenameCompleter::new(),
        has_sent: AtomicBool::new(false),
    }));
    if let Some(path) = &config.history {
        // Before the first session the file does not exist.
        let _ = input.load_history(path);
    }
    Ok(input)
}

/// Adds a line to the history of this session and, if enabled, to the history file.
fn remember(input: &mut Input, line: &str, session: &Session, config: &Config) {
    // A line that cannot be stored is only missing from the history.
    let _ = input.add_history_entry(line);
    let Some(path) = config.history.as_ref().filter(|_| session.keeps_history) else {
        return;
    };
    let folder = path.parent().map(PathBuf::from).unwrap_or_default();
    let _ = std::fs::create_dir_all(folder);
    let _ = input.append_history(path);
}

/// The line editor's helper: hint, completion, and input of several lines.
struct InputHelper {
    config: Config,
    files: FilenameCompleter,
    has_sent: AtomicBool,
}

impl Helper for InputHelper {}

impl Validator for InputHelper {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        self.has_sent.store(true, Ordering::Relaxed);
        Ok(if commands::is_open(context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl Hinter for InputHelper {
    type Hint = String;

    /// The hint on an empty line, until the first line was sent, and in a text of several lines.
    fn hint(&self, line: &str, at: usize, _: &Context) -> Option<String> {
        if commands::is_open(line) && at == line.len() && line.ends_with('\n') {
            return Some(OPEN_HINT.to_string());
        }
        let new = !self.has_sent.load(Ordering::Relaxed);
        (new && line.is_empty()).then(|| HINT.to_string())
    }
}

impl Highlighter for InputHelper {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[90m{hint}\x1b[0m"))
    }
}

impl Completer for InputHelper {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &Context,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let pair = |word: String| Pair {
            display: word.trim_end().to_string(),
            replacement: word,
        };
        match commands::complete(&line[..at]) {
            Completion::Words(start, words) => Ok((start, words.into_iter().map(pair).collect())),
            Completion::Model(start) => {
                let typed = &line[start..at];
                let names = actions::names(&self.config).into_iter();
                let fitting = names.filter(|name| name.starts_with(typed));
                Ok((start, fitting.map(pair).collect()))
            }
            Completion::File => self.files.complete(line, at, context),
            Completion::None => Ok((at, Vec::new())),
        }
    }
}
