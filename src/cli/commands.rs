//! The list of commands. The entries of those that print the list itself stand here, all others at the top of
//! their command's file.

use super::docs::{completions, help, man};
use super::flag::JSON;
use super::table::{Command, Completes, PLAIN, Section};

/// Every command, in the order of the manual.
pub const COMMANDS: &[&Command] = &[
    &super::run::COMMAND,
    &super::map::COMMAND,
    &super::choose::COMMAND,
    &super::chat::COMMAND,
    &super::tokens::COMMAND,
    &super::vectors::EMBED,
    &super::vectors::NEAREST,
    &super::rerank::COMMAND,
    &super::render::COMMAND,
    &super::replay::COMMAND,
    &super::list::COMMAND,
    &super::show::COMMAND,
    &super::pull::COMMAND,
    &super::pull::OUTDATED,
    &super::push::COMMAND,
    &super::create::COMMAND,
    &super::copy::COMMAND,
    &super::remove::COMMAND,
    &super::store_commands::VERIFY,
    &super::store_commands::GC,
    &super::store_commands::DU,
    &super::store_commands::PATH,
    &super::cache::COMMAND,
    &super::archive::EXPORT,
    &super::archive::IMPORT,
    &super::bench::COMMAND,
    &super::config::COMMAND,
    &super::doctor::COMMAND,
    &super::serve::COMMAND,
    &super::env::COMMAND,
    &super::ps::COMMAND,
    &super::stop::COMMAND,
    &HELP,
    &VERSION,
    &COMPLETIONS,
    &MAN,
];

const HELP: Command = Command {
    name: "help",
    summary: "explain puna or one of its commands",
    operands: "[COMMAND]",
    arity: (0, 1),
    about: &["Prints the list of commands, or the summary, flags and examples of one command."],
    examples: &[("puna help run", "explain run")],
    run: |parsed, _, out| help::run(COMMANDS, parsed, out),
    section: Section::Help,
    completes: (Completes::Commands, Completes::Nothing),
    ..PLAIN
};

const VERSION: Command = Command {
    name: "version",
    summary: "print the version",
    operands: "",
    arity: (0, 0),
    flags: &[JSON],
    about: &["Prints the program's name and version, as puna --version does."],
    examples: &[("puna version", "print the version")],
    run: |parsed, _, out| {
        if parsed.has(&JSON) {
            out.named(
                true,
                &["version"],
                &[vec![env!("CARGO_PKG_VERSION").into()]],
            )
        } else {
            out.write(concat!("puna ", env!("CARGO_PKG_VERSION"), "\n"))
        }
    },
    section: Section::Help,
    ..PLAIN
};

const COMPLETIONS: Command = Command {
    name: "completions",
    summary: "print a completion script for a shell",
    operands: "SHELL",
    arity: (1, 1),
    about: &[
        "Prints a script that completes commands, flags, option names and model names. SHELL is bash, zsh or \
         fish. 'make install' installs all three where the shells look for them.",
    ],
    examples: &[(
        "d=~/.local/share/bash-completion/completions; mkdir -p $d && puna completions bash > $d/puna",
        "install the completions for bash",
    )],
    run: |parsed, _, out| completions::run(COMMANDS, parsed, out),
    section: Section::Help,
    completes: (
        Completes::Words(&["bash", "zsh", "fish"]),
        Completes::Nothing,
    ),
    ..PLAIN
};

const MAN: Command = Command {
    name: "man",
    summary: "print a manual page",
    operands: "[COMMAND|PAGE]",
    arity: (0, 1),
    about: &[
        "Prints the roff source of puna(1), or of a command's page, for man -l and for packages. The other pages are \
         config.5, modelfile.5, scripting.7 and api.7.",
    ],
    examples: &[(
        "puna man run > puna-run.1",
        "write the manual page of run to a file",
    )],
    run: |parsed, _, out| man::run(COMMANDS, parsed, out),
    section: Section::Help,
    completes: (Completes::Pages, Completes::Nothing),
    ..PLAIN
};
