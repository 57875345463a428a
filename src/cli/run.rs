//! `puna run`: a prompt in, the answer on standard output.

use std::io::{IsTerminal, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::again;
use super::out::{self, Out, Unit};
use super::parse::Parsed;
use super::spec::{Command, Completes, HOST, JSON, QUIET, option, switch};
use crate::api::native::{
    ChatRecord, ChatRequest, Common, GenerateRecord, GenerateRequest, Message as WireMessage,
};
use crate::api::options::to_json;
use crate::chat::{self, Input, Overflow, Request};
use crate::client::{Client, Records};
use crate::config::Config;
use crate::duration::{self, KeepAlive};
use crate::error::{Class, Error, Result};
use crate::machine;
use crate::message::{Delta, Finish, Message, Reason, Usage};
use crate::model;
use crate::options::Options;
use crate::pool::{Policy, Pool};

pub const COMMAND: Command = Command {
    name: "run",
    alias: None,
    summary: "answer a prompt",
    operands: "MODEL [PROMPT...]",
    arity: (1, usize::MAX),
    flags: &[
        option(
            "system",
            Some('s'),
            "TEXT",
            "system text, instead of the model's own",
        ),
        option(
            "option",
            Some('o'),
            "KEY=VALUE",
            "set an option of the API, such as top_k=1; may be repeated",
        ),
        option("seed", None, "N", "same seed, same answer"),
        option(
            "temperature",
            None,
            "T",
            "0: always the likeliest token; higher is wilder",
        ),
        option("num-predict", Some('n'), "N", "generate at most N tokens"),
        option(
            "num-ctx",
            None,
            "N",
            "tokens of context, instead of what prompt and answer need",
        ),
        switch(
            "raw",
            None,
            "take the prompt as it is, without the model's template",
        ),
        JSON,
        switch(
            "verbose",
            None,
            "print timings and the device on standard error",
        ),
        QUIET,
        switch(
            "local",
            None,
            "run in this process even if a server is there",
        ),
        HOST,
        option(
            "keepalive",
            None,
            "DURATION",
            "how long a server keeps the model loaded",
        ),
        option(
            "log",
            None,
            "LEVEL",
            "show llama.cpp's log: off, warn or debug",
        ),
    ],
    about: &[
        "Answers one prompt and ends. MODEL is a name in the store, or a GGUF file if it begins with /, ./ or ../ or \
         ends in .gguf. No server is needed: the model is loaded in this process.",
        "The prompt is made of the words after MODEL. Without any, it is read from standard input. A word that is only \
         - stands for standard input too: its text comes first, then a blank line, then the other words. With words \
         and no -, standard input is left alone, so that run works inside a while read loop.",
        "The answer goes to standard output as it is generated and ends with one newline. Nothing else is written \
         there; control characters that the model makes are left out, except with --json.",
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
            "puna run smol 'Say hello' --json | jq -r .response",
            "take the answer out of the record",
        ),
    ],
    completes: Completes::Models,
    run,
};

/// A prompt on standard input larger than this is refused: no context holds it.
const PROMPT_BYTES_MAX: u64 = 64 << 20;

/// What was asked on the command line.
struct Ask {
    model: String,
    prompt: String,
    system: Option<String>,
    options: Options,
    raw: bool,
    keep_alive: Option<String>,
}

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    again::with_short_spins(); // Before standard input is read.
    let started = Instant::now();
    let ask = ask(parsed)?;
    let local = parsed.has("local") || model::is_path(&ask.model);
    let server = match local {
        true => None,
        false => super::some_server(parsed, config)?,
    };
    let mut printer = Printer::new(out, parsed.has("json"));
    let told = match server {
        Some(client) => ask_server(&client, &ask, &mut printer)?,
        None => answer_here(&ask, parsed, config, started, &mut printer)?,
    };
    printer.finish(&ask.model, &told)?;
    if parsed.has("verbose") {
        tell_timings(out, &told);
    }
    Ok(())
}

