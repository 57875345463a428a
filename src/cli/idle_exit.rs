//! `run --linger`: starts a server that exits when idle, so that the next call finds the model loaded.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::context;
use super::flag::{Flag, Group, maybe};
use super::parsed::duration;
use crate::core::error::{Class, Error, Result};
use crate::system::client::Client;
use crate::system::config::Config;

pub const IDLE_EXIT: Flag = maybe(
    "linger",
    "DURATION",
    "leave a server that exits when idle (default 10m)",
)
.in_group(Group::Where);

/// Default idle time after which the server exits.
const STAY: &str = "10m";
/// Time limit for the server to start listening.
const START_MAX: Duration = Duration::from_secs(20);
/// Interval at which the server is probed while it starts.
const LOOK: Duration = Duration::from_millis(10);

/// Our own server if it runs, else one that is started now and exits after `stay` without a request; empty: after
/// the default.
///
/// # Errors
/// `Usage` for an invalid duration or without a Unix socket; `Network` if the server does not start.
pub fn server(stay: &str, config: &Config) -> Result<Client> {
    let stay = if stay.is_empty() { STAY } else { stay };
    duration("linger", stay)?;
    if config.socket.is_none() {
        return Err(Error::usage(
            "--linger needs a Unix socket: see PUNA_SOCKET",
        ));
    }
    if let Some(client) = context::own_server(config) {
        return Ok(client);
    }
    let failed = |why: String| {
        let text = format!("cannot start a server for --linger: {why}: see puna serve");
        Error::plain(Class::Network, text)
    };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command
        .args(["serve", "--no-tcp", "--quiet", "--linger", stay])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0); // Ctrl-C must not reach the server.
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let started = Instant::now();
    loop {
        if let Some(client) = context::own_server(config) {
            return Ok(client);
        }
        // A server that exited may have found another one, started at the same moment.
        let ended = child.try_wait().ok().flatten();
        if let Some(status) = ended {
            return context::own_server(config).ok_or_else(|| failed(status.to_string()));
        }
        if started.elapsed() > START_MAX {
            return Err(failed("it does not listen".into()));
        }
        thread::sleep(LOOK);
    }
}
