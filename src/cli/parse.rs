//! Words of the command line to a command with its flags and operands, by the table.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use lexopt::Arg;

use super::spec::{self, Command, Flag};
use crate::error::{Error, Result};
use crate::name;

/// A command line, understood.
pub struct Parsed {
    /// The command.
    pub command: &'static Command,
    /// True if its help is wanted instead.
    pub help: bool,
    /// What is neither a flag nor a flag's value.
    pub operands: Vec<String>,
    values: Vec<(&'static str, String)>,
}

impl Parsed {
    /// True if a switch was given.
    pub fn has(&self, long: &str) -> bool {
        self.values.iter().any(|(known, _)| *known == long)
    }

    /// The value of a flag; the last one given wins.
    pub fn value(&self, long: &str) -> Option<&str> {
        self.values
            .iter()
            .rev()
            .find(|(known, _)| *known == long)
            .map(|(_, value)| value.as_str())
    }

    /// The value of a flag that is a number of `range`, if it was given.
    ///
    /// # Errors
    /// `Usage` for what is none.
    pub fn number(&self, long: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(text) = self.value(long) else {
            return Ok(None);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let to = match *range.end() {
                usize::MAX => "on".to_string(),
                end => format!("to {end}"),
            };
            Error::usage(format!(
                "--{long} is a number from {} {to}, not '{text}'",
                range.start()
            ))
        })
    }

    /// All values of a flag that may be repeated.
    pub fn values<'a>(&'a self, long: &'a str) -> impl Iterator<Item = &'a str> {
        self.values
            .iter()
            .filter(move |(known, _)| *known == long)
            .map(|(_, value)| value.as_str())
    }
}

/// Parses the words after the program's name.
///
/// # Errors
/// `Usage`, naming the nearest command or flag.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed> {
    let mut parser = lexopt::Parser::from_args(words);
    let command = match next(&mut parser)? {
        None => return Err(Error::usage("no command: 'puna help' lists them")),
        Some(Arg::Value(word)) => {
            let word = text(word)?;
            spec::command(&word).ok_or_else(|| unknown_command(&word))?
        }
        Some(Arg::Long("version") | Arg::Short('V' | 'v')) => &super::help::VERSION,
        Some(Arg::Long("help") | Arg::Short('h')) => &super::help::COMMAND,
        Some(other) => {
            return Err(Error::usage(format!(
                "{}: flags come after the command",
                shown(&other)
            )));
        }
    };
    let mut parsed = Parsed {
        command,
        help: false,
        operands: Vec::new(),
        values: Vec::new(),
    };
    while let Some(arg) = next(&mut parser)? {
        let flag = match arg {
            Arg::Value(word) => {
                parsed.operands.push(text(word)?);
                continue;
            }
            Arg::Long("help") | Arg::Short('h') => {
                parsed.help = true;
                continue;
            }
            Arg::Long(long) => find(command, |flag| flag.long == long)
                .ok_or_else(|| unknown_flag(command, long))?,
            Arg::Short(short) => {
                find(command, |flag| flag.short == Some(short)).ok_or_else(|| {
                    Error::usage(format!("-{short}: {} has no such flag", command.name))
                })?
            }
        };
        let value = match flag.value {
            None => String::new(),
            Some(_) if flag.optional => match parser.optional_value() {
                Some(value) => text(value)?,
                None => String::new(),
            },
            Some(what) => {
                let value = parser
                    .value()
                    .map_err(|_| Error::usage(format!("--{} needs {what}", flag.long)))?;
                text(value)?
            }
        };
        parsed.values.push((flag.long, value));
    }
    check_arity(&parsed)?;
    Ok(parsed)
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

fn unknown_command(word: &str) -> Error {
    let names = spec::COMMANDS.iter().map(|command| command.name);
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

fn check_arity(parsed: &Parsed) -> Result<()> {
    let (least, most) = parsed.command.arity;
    let count = parsed.operands.len();
    if parsed.help || (least..=most).contains(&count) {
        return Ok(());
    }
    let what = if count < least {
        "too few operands"
    } else {
        "too many operands"
    };
    Err(Error::usage(
        format!(
            "{what}: puna {} {}",
            parsed.command.name, parsed.command.operands
        )
        .trim_end(),
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

    fn read(line: &str) -> Result<Parsed> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_and_operands_are_told_apart() {
        let parsed = read("run -n 5 m -o a=1 --option=b=2 hello -- --world").unwrap();
        assert_eq!(parsed.operands, ["m", "hello", "--world"]);
        assert_eq!(parsed.values("option").collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(parsed.value("num-predict"), Some("5"));
        assert!(!parsed.has("json"));
        assert_eq!(read("ls").unwrap().command.name, "list");
    }

    #[test]
    fn wrong_lines_name_the_nearest() {
        for (line, message) in [
            ("rnu m", "unknown command 'rnu': is it run?"),
            ("run m --jsn", "--jsn: run has no such flag: is it --json?"),
            ("run m -Z", "-Z: run has no such flag"),
            ("run m -n", "--num-predict needs N"),
            ("run", "too few operands: puna run MODEL [PROMPT...]"),
            ("cp a b c", "too many operands: puna cp SOURCE TARGET"),
            ("", "no command: 'puna help' lists them"),
        ] {
            assert_eq!(read(line).err().expect(line).to_string(), message);
        }
    }
}
