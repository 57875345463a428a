//! The server: doors in, a thread a request, everything told to end when the process must.

mod access;
mod answer;
mod anthropic;
mod body;
mod compat;
mod counters;
mod create;
mod crowd;
mod embed;
mod http;
mod keys;
mod models;
mod openai;
mod rerank;
mod route;
pub mod sandbox;
mod small;
mod sockets;
mod stream;
mod ticket;
mod transfer;
mod understand;

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::error::{Class, Error, Result};
use crate::network::Network;
use crate::pool::Pool;
use crate::registry::Registry;
use crate::shelf::Shelf;
use crate::store::Store;
use access::Access;
pub use keys::Keys;
pub use ticket::AccessLog;

use counters::Counters;
use http::{Door, Exchange, Socket};
use sockets::Sockets;

/// Requests answered at once; more are refused. Each has a thread.
const REQUESTS_MAX: usize = 1024;
/// How often a door looks whether it should close.
const LOOK: Duration = Duration::from_millis(50);
/// How long running answers may take to finish by themselves when the server ends.
const FINISH_MAX: Duration = Duration::from_millis(3500);
/// How long they may then take to notice that they are cut.
const CUT_MAX: Duration = Duration::from_millis(1000);

/// Where to listen.
pub struct Listeners {
    /// The TCP socket, bound.
    pub tcp: Option<TcpListener>,
    /// The Unix socket, bound, with its path.
    pub unix: Option<(UnixListener, PathBuf)>,
    /// True if they belong to whoever started the process.
    pub handed: bool,
}

impl Listeners {
    /// The sockets that whoever started the process handed over; `None` if it has none.
    ///
    /// # Errors
    /// If one of them does not listen, or there are two of a kind.
    pub fn inherited(count: usize) -> Result<Option<Self>> {
        let failed = |error| Error::failed(format!("LISTEN_FDS: {error}"));
        let sockets = sockets::inherited(count).map_err(failed)?;
        let mut listeners = Listeners {
            tcp: None,
            unix: None,
            handed: true,
        };
        for socket in sockets {
            let (is_tcp, is_unix) = (listeners.tcp.is_some(), listeners.unix.is_some());
            match socket {
                Socket::Tcp(tcp) if !is_tcp => listeners.tcp = Some(tcp),
                Socket::Unix(unix) if !is_unix => {
                    let address = unix.local_addr().map_err(failed)?;
                    let path = address.as_pathname().map(PathBuf::from);
                    listeners.unix = Some((unix, path.unwrap_or_default()));
                }
                _ => return Err(Error::failed("LISTEN_FDS: two sockets of a kind")),
            }
        }
        Ok((count > 0).then_some(listeners))
    }

    /// True if nobody but this machine can reach them.
    pub fn are_near(&self) -> bool {
        let at = self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
        at.is_none_or(|at| at.ip().is_loopback())
    }
}

/// What the process is told from outside.
pub struct Signals {
    /// Set when it has to end.
    pub stop: Arc<AtomicBool>,
    /// Set when it shall read its keys, and open its log, again.
    pub again: Arc<AtomicBool>,
}

/// How a server is guarded, and what it writes down.
pub struct Guard {
    /// The keys that requests over TCP need.
    pub keys: Option<Keys>,
    /// Where a line for each request goes.
    pub access_log: Option<AccessLog>,
    /// End after so long without a request.
    pub linger: Option<Duration>,
}

/// What every request shares.
pub struct Server {
    store: Store,
    /// Models that requests named before.
    shelf: Shelf,
    pool: Pool,
    network: Network,
    /// Made when it is first asked for: most servers never ask.
    registry: OnceLock<Registry>,
    access: Access,
    keys: Option<Keys>,
    access_log: Option<Arc<AccessLog>>,
    store_path: Option<String>,
    log: fn(&str),
    requests: AtomicUsize,
    counters: Counters,
}

