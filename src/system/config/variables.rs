//! The table of variables, which are also the keys of the configuration file: name, line in the manual, form of the value.

use super::form::Form;
use super::network;

/// Variables that puna reads, each with its line in the manual and the form of its value. `X` stands for both prefixes.
const VARIABLES: &[(&str, &str, Form)] = &[
    (
        "PUNA_CONFIG",
        "configuration file; empty: none (default: puna/config in the user's configuration folder)",
        Form::Text,
    ),
    (
        "PUNA_MODELS",
        "folder of the store (default: puna/models in the user's data folder)",
        Form::Path,
    ),
    (
        "OLLAMA_MODELS",
        "folder of Ollama's store, only read (default: ~/.ollama/models)",
        Form::Text,
    ),
    (
        "PUNA_CACHE",
        "folder of files that can be recreated (default: puna in the user's cache folder)",
        Form::Path,
    ),
    (
        "PUNA_CACHE_MAX",
        "size of the prefix cache in that folder, such as 500M; 0: none (default 2G, at most 5 % of the free disk)",
        Form::Bytes,
    ),
    (
        "PUNA_HOST, OLLAMA_HOST",
        "address to listen on, or of the server that does what it can instead of this machine (default 127.0.0.1:11434)",
        Form::Text,
    ),
    (
        "PUNA_SOCKET",
        "Unix socket to listen on or to use; empty: none",
        Form::Path,
    ),
    (
        "PUNA_API_KEY",
        "key for a server that requires one",
        Form::Text,
    ),
    (
        "PUNA_API_KEY_FILE",
        "file of the keys that serve accepts, see puna-serve(1) (default: none)",
        Form::Path,
    ),
    (
        "PUNA_KEEP_ALIVE, OLLAMA_KEEP_ALIVE",
        "how long a model stays loaded (default 5m; negative: forever)",
        Form::Time,
    ),
    (
        "PUNA_CONTEXT_LENGTH, OLLAMA_CONTEXT_LENGTH",
        "a server's default num_ctx (default 4096)",
        Form::Count(1),
    ),
    (
        "PUNA_NUM_PARALLEL, OLLAMA_NUM_PARALLEL",
        "answers computed at once by a model (default 8)",
        Form::Count(1),
    ),
    (
        "PUNA_DETERMINISTIC",
        "1: answers of a server are computed one by one, each as if it were alone",
        Form::Switch { auto: false },
    ),
    (
        "PUNA_MAX_LOADED_MODELS, OLLAMA_MAX_LOADED_MODELS",
        "models loaded at once (default 3)",
        Form::Count(1),
    ),
    (
        "PUNA_MAX_QUEUE, OLLAMA_MAX_QUEUE",
        "requests that may wait for a model (default 512)",
        Form::Count(1),
    ),
    (
        "PUNA_LOAD_TIMEOUT, OLLAMA_LOAD_TIMEOUT",
        "how long a load may stall (default 5m; 0: forever)",
        Form::Time,
    ),
    (
        "PUNA_NOPRUNE, OLLAMA_NOPRUNE",
        "1: create and pull leave the blobs that only the replaced model used",
        Form::Switch { auto: false },
    ),
    (
        "PUNA_DEBUG, OLLAMA_DEBUG",
        "1: serve logs as with --log debug",
        Form::Switch { auto: false },
    ),
    (
        "PUNA_HEARTBEAT",
        "how long a stream may be silent while a prompt is computed (default 10s)",
        Form::Span,
    ),
    (
        "PUNA_DECISION_MODEL",
        "model of a server's decisions for which a request names none (default: the only one that is loaded)",
        Form::Text,
    ),
    (
        "PUNA_ORIGINS, OLLAMA_ORIGINS",
        "further origins that browsers may send requests from, comma-separated",
        Form::Text,
    ),
    (
        "PUNA_FLASH_ATTENTION, OLLAMA_FLASH_ATTENTION",
        "flash attention: auto, on or off (default: auto, the faster one)",
        Form::Switch { auto: true },
    ),
    (
        "PUNA_KV_CACHE_TYPE, OLLAMA_KV_CACHE_TYPE",
        "cache type: f16, q8_0, q4_0 (default f16)",
        Form::Word(&["f16", "q8_0", "q4_0"]),
    ),
    (
        "PUNA_NOHISTORY, OLLAMA_NOHISTORY",
        "1: sessions keep no history of prompts",
        Form::Switch { auto: false },
    ),
    (
        "NO_COLOR",
        "sessions use no colour; the same if TERM is dumb",
        Form::Text,
    ),
    (
        "PUNA_NUM_THREADS",
        "threads to compute with (default: one for each core)",
        Form::Count(1),
    ),
    (
        "PUNA_REPACK",
        "copy weights into the processor's own layout when a model is loaded: auto, on or off (default: auto)",
        Form::Switch { auto: true },
    ),
    (
        "PUNA_SPECULATE",
        "compute tokens in advance where an answer repeats its prompt or itself: on or off (default: on)",
        Form::Switch { auto: false },
    ),
    (
        "PUNA_TENSOR_SPLIT",
        "proportions of a model for each GPU, comma-separated, such as 3,1 (default: as it fits)",
        Form::Numbers,
    ),
];

/// All variables, each with its line in the manual.
pub fn variables() -> impl Iterator<Item = &'static (&'static str, &'static str, Form)> {
    VARIABLES.iter().chain(network::VARIABLES)
}

/// Variables of the environment that begin like ours and are none.
pub fn unknown() -> Vec<String> {
    let known =
        |name: &str| variables().any(|(names, ..)| names.split(", ").any(|one| one == name));
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut unknown: Vec<String> = names
        .filter(|name| name.starts_with("PUNA_") && !known(name))
        .collect();
    unknown.sort();
    unknown
}

/// Keys of the file: our variables without their prefix, in lower case.
pub fn keys() -> Vec<String> {
    let names = variables().flat_map(|(names, ..)| names.split(", "));
    let ours = names.filter(|name| name.starts_with("PUNA_") && *name != "PUNA_CONFIG");
    let ours = ours.map(key);
    ours.chain(["ollama_models".to_string()]).collect()
}

/// The form of the value of a key of the file.
pub fn form(wanted: &str) -> Form {
    let is_its = |name: &str| name.starts_with("PUNA_") && key(name) == wanted;
    let mut known = variables();
    let found = known.find(|(names, ..)| names.split(", ").any(is_its));
    found.map_or(Form::Text, |(_, _, form)| *form)
}

/// The file's key for a variable: `keep_alive` for `PUNA_KEEP_ALIVE`.
pub fn key(variable: &str) -> String {
    let bare = variable.strip_prefix("PUNA_").unwrap_or(variable);
    bare.to_lowercase()
}
