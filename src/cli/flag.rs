//! Flags: their table entries, and those that many commands share.

use crate::core::options;

/// A group of flags in help and manuals, in the order in which they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The prompt and everything else that the model reads.
    Input,
    /// How tokens are chosen.
    Sampling,
    /// The form of the answer, and what else is printed.
    Output,
    /// How much a run may take.
    Limits,
    /// Where the command runs: in this process or at a server.
    Where,
    /// Files that are written or continued.
    Files,
    /// Everything else.
    General,
}

/// The groups with their headings.
pub const GROUPS: &[(Group, &str)] = &[
    (Group::Input, "Input"),
    (Group::Sampling, "Sampling"),
    (Group::Output, "Output"),
    (Group::Limits, "Limits"),
    (Group::Where, "Where it runs"),
    (Group::Files, "Files"),
    (Group::General, "General"),
];

/// The table entry of a flag.
pub struct Flag {
    /// The long name, without `--`.
    pub long: &'static str,
    /// The short name, without `-`.
    pub short: Option<char>,
    /// The name of the value in the synopsis; `None` for a switch.
    pub value: Option<&'static str>,
    /// True if the value may be omitted; if given, it is written as `--name=VALUE`.
    pub optional: bool,
    /// One line for help and manual: at most 50 characters, so that help fits 80 columns.
    pub help: &'static str,
    /// Its group.
    pub group: Group,
    /// The API option that it sets, whose default help and manuals show.
    pub option: Option<&'static str>,
    /// The words that its value may be, for completion; empty if it may be anything else.
    pub words: &'static [&'static str],
}

impl Flag {
    /// The same flag in a group.
    pub const fn in_group(self, group: Group) -> Self {
        Flag { group, ..self }
    }

    /// The same flag as one that sets an API option.
    pub const fn sets(self, option: &'static str) -> Self {
        Flag {
            option: Some(option),
            ..self
        }
    }

    /// The same flag with the words that its value may be.
    pub const fn one_of(self, words: &'static [&'static str]) -> Self {
        Flag { words, ..self }
    }

    /// Its line in help and manuals, with the default of the option that it sets.
    pub fn text(&self) -> String {
        match self.option {
            Some(option) => format!("{} (default: {})", self.help, options::default(option)),
            None => self.help.to_string(),
        }
    }
}

/// A flag without a value.
pub const fn switch(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag {
        long,
        short,
        value: None,
        optional: false,
        help,
        group: Group::General,
        option: None,
        words: &[],
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
        group: Group::General,
        option: None,
        words: &[],
    }
}

/// A flag whose value may be omitted.
pub const fn maybe(long: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value: Some(value),
        optional: true,
        help,
        group: Group::General,
        option: None,
        words: &[],
    }
}

/// `--json`, which every command that prints records has.
pub const JSON: Flag =
    switch("json", None, "print JSON lines with the API's field names").in_group(Group::Output);

/// `-q`, which every command that prints notes or progress has.
pub const QUIET: Flag =
    switch("quiet", Some('q'), "print no notes and no progress").in_group(Group::Output);

/// `--host`, which every command that can use a server has.
pub const HOST: Flag =
    option("host", None, "ADDRESS", "use the server at this address").in_group(Group::Where);

/// `--help`, which every command has.
pub const HELP: Flag = switch("help", Some('h'), "print this help");
