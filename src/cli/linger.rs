//! `run --linger`: a server of one's own that stays behind, so that the next call finds the model loaded.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::parse::Parsed;
use super::spec::{Flag, maybe};
use crate::client::Client;
use crate::config::Config;
use crate::duration::KeepAlive;
use crate::error::{Class, Error, Result};

pub const LINGER: Flag = maybe(
    "linger",
    "DURATION",
    "leave a server on the Unix socket behind for the next call, until nobody asked it for so long (default 10m)",
);

/// How long it stays if nothing else is said.
const STAY: &str = "10m";
/// How long it may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// How often to look whether it does.
const LOOK: Duration = Duration::from_millis(10);

/// The server that is there, or one that is started now.
///
/// # Errors
/// `Usage` for what is no time; `Network` if it does not start.
pub fn server(parsed: &Parsed, config: &Config) -> Result<Client> {
    let stay = parsed.value("linger").filter(|text| !text.is_empty());
    let stay = stay.unwrap_or(STAY);
    KeepAlive::parse_lenient(stay)?;
    if config.socket.is_none() {
        return Err(Error::usage(
            "--linger needs a Unix socket: see PUNA_SOCKET",
        ));
    }
    if let Some(client) = super::own_server(config) {
        return Ok(client);
    }
    let failed = |why: String| {
        let text = format!("cannot start a server to leave behind: {why}: see puna serve");
        Error::plain(Class::Network, text)
    };
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command
        .args(["serve", "--no-tcp", "--quiet", "--linger", stay])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0); // Ctrl-C is for us alone.
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let started = Instant::now();
    loop {
        if let Some(client) = super::own_server(config) {
            return Ok(client);
        }
        // One that ended may have found another, started at the same moment.
        let ended = child.try_wait().ok().flatten();
        if let Some(status) = ended {
            return super::own_server(config).ok_or_else(|| failed(status.to_string()));
        }
        if started.elapsed() > START_MAX {
            return Err(failed("it does not listen".into()));
        }
        thread::sleep(LOOK);
    }
}
