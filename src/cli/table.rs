//! The shape of the command line: types of the tables, exit statuses.
//!
//! Each command's own entry stands in its file. Help, manuals and completions are printed from here.

use super::context::Context;
use super::flag::{Flag, HELP};
use super::out::Out;
use super::parsed::Parsed;
use crate::core::error::{Class, Result};

/// A command.
pub struct Command {
    /// The word on the command line.
    pub name: &'static str,
    /// Another word for the same command.
    pub alias: Option<&'static str>,
    /// One line for the list of commands: lower case, imperative, at most 64 characters.
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
    /// The suggestions of completion for the first operand, and for all others.
    pub completes: (Completes, Completes),
    /// The flags that limit a run, for a command that runs a model; else none.
    pub limits: &'static [Flag],
    /// True if `--retry` may run it again as a whole: it prints nothing before its work is done.
    pub retries_whole: bool,
    /// The exit status of every failure when one of these flags is given.
    pub failure_status: Option<(u8, &'static [&'static str])>,
    /// Exit statuses that no other command has, with their meanings.
    pub statuses: &'static [(u8, &'static str)],
    /// Its section in the list of commands.
    pub section: Section,
    /// Runs it.
    pub run: fn(&Parsed, &Context, &mut Out) -> Result<()>,
}

/// A section of the list of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Commands that run a model.
    Prompts,
    /// Commands that get, make, name and remove models.
    Models,
    /// Commands that look after the model directory.
    Store,
    /// The machine, the settings and the server.
    Machine,
    /// Help, manuals and completions.
    Help,
}

/// The sections with their headings, in the order of the list.
pub const SECTIONS: &[(Section, &str)] = &[
    (Section::Prompts, "Prompts and answers"),
    (Section::Models, "Models"),
    (Section::Store, "Store"),
    (Section::Machine, "Machine and server"),
    (Section::Help, "Help"),
];

/// A command without flags or peculiarities, from which entries are completed.
pub const PLAIN: Command = Command {
    name: "",
    alias: None,
    summary: "",
    operands: "",
    arity: (0, 0),
    flags: &[],
    about: &[],
    examples: &[],
    completes: (Completes::Nothing, Completes::Nothing),
    limits: &[],
    retries_whole: false,
    failure_status: None,
    statuses: &[],
    section: Section::Prompts,
    run: |_, _, _| Ok(()),
};

impl Command {
    /// All its flags: its own, those that limit a run, and `--help`.
    pub fn all_flags(&self) -> impl Iterator<Item = &'static Flag> {
        self.flags.iter().chain(self.limits).chain([&HELP])
    }

    /// Its name and, if there is one, its alias.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        [Some(self.name), self.alias].into_iter().flatten()
    }
}

/// The suggestions of shell completion for an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completes {
    /// Nothing.
    Nothing,
    /// Models of the store.
    Models,
    /// Models of the store, and GGUF files.
    ModelsAndFiles,
    /// Files.
    Files,
    /// Models that a server has loaded.
    Loaded,
    /// Keys of the configuration.
    Keys,
    /// Prompts in the prefix cache.
    SavedPrompts,
    /// Commands.
    Commands,
    /// Commands, and pages of the manual that belong to none.
    Pages,
    /// These words.
    Words(&'static [&'static str]),
}

/// A model, and nothing more that can be suggested.
pub const ONE_MODEL: (Completes, Completes) = (Completes::ModelsAndFiles, Completes::Nothing);
/// Any number of models of the store.
pub const MODELS: (Completes, Completes) = (Completes::Models, Completes::Models);

/// The list of commands.
pub type Commands = &'static [&'static Command];

/// The command with this name or alias.
pub fn find(commands: &[&'static Command], name: &str) -> Option<&'static Command> {
    commands
        .iter()
        .find(|command| command.name == name || command.alias == Some(name))
        .copied()
}

/// Exit statuses and their meaning, as the manual prints them.
pub const STATUSES: &[(u8, &str)] = &[
    (
        0,
        "success; also if the reader of the output closed the pipe",
    ),
    (1, "failure of another kind than those below"),
    (2, "wrong command line"),
    (3, "no such model"),
    (4, "the prompt does not fit the context"),
    (5, "invalid schema or grammar"),
    (
        6,
        "the token limit cut an answer that had to be complete, such as JSON",
    ),
    (
        7,
        "network or registry failure, or the server cannot be reached",
    ),
    (
        8,
        "damaged data: digest mismatch, not a GGUF file, or broken manifest",
    ),
    (9, "busy: queue full or lock held"),
    (10, "timed out"),
    (11, "not enough memory"),
    (
        12,
        "not allowed: permission, origin, or a change of Ollama's store",
    ),
    (
        13,
        "negative answer, such as outdated, not the same, or a problem found",
    ),
    (14, "some records failed"),
    (130, "interrupted (by the signal itself)"),
    (143, "terminated (by the signal itself)"),
];

/// The exit status of a negative answer.
pub const NEGATIVE: u8 = 13;
/// The exit status if some of many records failed.
pub const RECORDS_FAILED: u8 = 14;

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
    }
}
