//! `puna help` and `puna version`, and the help text of every command.

use crate::cli::flag::Flag;
use crate::cli::out::Out;
use crate::cli::parsed::Parsed;
use crate::cli::table::{self, Command, Commands};
use crate::core::error::{Error, Result};

/// Prints what the operand names.
///
/// # Errors
/// `Usage` for an unknown name.
pub fn run(commands: Commands, parsed: &Parsed, out: &mut Out) -> Result<()> {
    match parsed.operands.first() {
        None => out.write(&overview(commands)),
        Some(name) => match table::find(commands, name) {
            Some(known) => out.write(&command(known)),
            None => Err(Error::usage(format!(
                "no help for '{name}': it is not a command"
            ))),
        },
    }
}

/// The list of commands.
fn overview(commands: Commands) -> String {
    let mut text = String::from(
        "puna runs local language models as a Unix tool.\n\nUsage: puna COMMAND [FLAGS] [OPERANDS]\n\n",
    );
    for command in commands {
        let names = command.alias.map_or(command.name.to_string(), |alias| {
            format!("{}, {alias}", command.name)
        });
        text += &format!("  {names:<14}{}\n", command.summary);
    }
    text + "\n'puna help COMMAND' explains a command, 'man puna' everything.\n"
}

/// The help of a command: summary, usage, flags and examples.
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

/// A text with its first letter in upper case.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
