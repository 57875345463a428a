//! The flags of `run` that say where an answer is computed and how it is printed; those of the turn are [`Ask`]'s.
//!
//! [`Ask`]: super::turn_args::Ask

use super::turn_flags::{HIDETHINKING, KEEPALIVE, NOWORDWRAP, OVERFLOW};
use crate::cli::flag::{Flag, Group, HOST, JSON, maybe, option, switch};
use crate::cli::idle_exit::IDLE_EXIT;
use crate::cli::out;
use crate::cli::parsed::Parsed;
use crate::cli::pull::Transfer;
use crate::cli::replay::RECORD;
use crate::cli::shape::Shape;
use crate::cli::transcript;
use crate::core::duration::KeepAlive;
use crate::core::error::{Error, Result};
use crate::system::engine::{Level, Sink};

pub const DETERMINISTIC: Flag = switch(
    "deterministic",
    None,
    "alone: no server, no prefix cache, nothing shared",
)
.in_group(Group::Sampling);
pub const WHOLE: Flag =
    switch("whole", None, "status 6 if a limit cut the answer").in_group(Group::Output);
pub const VERBOSE: Flag = switch(
    "verbose",
    None,
    "print timings and the device on standard error",
)
.in_group(Group::Output);

pub const LOCAL: Flag = switch(
    "local",
    None,
    "run in this process even if a server is running",
)
.in_group(Group::Where);

pub const PULL: Flag = maybe(
    "pull",
    "WHEN",
    "fetch the model first: missing, always or never",
)
.in_group(Group::Where)
.one_of(&["missing", "always", "never"]);
pub const LOG: Flag = option(
    "log",
    None,
    "LEVEL",
    "llama.cpp log: off, warn, debug; implies --local",
)
.one_of(&["off", "warn", "debug"])
.in_group(Group::Output);

pub const DIMENSIONS: Flag = option(
    "dimensions",
    None,
    "N",
    "keep N numbers of a vector (embedding models)",
);
pub const TRUNCATE: Flag = maybe(
    "truncate",
    "BOOL",
    "cut too long a text to embed; false: refuse it",
)
.one_of(&["true", "false"]);

/// When a model is fetched before its first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// If the store lacks it and a user is at the terminal.
    Watched,
    /// If the store lacks it.
    Missing,
    /// Always, if the registry has another one.
    Always,
    /// Never.
    Never,
}

/// How the vector of an embedding model is computed.
#[derive(Debug, Clone, Copy)]
pub struct VectorArgs {
    /// Numbers to keep; `None`: all.
    pub dimensions: Option<usize>,
    /// Whether too long a text is cut.
    pub truncate: bool,
    /// A flag was given that only vectors have.
    pub is_asked_for: bool,
}

/// The flags, read once.
pub struct RunArgs {
    /// Same seed, same bytes: this answer is computed alone.
    pub alone: bool,
    /// `--local`.
    pub local: bool,
    /// The records of the API are printed.
    pub json: bool,
    /// Timings and the device are printed.
    pub verbose: bool,
    /// Lines of a session are wrapped at words.
    pub wraps: bool,
    /// An answer that was cut is an error.
    pub whole: bool,
    /// Too long a prompt is an error, also in a session.
    pub must_fit: bool,
    /// Thinking is printed.
    pub shows_thinking: bool,
    /// llama.cpp's log.
    pub log: (Level, Sink),
    /// When the model is fetched.
    pub pull: Pull,
    /// How it is fetched.
    pub transfer: Transfer,
    /// How long a server that this command starts stays, as the user writes it; `None`: none is started.
    pub idle_exit: Option<String>,
    /// How long the model stays loaded.
    pub keep_alive: Option<KeepAlive>,
    /// The file of `--record`.
    pub record: Option<String>,
    /// The file that turns are added to.
    pub transcript: Option<String>,
    /// The form in which the answer is printed.
    pub shape: Shape,
    /// The vector of an embedding model.
    pub vector: VectorArgs,
}

impl RunArgs {
    /// Reads the flags.
    ///
    /// # Errors
    /// `Usage` for an invalid value, or for flags that cannot be used together.
    pub fn read(parsed: &Parsed) -> Result<Self> {
        parsed.only_one(&[(&RECORD, ()), (&HOST, ())])?;
        parsed.only_one(&[(&IDLE_EXIT, ()), (&HOST, ())])?;
        parsed.only_one(&[(&LOCAL, ()), (&HOST, ())])?;
        parsed.only_one(&[(&LOG, ()), (&HOST, ())])?;
        parsed.only_one(&[(&DETERMINISTIC, ()), (&HOST, ())])?;
        parsed.only_one(&[(&PULL, ()), (&HOST, ())])?;
        let transcript = transcript::path(parsed);
        if parsed.has(&RECORD) && parsed.value(&RECORD) == transcript {
            let text = "--record and --transcript need two files";
            return Err(Error::usage(text));
        }
        let keep_alive = parsed.duration(&KEEPALIVE)?;
        Ok(RunArgs {
            // A prompt from the prefix cache may give other bytes than one that is computed in one pass.
            alone: parsed.has(&DETERMINISTIC) || parsed.has(&RECORD),
            local: parsed.has(&LOCAL),
            json: parsed.has(&JSON),
            verbose: parsed.has(&VERBOSE),
            wraps: !parsed.has(&NOWORDWRAP),
            whole: parsed.has(&WHOLE),
            must_fit: parsed.value(&OVERFLOW) == Some("error"),
            shows_thinking: !parsed.has(&HIDETHINKING),
            log: out::log(parsed.value(&LOG))?,
            pull: pull(parsed.value(&PULL))?,
            transfer: Transfer::new(parsed),
            idle_exit: parsed.value(&IDLE_EXIT).map(str::to_string),
            keep_alive,
            record: parsed.value(&RECORD).map(str::to_string),
            transcript: transcript.map(str::to_string),
            shape: Shape::read(parsed)?,
            vector: VectorArgs {
                dimensions: parsed.number(&DIMENSIONS, 1..=usize::MAX)?,
                truncate: truncates(parsed.value(&TRUNCATE))?,
                is_asked_for: parsed.has(&DIMENSIONS) || parsed.has(&TRUNCATE),
            },
        })
    }
}

fn pull(value: Option<&str>) -> Result<Pull> {
    match value {
        None => Ok(Pull::Watched),
        Some("missing" | "") => Ok(Pull::Missing),
        Some("always") => Ok(Pull::Always),
        Some("never") => Ok(Pull::Never),
        Some(other) => {
            let text = format!("--pull must be missing, always or never, not '{other}'");
            Err(Error::usage(text))
        }
    }
}

fn truncates(value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("true" | "") => Ok(true),
        Some("false") => Ok(false),
        Some(other) => {
            let text = format!("--truncate must be true or false, not '{other}'");
            Err(Error::usage(text))
        }
    }
}
