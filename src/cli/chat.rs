//! `puna chat`: a conversation over standard input and output, one message per line, so that a shell
//! script can be the loop that runs tools.

use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::deadline::Deadline;
use super::encoding::{ENCODING, Encoding};
use super::flag::{Flag, Group, HOST, QUIET, option, switch};
use super::model_notes;
use super::out::{self, Out};
use super::parsed::Parsed;
use super::records::{Format, Records};
use super::run::answer;
use super::run::turn_args::{Ask, OVERFLOWS};
use super::run::turn_flags::{
    FORMAT, GRAMMAR, MESSAGES, OPEN, OPTION, SCHEMA, SEED, STOP, SYSTEM, TEMPERATURE, THINK,
    TOOL_CHOICE, TOOLS,
};
use super::run_limits;
use super::stdin::Input;
use super::table::{Command, ONE_MODEL, PLAIN, RECORDS_FAILED};
use super::transcript::{self, CONTINUE, TRANSCRIPT, Transcript, checked_message};
use crate::core::error::{Class, Error, Result};
use crate::core::json;
use crate::core::message::{Delta, Message};
use crate::format::wire::native;
use crate::ops::backend::Backend;
use crate::ops::pool::Policy;
use crate::system::client::Client;
use crate::system::config::Config;

pub const COMMAND: Command = Command {
    name: "chat",
    summary: "answer each line of standard input as a turn of a conversation",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        JSONL,
        ENCODING,
        SYSTEM,
        MESSAGES,
        OPTION,
        SEED,
        TEMPERATURE,
        NUM_PREDICT,
        NUM_CTX,
        THINK,
        TOOLS,
        TOOL_CHOICE,
        FORMAT,
        SCHEMA,
        OPEN,
        GRAMMAR,
        STOP,
        TRANSCRIPT,
        CONTINUE,
        HOST,
        QUIET,
    ],
    about: &[
        "Reads one message per line from standard input and prints the answer to each as a line, as soon as it is \
         complete. The model is loaded once, and earlier messages are not computed again.",
        "With --jsonl a line is a message of the API: an object with role and content. A message of role user is \
         answered; messages of role tool are answered once there is one for each call that the model made. Messages \
         of role system or assistant are only added. The answer is such an object too, with tool_calls and thinking \
         if the model produced them. If a message cannot be answered, it is dropped from the conversation, an object \
         with error is printed, and the status is 14.",
        "Without --jsonl a line is a prompt, and the answer is one line of text, escaped as in every list.",
    ],
    examples: &[
        (
            "printf '%s\\n' 'My name is Anna.' 'Who am I?' | puna chat smol -n 30",
            "two turns of a conversation",
        ),
        (
            "puna chat smol --jsonl --tools tools.json < turns.jsonl",
            "a conversation with function calls",
        ),
    ],
    limits: run_limits::FLAGS,
    run,
    completes: ONE_MODEL,
    ..PLAIN
};

const JSONL: Flag = switch("jsonl", None, "read and print JSON messages, as in the API");
pub const NUM_PREDICT: Flag =
    option("num-predict", Some('n'), "N", "generate at most N tokens").in_group(Group::Limits);
const NUM_CTX: Flag = option(
    "num-ctx",
    None,
    "N",
    "context size in tokens (default: the server's)",
)
.in_group(Group::Limits);

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let jsonl = parsed.has(&JSONL);
    let mut chat = Chat {
        ask: Ask::without_prompt(parsed, OVERFLOWS)?,
        backend: backend(&parsed.operands[0], context.model_server(parsed)?, config)?,
        deadline: Deadline::new()?,
        transcript: Transcript::open(transcript::path(parsed))?,
        calls: 0,
        turn: Vec::new(),
        unsaved: None,
    };
    if let Some(model) = chat.backend.model() {
        model_notes::print(model, &chat.ask.turn.options, out);
    }
    let format = if jsonl { Format::Json } else { Format::Lines };
    let mut records = Records::new(Input::new(), format, Encoding::read(parsed)?);
    let mut failures = 0;
    while let Some(record) = records.next()? {
        let message = record.check().and_then(|()| {
            if jsonl {
                message(&record.text)
            } else {
                match record.text.trim() {
                    "" => Err(Error::usage("the prompt is empty")),
                    _ => Ok(Message::new("user", record.text)),
                }
            }
        });
        let reply = match message.and_then(|message| chat.add(message, out)) {
            Ok(None) => continue,
            Err(error) if is_fatal(&error) => return Err(error),
            reply => reply.map(Option::unwrap_or_default),
        };
        if let Err(error) = &reply {
            failures += 1;
            out.note(&error.to_string());
        }
        match (reply, jsonl) {
            (Ok(reply), true) => out.write(&transcript::line(&reply))?,
            (Ok(reply), false) => out.records(&[vec![out::harmless(reply.content.trim())]])?,
            (Err(error), true) => {
                let failure = serde_json::json!({ "error": error.to_string() });
                out.write(&(json::line(&failure) + "\n"))?;
            }
            (Err(_), false) => out.write("\n")?, // Output line N answers input line N.
        }
        if let Some(error) = chat.unsaved.take() {
            return Err(error);
        }
    }
    chat.save_rest()?;
    match failures {
        0 => return Ok(()),
        1 => out::complain("1 message was not answered"),
        count => out::complain(&format!("{count} messages were not answered")),
    }
    context.end_with(RECORDS_FAILED);
    Ok(())
}

