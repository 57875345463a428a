//! `puna chat`: a conversation over standard input, a message a line in and one a line out, so that a
//! shell script can be the loop that runs tools.

use std::sync::Arc;
use std::time::Instant;

use super::answer::{self, Here};
use super::ask::{
    Ask, FORMAT, GRAMMAR, MESSAGES, OPTION, SCHEMA, SEED, SYSTEM, TEMPERATURE, THINK, TOOL_CHOICE,
    TOOLS,
};
use super::contract::Deadline;
use super::input::Input;
use super::out::{self, Out};
use super::parse::Parsed;
use super::records::{Format, Records};
use super::shape::STOP;
use super::spec::{Command, Completes, HOST, QUIET, option, switch};
use super::transcript::{self, CONTINUE, TRANSCRIPT, Transcript};
use crate::api::native;
use crate::chat::{Promise, Request};
use crate::client::Client;
use crate::config::Config;
use crate::duration::KeepAlive;
use crate::error::{Class, Error, Result};
use crate::json;
use crate::message::{Delta, Message, Reason};
use crate::pool::Policy;

pub const COMMAND: Command = Command {
    name: "chat",
    alias: None,
    summary: "answer each line of standard input, with all before it in mind",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[
        switch(
            "jsonl",
            None,
            "messages are JSON objects, a line each, as in the API",
        ),
        SYSTEM,
        MESSAGES,
        OPTION,
        SEED,
        TEMPERATURE,
        option("num-predict", Some('n'), "N", "generate at most N tokens"),
        option(
            "num-ctx",
            None,
            "N",
            "tokens of context (default: the server's)",
        ),
        THINK,
        TOOLS,
        TOOL_CHOICE,
        FORMAT,
        SCHEMA,
        GRAMMAR,
        STOP,
        TRANSCRIPT,
        CONTINUE,
        HOST,
        QUIET,
    ],
    about: &[
        "Reads a message a line from standard input and prints the answer to each as a line, as soon as it is whole. \
         The model is loaded once, and what was said before is not computed again.",
        "With --jsonl a line is a message of the API: an object with role and content. A message of role user is \
         answered; so are those of role tool, once there is one for each call that the model made. Those of role \
         system or assistant are only added. The answer is such an object too, with tool_calls and thinking where \
         there are any; what cannot be answered is forgotten, an object with error is printed, and the status is 14.",
        "Without it a line is a prompt, and the answer is its text in one line, escaped as in every list.",
    ],
    examples: &[
        (
            "printf '%s\\n' 'My name is Anna.' 'Who am I?' | puna chat smol -n 30",
            "two turns of a conversation",
        ),
        (
            "puna chat smol --jsonl --tools tools.json < turns.jsonl",
            "turns with calls of functions",
        ),
    ],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let jsonl = parsed.has("jsonl");
    let mut chat = Chat {
        ask: Ask::without_prompt(parsed)?,
        partner: partner(parsed, config)?,
        deadline: Deadline::new(),
        transcript: Transcript::of(parsed)?,
        calls: 0,
        turn: Vec::new(),
    };
    let format = if jsonl { Format::Json } else { Format::Lines };
    let mut records = Records::new(Input::new(), format);
    let mut failures = 0;
    while let Some(record) = records.next()? {
        let message = record.and_then(|record| match jsonl {
            true => message(&record.text),
            false => Ok(Message::new("user", record.text)),
        });
        let said = match message.and_then(|message| chat.take(message, out)) {
            Ok(None) => continue,
            Err(error) if is_fatal(&error) => return Err(error),
            said => said.map(Option::unwrap_or_default),
        };
        if let Err(error) = &said {
            failures += 1;
            out.note(&error.to_string());
        }
        match (said, jsonl) {
            (Ok(said), true) => out.write(&transcript::line(&said))?,
            (Ok(said), false) => out.records(&[vec![out::harmless(said.content.trim())]])?,
            (Err(error), true) => {
                let told = serde_json::json!({ "error": error.to_string() });
                out.write(&(json::line(&told) + "\n"))?;
            }
            (Err(_), false) => out.write("\n")?, // Line N answers line N.
        }
    }
    match failures {
        0 => Ok(()),
        1 => Err(Error::plain(Class::Records, "1 message was not answered")),
        count => Err(Error::plain(
            Class::Records,
            format!("{count} messages were not answered"),
        )),
    }
}

/// Who answers.
enum Partner {
    Here(Box<Here>),
    There(Arc<Client>),
}

fn partner(parsed: &Parsed, config: &Config) -> Result<Partner> {
    if let Some(client) = super::named_server(parsed, config)? {
        return Ok(Partner::There(Arc::new(client)));
    }
    let here = Here::open(&parsed.operands[0], Policy::Session, parsed, config)?;
    if here.model().header.is_embedding() {
        let text = format!("{} makes vectors, not texts: see embed", here.model().label);
        return Err(Error::usage(text));
    }
    Ok(Partner::Here(Box::new(here)))
}

/// A message of the API.
fn message(line: &str) -> Result<Message> {
    let message = serde_json::from_str::<native::Message>(line);
    let message: Message = message
        .map_err(|error| Error::usage(format!("no message: {error}")))?
        .into();
    match message.role.as_str() {
        "system" | "user" | "assistant" | "tool" => Ok(message),
        other => Err(Error::usage(format!("'{other}' is no role"))),
    }
}

/// True for what no other message would fare better with.
fn is_fatal(error: &Error) -> bool {
    !matches!(
        error.class(),
        Class::Usage | Class::TooLong | Class::Cut | Class::Failed | Class::Busy
    )
}

/// The conversation.
struct Chat {
    ask: Ask,
    partner: Partner,
    deadline: Deadline,
    transcript: Option<Transcript>,
    /// Calls of the model that have no result yet.
    calls: usize,
    /// Messages since the last answer.
    turn: Vec<Message>,
}

impl Chat {
    /// Takes a message in; the answer, if it is to be answered.
    fn take(&mut self, message: Message, out: &Out) -> Result<Option<Message>> {
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
        let said = self.deadline.tell(self.answer(out)).inspect_err(|_| {
            self.ask.messages.truncate(before);
            self.calls = 0;
        })?;
        self.calls = said.tool_calls.len();
        self.ask.messages.push(said.clone());
        if let Some(transcript) = &mut self.transcript {
            let turn: Vec<Message> = turn.into_iter().chain([said.clone()]).collect();
            transcript.add(self.ask.system.as_deref(), &turn)?;
        }
        Ok(Some(said))
    }

    fn answer(&self, out: &Out) -> Result<Message> {
        let mut said = Message::new("assistant", "");
        let mut is_cut = false;
        let mut take = |delta: Delta| {
            said.add(&delta);
            is_cut = matches!(&delta, Delta::Finish(finish) if finish.reason == Reason::Length);
            Ok(())
        };
        let cancel = self.deadline.flag();
        match &self.partner {
            Partner::Here(here) => {
                let request = Request {
                    cancel,
                    keep_alive: Some(KeepAlive::Forever),
                    started: Instant::now(),
                    ..self.ask.request(here.model())
                };
                let mut turn = here.start(request, out)?;
                turn.try_for_each(|delta| take(delta?))?;
            }
            Partner::There(client) => {
                answer::by_server_until(client, &self.ask, None, &cancel, &mut take)?;
            }
        }
        match is_cut && self.ask.promise != Promise::None {
            true => Err(Error::plain(
                Class::Cut,
                "the answer was cut by the token limit before it was whole: see --num-predict",
            )),
            false => Ok(said),
        }
    }
}
