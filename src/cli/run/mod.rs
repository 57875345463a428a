//! `puna run`: answers a prompt on standard output, or starts a session on a terminal.

pub mod answer;
pub mod args;
pub mod reduce;
pub mod turn_args;
pub mod turn_flags;
pub mod vector;

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::context::{self, Context};
use super::deadline::Deadline;
use super::encoding::ENCODING;
use super::flag::{HOST, JSON, QUIET};
use super::idle_exit::{self, IDLE_EXIT};
use super::model_notes;
use super::out::Out;
use super::parsed::Parsed;
use super::replay::{self, RECORD};
use super::run_limits::{self, TIMEOUT};
use super::shape::{EXTRACT, FIELDS, ONE_LINE, STRIP};
use super::table::{Command, ONE_MODEL, PLAIN};
use super::transcript::{CONTINUE, TRANSCRIPT, Transcript};
use super::{pull, repl};
use crate::core::error::{Class, Error, Result};
use crate::core::message::Message;
use crate::core::name::Name;
use crate::ops::backend::Backend;
use crate::ops::model;
use crate::ops::pool::Policy;
use crate::system::client::Client;
use crate::system::config::Config;
use crate::system::engine::Level;
use crate::system::registry::Registry;
use answer::Printer;
use args::{DETERMINISTIC, DIMENSIONS, LOCAL, LOG, PULL, Pull, RunArgs, TRUNCATE, VERBOSE, WHOLE};
use turn_args::Ask;
use turn_flags::{
    ATTACH, FORMAT, GRAMMAR, HIDETHINKING, KEEPALIVE, MESSAGES, NOWORDWRAP, NUM_CTX, NUM_PREDICT,
    OPEN, OPTION, OVERFLOW, RAW, SCHEMA, SEED, STOP, SYSTEM, TEMPERATURE, THINK, TOOL_CHOICE,
    TOOLS,
};

/// The values of `--overflow`. `reduce` needs several answers, which only this command computes.
const OVERFLOWS: &[&str] = &["error", "head", "tail", "middle", "reduce"];

