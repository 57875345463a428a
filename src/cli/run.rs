//! `puna run`: a prompt in, the answer on standard output.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Instant;

use super::answer::{self, Here, Printer};
use super::ask::{
    ATTACH, Ask, FORMAT, GRAMMAR, MESSAGES, OPTION, OVERFLOW, RAW, SCHEMA, SEED, SYSTEM,
    TEMPERATURE, THINK, TOOL_CHOICE, TOOLS,
};
use super::contract::Deadline;
use super::linger::{self, LINGER};
use super::out::{self, Out};
use super::parse::Parsed;
use super::pull;
use super::reduce;
use super::repl::{self, Partner};
use super::replay::{self, RECORD};
use super::shape::{EXTRACT, FIELDS, ONE_LINE, STOP, STRIP, Shape};
use super::spec::{Command, Completes, HOST, JSON, QUIET, maybe, option, switch};
use super::transcript::{CONTINUE, TRANSCRIPT, Transcript};
use super::vector;
use crate::chat::{Promise, ToolChoice};
use crate::client::Client;
use crate::config::Config;
use crate::duration::KeepAlive;
use crate::engine::Level;
use crate::error::{Class, Error, Result};
use crate::message::{Message, Reason};
use crate::model;
use crate::name::Name;
use crate::pool::Policy;
use crate::registry::Registry;

pub const COMMAND: Command = Command {
    name: "run",
    alias: None,
    summary: "answer a prompt",
    operands: "MODEL [PROMPT...]",
    arity: (1, usize::MAX),
    flags: &[
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
            "tokens of context, instead of what prompt and answer need",
        ),
        RAW,
        OVERFLOW,
        THINK,
        switch("hidethinking", None, "do not print the thinking"),
        ATTACH,
        TOOLS,
        TOOL_CHOICE,
        FORMAT,
        SCHEMA,
        GRAMMAR,
        FIELDS,
        EXTRACT,
        ONE_LINE,
        STRIP,
        STOP,
        JSON,
        switch(
            "deterministic",
            None,
            "use no server and nothing that was kept: the same seed gives the same bytes",
        ),
        switch(
            "verbose",
            None,
            "print timings and the device on standard error",
        ),
        QUIET,
        switch(
            "nowordwrap",
            None,
            "in a session, leave the breaking of lines to the terminal",
        ),
        TRANSCRIPT,
        CONTINUE,
        RECORD,
        switch(
            "local",
            None,
            "run in this process even if a server is there",
        ),
        LINGER,
        HOST,
        option(
            "keepalive",
            None,
            "DURATION",
            "how long a server keeps the model loaded",
        ),
        maybe(
            "pull",
            "WHEN",
            "fetch the model first: missing, always or never (default: on a terminal missing, else never)",
        ),
        pull::INSECURE,
        vector::DIMENSIONS,
        vector::TRUNCATE,
        option(
            "log",
            None,
            "LEVEL",
            "show llama.cpp's log: off, warn or debug; implies --local",
        ),
    ],
    about: &[
        "Answers one prompt and ends. MODEL is a name in the store, or a GGUF file if it begins with /, ./ or ../ or \
         ends in .gguf. No server is needed: the model is loaded in this process.",
        "The prompt is made of the words after MODEL. Without any, it is read from standard input. A word that is only \
         - stands for standard input too: its text comes first, then a blank line, then the other words. With words \
         and no -, standard input is left alone, so that run works inside a while read loop.",
        "A model that can think does so before it answers, unless --think=false is given. Thinking is printed on \
         standard error, and only if --think asks for it.",
        "On a terminal without a prompt a session begins: each line is a prompt, /? lists its commands, Ctrl-C ends an \
         answer and Ctrl-D the session. Text between \"\"\" may have several lines; so may what is pasted. The oldest \
         messages are left out once the conversation does not fit the context, and a note says so.",
        "With --transcript each turn is added to a file, a message a line; --continue goes on from such a file. Both \
         work in a pipe and in a session. --attach puts text files before the prompt, each under a line with its name; \
         paths in a prompt are never opened.",
        "With --timeout a run ends after that time, the load of the model counted: what there is of the answer is \
         printed, and the status is 10.",
        "With --tools the model may call functions: each call is printed as a line of JSON, with its name and \
         arguments. With --format, --schema or --grammar every token is chosen so that the whole answer follows; an \
         answer that was cut ends with status 6.",
        "The shape of what is printed: --fields NAMES prints fields of a JSON answer with tabs between, --extract a \
         code block, --one-line puts it on one line, --strip drops quotes or a code fence around all of it. Such an \
         answer is printed when it is whole. If it holds no code block, nothing is printed and the status is 1.",
        "With --overflow=reduce a text on standard input that does not fit is answered in pieces, each with the \
         question from the command line, and then the question once more over those answers; a note says so.",
        "A prompt that does not fit the context is an error with both numbers, unless --overflow says what to keep of \
         its longest text. Special tokens of the model count only in its template: in a prompt they are plain text, \
         unless -o parse_special=true is given.",
        "A model that turns text into vectors answers with the vector of the prompt, a JSON list of numbers on one \
         line.",
        "The answer goes to standard output as it is generated and ends with one newline. Nothing else is written \
         there; control characters that the model makes are left out, except with --json.",
        "A model that is not in the store is fetched first on a terminal, or with --pull; in a pipe it is an error, \
         status 3. Without --pull=always the network is never touched for a model that is there.",
        "If a server of your own runs and reads the same store, it answers, because its model is loaded already; \
         --local prevents that. A server named by --host or by PUNA_HOST must be there.",
    ],
    examples: &[
        (
            "echo 'Why is the sky blue?' | puna run smol",
            "answer a prompt from a pipe",
        ),
        (
            "puna run smol 'Say hello' -n 20",
            "answer a prompt from the command line",
        ),
        (
            "puna run smol - 'Summarise this.' < notes.txt",
            "join a file and a question",
        ),
        (
            "puna run smol --schema person.json < letter.txt | jq .name",
            "take data out of a text",
        ),
        (
            "puna run smol --schema person.json --fields name,age < letter.txt",
            "the same as a line with a tab between",
        ),
        (
            "puna run smol 'A shell line that counts files' --extract",
            "only the code",
        ),
        (
            "puna run smol -a notes.txt 'Summarise this file.'",
            "ask about a file",
        ),
        (
            "puna run smol --continue chat.jsonl 'And why?'",
            "go on with a conversation",
        ),
        (
            "puna run smol 'Say hello' --json | jq -r .response",
            "take the answer out of the record",
        ),
    ],
    completes: Completes::Models,
    run,
};

