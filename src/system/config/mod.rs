//! Every setting, read once from the environment, with its origin.
//!
//! `PUNA_X` wins over `OLLAMA_X`, which has the same meaning so that existing scripts work, and both
//! win over the one optional file. Only this module names environment variables or looks up the
//! user's folders.

mod defaults;
mod folders;
mod form;
mod locale;
mod network;
mod shown;
mod sources;
mod variables;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::address::Address;
use crate::core::bytes;
use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};
use crate::core::network::Network;
use folders::{Folders, below, split_list};
use form::switched;
use sources::Sources;

pub use locale::has_unicode;
pub use shown::Setting;
pub use variables::{unknown as unknown_variables, variables};

/// OpenMP's variable for how often a thread spins before it sleeps.
pub const OPENMP_SPINS: &str = "GOMP_SPINCOUNT";

/// True if the user, or puna itself, chose how OpenMP's threads wait.
pub fn openmp_is_set() -> bool {
    [OPENMP_SPINS, "OMP_WAIT_POLICY"]
        .iter()
        .any(|name| std::env::var_os(name).is_some())
}

/// The variables that libraries read to be found and to compute: what a process of ours needs besides its settings.
pub fn library_variables() -> impl Iterator<Item = (OsString, OsString)> {
    const STARTS: [&str; 7] = [
        "LD_LIBRARY_PATH",
        "DYLD_",
        "GOMP_",
        "OMP_",
        "GGML_",
        "CUDA_",
        "LC_",
    ];
    std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        STARTS.iter().any(|start| name.starts_with(start))
    })
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Config {
    /// The user's home, if there is one.
    pub home: Option<PathBuf>,
    /// Folder of our own store.
    pub models: PathBuf,
    /// Folder of Ollama's store, if there may be one.
    pub ollama_models: Option<PathBuf>,
    /// Folder of files that can be recreated, if there is one.
    pub cache: Option<PathBuf>,
    /// Size of the prefix cache, in bytes, if the user chose.
    pub cache_max: Option<u64>,
    /// File of the sessions' prompt history, if there is one.
    pub history: Option<PathBuf>,
    /// True if output to the terminal must be without colour.
    pub plain: bool,
    /// The address to listen on or to connect to.
    pub address: Address,
    /// True if the user named the address.
    pub address_named: bool,
    /// Our Unix socket.
    pub socket: Option<PathBuf>,
    /// The key for servers that require one.
    pub api_key: Option<String>,
    /// The file of keys that our server accepts.
    pub api_key_file: Option<PathBuf>,
    /// Folders in which the server may make a private socket, the best first.
    pub runtime: Vec<PathBuf>,
    /// Listening sockets inherited from the parent process.
    pub inherited_sockets: usize,
    /// How long models stay loaded.
    pub keep_alive: KeepAlive,
    /// A server's default context in tokens.
    pub context_tokens: u32,
    /// Answers computed at once by one model.
    pub parallel: u32,
    /// Whether answers are computed one by one, each as if it were alone.
    pub deterministic: bool,
    /// Models loaded at once.
    pub loaded_max: usize,
    /// Requests that may wait for a model.
    pub queue_max: usize,
    /// How long a load may stall; `None`: forever.
    pub load_stall: Option<Duration>,
    /// How long a stream of the server may be silent.
    pub heartbeat: Duration,
    /// The model of decisions for which none is named.
    pub decision_model: Option<String>,
    /// Whether blobs that no model uses any more stay until `gc`.
    pub keeps_unused: bool,
    /// Whether a server logs everything.
    pub debug: bool,
    /// Further origins.
    pub origins: Vec<String>,
    /// Flash attention, if the user chose.
    pub flash: Option<bool>,
    /// Cache type's name, if the user chose.
    pub kv_cache: Option<String>,
    /// Threads, if the user chose.
    pub threads: Option<usize>,
    /// Tokens of prompt and answer that a one-shot is expected to compute; set by the command that knows them.
    pub work: Option<(usize, usize)>,
    /// Copy weights into the processor's own layout; `None` lets the engine decide.
    pub repack: Option<bool>,
    /// Compute tokens in advance where an answer repeats its prompt or itself.
    pub speculate: bool,
    /// Most memory beside the file of the weights, in bytes, if the user chose.
    pub memory_max: Option<u64>,
    /// Proportions of a model for each GPU; empty: as it fits.
    pub tensor_split: Vec<f32>,
    /// Settings for connections to registries.
    pub network: Network,
    /// The configuration file, which may be missing.
    pub file: Option<PathBuf>,
    /// Notes on variables that mean nothing and are not used.
    pub notes: Vec<String>,
    /// Settings that are not the default: key and origin.
    found: Vec<(String, String)>,
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// If a value of ours is invalid, in the environment or in the file. One of Ollama's variables then
    /// falls back to the default, as in the reference.
    pub fn from_environment() -> Result<Self> {
        Self::read(&|name| std::env::var(name).ok(), &Folders::for_user())
    }

    /// The cache directory.
    ///
    /// # Errors
    /// `Failed` if the user has no cache folder and PUNA_CACHE is unset.
    pub fn cache(&self) -> Result<&Path> {
        let none = || Error::failed("no cache directory: set PUNA_CACHE to a folder");
        self.cache.as_deref().ok_or_else(none)
    }

    fn read(variable: &dyn Fn(&str) -> Option<String>, folders: &Folders) -> Result<Self> {
        let file = match variable("PUNA_CONFIG") {
            Some(path) => named_file(path)?,
            None => below(&folders.config, "puna/config"),
        };
        let sources = Sources::new(variable, file.as_deref(), &variables::keys)?;
        let plain = |name: &str| sources.plain(name);
        let either = |name: &str| sources.either(name);
        let number = |name: &str| {
            either(name)
                .and_then(|value| value.parse::<u32>().ok())
                .filter(|value| *value > 0)
        };
        let switch = |name: &str| plain(name).and_then(|value| switched(&value));
        let is_on = |name: &str| either(name).and_then(|value| switched(&value)) == Some(true);
        let places = Places::find(&sources, folders)?;
        let host = either("HOST");
        let config = Config {
            file,
            found: Vec::new(),
            home: folders.home.clone(),
            ollama_models: places.ollama_models,
            cache: places.cache,
            cache_max: plain("PUNA_CACHE_MAX").and_then(|text| bytes::parse(&text).ok()),
            history: places.history,
            plain: plain("NO_COLOR").is_some() || plain("TERM").is_some_and(|term| term == "dumb"),
            address: host
                .as_deref()
                .map_or_else(|| Ok(Address::default()), Address::parse)?,
            address_named: host.is_some(),
            socket: checked_socket(places.socket)?,
            api_key: plain("PUNA_API_KEY"),
            api_key_file: plain("PUNA_API_KEY_FILE").map(PathBuf::from),
            runtime: private_folders(folders, &places.models),
            inherited_sockets: inherited_sockets(variable),
            keep_alive: either("KEEP_ALIVE")
                .and_then(|value| KeepAlive::parse_lenient(&value).ok())
                .unwrap_or(KeepAlive::For(defaults::KEEP_ALIVE)),
            context_tokens: number("CONTEXT_LENGTH").unwrap_or(defaults::CONTEXT_TOKENS),
            parallel: number("NUM_PARALLEL").unwrap_or(defaults::PARALLEL),
            deterministic: switch("PUNA_DETERMINISTIC") == Some(true),
            loaded_max: number("MAX_LOADED_MODELS")
                .map_or(defaults::LOADED_MAX, |count| count as usize),
            queue_max: number("MAX_QUEUE").map_or(defaults::QUEUE_MAX, |count| count as usize),
            load_stall: load_stall(either("LOAD_TIMEOUT").as_deref()),
            heartbeat: heartbeat(plain("PUNA_HEARTBEAT")),
            decision_model: plain("PUNA_DECISION_MODEL"),
            keeps_unused: is_on("NOPRUNE"),
            debug: is_on("DEBUG"),
            origins: either("ORIGINS")
                .map(|list| split_list(&list))
                .unwrap_or_default(),
            flash: either("FLASH_ATTENTION").and_then(|value| switched(&value)),
            kv_cache: either("KV_CACHE_TYPE"),
            threads: plain("PUNA_NUM_THREADS").and_then(|value| positive(&value)),
            repack: switch("PUNA_REPACK"),
            speculate: switch("PUNA_SPECULATE") != Some(false),
            work: None,
            memory_max: None,
            network: network::read(&plain, folders),
            tensor_split: numbers(plain("PUNA_TENSOR_SPLIT")),
            models: places.models,
            notes: sources.meaningless(),
        };
        sources.found().map(|found| Config { found, ..config })
    }
}