pub const COMMAND: Command = Command {
    name: "run",
    summary: "answer a prompt",
    operands: "MODEL [PROMPT...]",
    arity: (1, usize::MAX),
    flags: &[
        SYSTEM,
        MESSAGES,
        OPTION,
        SEED,
        TEMPERATURE,
        NUM_PREDICT,
        NUM_CTX,
        RAW,
        OVERFLOW.one_of(OVERFLOWS),
        THINK,
        HIDETHINKING,
        ATTACH,
        ENCODING,
        TOOLS,
        TOOL_CHOICE,
        FORMAT,
        SCHEMA,
        OPEN,
        GRAMMAR,
        FIELDS,
        EXTRACT,
        ONE_LINE,
        STRIP,
        STOP,
        WHOLE,
        JSON,
        DETERMINISTIC,
        VERBOSE,
        QUIET,
        NOWORDWRAP,
        TRANSCRIPT,
        CONTINUE,
        RECORD,
        LOCAL,
        IDLE_EXIT,
        HOST,
        KEEPALIVE,
        PULL,
        pull::INSECURE,
        DIMENSIONS,
        TRUNCATE,
        LOG,
    ],
    about: &[
        "Answers one prompt and exits. MODEL is a name in the store, or a GGUF file if it begins with /, ./ or ../ or \
         ends in .gguf. A server is not needed: the model is loaded in this process.",
        "The prompt is the words after MODEL. Without any, it is read from standard input. The word - stands for \
         standard input: its text comes first, then a blank line, then the other words. With words and no -, standard \
         input is not read, so that run works inside a while read loop.",
        "A model that can think does so before it answers, unless --think=false is given. Thinking is printed on \
         standard error, and only with --think.",
        "On a terminal without a prompt a session starts: each line is a prompt, /? lists the commands, Ctrl-C stops \
         an answer and Ctrl-D leaves the session. Text between \"\"\" and pasted text may have several lines. The \
         oldest messages are dropped once the conversation does not fit the context, and a note says so.",
        "With --transcript each turn is added to a file, one message per line. --continue resumes the conversation of \
         such a file and adds to it, unless --transcript names another. Both work in a pipe and in a session. --attach \
         puts text files before the prompt, each under a line with its name; paths in a prompt are never opened.",
        "With --timeout a run stops after that time, which includes loading the model: the answer so far is printed, \
         and the status is 10. --retry tries again after 1, 2, 4 and more seconds, if network, server or memory failed \
         before anything was printed.",
        "With --tools the model may call functions: each call is printed as a line of JSON, with its name and \
         arguments. With --format, --schema or --grammar every token is chosen so that the complete answer matches; \
         if the answer was cut, the status is 6. An object of a schema has only the properties that the schema names, unless \
         its additionalProperties says otherwise or --open is given.",
        "An answer ends at the limit of --num-predict, at the end of the context, and, without --num-predict, when its last \
         600 tokens repeat one piece. It is printed as far as it goes, and a note on standard error says why; with --whole \
         the status is then 6. A session has no limit but the context.",
        "--fields prints fields of a JSON answer with tabs between, where a.b is field b of a; --extract prints a \
         fenced code block, the first unless last or all is given; --one-line prints the answer on one line; --strip \
         removes white space around the answer, and quotes or a code fence that enclose all of it. Such an answer is \
         printed when it is complete. If it has no code block, nothing is printed and the status is 1.",
        "With --overflow=reduce a text on standard input that does not fit is answered in pieces, each with the \
         question from the command line, and then the question is answered over those answers; a note says so.",
        "A prompt that does not fit the context is an error with both numbers, unless --overflow says what to keep of \
         its longest text: head, tail, or middle, which drops the middle. Special tokens have an effect only in the \
         model's template: in a prompt they are plain text, unless -o parse_special=true is given.",
        "An embedding model answers with the vector of the prompt, a JSON list of numbers on one line.",
        "The answer goes to standard output as it is generated and ends with one newline. Nothing else is written \
         there; control characters from the model are removed, except with --json.",
        "A model that is not in the store is fetched first on a terminal, or with --pull; in a pipe it is an error, \
         status 3. For a model in the store the network is used only with --pull=always.",
        "If a server of your own runs and reads the same store, it answers, because it has the model loaded already; \
         --local prevents that. A server named by --host or by PUNA_HOST must be running. --linger starts a server on \
         the Unix socket if none runs; it answers this call and the next ones, and exits after DURATION without a \
         request.",
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
            "extract data from a text",
        ),
        (
            "puna run smol --schema person.json --fields name,age < letter.txt",
            "extract fields as a line with a tab between",
        ),
        (
            "puna run smol 'A shell line that counts files' --extract",
            "print only the code of an answer",
        ),
        (
            "puna run smol -a notes.txt 'Summarise this file.'",
            "ask about a file",
        ),
        (
            "puna run smol --continue chat.jsonl 'And why?'",
            "continue a conversation",
        ),
        (
            "puna run smol 'Say hello' --json | jq -r .response",
            "print the answer of the JSON record",
        ),
    ],
    limits: run_limits::FLAGS,
    retries_whole: true,
    run,
    completes: ONE_MODEL,
    ..PLAIN
};

