//! `puna man`: the manual pages, printed from the tables as roff.

use super::help;
use super::pages::{Block, PAGES, Page};
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
        Some(name) => match (table::find(commands, name), other_page(name)) {
            (Some(known), _) => out.write(&page(known)),
            (None, Some(known)) => out.write(&set(known)),
            (None, None) => Err(Error::usage(format!(
                "no manual for '{name}': it is neither a command nor a page"
            ))),
        },
    }
}

/// The page with this name and section, such as `config.5`.
fn other_page(name: &str) -> Option<&'static Page> {
    let named = |page: &&Page| name == format!("{}.{}", page.name, page.section);
    PAGES.iter().find(named)
}

/// The roff of a page that does not belong to a command.
fn set(page: &Page) -> String {
    let mut text = title(&format!("puna-{}", page.name), page.section, page.summary);
    for block in page.blocks {
        text += &match block {
            Block::Head(head) => format!(".SH {head}\n"),
            Block::Text(words) => paragraphs(&[words]),
            Block::Entry(word, meaning) => {
                format!(".TP\n.B {}\n{}\n", escaped(word), escaped(meaning))
            }
            Block::Show(lines) | Block::Run(lines) => {
                let lines: Vec<String> = lines.lines().map(escaped).collect();
                format!(".PP\n.nf\n.RS\n{}\n.RE\n.fi\n", lines.join("\n"))
            }
            Block::Keys => keys(),
        };
    }
    text + ".SH SEE ALSO\n.BR puna (1)\n"
}

/// The keys of the configuration file: our variables without their prefix `PUNA_`.
fn keys() -> String {
    let mut text = String::new();
    for (names, meaning) in config::variables() {
        let ours = names
            .split(", ")
            .filter_map(|name| name.strip_prefix("PUNA_"));
        for key in ours.filter(|key| *key != "CONFIG") {
            text += &format!(
                ".TP\n.B {}\n{}\n",
                escaped(&key.to_lowercase()),
                escaped(meaning)
            );
        }
    }
    text
}

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
            escaped(command.summary)
        );
    }
    text += ".SH API OPTIONS\n.PP\n";
    text += "Set by\n.BR \\-\\-option ,\nby PARAMETER lines of a Modelfile and by API requests.\n";
    for (name, _, help) in options::TABLE {
        text += &format!(".TP\n.B {}\n{}\n", escaped(name), escaped(help));
    }
    text += ".SH EXIT STATUS\n";
    for (status, meaning) in STATUSES {
        text += &format!(".TP\n.B {status}\n{}\n", escaped(meaning));
    }
    text += ".SH ENVIRONMENT\n.PP\nA variable of puna takes precedence over the one of Ollama with the same meaning.\n";
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
        "the store: blobs named by digest, manifests by model name",
    ),
    ("~/.ollama/models", "Ollama's store, which puna only reads"),
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
    for flag in command.all_flags() {
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
        ".TH {upper} {section} \"\" \"puna {version}\" \"{kind}\"\n.SH NAME\n{name} \\- {summary}\n"
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
