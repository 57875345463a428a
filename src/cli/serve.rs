//! `puna serve`: the HTTP API, until a signal ends it.

use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::again;
use super::out::{self, Out};
use super::parse::Parsed;
use super::signals::Stop;
use super::spec::{Command, Completes, HOST, QUIET, option, switch};
use crate::address::Address;
use crate::client::Client;
use crate::config::Config;
use crate::error::{Class, Error, Result};
use crate::pool::{Policy, Pool};
use crate::server::{Listeners, serve};

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
        "SIGTERM and SIGINT let running answers finish for a few seconds, then cut them; the process is gone within \
         five seconds, by the signal itself.",
    ],
    examples: &[
        ("puna serve", "serve on the default address"),
        (
            "puna serve --host 127.0.0.1:8080 --no-socket",
            "serve on another port only",
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
    fs::create_dir_all(&config.models).map_err(|error| Error::io("make", &config.models, error))?;
    let tcp = bind(&config.address)?;
    let unix = config.socket.as_deref().map(bind_socket).transpose()?;
    let at = tcp
        .local_addr()
        .map_or_else(|_| config.address.to_string(), |at| format!("http://{at}"));
    out.note(&format!("listening on {at}"));
    if let Some(path) = &config.socket {
        out.note(&format!("listening on {}", path.display()));
    }
    out.note(&format!("computing on {}", pool.devices()?.join(", ")));
    let listeners = Listeners {
        tcp: Some(tcp),
        unix: unix.zip(config.socket.clone()),
    };
    let served = serve(&config, pool, listeners, out::complain, &stop.wanted());
    if let Some(path) = &config.socket {
        // The socket may be gone already; a left-over one is taken over at the next start.
        let _ = fs::remove_file(path);
    }
    served?;
    stop.finish()
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
