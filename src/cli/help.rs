//! `puna help` and `puna version`, and the help text of every command.

use super::out::Out;
use super::parse::Parsed;
use super::spec::{self, COMMANDS, Command, Completes, Flag, JSON};
use crate::config::Config;
use crate::error::{Error, Result};

pub const COMMAND: Command = Command {
    name: "help",
    alias: None,
    summary: "explain puna or one of its commands",
    operands: "[COMMAND]",
    arity: (0, 1),
    flags: &[],
    about: &["Prints the list of commands, or what a command does, its flags and examples."],
    examples: &[("puna help run", "explain run")],
    completes: Completes::Commands,
    run,
};

pub const VERSION: Command = Command {
    name: "version",
    alias: None,
    summary: "print the version",
    operands: "",
    arity: (0, 0),
    flags: &[JSON],
    about: &["Prints the program's name and version, as puna --version does."],
    examples: &[("puna version", "print the version")],
    completes: Completes::Nothing,
    run: |parsed, _, out| match parsed.has("json") {
        true => out.named(
            true,
            &["version"],
            &[vec![env!("CARGO_PKG_VERSION").into()]],
        ),
        false => out.write(concat!("puna ", env!("CARGO_PKG_VERSION"), "\n")),
    },
};

fn run(parsed: &Parsed, _: &Config, out: &mut Out) -> Result<()> {
    match parsed.operands.first() {
        None => out.write(&overview()),
        Some(name) => match spec::command(name) {
            Some(known) => out.write(&command(known)),
            None => Err(Error::usage(format!(
                "no help for '{name}': it is no command"
            ))),
        },
    }
}

/// The list of commands.
fn overview() -> String {
    let mut text = String::from(
        "puna runs local language models as a Unix tool.\n\nUsage: puna COMMAND [FLAGS] [OPERANDS]\n\n",
    );
    for command in COMMANDS {
        let names = command.alias.map_or(command.name.to_string(), |alias| {
            format!("{}, {alias}", command.name)
        });
        text += &format!("  {names:<14}{}\n", command.summary);
    }
    text + "\n'puna help COMMAND' explains a command, 'man puna' everything.\n"
}

/// What a command does, its flags and examples.
pub fn command(command: &Command) -> String {
    let mut text = format!(
        "{}\n\nUsage: {}\n",
        capitalised(command.summary),
        synopsis(command)
    );
    if let Some(alias) = command.alias {
        text += &format!("Alias: {alias}\n");
    }
    text += "\nFlags:\n";
    for flag in command.all_flags() {
        text += &format!("  {:<28}{}\n", flag_text(flag), flag.help);
    }
    text += "\nExamples:\n";
    for (line, what) in command.examples {
        text += &format!("  # {what}\n  {line}\n");
    }
    text
}

/// The usage line.
pub fn synopsis(command: &Command) -> String {
    format!("puna {} [FLAGS] {}", command.name, command.operands)
        .trim_end()
        .to_string()
}

/// A flag as it is typed: `-n, --num-predict N`.
fn flag_text(flag: &Flag) -> String {
    let short = flag
        .short
        .map_or("    ".to_string(), |short| format!("-{short}, "));
    let value = match flag.value {
        None => String::new(),
        Some(value) if flag.optional => format!("[={value}]"),
        Some(value) => format!(" {value}"),
    };
    format!("{short}--{}{value}", flag.long)
}

/// A text whose first letter is a capital.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
