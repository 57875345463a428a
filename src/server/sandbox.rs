//! What a server may open once it listens: its store, its cache, and what the system needs. By Landlock,
//! on Linux; elsewhere there is nothing of the kind.
//!
//! A hole in what reads foreign bytes then reaches no other file of the user, and starts no program.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::engine::BUILT_FOR_GPU;
use crate::error::{Class, Error, Result};

/// When to close the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Where the kernel can.
    Auto,
    /// Always; without it there is no server.
    On,
    /// Never.
    Off,
}

impl Wanted {
    /// Reads the flag.
    ///
    /// # Errors
    /// `Usage` for another word.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "auto" => Ok(Wanted::Auto),
            "on" => Ok(Wanted::On),
            "off" => Ok(Wanted::Off),
            other => Err(Error::usage(format!(
                "--sandbox is auto, on or off, not '{other}'"
            ))),
        }
    }
}

/// Folders of the system that are read: the processor and the memory, libraries, certificates, names
/// of hosts.
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

/// Restricts the process from now on: threads that are started later open nothing but the store, the
/// cache, `more`, and what the system needs. `Err` tells what is missing where it must be.
///
/// # Errors
/// `Denied` if it is wanted and the system cannot; a note, if it would only have been better.
pub fn close(wanted: Wanted, config: &Config, more: &[PathBuf]) -> Result<Option<String>> {
    // Drivers of GPUs open whatever they like.
    let gpu = BUILT_FOR_GPU;
    if wanted == Wanted::Off || (wanted == Wanted::Auto && gpu) {
        return Ok(None);
    }
    let closed = match gpu {
        true => Err("a build for GPUs has none".to_string()),
        false => restrict(&written(config, more), &read(config)),
    };
    match (closed, wanted) {
        (Ok(()), _) => Ok(None),
        (Err(why), Wanted::On) => {
            let text = format!("no sandbox: {why}: see --sandbox");
            Err(Error::plain(Class::Denied, text))
        }
        (Err(why), _) => Ok(Some(format!("goes on without a sandbox: {why}"))),
    }
}

/// What is written: the store, the cache, our own key, and folders of sockets and logs.
fn written(config: &Config, more: &[PathBuf]) -> Vec<PathBuf> {
    let keys = config.network.keys.last().and_then(|key| key.parent());
    let mut paths = vec![config.models.clone()];
    paths.extend(config.cache.clone());
    paths.extend(keys.map(Path::to_path_buf));
    paths.extend(more.iter().cloned());
    // What is not there cannot be named: it is made now, or is of no use.
    for path in &paths {
        let _ = std::fs::create_dir_all(path);
    }
    paths
}

/// What is only read.
fn read(config: &Config) -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let beside = |path: &Option<PathBuf>| path.as_ref()?.parent().map(Path::to_path_buf);
    let keys = config.network.keys.iter();
    [
        config.ollama_models.clone(),
        config.network.certificates.clone(),
        config.home.as_ref().map(|home| home.join(".netrc")),
        beside(&config.file),
        beside(&config.api_key_file),
        beside(&program),
    ]
    .into_iter()
    .flatten()
    .chain(keys.cloned())
    .collect()
}

#[cfg(target_os = "linux")]
fn restrict(written: &[PathBuf], read: &[PathBuf]) -> std::result::Result<(), String> {
    use landlock::{
        ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
        RulesetCreatedAttr, RulesetStatus,
    };
    /// The newest rules that are asked for; an older kernel has fewer.
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
        // A terminal or a log under /dev is written to.
        let devices = [("/dev/null", AccessFs::from_file(RULES) & !AccessFs::Execute)];
        let devices = devices.map(|(path, access)| (Path::new(path), access));
        for (path, access) in system.chain(read).chain(written).chain(devices) {
            // What is not there needs no rule.
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

#[cfg(not(target_os = "linux"))]
fn restrict(_: &[PathBuf], _: &[PathBuf]) -> std::result::Result<(), String> {
    Err("this system has no Landlock".into())
}
