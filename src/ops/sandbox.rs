//! The server's sandbox: once it listens, the process can open only its store, its cache and the
//! system's files. It uses Landlock on Linux; other systems have no sandbox.
//!
//! An exploited parser can then reach no other file of the user, and start no program but this one.

use std::path::{Path, PathBuf};

use crate::core::error::{Class, Error, Result};
use crate::system::config::Config;
use crate::system::engine::BUILT_FOR_GPU;

/// The value of `--sandbox`: when to restrict the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// If the kernel supports it.
    Auto,
    /// Always; the server does not start without it.
    On,
    /// Never.
    Off,
}

impl When {
    /// Parses the flag's value.
    ///
    /// # Errors
    /// `Usage` for any other word.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "auto" => Ok(When::Auto),
            "on" => Ok(When::On),
            "off" => Ok(When::Off),
            other => Err(Error::usage(format!(
                "--sandbox must be auto, on or off, not '{other}'"
            ))),
        }
    }
}

/// System folders that stay readable: processor and memory data, libraries, certificates, host names.
#[cfg(target_os = "linux")]
const SYSTEM: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/nix/store",
];

/// Restricts the process: threads started later can open only the store, the cache, `more` and the
/// system's files. Returns a note if the sandbox is unavailable with [`When::Auto`].
///
/// # Errors
/// `Denied` if it is unavailable with [`When::On`].
pub fn close(wanted: When, config: &Config, more: &[PathBuf]) -> Result<Option<String>> {
    // GPU drivers open files that cannot be listed in advance.
    let gpu = BUILT_FOR_GPU;
    if wanted == When::Off || (wanted == When::Auto && gpu) {
        return Ok(None);
    }
    let closed = if gpu {
        Err("not available in a GPU build".to_string())
    } else {
        restrict(&written(config, more), &read(config))
    };
    match (closed, wanted) {
        (Ok(()), _) => Ok(None),
        (Err(why), When::On) => {
            let text = format!("cannot start the sandbox: {why}: see --sandbox");
            Err(Error::plain(Class::Denied, text))
        }
        (Err(why), _) => Ok(Some(format!("continuing without a sandbox: {why}"))),
    }
}

/// Restricts the process to reading these files and the system's, where there is a sandbox.
pub fn only_read<'a>(files: impl Iterator<Item = &'a PathBuf>) {
    if BUILT_FOR_GPU {
        return; // Its drivers open files that cannot be listed in advance.
    }
    let program = std::env::current_exe().ok();
    let folders = program.iter().flat_map(|program| folders(program));
    let read: Vec<PathBuf> = folders.chain(files.cloned()).collect();
    // Without a sandbox the process still has nothing but its limits to lose.
    let _ = restrict(&[], &read);
}

/// The folders that a file is in: the one that its name is in, and if that is a link, the one where the file is.
pub fn folders(file: &Path) -> Vec<PathBuf> {
    let real = std::fs::canonicalize(file).ok();
    let parents = [Some(file), real.as_deref()].into_iter().flatten();
    parents
        .filter_map(Path::parent)
        .map(|folder| match folder.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => folder.to_path_buf(),
        })
        .collect()
}

/// Writable paths: the store, the cache, the folder of our own key, and those of sockets and logs.
fn written(config: &Config, more: &[PathBuf]) -> Vec<PathBuf> {
    let keys = config.network.keys.last();
    let mut paths = vec![config.models.clone()];
    paths.extend(config.cache.clone());
    paths.extend(keys.into_iter().flat_map(|key| folders(key)));
    paths.extend(more.iter().cloned());
    // A rule needs an existing folder, so missing ones are created; a failure leaves the path out.
    for path in &paths {
        let _ = std::fs::create_dir_all(path);
    }
    paths
}

/// Read-only paths: Ollama's store, configuration, certificates, keys and the program's folder.
fn read(config: &Config) -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let named = [&config.file, &config.api_key_file, &program];
    let named = named.into_iter().flatten();
    let keys = config.network.keys.iter();
    [
        config.ollama_models.clone(),
        config.network.certificates.clone(),
        config.home.as_ref().map(|home| home.join(".netrc")),
    ]
    .into_iter()
    .flatten()
    .chain(named.flat_map(|path| folders(path)))
    .chain(keys.cloned())
    .collect()
}

#[cfg(target_os = "linux")]
fn restrict(written: &[PathBuf], read: &[PathBuf]) -> std::result::Result<(), String> {
    use landlock::{
        ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetStatus,
    };
    /// The newest Landlock ABI requested; an older kernel enforces less.
    const RULES: ABI = ABI::V5;
    let made = || -> std::result::Result<_, landlock::RulesetError> {
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(RULES))?
            .create()?;
        let reading = AccessFs::ReadFile | AccessFs::ReadDir;
        let system = SYSTEM.iter().map(Path::new).map(|path| (path, reading));
        let read = read.iter().map(|path| (path.as_path(), reading));
        let all = AccessFs::from_all(RULES) & !AccessFs::Execute;
        let written = written.iter().map(|path| (path.as_path(), all));
        // Standard streams may be /dev/null, which must be writable.
        let devices = [("/dev/null", AccessFs::from_file(RULES) & !AccessFs::Execute)];
        let devices = devices.map(|(path, access)| (Path::new(path), access));
        // The program starts itself to try a model, and the system's loader starts it.
        let started = started();
        let starting = AccessFs::ReadFile | AccessFs::Execute;
        let started = started.iter().map(|path| (path.as_path(), starting));
        let all = system
            .chain(read)
            .chain(written)
            .chain(devices)
            .chain(started);
        for (path, access) in all {
            // A missing path needs no rule.
            if let Ok(opened) = PathFd::new(path) {
                let access = if path.is_dir() {
                    access
                } else {
                    access & AccessFs::from_file(RULES)
                };
                rules = rules.add_rule(PathBeneath::new(opened, access))?;
            }
        }
        rules.restrict_self()
    };
    match made().map_err(|error| error.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has no Landlock".into()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
    }
}

/// This program and the loader of its libraries, as they are mapped.
#[cfg(target_os = "linux")]
fn started() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapped = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]));
    let is_loader = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.starts_with("ld-") || name.starts_with("ld.so") || name.starts_with("ld64.")
    };
    let loader = mapped.filter(is_loader).map(PathBuf::from).next();
    loader
        .into_iter()
        .chain(std::env::current_exe().ok())
        .collect()
}

#[cfg(not(target_os = "linux"))]
fn restrict(_: &[PathBuf], _: &[PathBuf]) -> std::result::Result<(), String> {
    Err("this system has no Landlock".into())
}
