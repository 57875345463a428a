//! The command line: one file a command, each with its own entry of the table.

mod again;
mod answer;
mod ask;
mod bench;
mod bundle;
mod chat;
mod choose;
mod complete;
mod config;
mod contract;
mod copy;
mod create;
mod doctor;
mod fill;
mod help;
mod input;
mod journal;
mod keep;
mod kept;
mod linger;
mod list;
mod man;
mod map;
mod mapping;
mod out;
mod pages;
mod parse;
mod ps;
mod pull;
mod push;
mod records;
mod reduce;
mod remove;
mod render;
mod repl;
mod replay;
mod rerank;
mod run;
mod send;
mod serve;
mod session;
mod shape;
mod show;
mod signals;
mod slash;
mod spec;
mod stop;
mod studio;
mod tokens;
mod transcript;
mod vector;
mod vectors;
mod wrap;

use std::ffi::OsString;
use std::sync::OnceLock;

use crate::client::Client;
use crate::config::Config;
use crate::error::{Class, Error, Result};
use crate::store::Store;
use out::Out;
use parse::Parsed;

/// Runs the command that the words name and returns the exit status.
pub fn main(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    // With it every failure has one status, also that of the words themselves.
    let told = words
        .first()
        .is_some_and(|word| word == choose::COMMAND.name)
        && words.iter().any(|word| word == "--status");
    match run(words) {
        Ok(()) => 0,
        Err(error) => {
            // A no is told by the status alone.
            if !matches!(error.class(), Class::Closed | Class::No | Class::Told(_)) {
                out::complain(&error.to_string());
            }
            match error.class() {
                Class::Told(status) => status,
                _ if told => choose::FAILED,
                class => spec::status(class),
            }
        }
    }
}

fn run(words: impl IntoIterator<Item = OsString>) -> Result<()> {
    let parsed = parse::parse(words)?;
    let mut out = Out::new();
    if parsed.help {
        return out.write(&help::command(parsed.command));
    }
    out.set_quiet(parsed.has("quiet"));
    let mut config = Config::from_environment()?;
    // The lock holds until the command has ended.
    let Some(_lock) = contract::enter(&parsed, &mut config)? else {
        return Ok(());
    };
    contract::patiently(&parsed, &config, &mut out)
}

/// The store that the configuration names.
fn store(config: &Config) -> Store {
    Store::new(config.models.clone(), config.ollama_models.clone())
        .keeping_unused(config.keeps_unused)
}

/// The server that the user named: by `--host` or in the environment.
fn named_server(parsed: &Parsed, config: &Config) -> Result<Option<Client>> {
    match parsed.value("host") {
        Some(host) => Ok(Some(
            Client::at(&crate::address::Address::parse(host)?).keyed(config.api_key.clone()),
        )),
        None if config.address_named => Ok(Some(
            Client::at(&config.address).keyed(config.api_key.clone()),
        )),
        None => Ok(None),
    }
}

/// How long our own server may take to say who it is; one that hangs is left alone.
const PROBE_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// Our own server, if its socket is there, belongs to us and it reads the same store.
fn own_server(config: &Config) -> Option<Client> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let path = config.socket.as_ref()?;
    let meta = std::fs::metadata(path).ok()?;
    if !meta.file_type().is_socket() || meta.uid() != rustix::process::getuid().as_raw() {
        return None;
    }
    let theirs = Client::on_socket(path, Some(PROBE_MAX)).store()?;
    let same = std::fs::canonicalize(&config.models).ok()? == theirs;
    same.then(|| Client::on_socket(path, None))
}

/// The server for commands that only tell what a server does: named, our own, or none.
fn some_server(parsed: &Parsed, config: &Config) -> Result<Option<Client>> {
    Ok(named_server(parsed, config)?.or_else(|| own_server(config)))
}

/// All of standard input; it is read once, whoever asks.
fn standard_input(bytes_max: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    static READ: OnceLock<Vec<u8>> = OnceLock::new();
    if READ.get().is_none() {
        let mut bytes = Vec::new();
        let mut input = input::Input::new().take(bytes_max + 1);
        let read = input.read_to_end(&mut bytes);
        read.map_err(input::Input::error)?;
        // Only one thread reads it.
        let _ = READ.set(bytes);
    }
    let bytes = READ.get().cloned().unwrap_or_default();
    match bytes.len() as u64 > bytes_max {
        true => Err(Error::usage(format!(
            "standard input is larger than {} MiB",
            bytes_max >> 20
        ))),
        false => Ok(bytes),
    }
}

/// Reads a file that the command line names, or standard input for `-`.
fn read_input(path: &str, bytes_max: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    if path == "-" {
        return standard_input(bytes_max);
    }
    let mut bytes = Vec::new();
    let read = regular_file(path)
        .and_then(|()| std::fs::File::open(path))
        .and_then(|file| file.take(bytes_max + 1).read_to_end(&mut bytes));
    read.map_err(|error| Error::io("read", path, error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Error::usage(format!(
            "{path} is larger than {} MiB",
            bytes_max >> 20
        )));
    }
    Ok(bytes)
}

/// The text of a file that the command line names, or of standard input for `-`.
fn read_text(path: &str, bytes_max: u64) -> Result<String> {
    let name = if path == "-" { "standard input" } else { path };
    let text = String::from_utf8(read_input(path, bytes_max)?);
    text.map_err(|_| Error::usage(format!("{name} is not UTF-8 text")))
}

fn regular_file(path: &str) -> std::io::Result<()> {
    match std::fs::metadata(path)?.is_dir() {
        true => Err(std::io::ErrorKind::IsADirectory.into()),
        false => Ok(()),
    }
}