fn ask(parsed: &Parsed) -> Result<Ask> {
    let raw = parsed.has("raw");
    let mut options = Options::default();
    for pair in parsed.values("option") {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("--option needs KEY=VALUE, not '{pair}'")))?;
        options.set_text(key.trim(), value)?;
    }
    for (flag, key) in [
        ("seed", "seed"),
        ("temperature", "temperature"),
        ("num-predict", "num_predict"),
        ("num-ctx", "num_ctx"),
    ] {
        if let Some(value) = parsed.value(flag) {
            options.set_text(key, value)?;
        }
    }
    if let Some(text) = parsed.value("keepalive") {
        KeepAlive::parse_lenient(text)?; // Only checked here: the server reads it again.
    }
    Ok(Ask {
        model: parsed.operands[0].clone(),
        prompt: prompt(&parsed.operands[1..], raw)?,
        system: parsed.value("system").map(str::to_string),
        options,
        raw,
        keep_alive: parsed.value("keepalive").map(str::to_string),
    })
}

/// The prompt from the words after the model, standard input, or both.
fn prompt(words: &[String], raw: bool) -> Result<String> {
    let named = words.iter().any(|word| word == "-");
    let spoken = words
        .iter()
        .filter(|word| *word != "-")
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    let no_prompt =
        || Error::usage("no prompt: give one after the model's name, or on standard input");
    if !named && !spoken.is_empty() {
        return Ok(spoken);
    }
    if !named && std::io::stdin().is_terminal() {
        return Err(no_prompt());
    }
    let mut piped = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(PROMPT_BYTES_MAX + 1)
        .read_to_end(&mut piped);
    read.map_err(|error| Error::io("read", "standard input", error))?;
    if piped.len() as u64 > PROMPT_BYTES_MAX {
        return Err(Error::plain(
            Class::TooLong,
            "standard input is larger than any context",
        ));
    }
    let piped =
        String::from_utf8(piped).map_err(|_| Error::usage("standard input is not UTF-8 text"))?;
    let piped = if raw {
        &piped
    } else {
        piped.trim_end_matches(['\n', '\r'])
    };
    match (piped.trim().is_empty(), spoken.is_empty()) {
        (true, true) => Err(no_prompt()),
        (true, false) => Ok(spoken),
        (false, true) => Ok(piped.to_string()),
        (false, false) => Ok(format!("{}\n\n{spoken}", piped.trim_end_matches('\n'))),
    }
}

fn messages(ask: &Ask) -> Vec<Message> {
    let system = ask.system.iter().map(|text| Message::new("system", text));
    system.chain([Message::new("user", &ask.prompt)]).collect()
}

/// How the answer ended, and where it was computed.
struct Told {
    reason: String,
    usage: Usage,
    device: Option<String>,
}

fn answer_here(
    ask: &Ask,
    parsed: &Parsed,
    config: &Config,
    started: Instant,
    printer: &mut Printer,
) -> Result<Told> {
    let model = model::open(&super::store(config), &ask.model)?;
    let input = match ask.raw {
        true => Input::Raw(ask.prompt.clone()),
        false => Input::Chat(chat::conversation(&model, messages(ask))),
    };
    let request = Request {
        model: &model,
        input,
        context: Vec::new(),
        options: ask.options.clone(),
        keep_alive: None,
        overflow: Overflow::Error,
        cancel: Arc::new(AtomicBool::new(false)),
        started,
    };
    let pool = Pool::new(
        config.clone(),
        Policy::OneShot,
        out::log(parsed.value("log"))?,
    );
    let progress = printer.out.progress("loading", Unit::Percent);
    let mut turn = chat::start(&pool, request, &mut |fraction| {
        progress.show((fraction * 100.0) as u64, 100)
    })?;
    drop(progress);
    let finish = print_turn(&mut turn, printer)?;
    let device = match machine::gpus().first() {
        Some(gpu) if turn.device() == "CPU" => {
            format!("CPU (a GPU by {gpu} is there: see 'make help' for a build that uses it)")
        }
        _ => turn.device(),
    };
    Ok(Told {
        reason: finish.reason.word().into(),
        usage: finish.usage,
        device: Some(device),
    })
}