/// The configuration file that the user named; an empty name is none.
fn named_file(path: String) -> Result<Option<PathBuf>> {
    let file = (!path.is_empty()).then(|| PathBuf::from(path));
    match &file {
        Some(file) if !file.exists() => {
            let text = format!("PUNA_CONFIG: {} does not exist", file.display());
            Err(Error::usage(text))
        }
        _ => Ok(file),
    }
}

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| *count > 0)
}

/// How long a stream may be silent.
fn heartbeat(given: Option<String>) -> Duration {
    match given.and_then(|text| KeepAlive::parse_lenient(&text).ok()) {
        Some(KeepAlive::For(time)) => time,
        _ => defaults::HEARTBEAT,
    }
}

/// The paths of what puna stores.
struct Places {
    models: PathBuf,
    ollama_models: Option<PathBuf>,
    cache: Option<PathBuf>,
    history: Option<PathBuf>,
    socket: Option<PathBuf>,
}

impl Places {
    fn find(sources: &Sources, folders: &Folders) -> Result<Self> {
        let named = |name: &str| sources.plain(name).map(PathBuf::from);
        let models = named("PUNA_MODELS").or_else(|| below(&folders.data, "puna/models"));
        let models = models.unwrap_or_else(|| defaults::MODELS_WITHOUT_HOME.into());
        // An empty variable means no socket, an unset one the usual path.
        let socket = sources
            .raw("PUNA_SOCKET")
            .or_else(|| sources.plain("PUNA_SOCKET"));
        let usual = || folders.runtime.clone().unwrap_or_else(|| beside(&models));
        let forgets = sources
            .either("NOHISTORY")
            .and_then(|value| switched(&value));
        let cache = named("PUNA_CACHE").or_else(|| below(&folders.cache, "puna"));
        no_file(&models, "models")?;
        cache
            .iter()
            .try_for_each(|path| no_file(path, "files that are kept"))?;
        Ok(Places {
            ollama_models: named("OLLAMA_MODELS")
                .or_else(|| below(&folders.home, ".ollama/models")),
            cache,
            history: below(&folders.state, "puna/history").filter(|_| forgets != Some(true)),
            socket: match socket {
                Some(path) => (!path.is_empty()).then(|| PathBuf::from(path)),
                None => Some(usual().join("puna.sock")),
            },
            models,
        })
    }
}

