//! `puna serve`: the HTTP API, until a signal ends it.

use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::again;
use super::out::{self, Out};
use super::parse::Parsed;
use super::signals::{self, Stop};
use super::spec::{Command, Completes, HOST, QUIET, option, switch};
use crate::address::Address;
use crate::client::Client;
use crate::config::Config;
use crate::duration::KeepAlive;
use crate::error::{Class, Error, Result};
use crate::pool::{Policy, Pool};
use crate::server::{AccessLog, Guard, Keys, Listeners, Signals, sandbox, serve};

pub const COMMAND: Command = Command {
    name: "serve",
    alias: Some("start"),
    summary: "serve the Ollama HTTP API",
    operands: "",
    arity: (0, 0),
    flags: &[
        HOST,
        option(
            "socket",
            None,
            "PATH",
            "listen on this Unix socket instead of the default one",
        ),
        switch("no-socket", None, "do not listen on a Unix socket"),
        switch("no-tcp", None, "listen on the Unix socket only"),
        option(
            "api-key-file",
            None,
            "FILE",
            "let only requests in over TCP that bring a key of FILE",
        ),
        switch(
            "open",
            None,
            "listen without keys on an address that others can reach",
        ),
        switch(
            "deterministic",
            None,
            "compute answers one by one, each as if it were alone: with a seed the same bytes every time",
        ),
        option(
            "access-log",
            None,
            "FILE",
            "add a line for each request to FILE; - is standard error",
        ),
        option(
            "sandbox",
            None,
            "WHEN",
            "open nothing but the store and the cache: auto (where the kernel has Landlock), on or off",
        ),
        option(
            "linger",
            None,
            "DURATION",
            "end after so long without a request",
        ),
        option(
            "log",
            None,
            "LEVEL",
            "show llama.cpp's log: off, warn or debug",
        ),
        QUIET,
    ],
    about: &[
        "Serves the native Ollama API on 127.0.0.1:11434, or the address in --host, PUNA_HOST or OLLAMA_HOST, and on \
         a Unix socket that only its owner can use. Models load when they are asked for and stay for the keep-alive \
         time. Several answers of a model are computed at once.",
        "Routes: GET /, /api/version, /api/tags, /api/ps, /api/status; POST /api/show, /api/generate, /api/chat, \
         /api/embed, /api/embeddings, /api/create, /api/pull, /api/push, /api/copy; HEAD and POST /api/blobs; DELETE \
         /api/delete. Answers stream as newline-delimited JSON, a record as soon as there is a token.",
        "The dialects of OpenAI and Anthropic are there too: /v1/chat/completions, /v1/completions, /v1/embeddings, \
         /v1/models, /v1/responses and /v1/responses/input_tokens, /v1/messages and /v1/messages/count_tokens. Nothing \
         is stored between requests. Small tools find /health, /tokenize, /detokenize, /apply-template, /infill and \
         /metrics (Prometheus).",
        "A line of the key file is a name, a right, and a key of 16 characters or more, between spaces; limits may \
         follow: per-minute=N and at-once=N. The right is use, or manage, which create, pull, push, copy, delete and \
         uploads need too. A key comes as Authorization: Bearer or x-api-key; / and /health need none, and neither \
         does the Unix socket. Who has no key gets 401, who lacks the right 403, who asks too much 429 with \
         Retry-After. Without a key file only loopback addresses are listened on, unless --open is given. TLS is left \
         to a proxy: see puna-scripting(7).",
        "A line of the access log holds time, id, who asked, the key's name, method, path, status and milliseconds, \
         between tabs; no text of a prompt. The id is the X-Request-Id of the request, or made, and stands in the \
         answer. SIGHUP reads the keys again and opens the log anew.",
        "Once it listens, a server on Linux can open nothing but its store, Ollama's, its cache, the folders of its \
         configuration, keys, socket and log, and what the system needs, and starts no program (Landlock). A blob that \
         is a link to somewhere else cannot be read then: see --sandbox.",
        "Sockets that systemd hands over (LISTEN_FDS) are served instead of those that --host and --socket name. \
         With --linger a server ends by itself, with status 0, when nobody has asked for so long; systemd starts it \
         again with the next request.",
        "SIGTERM and SIGINT let running answers finish for a few seconds, then cut them; the process is gone within \
         five seconds, by the signal itself.",
    ],
    examples: &[
        ("puna serve", "serve on the default address"),
        (
            "puna serve --host 127.0.0.1:8080 --no-socket",
            "serve on another port only",
        ),
        (
            "puna serve --host 0.0.0.0 --api-key-file /etc/puna/keys --access-log /var/log/puna.log",
            "serve those who have a key",
        ),
    ],
    completes: Completes::Nothing,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    again::with_short_spins();
    let mut config = config.clone();
    if let Some(host) = parsed.value("host") {
        config.address = Address::parse(host)?;
    }
    if let Some(path) = parsed.value("api-key-file") {
        config.api_key_file = Some(path.into());
    }
    config.deterministic |= parsed.has("deterministic");
    match (parsed.has("no-socket"), parsed.value("socket")) {
        (true, _) => config.socket = None,
        (false, Some(path)) => config.socket = Some(path.into()),
        (false, None) => {}
    }
    let stop = Stop::on_signals()?;
    let pool = Pool::new(
        config.clone(),
        Policy::Server,
        out::log(parsed.value("log").or(config.debug.then_some("debug")))?,
    );
    let again = signals::again()?;
    fs::create_dir_all(&config.models).map_err(|error| Error::io("make", &config.models, error))?;
    let guard = guard(parsed, &config)?;
    let handed = Listeners::inherited(config.inherited_sockets)?;
    let is_handed = handed.is_some();
    let listeners = handed.map_or_else(|| listeners(parsed, &config), Ok)?;
    if !listeners.are_near() && guard.keys.is_none() && !parsed.has("open") {
        let text = format!(
            "{} can be reached by others: give --api-key-file, or --open to let everybody in",
            config.address
        );
        return Err(Error::plain(Class::Denied, text));
    }
    close(parsed, &config, out)?;
    tell(&listeners, &pool, out)?;
    let signals = Signals {
        stop: stop.wanted(),
        again,
    };
    let served = serve(&config, pool, listeners, guard, out::complain, &signals);
    if let Some(path) = config.socket.as_ref().filter(|_| !is_handed) {
        // The socket may be gone already; a left-over one is taken over at the next start.
        let _ = fs::remove_file(path);
    }
    served?;
    stop.finish()
}

