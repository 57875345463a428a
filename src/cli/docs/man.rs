//! `puna man`: the manual pages, printed from the tables as roff.

use super::roff::{escaped, lines};
use super::{help, pages};
use crate::cli::flag::Flag;
use crate::cli::out::Out;
use crate::cli::parsed::Parsed;
use crate::cli::table::{self, Command, Commands, STATUSES};
use crate::core::error::{Error, Result};
use crate::core::options;
use crate::system::config;

/// Prints what the operand names.
///
/// # Errors
/// `Usage` for an unknown name.
pub fn run(commands: Commands, parsed: &Parsed, out: &mut Out) -> Result<()> {
    match parsed.operands.first() {
        None => out.write(&main_page(commands)),
        Some(name) => match (table::find(commands, name), pages::find(name)) {
            (Some(known), _) => out.write(&page(known, commands)),
            (None, Some(known)) => out.write(&known.roff()),
            (None, None) => Err(Error::usage(format!(
                "no manual for '{name}': it is neither a command nor a page"
            ))),
        },
    }
}

/// The day on which the pages were last revised.
const DATE: &str = "2026-11-30";

/// The page of puna itself.
fn main_page(commands: Commands) -> String {
    let mut text = head("puna", "run local language models as a Unix tool");
    text += ".B puna\n.I COMMAND\n.RI [ FLAGS ]\n.RI [ OPERANDS ]\n";
    text += ".SH DESCRIPTION\n";
    text += &paragraphs(&[
        "puna runs language models on this machine and answers prompts in a pipe, from a script, or over the Ollama \
         HTTP API. Models are GGUF files in a store that has the layout of Ollama's. Answering a prompt does not need \
         a server.",
        "Standard output is the answer and nothing else. Notes, progress and timings go to standard error, progress \
         only if that is a terminal.",
    ]);
    text += ".SH COMMANDS\n";
    for command in commands {
        text += &format!(
            ".TP\n.BR puna-{} (1)\n{}\n",
            escaped(command.name),
            lines(command.summary)
        );
    }
    text += ".SH API OPTIONS\n";
    text += "Set by\n.BR \\-\\-option ,\nby PARAMETER lines of a Modelfile and by API requests.\n";
    for entry in options::TABLE {
        let help = format!("{} (default: {})", entry.help, entry.default);
        text += &format!(".TP\n.B {}\n{}\n", escaped(entry.name), lines(&help));
    }
    text += &exit_status();
    text += ".SH ENVIRONMENT\n";
    text +=
        &lines("A variable of puna takes precedence over the one of Ollama with the same meaning.");
    text.push('\n');
    for (names, meaning, _) in config::variables() {
        text += &format!(".TP\n.B {}\n{}\n", escaped(names), lines(meaning));
    }
    text += ".SH FILES\n";
    for (path, what) in FILES {
        text += &format!(".TP\n.I {}\n{}\n", escaped(path), lines(what));
    }
    text
}

/// The list of exit statuses.
fn exit_status() -> String {
    let mut text = String::from(".SH EXIT STATUS\n");
    for (status, meaning) in STATUSES {
        text += &format!(".TP\n.B {status}\n{}\n", lines(meaning));
    }
    text
}

const FILES: &[(&str, &str)] = &[
    (
        "~/.local/share/puna/models",
        "the store: blobs named by digest, manifests by model name",
    ),
    ("~/.ollama/models", "Ollama's store, which puna only reads"),
    (
        "$XDG_RUNTIME_DIR/puna/puna.sock",
        "the server's Unix socket",
    ),
];

/// The page of a command.
fn page(command: &Command, commands: Commands) -> String {
    let mut text = head(&format!("puna-{}", command.name), command.summary);
    text += &format!(".B {}\n", escaped(&help::synopsis(command)));
    text += ".SH DESCRIPTION\n";
    text += &paragraphs(command.about);
    text += ".SH OPTIONS\n";
    let groups = help::groups(command);
    let grouped = groups.len() > 1;
    for (heading, flags) in groups {
        if grouped {
            text += &format!(".SS {heading}\n");
        }
        flags.into_iter().for_each(|flag| text += &flag_entry(flag));
    }
    text += ".SH EXAMPLES\n";
    for (at, (line, what)) in command.examples.iter().enumerate() {
        text += if at == 0 { "" } else { ".PP\n" };
        text += &format!(
            "{}:\n.PP\n.nf\n.RS\n{}\n.RE\n.fi\n",
            escaped(what),
            escaped(line)
        );
    }
    // A command that runs a model can end in most of these ways.
    text += &if command.limits.is_empty() {
        ".SH EXIT STATUS\nSee\n.BR puna (1).\n".to_string()
    } else {
        exit_status()
    };
    for (status, meaning) in command.statuses {
        text += &format!(".TP\n.B {status}\n{}\n", lines(meaning));
    }
    text + &see_also(command, commands)
}

/// The other commands of the same section, and the pages that concern all commands.
fn see_also(command: &Command, commands: Commands) -> String {
    let others = commands
        .iter()
        .filter(|other| other.section == command.section && other.name != command.name);
    let others = others.map(|other| format!(".BR puna\\-{} (1),\n", escaped(other.name)));
    format!(
        ".SH SEE ALSO\n.BR puna (1),\n{}.BR puna\\-config (5),\n.BR puna\\-scripting (7)\n",
        others.collect::<String>()
    )
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
    format!(".TP\n{line}\n{}\n", lines(&flag.text()))
}

fn head(name: &str, summary: &str) -> String {
    title(name, 1, summary) + ".SH SYNOPSIS\n"
}

fn title(name: &str, section: u8, summary: &str) -> String {
    let (upper, name, summary) = (
        escaped(&name.to_uppercase()),
        escaped(name),
        escaped(summary),
    );
    let version = env!("CARGO_PKG_VERSION");
    let kind = match section {
        5 => "File Formats",
        7 => "Miscellanea",
        _ => "User Commands",
    };
    format!(
        ".TH {upper} {section} \"{DATE}\" \"puna {version}\" \"{kind}\"\n.nh\n.SH NAME\n{name} \\- {summary}\n"
    )
}

fn paragraphs(texts: &[&str]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| lines(text) + "\n").collect();
    texts.join(".PP\n")
}
