//! `puna man`: the manual pages, printed from the tables as roff.

use super::help;
use super::out::Out;
use super::parse::Parsed;
use super::spec::{self, COMMANDS, Command, Completes, Flag, HELP, STATUSES};
use crate::config::{self, Config};
use crate::error::{Error, Result};
use crate::options;

pub const COMMAND: Command = Command {
    name: "man",
    alias: None,
    summary: "print a manual page",
    operands: "[COMMAND]",
    arity: (0, 1),
    flags: &[],
    about: &[
        "Prints the roff source of puna(1), or of a command's page, for man -l and for packages.",
    ],
    examples: &[(
        "puna man run > puna-run.1",
        "write the page of run to a file",
    )],
    completes: Completes::Commands,
    run,
};

fn run(parsed: &Parsed, _: &Config, out: &mut Out) -> Result<()> {
    match parsed.operands.first() {
        None => out.write(&main_page()),
        Some(name) => match spec::command(name) {
            Some(known) => out.write(&page(known)),
            None => Err(Error::usage(format!(
                "no manual for '{name}': it is no command"
            ))),
        },
    }
}

/// The page of puna itself.
fn main_page() -> String {
    let mut text = head("puna", "run local language models as a Unix tool");
    text += ".B puna\n.I COMMAND\n.RI [ FLAGS ]\n.RI [ OPERANDS ]\n";
    text += ".SH DESCRIPTION\n";
    text += &paragraphs(&[
        "puna answers prompts with language models on this machine: in a pipe, from a script, or over the Ollama HTTP \
         API. Models are GGUF files, kept in a store that has the layout of Ollama's. No server is needed to answer a \
         prompt.",
        "Standard output is the answer and nothing else. Notes, progress and timings go to standard error, progress \
         only if that is a terminal.",
    ]);
    text += ".SH COMMANDS\n";
    for command in COMMANDS {
        text += &format!(
            ".TP\n.BR puna-{} (1)\n{}\n",
            escaped(command.name),
            escaped(command.summary)
        );
    }
    text += ".SH OPTIONS OF THE API\n.PP\n";
    text += "Given by\n.BR \\-\\-option ,\nby PARAMETER lines and by the API.\n";
    for (name, _, help) in options::TABLE {
        text += &format!(".TP\n.B {}\n{}\n", escaped(name), escaped(help));
    }
    text += ".SH EXIT STATUS\n";
    for (status, meaning) in STATUSES {
        text += &format!(".TP\n.B {status}\n{}\n", escaped(meaning));
    }
    text += ".SH ENVIRONMENT\n.PP\nA variable of puna's wins over Ollama's, which has the same meaning.\n";
    for (names, meaning) in config::variables() {
        text += &format!(".TP\n.B {}\n{}\n", escaped(names), escaped(meaning));
    }
    text += ".SH FILES\n";
    for (path, what) in FILES {
        text += &format!(".TP\n.I {}\n{}\n", escaped(path), escaped(what));
    }
    text
}

const FILES: &[(&str, &str)] = &[
    (
        "~/.local/share/puna/models",
        "the store: blobs by their digest, manifests by their name",
    ),
    ("~/.ollama/models", "Ollama's store, only read"),
    (
        "$XDG_RUNTIME_DIR/puna/puna.sock",
        "the server's Unix socket",
    ),
];

/// The page of a command.
fn page(command: &Command) -> String {
    let mut text = head(&format!("puna-{}", command.name), command.summary);
    text += &format!(".B {}\n", escaped(&help::synopsis(command)));
    text += ".SH DESCRIPTION\n";
    text += &paragraphs(command.about);
    text += ".SH FLAGS\n";
    for flag in command.flags.iter().chain([&HELP]) {
        text += &flag_entry(flag);
    }
    text += ".SH EXAMPLES\n";
    for (line, what) in command.examples {
        text += &format!(
            ".PP\n{}:\n.PP\n.nf\n.RS\n{}\n.RE\n.fi\n",
            escaped(what),
            escaped(line)
        );
    }
    text += ".SH EXIT STATUS\n.PP\nSee\n.BR puna (1).\n";
    text
}

fn flag_entry(flag: &Flag) -> String {
    let short = flag
        .short
        .map_or(String::new(), |short| format!("\\-{short}, "));
    let name = format!("{short}\\-\\-{}", escaped(flag.long));
    let line = match flag.value {
        None => format!(".B {name}"),
        Some(value) if flag.optional => format!(".BI \"{name}[=\" {} ]", escaped(value)),
        Some(value) => format!(".BI \"{name} \" {}", escaped(value)),
    };
    format!(".TP\n{line}\n{}\n", escaped(flag.help))
}

fn head(name: &str, summary: &str) -> String {
    let (upper, name, summary) = (
        escaped(&name.to_uppercase()),
        escaped(name),
        escaped(summary),
    );
    let version = env!("CARGO_PKG_VERSION");
    format!(
        ".TH {upper} 1 \"\" \"puna {version}\" \"User Commands\"\n.SH NAME\n{name} \\- {summary}\n.SH SYNOPSIS\n"
    )
}

fn paragraphs(texts: &[&str]) -> String {
    texts
        .iter()
        .map(|text| format!(".PP\n{}\n", escaped(text)))
        .collect()
}

/// Text that roff prints as it is.
fn escaped(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('~', "\\(ti")
        .replace('^', "\\(ha");
    if text.starts_with('.') {
        format!("\\&{text}")
    } else {
        text
    }
}