/// Serves until `stop` is set, then lets running answers finish or cuts them, within 5 s.
///
/// # Errors
/// If a socket cannot be served.
pub fn serve(
    config: &Config,
    pool: Pool,
    listeners: Listeners,
    guard: Guard,
    log: fn(&str),
    signals: &Signals,
) -> Result<()> {
    let stop = &signals.stop;
    let loopback = listeners.are_near();
    let store = Store::new(config.models.clone(), config.ollama_models.clone())
        .keeping_unused(config.keeps_unused);
    let store_path = std::fs::canonicalize(store.root())
        .ok()
        .map(|path| path.display().to_string());
    let server = Arc::new(Server {
        store,
        shelf: Shelf::default(),
        pool: pool.clone(),
        network: config.network.clone(),
        registry: OnceLock::new(),
        access: Access::new(config.origins.clone(), loopback),
        keys: guard.keys,
        access_log: guard.access_log.map(Arc::new),
        store_path,
        log,
        requests: AtomicUsize::new(0),
        counters: Counters::default(),
    });
    let handed = listeners.handed;
    let unix_path = listeners.unix.as_ref().map(|(_, path)| path.clone());
    let tcp_port = listeners
        .tcp
        .as_ref()
        .and_then(|tcp| tcp.local_addr().ok())
        .map(|at| at.port());
    let sockets = Sockets::new(unix_path, tcp_port)
        .map_err(|error| Error::failed(format!("cannot start a thread: {error}")))?;
    let tcp = listeners.tcp.map(Socket::Tcp);
    let unix = listeners.unix.map(|(listener, _)| Socket::Unix(listener));
    let mut doors = Vec::new();
    for socket in tcp.into_iter().chain(unix) {
        let door = Door::open(socket, sockets.clone())?;
        let (server, stop) = (server.clone(), stop.clone());
        doors.push(thread::spawn(move || {
            let door = watch_door(door, &server, &stop);
            if handed {
                door.leave();
            }
        }));
    }
    server.watch(signals, guard.linger);
    finish(&sockets);
    for door in doors {
        // A door's thread ends by itself once `stop` is set; a panic in it was printed already.
        let _ = door.join();
    }
    Ok(())
}

impl Server {
    /// The way to registries.
    ///
    /// # Errors
    /// As [`Registry::new`].
    fn registry(&self) -> Result<&Registry> {
        if let Some(registry) = self.registry.get() {
            return Ok(registry);
        }
        let registry = Registry::new(self.network.clone())?;
        Ok(self.registry.get_or_init(|| registry))
    }
}

impl Server {
    /// Lets models go whose time has come, until the process is told to end or nobody has asked for
    /// so long.
    fn watch(&self, signals: &Signals, linger: Option<Duration>) {
        let (mut active, mut count) = (Instant::now(), 0);
        while !signals.stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            self.pool.expire();
            if signals.again.swap(false, Ordering::Relaxed) {
                self.reload();
            }
            let asked = self.counters.requests();
            if self.requests.load(Ordering::Relaxed) > 0 || asked != count {
                (active, count) = (Instant::now(), asked);
            }
            if linger.is_some_and(|linger| active.elapsed() > linger) {
                signals.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Reads the keys and opens the log again; what fails is told, and the old stays.
    fn reload(&self) {
        let keys = self.keys.as_ref().map(Keys::reload);
        let log = self.access_log.as_ref().map(|log| log.reopen());
        for error in [keys, log].into_iter().flatten().filter_map(Result::err) {
            (self.log)(&error.to_string());
        }
    }
}

fn watch_door(mut door: Door, server: &Arc<Server>, stop: &AtomicBool) -> Door {
    while !stop.load(Ordering::Relaxed) {
        match door.next(LOOK) {
            Ok(Some(exchange)) => spawn(server, exchange),
            Ok(None) => {}
            Err(error) => (server.log)(&error.to_string()),
        }
    }
    door
}

fn spawn(server: &Arc<Server>, exchange: Exchange) {
    let under_way = server.requests.fetch_add(1, Ordering::Relaxed);
    let server = server.clone();
    let handle = move || {
        // Counts down also if the handler panics.
        let _count = Count(server.clone());
        server.counters.request();
        if under_way < REQUESTS_MAX {
            route::route(&server, exchange);
        } else {
            let error = Error::plain(
                Class::Busy,
                "server busy, please try again.  maximum pending requests exceeded",
            );
            exchange.reply(route::error_reply(&error), &[]);
        }
    };
    // Without a thread the exchange is dropped, which tells its client 500.
    let _ = thread::Builder::new().name("request".into()).spawn(handle);
}

struct Count(Arc<Server>);

impl Drop for Count {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for running answers, then cuts them.
fn finish(sockets: &Sockets) {
    let wait = |limit: Duration| {
        let started = Instant::now();
        while sockets.count() > 0 && started.elapsed() < limit {
            thread::sleep(LOOK);
        }
    };
    wait(FINISH_MAX);
    sockets.end_all();
    wait(CUT_MAX);
}