fn guard(parsed: &Parsed, config: &Config) -> Result<Guard> {
    let linger = parsed.value("linger").map(KeepAlive::parse_lenient);
    Ok(Guard {
        keys: config.api_key_file.as_deref().map(Keys::read).transpose()?,
        access_log: parsed
            .value("access-log")
            .map(|path| AccessLog::open(path, out::complain))
            .transpose()?,
        linger: match linger.transpose()? {
            None | Some(KeepAlive::Forever) => None,
            Some(KeepAlive::For(time)) => Some(time),
        },
    })
}

/// The sockets that flags and settings name.
fn listeners(parsed: &Parsed, config: &Config) -> Result<Listeners> {
    let tcp = (!parsed.has("no-tcp")).then(|| bind(&config.address));
    let unix = config.socket.as_deref().map(bind_socket).transpose()?;
    if parsed.has("no-tcp") && unix.is_none() {
        return Err(Error::usage(
            "--no-tcp and --no-socket leave nothing to listen on",
        ));
    }
    Ok(Listeners {
        tcp: tcp.transpose()?,
        unix: unix.zip(config.socket.clone()),
        handed: false,
    })
}

/// Closes the sandbox, from where the program opens no more than it serves.
fn close(parsed: &Parsed, config: &Config, out: &Out) -> Result<()> {
    let folder = |path: &Path| path.parent().map(Path::to_path_buf);
    let log = parsed.value("access-log").filter(|path| *path != "-");
    let more = [config.socket.as_deref(), log.map(Path::new)];
    let more: Vec<PathBuf> = more.into_iter().flatten().filter_map(folder).collect();
    let wanted = sandbox::Wanted::parse(parsed.value("sandbox").unwrap_or("auto"))?;
    let note = sandbox::close(wanted, config, &more)?;
    note.iter().for_each(|note| out.note(note));
    Ok(())
}

fn tell(listeners: &Listeners, pool: &Pool, out: &Out) -> Result<()> {
    if let Some(at) = listeners.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok()) {
        out.note(&format!("listening on http://{at}"));
    }
    if let Some((_, path)) = &listeners.unix {
        out.note(&format!("listening on {}", path.display()));
    }
    out.note(&format!("computing on {}", pool.devices()?.join(", ")));
    Ok(())
}

fn bind(address: &Address) -> Result<TcpListener> {
    TcpListener::bind(address.bind_text()).map_err(|error| {
        let who = match error.kind() {
            io::ErrorKind::AddrInUse => match Client::at(address).greeting() {
                Some(text) => format!(
                    ": something answers there: '{}'",
                    text.lines().next().unwrap_or_default()
                ),
                None => ": another program listens there".into(),
            },
            _ => format!(": {}", crate::error::cause(&error)),
        };
        Error::plain(Class::Network, format!("cannot listen on {address}{who}"))
    })
}

/// Binds the Unix socket, with its folder for its owner alone. A socket that nobody answers on is
/// taken over.
fn bind_socket(path: &Path) -> Result<UnixListener> {
    let failed = |error: io::Error| Error::io("listen on", path, error);
    let folder: PathBuf = path.parent().map(Path::to_path_buf).unwrap_or_default();
    if !folder.as_os_str().is_empty() {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.map_err(|error| Error::io("make", &folder, error))?;
    }
    if UnixStream::connect(path).is_ok() {
        let message = format!(
            "cannot listen on {}: another puna serves there",
            path.display()
        );
        return Err(Error::plain(Class::Network, message));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
