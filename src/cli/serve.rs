//! `puna serve`: runs the HTTP server until a signal or the idle time stops it.

use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use super::context::Context;
use super::flag::{Flag, Group, HOST, QUIET, option, switch};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::reexec;
use super::signals::{self, Stop};
use super::table::{Command, PLAIN, Section};
use crate::core::address::Address;
use crate::core::duration::KeepAlive;
use crate::core::error::{Class, Error, Result};
use crate::ops::pool::{Policy, Pool};
use crate::ops::sandbox;
use crate::server::{AccessLog, AccessPolicy, Keys, Listeners, Signals, serve};
use crate::system::client::Client;
use crate::system::config::Config;
use crate::system::engine::{Level, Sink, keep_no_large_blocks};

pub const COMMAND: Command = Command {
    name: "serve",
    alias: Some("start"),
    summary: "serve the Ollama HTTP API",
    operands: "",
    arity: (0, 0),
    flags: &[
        HOST,
        SOCKET,
        NO_SOCKET,
        NO_TCP,
        API_KEY_FILE,
        OPEN,
        DETERMINISTIC,
        ACCESS_LOG,
        SANDBOX,
        IDLE_EXIT,
        LOG,
        QUIET,
    ],
    about: &[
        "Serves the native Ollama API on 127.0.0.1:11434, or on the address of --host, PUNA_HOST or OLLAMA_HOST, and \
         on a Unix socket that only its owner can use. Models are loaded on the first request and stay loaded for the \
         keep-alive time. A model computes several answers at once. A seed, or temperature 0, gives the same answer every \
         time on x86 with AVX2; --deterministic computes answers one by one, which does so on every processor.",
        "Routes: GET /, /api/version, /api/tags, /api/ps, /api/status; POST /api/show, /api/generate, /api/chat, \
         /api/embed, /api/embeddings, /api/create, /api/pull, /api/push, /api/copy; HEAD and POST /api/blobs; DELETE \
         /api/delete. Answers stream as newline-delimited JSON, a record as soon as there is a token.",
        "The APIs of OpenAI and Anthropic are served too: /v1/chat/completions, /v1/completions, /v1/embeddings, \
         /v1/models, /v1/responses and /v1/responses/input_tokens, /v1/messages and /v1/messages/count_tokens. Nothing \
         is stored between requests. Other routes are /health, /tokenize, /detokenize, /apply-template, /infill and \
         /metrics (Prometheus). See puna-api(7).",
        "Each line of the key file is a name, a permission, and a key of at least 16 characters, separated by \
         spaces; limits may follow: per-minute=N and at-once=N. The permission is use, or manage, which is also \
         required for create, pull, push, copy, delete and uploads. A key is sent as Authorization: Bearer or \
         x-api-key; / and /health do not need one, nor does the Unix socket. A request without a key gets 401, one \
         without the permission 403, one above a limit 429 with Retry-After. Without a key file the server listens \
         only on loopback addresses, unless --open is given. For TLS use a proxy: see puna-scripting(7).",
        "Each line of the access log is time, id, client, the key's name, method, path, status and milliseconds, \
         separated by tabs; it contains no text of a prompt. A request whose head is refused has - for method and path. The id is the X-Request-Id of the request, or a generated \
         one, and is sent with the answer. SIGHUP makes the server read the keys and open the log again.",
        "Once it listens, a server on Linux can open only its store, Ollama's store, its cache, the folders of its \
         configuration, keys, socket and log, and what the system needs, and can start no program but itself (Landlock). A blob \
         that is a link to another place cannot be read then. --sandbox=auto, the default, does this if the kernel has \
         Landlock and the build does not use a GPU; with on the server refuses to start without it.",
        "Sockets that systemd passes (LISTEN_FDS) are served instead of those of --host and --socket. With --linger \
         the server exits by itself, with status 0, after that time without a request; systemd starts it again on the \
         next request.",
        "After SIGTERM or SIGINT running answers have a few seconds to finish, then they are cut; the process exits \
         within five seconds, by the signal itself.",
    ],
    examples: &[
        ("puna serve", "serve on the default address"),
        (
            "puna serve --host 127.0.0.1:8080 --no-socket",
            "serve on another port only",
        ),
        (
            "puna serve --host 0.0.0.0 --api-key-file /etc/puna/keys --access-log /var/log/puna.log",
            "serve clients that have a key",
        ),
    ],
    run,
    section: Section::Machine,
    ..PLAIN
};

