//! The context of every command: the settings in force, the store they name, and the servers they lead to.

use std::cell::Cell;
use std::fs;
use std::time::Duration;

use super::deadline;
use super::flag::HOST;
use super::parsed::Parsed;
use crate::core::address::Address;
use crate::core::error::{Error, Result};
use crate::ops::model::is_path;
use crate::system::client::Client;
use crate::system::config::Config;
use crate::system::store::Store;

/// How long our own server may take to identify itself; one that hangs is left alone.
const PROBE_MAX: Duration = Duration::from_secs(1);

/// Flags that are for what this process computes.
const HERE: [&str; 4] = ["mem-max", "nice", "threads", "no-cache"];

/// A flag that is for what this process computes, if one is given: a server that was only found is not used then.
pub fn flag_for_here(parsed: &Parsed) -> Option<&str> {
    let mut given = parsed.values.iter().map(|(flag, _)| *flag);
    given.find(|flag| HERE.contains(flag))
}

/// The context of a command.
pub struct Context {
    /// The settings in force.
    pub config: Config,
    /// The exit status of a command that did its work, set by [`Context::end_with`].
    status: Cell<u8>,
}

impl Context {
    /// A context with these settings.
    pub fn new(config: Config) -> Self {
        Context {
            config,
            status: Cell::new(0),
        }
    }

    /// Sets the exit status that reports the answer of a command, such as a negative one. It is not a failure:
    /// nothing is printed for it.
    pub fn end_with(&self, status: u8) {
        self.status.set(status);
    }

    /// The exit status of a command without a failure.
    pub fn status(&self) -> u8 {
        self.status.get()
    }

    /// The store that the settings name.
    pub fn store(&self) -> Store {
        store(&self.config)
    }

    /// The server that the user named, by `--host` or in the settings; `None` if neither names one.
    ///
    /// # Errors
    /// `Usage` for an address that cannot be read.
    pub fn named_server(&self, parsed: &Parsed) -> Result<Option<Client>> {
        let config = &self.config;
        let address = match parsed.value(&HOST) {
            Some(host) if host.trim().is_empty() => {
                return Err(Error::usage("--host needs an address"));
            }
            Some(host) => Address::parse(host)?,
            None if config.address_named => config.address.clone(),
            None => return Ok(None),
        };
        Ok(Some(Client::at(&address).keyed(config.api_key.clone())))
    }

    /// The named server, for a command with the model of its first operand. A model in a file runs here.
    ///
    /// # Errors
    /// As [`Context::named_server`]; `Usage` for `--host` with a file.
    pub fn model_server(&self, parsed: &Parsed) -> Result<Option<Client>> {
        match is_path(&parsed.operands[0]) {
            true if parsed.has(&HOST) => Err(Error::usage(
                "--host cannot be used with a model in a file, which runs here",
            )),
            true => Ok(None),
            false => {
                let server = self.named_server(parsed)?;
                match (server, flag_for_here(parsed)) {
                    (Some(_), Some(flag)) => Err(Error::usage(format!(
                        "--{flag} is for what this process computes, and a server is named: omit one of them"
                    ))),
                    // One answer ends with the command; a stream is ended by whoever reads it.
                    (server, _) => Ok(server.map(|server| server.within(deadline::left()))),
                }
            }
        }
    }

    /// The server that a command may use: the named one, else our own, else none.
    ///
    /// # Errors
    /// As [`Context::named_server`].
    pub fn some_server(&self, parsed: &Parsed) -> Result<Option<Client>> {
        let named = self.named_server(parsed)?;
        Ok(named.or_else(|| own_server(&self.config)))
    }
}

/// The store that the configuration names.
pub fn store(config: &Config) -> Store {
    Store::new(config.models.clone(), config.ollama_models.clone())
        .keeping_unused(config.keeps_unused)
}

/// Our own server, if its socket exists and belongs to this user, and it reads the same store.
pub fn own_server(config: &Config) -> Option<Client> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let path = config.socket.as_ref()?;
    let meta = fs::metadata(path).ok()?;
    if !meta.file_type().is_socket() || meta.uid() != rustix::process::getuid().as_raw() {
        return None;
    }
    let theirs = Client::on_socket(path, Some(PROBE_MAX)).store()?;
    let same = fs::canonicalize(&config.models).ok()? == theirs;
    same.then(|| Client::on_socket(path, None))
}
