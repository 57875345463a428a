//! Flags: their table entries, and those that many commands share.

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

/// A flag whose value may be omitted.
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
pub const JSON: Flag = switch("json", None, "print JSON lines with the API's field names");

/// `-q`, which every command that prints notes or progress has.
pub const QUIET: Flag = switch("quiet", Some('q'), "print no notes and no progress");

/// `--host`, which every command that can use a server has.
pub const HOST: Flag = option("host", None, "ADDRESS", "use the server at this address");

/// `--help`, which every command has.
pub const HELP: Flag = switch("help", Some('h'), "print this help");