const SOCKET: Flag = option(
    "socket",
    None,
    "PATH",
    "listen on this Unix socket, not the default one",
);
const NO_SOCKET: Flag = switch("no-socket", None, "do not listen on a Unix socket");
const NO_TCP: Flag = switch("no-tcp", None, "listen on the Unix socket only");
const API_KEY_FILE: Flag = option(
    "api-key-file",
    None,
    "FILE",
    "require a key of FILE for requests over TCP",
);
const OPEN: Flag = switch(
    "open",
    None,
    "listen on a non-loopback address without keys",
);
const DETERMINISTIC: Flag = switch(
    "deterministic",
    None,
    "answer one at a time: same seed, same answer",
)
.in_group(Group::Sampling);
const ACCESS_LOG: Flag = option(
    "access-log",
    None,
    "FILE",
    "log each request to FILE; - is standard error",
)
.in_group(Group::Files);
const SANDBOX: Flag = option(
    "sandbox",
    None,
    "WHEN",
    "restrict file access (Landlock): auto, on or off",
)
.one_of(&["auto", "on", "off"]);
const IDLE_EXIT: Flag = option(
    "linger",
    None,
    "DURATION",
    "exit after this time without a request",
)
.in_group(Group::Where);
pub const LOG: Flag = option(
    "log",
    None,
    "LEVEL",
    "show llama.cpp's log: off, warn or debug",
)
.in_group(Group::Output)
.one_of(&["off", "warn", "debug"]);

/// The flags that are not settings, read once.
struct ServeArgs {
    /// Listen on TCP.
    tcp: bool,
    /// Serve without keys on an address that others can reach.
    open: bool,
    log: (Level, Sink),
    /// How long the server stays without a request; `None`: for ever.
    idle_exit: Option<Duration>,
    /// The access log's file; `-` is standard error.
    access_log: Option<String>,
    sandbox: sandbox::When,
}

impl ServeArgs {
    /// Reads the flags; those that are settings too go into `config`.
    fn read(parsed: &Parsed, config: &mut Config) -> Result<Self> {
        if let Some(host) = parsed.value(&HOST) {
            config.address = Address::parse(host)?;
            if host.contains("https://") || !config.address.path.is_empty() {
                let text = "--host is the address to listen on: plain http, without a path";
                return Err(Error::usage(text));
            }
        }
        if let Some(path) = parsed.value(&API_KEY_FILE) {
            config.api_key_file = Some(path.into());
        }
        parsed.only_one(&[(&NO_SOCKET, ()), (&SOCKET, ())])?;
        parsed.only_one(&[(&NO_TCP, ()), (&HOST, ())])?;
        config.deterministic |= parsed.has(&DETERMINISTIC);
        match (parsed.has(&NO_SOCKET), parsed.value(&SOCKET)) {
            (true, _) => config.socket = None,
            (false, Some(path)) => config.socket = Some(in_a_folder(path)?),
            (false, None) => {}
        }
        let idle_exit = parsed.duration(&IDLE_EXIT)?;
        Ok(ServeArgs {
            tcp: !parsed.has(&NO_TCP),
            open: parsed.has(&OPEN),
            log: out::log(parsed.value(&LOG).or(config.debug.then_some("debug")))?,
            idle_exit: match idle_exit {
                None | Some(KeepAlive::Forever) => None,
                Some(KeepAlive::For(time)) => Some(time),
            },
            access_log: parsed.value(&ACCESS_LOG).map(str::to_string),
            sandbox: sandbox::When::parse(parsed.value(&SANDBOX).unwrap_or("auto"))?,
        })
    }
}