/// Fetches the model first, if `--pull` says so, or if it is missing and a user is at the terminal.
fn fetch(text: &str, args: &RunArgs, config: &Config, out: &mut Out) -> Result<()> {
    let watched = out.shows_progress() && out.output_is_terminal;
    if args.pull == Pull::Never || args.pull == Pull::Watched && !watched {
        if args.transfer.insecure {
            out.note("--insecure has no effect: nothing is pulled, see --pull");
        }
        return Ok(());
    }
    let (store, name) = (context::store(config), Name::parse(text)?);
    if args.pull != Pull::Always {
        match store.find(&name) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let registry = Registry::new(config.network.clone())?;
    pull::one(&store, &registry, &name, &args.transfer, out)
}

/// True if a session starts: on a terminal, without a prompt and without flags that need one.
fn is_session(parsed: &Parsed, out: &Out) -> bool {
    let asks = [
        &JSON, &RECORD, &RAW, &ATTACH, &MESSAGES, &FIELDS, &EXTRACT, &ONE_LINE, &STRIP,
    ];
    parsed.operands.len() == 1
        && out.output_is_terminal
        && std::io::stdin().is_terminal()
        && !asks.iter().any(|flag| parsed.has(flag))
}

/// Runs a session with a model in this process or with a server.
fn talk(
    server: Option<Client>,
    mut ask: Ask,
    args: &RunArgs,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    ask.turn.bounded = false;
    let backend = backend(server, &ask, Policy::Session, args, config)?;
    if matches!(&backend, Backend::Local(local) if local.model().header.is_embedding()) {
        return Err(Error::usage(
            "the model is an embedding model: give it a text",
        ));
    }
    note_model(&backend, &ask, out);
    repl::talk(backend, ask, args, config, out)
}

/// Where the turns of a command run.
fn backend(
    server: Option<Client>,
    ask: &Ask,
    policy: Policy,
    args: &RunArgs,
    config: &Config,
) -> Result<Backend> {
    let local = || answer::open(&ask.turn.model, policy, args.log, config);
    Ok(match server {
        Some(client) => Backend::Remote(Arc::new(client)),
        None => Backend::Local(Box::new(local()?)),
    })
}

fn note_model(backend: &Backend, ask: &Ask, out: &Out) {
    if let Some(model) = backend.model() {
        model_notes::print(model, &ask.turn.options, out);
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let args = RunArgs::read(parsed)?;
    let mut config = config.clone();
    config.deterministic |= args.alone;
    let config = &config;
    let talks = is_session(parsed, out);
    let mut ask = if talks {
        Ask::without_prompt(parsed, OVERFLOWS)?
    } else {
        note_files(parsed, out);
        Ask::read(parsed, OVERFLOWS)?
    };
    if talks && let Some(flag) = parsed.first_of(&[&TIMEOUT, &WHOLE, &DIMENSIONS, &TRUNCATE]) {
        let text = format!("--{} is for one answer, and not for a session", flag.long);
        return Err(Error::usage(text));
    }
    args.shape.check(&ask.turn.constraint)?;
    ask.turn.keep_alive = args.keep_alive;
    // llama.cpp's log is available only in this process.
    let logs = args.log.0 != Level::Off;
    let is_path = model::is_path(&ask.turn.model);
    let here = args.local || args.alone || logs;
    let named = if here {
        None
    } else {
        context.model_server(parsed)?
    };
    let here = here || is_path || context::flag_for_here(parsed).is_some();
    let fetches = !is_path && named.is_none();
    let server = match &args.idle_exit {
        Some(_) if here => {
            let text = "--linger uses a server: it needs a model of the store and cannot be used with --local, --deterministic, --record or --log";
            return Err(Error::usage(text));
        }
        Some(stay) => Some(idle_exit::server(stay, config)?),
        None if here => None,
        None => named.or_else(|| context::own_server(config)),
    };
    if server.is_none() && args.keep_alive.is_some() && !talks {
        out.note("--keepalive has no effect: no server runs");
    }
    if fetches {
        fetch(&ask.turn.model, &args, config, out)?;
    }
    if talks {
        return talk(server, ask, &args, config, out);
    }
    let Some(record) = &args.record else {
        return answer_once(server, &ask, &args, config, out).map(drop);
    };
    let mut file = replay::begin(record, &mut ask)?;
    let reply = answer_once(None, &ask, &args, config, out)?;
    let model = model::open(&context.store(), &ask.turn.model)?;
    replay::write(&mut file, &ask, &model, &reply, config)
}

/// Notes words of a prompt behind `--attach` that name files: the flag takes one.
fn note_files(parsed: &Parsed, out: &Out) {
    let words = parsed.operands.iter().skip(1);
    let files = words.filter(|word| parsed.has(&ATTACH) && Path::new(word).is_file());
    files.for_each(|word| {
        out.note(&format!(
            "'{word}' is a word of the prompt, not a file: --attach takes one file each time"
        ));
    });
}

/// Answers one prompt; returns the answer.
fn answer_once(
    server: Option<Client>,
    ask: &Ask,
    args: &RunArgs,
    config: &Config,
    out: &mut Out,
) -> Result<Message> {
    let mut transcript = Transcript::open(args.transcript.as_deref())?;
    let mut printer = printer(ask, args, out);
    let deadline = Deadline::new()?;
    let started = Instant::now();
    let mut known = config.clone();
    known.work = Some(ask.work());
    let mut backend = backend(server, ask, Policy::OneShot, args, &known)?;
    check_vectors(args, &backend, &ask.turn.model)?;
    note_model(&backend, ask, printer.out);
    let outcome = answered(&backend, ask, &deadline, started, &mut printer);
    let mut pieces = None;
    let outcome = match outcome {
        Err(error) if error.class() == Class::TooLong && ask.reduces => {
            if let Backend::Local(local) = backend {
                // The model has to stay loaded between the pieces; llama.cpp is started once at a time.
                drop(local);
                backend = self::backend(None, ask, Policy::Session, args, config)?;
            }
            let lengths = error.lengths();
            let reduced = reduce::answer(&backend, ask, (config, lengths), &deadline, &mut printer);
            deadline.check(reduced).map(|count| {
                pieces = Some(count);
                None
            })
        }
        outcome => outcome,
    };
    let reply = printer.message();
    let device = match outcome {
        Err(error) if error.class() == Class::TimedOut => {
            printer.cut()?;
            keep(&mut transcript, ask, &reply)?;
            return Err(error);
        }
        Err(error) if is_embedding(&error, &backend, ask) && args.record.is_none() => {
            drop(printer);
            let server = match &backend {
                Backend::Remote(client) => Some(&**client),
                Backend::Local(_) => None,
            };
            vector::print(server, ask, args, config, out)?;
            return Ok(Message::default());
        }
        Err(error) => {
            printer.fail();
            keep(&mut transcript, ask, &reply)?;
            return Err(error);
        }
        Ok(device) => device,
    };
    let finish = printer.finish()?;
    out.note_dropped("", finish.usage.truncated_tokens);
    if let Some(pieces) = pieces {
        reduce::note_pieces(pieces, out);
    }
    keep(&mut transcript, ask, &reply)?;
    if args.verbose {
        answer::print_timings(out, &finish.usage, device.as_deref());
    }
    ask.turn.check_complete(&reply, finish.reason)?;
    answer::report_cut(&backend, &ask.turn, &finish, args.whole, out).map(|()| reply)
}

/// Adds a prompt and what there is of its reply to the transcript.
fn keep(transcript: &mut Option<Transcript>, ask: &Ask, reply: &Message) -> Result<()> {
    let is_empty = reply.content.is_empty() && reply.tool_calls.is_empty();
    match transcript {
        Some(transcript) if !is_empty => {
            transcript.add(ask.system.as_deref(), &ask.with_reply(reply))
        }
        _ => Ok(()),
    }
}

/// The printer of an answer in the shape of the flags; on a terminal, lines are broken between words.
fn printer<'a>(ask: &Ask, args: &RunArgs, out: &'a mut Out) -> Printer<'a> {
    let shows_thinking = ask.turn.think.is_some() && args.shows_thinking;
    let wraps = args.wraps && !args.json && out.output_is_terminal;
    let printer = Printer::new(out, &ask.turn.model, args.json, shows_thinking);
    let printer = printer.shaped(args.shape.clone());
    if wraps { printer.wrapped() } else { printer }
}