fn print_turn(turn: &mut chat::Turn, printer: &mut Printer) -> Result<Finish> {
    for delta in turn {
        match delta? {
            Delta::Text(text) => printer.print(&text)?,
            Delta::Finish(finish) => return Ok(*finish),
        }
    }
    Err(Error::failed("the answer stopped without an end"))
}

fn ask_server(client: &Client, ask: &Ask, printer: &mut Printer) -> Result<Told> {
    let seconds = |text: &str| text.parse::<f64>().map_or_else(|_| text.into(), Into::into);
    let common = Common {
        model: ask.model.clone(),
        stream: Some(true),
        options: to_json(&ask.options),
        keep_alive: ask.keep_alive.as_deref().map(seconds),
        truncate: Some(false),
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
        return print_records(records, printer, |record| {
            (
                record.response,
                record.done,
                record.done_reason,
                record.metrics.into(),
            )
        });
    }
    let messages = messages(ask)
        .iter()
        .map(|message| WireMessage::new(&message.role, &message.content))
        .collect();
    let body = ChatRequest {
        common,
        messages,
        tools: Vec::new(),
    };
    let records: Records<ChatRecord> = client.post("/api/chat", &body)?;
    print_records(records, printer, |record| {
        (
            record.message.content,
            record.done,
            record.done_reason,
            record.metrics.into(),
        )
    })
}

fn print_records<T: serde::de::DeserializeOwned>(
    records: Records<T>,
    printer: &mut Printer,
    parts: impl Fn(T) -> (String, bool, String, Usage),
) -> Result<Told> {
    for record in records {
        let (text, done, reason, usage) = parts(record?);
        printer.print(&text)?;
        if done {
            return Ok(Told {
                reason,
                usage,
                device: None,
            });
        }
    }
    Err(Error::plain(
        Class::Network,
        "the server ended the answer in the middle",
    ))
}

/// Writes the answer: as it comes, or as one record at the end.
struct Printer<'a> {
    out: &'a mut Out,
    json: bool,
    whole: String,
    newlines: usize,
}

impl<'a> Printer<'a> {
    fn new(out: &'a mut Out, json: bool) -> Self {
        Printer {
            out,
            json,
            whole: String::new(),
            newlines: 0,
        }
    }

    /// Prints text; newlines at its end wait for more text, so that the answer ends with one.
    fn print(&mut self, text: &str) -> Result<()> {
        if self.json {
            self.whole.push_str(text);
            return Ok(());
        }
        let text = out::harmless(text);
        let body = text.trim_end_matches('\n');
        let newlines = text.len() - body.len();
        if body.is_empty() {
            self.newlines += newlines;
            return Ok(());
        }
        let held = "\n".repeat(std::mem::replace(&mut self.newlines, newlines));
        self.out.write(&(held + body))
    }

    fn finish(self, model: &str, told: &Told) -> Result<()> {
        if !self.json {
            return self.out.write("\n");
        }
        let reason = if told.reason == "length" {
            Reason::Length
        } else {
            Reason::Stop
        };
        let finish = Finish {
            reason,
            usage: told.usage,
            context: Vec::new(),
        };
        self.out.json(&[GenerateRecord {
            response: self.whole,
            ..GenerateRecord::last(model, finish, true)
        }])
    }
}

fn tell_timings(out: &Out, told: &Told) {
    let usage = &told.usage;
    let line = |label: &str, value: String| out.tell(&format!("{label:<22}{value}"));
    line("total duration:", duration::display(usage.total));
    line("load duration:", duration::display(usage.load));
    line(
        "prompt eval count:",
        format!("{} token(s)", usage.prompt_tokens),
    );
    line("prompt eval duration:", duration::display(usage.prompt));
    line("prompt eval rate:", rate(usage.prompt_tokens, usage.prompt));
    line("eval count:", format!("{} token(s)", usage.answer_tokens));
    line("eval duration:", duration::display(usage.answer));
    line("eval rate:", rate(usage.answer_tokens, usage.answer));
    if let Some(device) = &told.device {
        line("device:", device.clone());
    }
}

fn rate(tokens: usize, duration: std::time::Duration) -> String {
    match duration.as_secs_f64() {
        0.0 => "-".into(),
        seconds => format!("{:.2} tokens/s", tokens as f64 / seconds),
    }
}