/// The path of `--socket`. Its folder has to exist: a typing error makes none.
fn in_a_folder(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    match sandbox::folders(&path).first() {
        Some(folder) if folder.is_dir() => Ok(path),
        _ => Err(Error::usage(format!(
            "--socket: the folder of {} does not exist",
            path.display()
        ))),
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    reexec::with_short_spins();
    keep_no_large_blocks();
    let mut config = context.config.clone();
    let args = ServeArgs::read(parsed, &mut config)?;
    let stop = Stop::on_signals()?;
    let pool = Pool::new(config.clone(), Policy::Server, args.log);
    let reload = signals::on_hangup()?;
    fs::create_dir_all(&config.models).map_err(|error| Error::io("make", &config.models, error))?;
    let policy = policy(&args, &config)?;
    let handed = Listeners::inherited(config.inherited_sockets)?;
    let is_handed = handed.is_some();
    let listeners = handed.map_or_else(|| listeners(&args, &config), Ok)?;
    if !listeners.are_near() && policy.keys.is_none() && !args.open {
        let text = format!(
            "{} is not a loopback address: give --api-key-file, or --open to serve without keys",
            config.address
        );
        return Err(Error::plain(Class::Denied, text));
    }
    close(&args, &config, out)?;
    print_listeners(&listeners, &pool, out)?;
    let signals = Signals {
        stop: stop.flag_set(),
        reload,
    };
    let served = serve(&config, pool, listeners, policy, out::complain, &signals);
    if let Some(path) = config.socket.as_ref().filter(|_| !is_handed) {
        // The socket may be gone already; the next start replaces one that is left.
        let _ = fs::remove_file(path);
    }
    served?;
    stop.finish()
}

fn policy(args: &ServeArgs, config: &Config) -> Result<AccessPolicy> {
    let open = |path: &str| AccessLog::open(path, out::complain);
    Ok(AccessPolicy {
        keys: config.api_key_file.as_deref().map(Keys::read).transpose()?,
        access_log: args.access_log.as_deref().map(open).transpose()?,
        idle_exit: args.idle_exit,
    })
}

/// Binds the sockets that flags and settings name.
fn listeners(args: &ServeArgs, config: &Config) -> Result<Listeners> {
    let tcp = args.tcp.then(|| bind(&config.address));
    let unix = config.socket.as_deref().map(bind_socket).transpose()?;
    if !args.tcp && unix.is_none() {
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

/// Enters the sandbox; after it the process can open only the files that it serves.
fn close(args: &ServeArgs, config: &Config, out: &Out) -> Result<()> {
    let log = args.access_log.as_deref().filter(|path| *path != "-");
    let more = [config.socket.as_deref(), log.map(Path::new)];
    let more = more.into_iter().flatten().flat_map(sandbox::folders);
    let more: Vec<PathBuf> = more.chain(config.runtime.first().cloned()).collect();
    let note = sandbox::close(args.sandbox, config, &more)?;
    note.iter().for_each(|note| out.note(note));
    Ok(())
}

fn print_listeners(listeners: &Listeners, pool: &Pool, out: &Out) -> Result<()> {
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
                    ": a server answers there: '{}'",
                    text.lines().next().unwrap_or_default()
                ),
                None => ": another program listens there".into(),
            },
            _ => format!(": {}", crate::core::error::cause(&error)),
        };
        Error::plain(Class::Network, format!("cannot listen on {address}{who}"))
    })
}

/// Binds the Unix socket and creates its folder, which only the owner can open. A socket on which no
/// server answers is replaced.
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
    if let Ok(meta) = fs::symlink_metadata(path)
        && !meta.file_type().is_socket()
    {
        let text = format!("{} exists and is not a socket", path.display());
        return Err(Error::usage(text));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