/// Refuses a file where a folder is meant.
fn no_file(path: &Path, content: &str) -> Result<()> {
    if path.is_file() {
        let text = format!("{} is a file, not a folder of {content}", path.display());
        return Err(Error::usage(text));
    }
    Ok(())
}

/// The longest path a Unix socket may have on every system puna runs on (macOS: 104 with its NUL).
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// The longest name of a private socket below its folder.
const PRIVATE_NAME_BYTES_MAX: usize = "/puna-http-4294967295/http.sock".len();

fn checked_socket(socket: Option<PathBuf>) -> Result<Option<PathBuf>> {
    match socket {
        Some(path) if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX => {
            let text = path.display();
            Err(Error::usage(format!(
                "the socket's path is too long: {text}: set PUNA_SOCKET to a shorter one"
            )))
        }
        socket => Ok(socket),
    }
}

fn beside(models: &Path) -> PathBuf {
    models.parent().unwrap_or(models).join("run")
}

/// Folders for a private socket: those whose path leaves room for its name, and the one for temporary files.
fn private_folders(folders: &Folders, models: &Path) -> Vec<PathBuf> {
    let own = folders.runtime.clone().into_iter().chain([beside(models)]);
    let has_room =
        |path: &PathBuf| path.as_os_str().len() + PRIVATE_NAME_BYTES_MAX <= SOCKET_PATH_BYTES_MAX;
    let mut folders: Vec<PathBuf> = own.filter(has_room).collect();
    folders.push(std::env::temp_dir());
    folders
}

/// How many listening sockets systemd handed over, if it names this process.
fn inherited_sockets(variable: &dyn Fn(&str) -> Option<String>) -> usize {
    let own = std::process::id().to_string();
    let count = variable("LISTEN_FDS").filter(|_| variable("LISTEN_PID") == Some(own));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// The stall timeout of a load: as written, five minutes for an invalid time, none for 0.
fn load_stall(value: Option<&str>) -> Option<Duration> {
    match value.map(KeepAlive::parse_lenient) {
        Some(Ok(KeepAlive::For(Duration::ZERO) | KeepAlive::Forever)) => None,
        Some(Ok(KeepAlive::For(time))) => Some(time),
        Some(Err(_)) | None => Some(defaults::LOAD_STALL),
    }
}

/// Numbers, comma-separated; other items are skipped.
fn numbers(list: Option<String>) -> Vec<f32> {
    let list = list.map(|list| split_list(&list)).unwrap_or_default();
    list.iter().filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)], home: Option<&str>) -> Config {
        let folders = Folders {
            home: home.map(PathBuf::from),
            data: home.map(|home| PathBuf::from(home).join(".local/share")),
            cache: home.map(|home| PathBuf::from(home).join(".cache")),
            state: None,
            config: None,
            runtime: None,
        };
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_string())
        };
        Config::read(&variable, &folders).unwrap()
    }

    #[test]
    fn ours_wins_over_ollamas() {
        let config = read(
            &[
                ("PUNA_HOST", ":1"),
                ("OLLAMA_HOST", ":2"),
                ("OLLAMA_KEEP_ALIVE", " \"30\" "),
            ],
            Some("/h"),
        );
        assert_eq!(config.address.port, 1);
        assert_eq!(config.keep_alive, KeepAlive::For(Duration::from_secs(30)));
        assert_eq!(
            config.ollama_models.unwrap(),
            PathBuf::from("/h/.ollama/models")
        );
        assert_eq!(
            config.socket.unwrap(),
            PathBuf::from("/h/.local/share/puna/run/puna.sock")
        );
    }

    #[test]
    fn without_a_home_there_is_still_a_store() {
        let config = read(&[("PUNA_SOCKET", "")], None);
        assert_eq!(config.models, PathBuf::from(defaults::MODELS_WITHOUT_HOME));
        assert_eq!((config.ollama_models, config.socket), (None, None));
    }
}
