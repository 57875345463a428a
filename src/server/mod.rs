//! The HTTP server: listeners, one thread per request, graceful shutdown.

mod access;
mod body;
mod context;
mod counters;
mod front;
mod handlers;
mod http;
mod ids;
mod listener;
mod notices;
mod reply;
mod resolve;
mod route;
mod shared;
mod sockets;
mod stream;
mod turn;

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::core::error::{Class, Error, Result};
use crate::core::threads;
use crate::ops::model_cache::ModelCache;
use crate::ops::pool::Pool;
use crate::system::config::Config;
use crate::system::engine::return_memory;
use crate::system::store::Store;
use access::Access;
use counters::Counters;
use front::{Front, Inner, Requests};
use http::{Exchange, Listener};
use listener::Socket;
use shared::{Count, Server};

pub use access::keys::Keys;
pub use context::AccessLog;
use context::RequestContext;

/// Most requests handled at once, each on its own thread; more are refused.
const REQUESTS_MAX: usize = 1024;
/// How often a listener checks whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long running answers may take to finish on shutdown.
const FINISH_MAX: Duration = Duration::from_millis(3500);
/// How long the rest may then take to stop after they are cancelled.
const CUT_MAX: Duration = Duration::from_millis(1000);

/// The sockets to listen on.
pub struct Listeners {
    /// The TCP socket, bound.
    pub tcp: Option<TcpListener>,
    /// The Unix socket, bound, with its path.
    pub unix: Option<(UnixListener, PathBuf)>,
    /// True if they were inherited from the parent process.
    pub handed: bool,
}

impl Listeners {
    /// The sockets inherited from the parent process (`LISTEN_FDS`); `None` if `count` is 0.
    ///
    /// # Errors
    /// If one of them is not a listening socket, or there are two of a kind.
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
                _ => return Err(Error::failed("LISTEN_FDS: two sockets of the same kind")),
            }
        }
        Ok((count > 0).then_some(listeners))
    }

    /// True if only this machine can reach them.
    pub fn are_near(&self) -> bool {
        let at = self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
        at.is_none_or(|at| at.ip().is_loopback())
    }
}

/// Flags that the process's signal handlers set.
pub struct Signals {
    /// Set to stop the server.
    pub stop: Arc<AtomicBool>,
    /// Set to reload the keys and reopen the access log.
    pub reload: Arc<AtomicBool>,
}

/// The access policy of a server: keys, access log and idle exit.
pub struct AccessPolicy {
    /// The keys that requests over TCP need; `None` requires no key.
    pub keys: Option<Keys>,
    /// The log that gets a line for each request.
    pub access_log: Option<AccessLog>,
    /// Exit after this long without a request.
    pub idle_exit: Option<Duration>,
}

/// Serves until `stop` is set, then lets running answers finish or cancels them, within 5 s.
///
/// # Errors
/// If a socket cannot be served.
pub fn serve(
    config: &Config,
    pool: Pool,
    listeners: Listeners,
    policy: AccessPolicy,
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
        model_cache: ModelCache::default(),
        pool: pool.clone(),
        network: config.network.clone(),
        heartbeat: config.heartbeat,
        decision_model: config.decision_model.clone(),
        registry: OnceLock::new(),
        access: Access::new(config.origins.clone(), loopback),
        keys: policy.keys,
        access_log: policy.access_log.map(Arc::new),
        store_path,
        log,
        requests: AtomicUsize::new(0),
        counters: Counters::default(),
    });
    // tiny_http starts five and panics if it cannot; the front and the answers take one each.
    threads::check_room(8)?;
    let requests = Requests::default();
    let (inner, socket) = Inner::bind(&config.runtime)?;
    let mut listener = Listener::open(socket, requests.clone())?;
    let refused = {
        let server = server.clone();
        move |peer, status| RequestContext::refused(peer, status, server.access_log.clone())
    };
    let descriptors = sockets::raise_limit();
    let front = Front::new(inner, requests.clone(), Box::new(refused), descriptors);
    let tcp = listeners.tcp.map(Socket::Tcp);
    let unix = listeners.unix.map(|(listener, _)| Socket::Unix(listener));
    let mut running = Vec::new();
    for socket in tcp.into_iter().chain(unix) {
        let (front, stop) = (front.clone(), stop.clone());
        running.push(threads::spawn(move || front.accept(&socket, &stop))?);
    }
    {
        let (server, stop) = (server.clone(), stop.clone());
        running.push(threads::spawn(move || {
            answer(&mut listener, &server, &stop)
        })?);
    }
    server.watch(signals, policy.idle_exit);
    requests.close();
    finish(&requests);
    for thread in running {
        // They return once `stop` is set; a panic was already printed.
        let _ = thread.join();
    }
    Ok(())
}

impl Server {
    /// Unloads expired models until `stop` is set; sets it after `idle_exit` without a request.
    fn watch(&self, signals: &Signals, idle_exit: Option<Duration>) {
        let (mut active, mut count) = (Instant::now(), 0);
        while !signals.stop.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            self.pool.expire();
            if signals.reload.swap(false, Ordering::Relaxed) {
                self.reload();
            }
            let requests_now = self.counters.requests();
            if self.requests.load(Ordering::Relaxed) > 0 || requests_now != count {
                (active, count) = (Instant::now(), requests_now);
            }
            if idle_exit.is_some_and(|idle_exit| active.elapsed() > idle_exit) {
                signals.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Reloads the keys and reopens the log; a failure is logged, and the old ones stay in use.
    fn reload(&self) {
        let keys = self.keys.as_ref().map(Keys::reload);
        let log = self.access_log.as_ref().map(|log| log.reopen());
        for error in [keys, log].into_iter().flatten().filter_map(Result::err) {
            (self.log)(&error.to_string());
        }
    }
}

/// Answers requests until `stop` is set.
fn answer(listener: &mut Listener, server: &Arc<Server>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.next(LOOK) {
            Ok(Some(exchange)) => spawn(server, exchange),
            Ok(None) => {}
            Err(error) => (server.log)(&error.to_string()),
        }
    }
}

fn spawn(server: &Arc<Server>, exchange: Exchange) {
    let count = Count::up(server);
    let handle = move || {
        let server = &count.server;
        server.counters.request();
        if count.before < REQUESTS_MAX {
            let length = exchange.header("Content-Length").map(str::parse);
            let is_large = !matches!(length, None | Some(Ok(0..=LARGE_BYTES)));
            route::route(server, exchange);
            if is_large {
                return_memory();
            }
        } else {
            let error = Error::plain(
                Class::Busy,
                "server busy, please try again.  maximum pending requests exceeded",
            );
            exchange.reply(reply::error_reply(&error), &[]);
        }
    };
    // Without a thread the closure is dropped: its client gets status 500, and the count goes down again.
    let _ = thread::Builder::new().name("request".into()).spawn(handle);
}

/// A larger body leaves the C library much that it would keep.
const LARGE_BYTES: usize = 1 << 20;

/// Waits for running answers, then cancels those that remain.
fn finish(requests: &Requests) {
    let wait = |limit: Duration| {
        let started = Instant::now();
        while requests.count() > 0 && started.elapsed() < limit {
            thread::sleep(LOOK);
        }
    };
    wait(FINISH_MAX);
    requests.end_all();
    wait(CUT_MAX);
}