/// Fetches the model first, if that was asked for, or it is missing and somebody watches.
fn fetch(text: &str, parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let watched = out.shows_progress() && out.output_is_terminal;
    let always = match parsed.value("pull") {
        Some("always") => true,
        Some("missing" | "") => false,
        None if watched => false,
        Some("never") | None => return Ok(()),
        Some(other) => {
            let text = format!("--pull is missing, always or never, not '{other}'");
            return Err(Error::usage(text));
        }
    };
    let (store, name) = (super::store(config), Name::parse(text)?);
    if !always {
        match store.find(&name) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let registry = Registry::new(config.network.clone())?;
    pull::one(&store, &registry, (&name, None), parsed, out)
}

/// True if somebody sits there who gave no prompt yet.
fn is_session(parsed: &Parsed, out: &Out) -> bool {
    let asks = [
        "json", "record", "raw", "attach", "messages", "fields", "extract", "one-line", "strip",
    ];
    parsed.operands.len() == 1
        && out.output_is_terminal
        && std::io::stdin().is_terminal()
        && !asks.iter().any(|flag| parsed.has(flag))
}

/// A session with a model in this process or with a server.
fn talk(
    server: Option<Client>,
    ask: Ask,
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    let partner = match server {
        Some(client) => {
            let keep_alive = parsed.value("keepalive").map(str::to_string);
            Partner::There(Arc::new(client), keep_alive)
        }
        None => {
            let here = Here::open(&ask.model, Policy::Session, parsed, config)?;
            if here.model().header.is_embedding() {
                return Err(Error::usage(
                    "the model turns text into vectors: give it a text",
                ));
            }
            Partner::Here(Box::new(here))
        }
    };
    repl::talk(partner, ask, parsed, config, out)
}

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let log = out::log(parsed.value("log"))?;
    // What was kept may part from what is computed at once.
    let alone = parsed.has("deterministic") || parsed.has("record");
    let mut config = config.clone();
    config.deterministic |= alone;
    let config = &config;
    let talks = is_session(parsed, out);
    Shape::of(parsed)?; // Before a model is loaded.
    let mut ask = match talks {
        true => Ask::without_prompt(parsed)?,
        false => Ask::of(parsed)?,
    };
    if let Some(text) = parsed.value("keepalive") {
        KeepAlive::parse_lenient(text)?; // Only checked here: the server reads it again.
    }
    // llama.cpp's log is that of this process.
    let local = parsed.has("local") || alone || log.0 != Level::Off || model::is_path(&ask.model);
    let server = match local {
        true if parsed.has("linger") => {
            let text = "--linger leaves a server behind: it needs a model of the store, and no --local, --deterministic, --record or --log";
            return Err(Error::usage(text));
        }
        true => None,
        false if parsed.has("linger") => Some(linger::server(parsed, config)?),
        false => super::some_server(parsed, config)?,
    };
    if !model::is_path(&ask.model) && super::named_server(parsed, config)?.is_none() {
        fetch(&ask.model, parsed, config, out)?;
    }
    if talks {
        return talk(server, ask, parsed, config, out);
    }
    let Some(mut file) = replay::begin(parsed, &mut ask)? else {
        return once(server.map(Arc::new), &ask, parsed, config, out).map(drop);
    };
    let said = once(None, &ask, parsed, config, out).inspect_err(|_| {
        // Of an answer that is none there is no record.
        let _ = parsed.value("record").map(std::fs::remove_file);
    })?;
    let model = model::open(&super::store(config), &ask.model)?;
    replay::write(&mut file, &ask, &model, &said, config)
}

