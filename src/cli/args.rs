//! Parses the arguments into a command, its flags and its operands, by the table of commands.

use std::ffi::OsString;

use lexopt::Arg;

use super::flag::Flag;
use super::parsed::Parsed;
use super::table::{self, Command};
use crate::core::error::{Error, Result};
use crate::core::name;

/// A command line: the command, and what it was given.
pub struct Invocation {
    /// The command.
    pub command: &'static Command,
    /// True if the command's help is to be printed instead.
    pub help: bool,
    /// Its flags and operands.
    pub parsed: Parsed,
}

/// Parses the words after the program's name against the tables of `commands`.
///
/// # Errors
/// `Usage`, naming the nearest command or flag.
pub fn parse(
    words: impl IntoIterator<Item = OsString>,
    commands: &'static [&'static Command],
) -> Result<Invocation> {
    let mut parser = lexopt::Parser::from_args(words);
    let command = match next(&mut parser)? {
        None => return Err(Error::usage("no command: 'puna help' lists them")),
        Some(Arg::Value(word)) => {
            let word = text(word)?;
            table::find(commands, &word).ok_or_else(|| unknown_command(&word, commands))?
        }
        Some(Arg::Long("version") | Arg::Short('V' | 'v')) => {
            table::find(commands, "version").expect("it is in the table")
        }
        Some(Arg::Long("help") | Arg::Short('h')) => {
            table::find(commands, "help").expect("it is in the table")
        }
        Some(other) => {
            return Err(Error::usage(format!(
                "{}: flags must follow the command",
                shown(&other)
            )));
        }
    };
    let mut parsed = Parsed::default();
    let mut help = false;
    while let Some(arg) = next(&mut parser)? {
        let flag = match arg {
            Arg::Value(word) => {
                parsed.operands.push(text(word)?);
                continue;
            }
            Arg::Long("help") | Arg::Short('h') => {
                help = true;
                continue;
            }
            Arg::Long(long) => find(command, |flag| flag.long == long)
                .ok_or_else(|| unknown_flag(command, long))?,
            Arg::Short(short) => find(command, |flag| flag.short == Some(short))
                .ok_or_else(|| unknown_letter(command, short))?,
        };
        let value = match flag.value {
            None => String::new(),
            Some(_) if flag.optional => match parser.optional_value() {
                Some(value) => text(value)?,
                None => String::new(),
            },
            Some(what) => {
                let needs = || Error::usage(format!("--{} needs {what}", flag.long));
                let value = text(parser.value().map_err(|_| needs())?)?;
                if value.is_empty() && what.starts_with("FILE") {
                    return Err(needs());
                }
                value
            }
        };
        parsed.values.push((flag.long, value));
    }
    if !help {
        check_arity(command, &parsed)?;
    }
    Ok(Invocation {
        command,
        help,
        parsed,
    })
}

/// True if an operand of a command may be any text.
fn takes_text(command: &Command) -> bool {
    ["PROMPT", "TEXT", "QUERY", "CHOICE"]
        .iter()
        .any(|word| command.operands.contains(word))
}

fn next(parser: &mut lexopt::Parser) -> Result<Option<Arg<'_>>> {
    parser
        .next()
        .map_err(|error| Error::usage(error.to_string()))
}

fn text(word: OsString) -> Result<String> {
    word.into_string()
        .map_err(|word| Error::usage(format!("{} is not UTF-8", word.display())))
}

fn find(command: &'static Command, wanted: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    command.all_flags().find(|flag| wanted(flag))
}

fn unknown_command(word: &str, commands: &[&Command]) -> Error {
    let names = commands.iter().map(|command| command.name);
    Error::usage(match name::nearest(word, names).first() {
        Some(near) => format!("unknown command '{word}': is it {near}?"),
        None => format!("unknown command '{word}': 'puna help' lists them"),
    })
}

fn unknown_flag(command: &Command, long: &str) -> Error {
    let names = command.all_flags().map(|flag| flag.long);
    Error::usage(match name::nearest(long, names).first() {
        Some(near) => format!(
            "--{long}: {} has no such flag: is it --{near}?",
            command.name
        ),
        None => format!(
            "--{long}: {} has no such flag: 'puna help {0}' lists them",
            command.name
        ),
    })
}

fn unknown_letter(command: &Command, short: char) -> Error {
    let hint = if takes_text(command) {
        "; put -- before a text that begins with -"
    } else {
        ""
    };
    Error::usage(format!("-{short}: {} has no such flag{hint}", command.name))
}

fn check_arity(command: &Command, parsed: &Parsed) -> Result<()> {
    let (least, most) = command.arity;
    let count = parsed.operands.len();
    if (least..=most).contains(&count) {
        return Ok(());
    }
    let what = if count < least {
        "too few operands"
    } else {
        "too many operands"
    };
    Err(Error::usage(
        format!("{what}: puna {} {}", command.name, command.operands).trim_end(),
    ))
}

fn shown(arg: &Arg) -> String {
    match arg {
        Arg::Short(short) => format!("-{short}"),
        Arg::Long(long) => format!("--{long}"),
        Arg::Value(word) => word.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flag::JSON;
    use crate::cli::run::turn_flags::{NUM_PREDICT, OPTION};

    fn read(line: &str) -> Result<Invocation> {
        let words = line.split_whitespace().map(OsString::from);
        parse(words, crate::cli::commands::COMMANDS)
    }

    #[test]
    fn flags_and_operands_are_distinguished() {
        let parsed = read("run -n 5 m -o a=1 --option=b=2 hello -- --world")
            .unwrap()
            .parsed;
        assert_eq!(parsed.operands, ["m", "hello", "--world"]);
        assert_eq!(parsed.values(&OPTION).collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(parsed.value(&NUM_PREDICT), Some("5"));
        assert!(!parsed.has(&JSON));
        assert_eq!(read("ls").unwrap().command.name, "list");
    }

    #[test]
    fn wrong_lines_name_the_nearest() {
        for (line, message) in [
            ("rnu m", "unknown command 'rnu': is it run?"),
            ("run m --jsn", "--jsn: run has no such flag: is it --json?"),
            (
                "run m -Z",
                "-Z: run has no such flag; put -- before a text that begins with -",
            ),
            ("ls -Z", "-Z: list has no such flag"),
            ("run m -n", "--num-predict needs N"),
            ("run", "too few operands: puna run MODEL [PROMPT...]"),
            ("cp a b c", "too many operands: puna cp SOURCE TARGET"),
            ("", "no command: 'puna help' lists them"),
        ] {
            assert_eq!(read(line).err().expect(line).to_string(), message);
        }
    }
}
