//! The shape of the command line: types of the tables, the list of commands, exit statuses.
//!
//! Each command's own entry stands in its file. Help, manuals and completions are printed from here.

use crate::config::Config;
use crate::error::{Class, Result};

use super::contract;
use super::out::Out;
use super::parse::Parsed;

/// A command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Another name for it.
    pub alias: Option<&'static str>,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// Its operands, as in a synopsis.
    pub operands: &'static str,
    /// How many operands it takes: least and most.
    pub arity: (usize, usize),
    /// Its flags.
    pub flags: &'static [Flag],
    /// The text of its manual: a paragraph each.
    pub about: &'static [&'static str],
    /// Examples: a command line and what it does.
    pub examples: &'static [(&'static str, &'static str)],
    /// What operands are, for completion.
    pub completes: Completes,
    /// What it does.
    pub run: fn(&Parsed, &Config, &mut Out) -> Result<()>,
}

impl Command {
    /// All its flags: its own, those of every command that runs a model, and `--help`.
    pub fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        let common: &[Flag] = match contract::covers(self.name) {
            true => contract::FLAGS,
            false => &[],
        };
        self.flags.iter().chain(common).chain([&HELP])
    }
}

/// A flag.
pub struct Flag {
    /// `--name`.
    pub long: &'static str,
    /// `-n`.
    pub short: Option<char>,
    /// What its value is called; `None`: it takes none.
    pub value: Option<&'static str>,
    /// True if the value may be left out; it is then written as `--name=VALUE` only.
    pub optional: bool,
    /// What it does.
    pub help: &'static str,
}

/// What completion offers for operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completes {
    /// Nothing.
    Nothing,
    /// Models of the store, and files.
    Models,
    /// Commands.
    Commands,
    /// Shells.
    Shells,
}

/// A flag without a value.
pub const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag {
        long,
        short,
        value: None,
        optional: false,
        help,
    }
}

/// A flag with a value.
pub const fn option(
    long: &'static str,
    short: Option<char>,
    value: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        long,
        short,
        value: Some(value),
        optional: false,
        help,
    }
}

/// A flag whose value may be left out.
pub const fn maybe(long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value: Some(value),
        optional: true,
        help,
    }
}

/// `--json`, which every command that prints records has.
pub const JSON: Flag = switch(
    "json",
    None,
    "print JSON, one object a line, with the API's field names",
);
/// `-q`, which every command that tells of its progress has.
pub const QUIET: Flag = switch("quiet", Some('q'), "print no notes and no progress");
/// `--host`, which every command that can use a server has.
pub const HOST: Flag = option("host", None, "ADDRESS", "use the server at this address");
/// `--help`, which every command has.
pub const HELP: Flag = switch("help", Some('h'), "print this help");

/// Every command, in the order of the manual.
pub const COMMANDS: &[&Command] = &[
    &super::run::COMMAND,
    &super::map::COMMAND,
    &super::choose::COMMAND,
    &super::chat::COMMAND,
    &super::tokens::COMMAND,
    &super::vectors::EMBED,
    &super::vectors::NEAREST,
    &super::rerank::COMMAND,
    &super::render::COMMAND,
    &super::replay::COMMAND,
    &super::list::COMMAND,
    &super::show::COMMAND,
    &super::pull::COMMAND,
    &super::pull::OUTDATED,
    &super::push::COMMAND,
    &super::create::COMMAND,
    &super::copy::COMMAND,
    &super::remove::COMMAND,
    &super::keep::VERIFY,
    &super::keep::GC,
    &super::keep::DU,
    &super::keep::PATH,
    &super::kept::COMMAND,
    &super::bundle::EXPORT,
    &super::bundle::IMPORT,
    &super::bench::COMMAND,
    &super::config::COMMAND,
    &super::doctor::COMMAND,
    &super::serve::COMMAND,
    &super::ps::COMMAND,
    &super::stop::COMMAND,
    &super::help::COMMAND,
    &super::help::VERSION,
    &super::complete::COMMAND,
    &super::man::COMMAND,
];

/// The command of this name or alias.
pub fn command(name: &str) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|command| command.name == name || command.alias == Some(name))
        .copied()
}

/// Exit statuses and their meaning, as the manual prints them.
pub const STATUSES: &[(u8, &str)] = &[
    (
        0,
        "done; also when the reader of the output closed the pipe",
    ),
    (1, "failed, none of the below"),
    (2, "the command line is wrong"),
    (3, "no such model"),
    (4, "the prompt does not fit the context"),
    (5, "a schema or grammar was not accepted"),
    (
        6,
        "the output was cut by the token limit where a whole was promised",
    ),
    (7, "network or registry, or no server where one is needed"),
    (
        8,
        "damaged data: digest mismatch, not a GGUF, broken manifest",
    ),
    (9, "busy: queue full, lock held"),
    (10, "timed out"),
    (11, "not enough memory"),
    (
        12,
        "not allowed: permission, origin, a store that is not ours",
    ),
    (13, "the answer is no"),
    (14, "some records failed"),
    (130, "interrupted (by the signal itself)"),
    (143, "terminated (by the signal itself)"),
];

/// The exit status of a failure.
pub fn status(class: Class) -> u8 {
    match class {
        Class::Closed => 0,
        Class::Failed | Class::Cancelled => 1,
        Class::Usage | Class::NoVectors | Class::NoText => 2,
        Class::NoModel => 3,
        Class::TooLong => 4,
        Class::Schema => 5,
        Class::Cut => 6,
        Class::Network => 7,
        Class::Damaged => 8,
        Class::Busy => 9,
        Class::TimedOut => 10,
        Class::Memory => 11,
        Class::Denied => 12,
        Class::No => 13,
        Class::Records => 14,
        Class::Told(status) => status,
    }
}