/// Prints the answer as it is generated; returns the device that computed it, if known.
fn answered(
    backend: &Backend,
    ask: &Ask,
    deadline: &Deadline,
    started: Instant,
    printer: &mut Printer,
) -> Result<Option<String>> {
    let cancel = deadline.flag();
    let outcome = answer::start(backend, ask.turn(), &cancel, started, printer.out);
    let outcome = outcome.and_then(|mut answer| {
        answer::print(&mut answer, printer)?;
        Ok(answer::device(&answer, &ask.turn.options))
    });
    deadline.check(outcome)
}

/// Refuses flags that only vectors have, for a model that makes none.
fn check_vectors(args: &RunArgs, backend: &Backend, model: &str) -> Result<()> {
    if !args.vector.is_asked_for {
        return Ok(());
    }
    let makes_vectors = match backend {
        Backend::Local(local) => local.model().header.is_embedding(),
        Backend::Remote(client) => client.only_embeds(model)?,
    };
    if makes_vectors {
        return Ok(());
    }
    let text = "--dimensions and --truncate need an embedding model";
    Err(Error::usage(text))
}

/// True for the error of an embedding model. A server that does not name the class of its error is asked what the
/// model can do.
fn is_embedding(error: &Error, backend: &Backend, ask: &Ask) -> bool {
    match (error.class(), backend) {
        (Class::NoText, _) => true,
        (Class::Usage, Backend::Remote(client)) => {
            client.only_embeds(&ask.turn.model).unwrap_or(false)
        }
        _ => false,
    }
}
