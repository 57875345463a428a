//! `puna help` and `puna version`, and the help text of every command.

use super::pages::{self, PAGES};
use super::roff;
use crate::cli::flag::{Flag, GROUPS, Group};
use crate::cli::out::Out;
use crate::cli::parsed::Parsed;
use crate::cli::table::{self, Command, Commands, SECTIONS};
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
            None => match pages::find(name) {
                Some(page) => out.write(&roff::plain(&page.roff())),
                None => Err(Error::usage(format!(
                    "no help for '{name}': it is neither a command nor a page"
                ))),
            },
        },
    }
}

/// The list of commands.
fn overview(commands: Commands) -> String {
    let mut text = String::from(
        "puna runs local language models as a Unix tool.\n\nUsage: puna COMMAND [FLAGS] [OPERANDS]\n\n",
    );
    for (section, heading) in SECTIONS {
        text += &format!("{heading}:\n");
        for command in commands
            .iter()
            .filter(|command| command.section == *section)
        {
            let names = command.alias.map_or(command.name.to_string(), |alias| {
                format!("{}, {alias}", command.name)
            });
            text += &format!("  {names:<14}{}\n", command.summary);
        }
        text.push('\n');
    }
    text += "Pages:\n";
    for page in PAGES {
        text += &format!("  {:<14}{}\n", page.name, page.summary());
    }
    text + "\n'puna help NAME' explains a command or shows a page, 'man puna' everything.\n"
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
    for (heading, flags) in groups(command) {
        text += &format!("\n{heading}:\n");
        for flag in flags {
            text += &flag_lines(flag);
        }
    }
    text += "\nExamples:\n";
    for (line, what) in command.examples {
        text += &format!("  # {what}\n  {line}\n");
    }
    text
}

/// Columns of help.
const WIDTH: usize = 80;
/// The column at which the text of a flag begins.
const FLAG_COLUMN: usize = 30;
/// A command with fewer flags lists them without groups.
const GROUPED_MIN: usize = 16;

/// The flags of a command under their headings; a command with few has one heading.
pub fn groups(command: &Command) -> Vec<(&'static str, Vec<&'static Flag>)> {
    let flags: Vec<&Flag> = command.all_flags().collect();
    if flags.len() < GROUPED_MIN {
        return vec![("Flags", flags)];
    }
    let of = |group: Group| {
        flags
            .iter()
            .copied()
            .filter(move |flag| flag.group == group)
    };
    let all = GROUPS
        .iter()
        .map(|(group, heading)| (*heading, of(*group).collect::<Vec<_>>()));
    all.filter(|(_, flags)| !flags.is_empty()).collect()
}

/// A flag and its text, wrapped at the last column.
fn flag_lines(flag: &Flag) -> String {
    let name = flag_text(flag);
    let mut lines = vec![format!("  {name:<28}")];
    if name.len() > FLAG_COLUMN - 3 {
        lines.push(" ".repeat(FLAG_COLUMN));
    }
    for word in flag.text().split(' ') {
        let last = lines.last_mut().expect("there is a line");
        let is_empty = last.len() <= FLAG_COLUMN;
        if !is_empty && last.len() + 1 + word.len() > WIDTH {
            lines.push(format!("{}{word}", " ".repeat(FLAG_COLUMN)));
            continue;
        }
        if !is_empty {
            last.push(' ');
        }
        last.push_str(word);
    }
    lines
        .iter()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
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