/// Answers one prompt; what was said.
fn once(
    server: Option<Arc<Client>>,
    ask: &Ask,
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<Message> {
    let mut transcript = Transcript::of(parsed)?;
    let shows_thinking = ask.think.is_some() && !parsed.has("hidethinking");
    let mut printer = Printer::new(out, &ask.model, parsed.has("json"), shows_thinking)
        .shaped(Shape::of(parsed)?);
    let deadline = Deadline::new();
    let told = answered(
        server.as_ref(),
        ask,
        (parsed, config),
        &deadline,
        &mut printer,
    );
    let mut pieces = None;
    let told = match told {
        Err(error) if error.class() == Class::TooLong && ask.reduces => {
            let (given, server) = ((parsed, config), server.as_ref());
            let reduced = reduce::answer(server, ask, given, &deadline, &mut printer);
            deadline.tell(reduced).map(|count| {
                pieces = Some(count);
                None
            })
        }
        told => told,
    };
    let device = match told {
        Err(error) if error.class() == Class::TimedOut => {
            printer.cut()?;
            return Err(error);
        }
        Err(error) if error.class() == Class::NoText && !parsed.has("record") => {
            drop(printer);
            vector::print(server.as_deref(), ask, parsed, config, out)?;
            return Ok(Message::default());
        }
        answered => answered?,
    };
    let said = printer.message();
    let finish = printer.finish()?;
    out.note_dropped("", finish.usage.truncated_tokens);
    if let Some(pieces) = pieces {
        out.note(&format!(
            "the prompt does not fit: answered over {pieces} pieces, then over their answers"
        ));
    }
    if let Some(transcript) = &mut transcript {
        let prompt = (!ask.prompt.is_empty()).then(|| Message::new("user", &ask.prompt));
        let turn: Vec<Message> = prompt.into_iter().chain([said.clone()]).collect();
        transcript.add(ask.system.as_deref(), &turn)?;
    }
    if parsed.has("verbose") {
        answer::tell_timings(out, &finish.usage, device.as_deref());
    }
    whole(ask, &said, finish.reason)?;
    Ok(said)
}

/// Prints the answer as it comes; returns where it was computed, if that is known.
fn answered(
    server: Option<&Arc<Client>>,
    ask: &Ask,
    (parsed, config): (&Parsed, &Config),
    deadline: &Deadline,
    printer: &mut Printer,
) -> Result<Option<String>> {
    let started = Instant::now();
    let cancel = deadline.flag();
    let told = match server {
        Some(client) => {
            let keep_alive = parsed.value("keepalive").map(str::to_string);
            let mut take = |delta| printer.print(delta);
            let told = answer::by_server_until(client, ask, keep_alive, &cancel, &mut take);
            told.map(|()| None) // It does not tell where it computes.
        }
        None => answer::here(ask, parsed, config, (started, &cancel), printer),
    };
    deadline.tell(told)
}

/// Refuses an answer that is not the whole that was promised.
fn whole(ask: &Ask, said: &Message, reason: Reason) -> Result<()> {
    if ask.promise != Promise::None && reason == Reason::Length {
        let text = "the answer was cut by the token limit before it was whole: see --num-predict and --num-ctx";
        return Err(Error::plain(Class::Cut, text));
    }
    let must_call = ToolChoice::of_json(ask.tool_choice.as_ref())?.requires();
    if must_call && said.tool_calls.is_empty() {
        let text = "the call was cut by the token limit before it was whole: see --num-predict";
        return Err(Error::plain(Class::Cut, text));
    }
    Ok(())
}