fn backend(model: &str, server: Option<Client>, config: &Config) -> Result<Backend> {
    if let Some(client) = server {
        return Ok(Backend::Remote(Arc::new(client)));
    }
    let local = answer::open(model, Policy::Session, out::log(None)?, config)?;
    local.model().must_generate()?;
    Ok(Backend::Local(Box::new(local)))
}

/// Parses a message of the API.
fn message(line: &str) -> Result<Message> {
    let message = serde_json::from_str::<native::Message>(line);
    let message = message.map_err(|error| Error::usage(format!("not a message: {error}")))?;
    let message = checked_message(message)?;
    if message.role == "user" && message.content.trim().is_empty() {
        return Err(Error::usage("a message of the role user needs content"));
    }
    Ok(message)
}

/// True for errors that would fail every other message too.
fn is_fatal(error: &Error) -> bool {
    !matches!(
        error.class(),
        Class::Usage | Class::TooLong | Class::Cut | Class::Failed | Class::Busy
    )
}

/// The conversation.
struct Chat {
    ask: Ask,
    backend: Backend,
    deadline: Deadline,
    transcript: Option<Transcript>,
    /// Calls of the model that have no result yet.
    calls: usize,
    /// Messages since the last answer.
    turn: Vec<Message>,
    /// The error of a transcript that could not be written, once its answer is printed.
    unsaved: Option<Error>,
}

impl Chat {
    /// Adds a message; returns the answer if the message is to be answered.
    fn add(&mut self, message: Message, out: &Out) -> Result<Option<Message>> {
        let answers = match message.role.as_str() {
            "user" => true,
            "tool" => {
                self.calls = self.calls.saturating_sub(1);
                self.calls == 0
            }
            _ => false,
        };
        self.turn.push(message);
        if !answers {
            return Ok(None);
        }
        let turn = std::mem::take(&mut self.turn);
        let before = self.ask.messages.len();
        self.ask.messages.extend(turn.iter().cloned());
        let reply = self.deadline.check(self.answer(out)).inspect_err(|_| {
            self.ask.messages.truncate(before);
            self.calls = 0;
        })?;
        self.calls = reply.tool_calls.len();
        self.ask.messages.push(reply.clone());
        if let Some(transcript) = &mut self.transcript {
            let turn: Vec<Message> = turn.into_iter().chain([reply.clone()]).collect();
            self.unsaved = transcript.add(self.ask.system.as_deref(), &turn).err();
        }
        Ok(Some(reply))
    }

    /// Writes messages that came after the last answer.
    fn save_rest(&mut self) -> Result<()> {
        let rest = std::mem::take(&mut self.turn);
        match &mut self.transcript {
            Some(transcript) if !rest.is_empty() => {
                transcript.add(self.ask.system.as_deref(), &rest)
            }
            _ => Ok(()),
        }
    }

    fn answer(&self, out: &Out) -> Result<Message> {
        let mut reply = Message::new("assistant", "");
        let mut end = None;
        let cancel = self.deadline.flag();
        for delta in answer::start(&self.backend, self.ask.turn(), &cancel, Instant::now(), out)? {
            let delta = delta?;
            reply.add(&delta);
            if let Delta::Finish(finish) = delta {
                end = Some(finish);
            }
        }
        if let Some(finish) = end {
            self.ask.turn.check_complete(&reply, finish.reason)?;
            answer::report_cut(&self.backend, &self.ask.turn, &finish, false, out)?;
        }
        Ok(reply)
    }
}
