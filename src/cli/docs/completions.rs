//! `puna completions`: completion scripts for shells, printed from the tables.

use crate::cli::flag::Flag;
use crate::cli::out::Out;
use crate::cli::parsed::Parsed;
use crate::cli::table::{Command, Commands, Completes};
use crate::core::error::{Error, Result};
use crate::core::options;

const SHELLS: &str = "bash zsh fish";
/// The shell command that lists model names; it prints nothing if there is no store.
const MODELS: &str = "puna ls 2>/dev/null | cut -f1";

/// Prints what the operand names.
///
/// # Errors
/// `Usage` for an unknown name.
pub fn run(commands: Commands, parsed: &Parsed, out: &mut Out) -> Result<()> {
    match parsed.operands[0].as_str() {
        "bash" => out.write(&bash(commands)),
        "zsh" => out.write(&zsh(commands)),
        "fish" => out.write(&fish(commands)),
        other => Err(Error::usage(format!(
            "no completions for '{other}': the shell must be bash, zsh or fish"
        ))),
    }
}

fn names(commands: Commands) -> Vec<&'static str> {
    commands
        .iter()
        .flat_map(|command| [Some(command.name), command.alias])
        .flatten()
        .collect()
}

fn option_names() -> String {
    options::TABLE
        .iter()
        .map(|entry| format!("{}=", entry.name))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Flags whose value is a file, as a shell pattern.
fn file_flags(commands: Commands) -> String {
    let mut names = Vec::new();
    for flag in commands.iter().flat_map(|command| command.all_flags()) {
        if flag.value.is_some_and(takes_file) {
            names.push(format!("--{}", flag.long));
            names.extend(flag.short.map(|short| format!("-{short}")));
        }
    }
    names.sort();
    names.dedup();
    names.join("|")
}

fn bash(commands: Commands) -> String {
    let mut text = String::from(
        "# bash completion for puna, printed by 'puna completions bash'.\n\
         _puna() {\n\
         \x20   local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n\
         \x20   local IFS=$' \\t\\n'\n\
         \x20   COMPREPLY=()\n\
         \x20   if [ \"$COMP_CWORD\" -eq 1 ]; then\n",
    );
    text += &format!(
        "        COMPREPLY=($(compgen -W '{} --help --version' -- \"$word\"))\n        return\n    fi\n",
        names(commands).join(" ")
    );
    text += "    case $before in\n";
    text += &format!(
        "        -o|--option) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n",
        option_names()
    );
    text += &format!(
        "        {}) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n    esac\n",
        file_flags(commands)
    );
    text += "    local flags=\n    case $command in\n";
    for command in commands {
        let flags: Vec<String> = command
            .all_flags()
            .map(|flag| format!("--{}", flag.long))
            .collect();
        text += &format!(
            "        {}) flags='{}' ;;\n",
            pattern(command),
            flags.join(" ")
        );
    }
    text += "    esac\n    if [[ $word == -* ]]; then\n        COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n        return\n    fi\n";
    text += "    case $command in\n";
    for command in commands {
        let words = match command.completes {
            Completes::Nothing => continue,
            Completes::Models => {
                // Model names contain colons, at which bash splits words.
                text += &format!(
                    "        {}) COMPREPLY=($(compgen -W \"$({MODELS})\" -- \"$word\") $(compgen -f -- \"$word\")) ;;\n",
                    pattern(command)
                );
                continue;
            }
            Completes::Commands => names(commands).join(" "),
            Completes::Shells => SHELLS.to_string(),
        };
        text += &format!(
            "        {}) COMPREPLY=($(compgen -W '{words}' -- \"$word\")) ;;\n",
            pattern(command)
        );
    }
    text + "    esac\n}\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//:/}\ncomplete -F _puna puna\n"
}

fn pattern(command: &Command) -> String {
    command.alias.map_or(command.name.to_string(), |alias| {
        format!("{}|{alias}", command.name)
    })
}

fn zsh(commands: Commands) -> String {
    let mut text = String::from(
        "#compdef puna\n\
         # zsh completion for puna, printed by 'puna completions zsh'.\n\
         _puna_models() {\n\
         \x20   local -a models\n",
    );
    text += &format!("    models=(${{(f)\"$({MODELS})\"}})\n");
    text += "    compadd -a models\n    _files -g '*.gguf'\n}\n";
    text += "_puna() {\n    local -a commands\n    commands=(\n";
    for command in commands {
        for name in [Some(command.name), command.alias].into_iter().flatten() {
            text += &format!("        '{name}:{}'\n", quoted(command.summary));
        }
    }
    text += "    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n";
    text +=
        "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n";
    for command in commands {
        text += &format!("        {})\n            _arguments -s", pattern(command));
        for flag in command.all_flags() {
            text += &zsh_flag(flag);
        }
        text += match command.completes {
            Completes::Nothing => "",
            Completes::Models => " \\\n                '*:model:_puna_models'",
            Completes::Commands => " \\\n                '1:command:(COMMANDS)'",
            Completes::Shells => " \\\n                '1:shell:(bash zsh fish)'",
        };
        text += "\n            ;;\n";
    }
    text = text.replace("(COMMANDS)", &format!("({})", names(commands).join(" ")));
    text + "    esac\n}\nif [ \"$funcstack[1]\" = _puna ]; then\n    _puna \"$@\"\nelse\n    compdef _puna puna\nfi\n"
}

fn zsh_flag(flag: &Flag) -> String {
    let value = match (flag.long, flag.value) {
        (_, None) => String::new(),
        (_, Some(what)) if takes_file(what) => format!(":{what}:_files"),
        ("option", Some(what)) => format!(
            ":{what}:({})",
            options::TABLE
                .iter()
                .map(|entry| entry.name)
                .collect::<Vec<_>>()
                .join(" ")
        ),
        (_, Some(what)) => format!(":{what}:"),
    };
    let help = quoted(flag.help).replace('[', "\\[").replace(']', "\\]");
    let (equals, value) = if flag.optional {
        ("=-", format!(":{value}"))
    } else {
        ("", value)
    };
    let long = format!(
        " \\\n                '*--{}{equals}[{help}]{value}'",
        flag.long
    );
    match flag.short {
        None => long,
        Some(short) => format!("{long} \\\n                '*-{short}[{help}]{value}'"),
    }
}

/// True if the name of a flag's value in the synopsis denotes a file.
fn takes_file(value: &str) -> bool {
    matches!(value, "FILE" | "PATH" | "json|@FILE")
}

/// Escapes text for single quotes and for a place before a colon.
fn quoted(text: &str) -> String {
    text.replace('\'', "'\\''").replace(':', "\\:")
}

fn fish(commands: Commands) -> String {
    let mut text = String::from(
        "# fish completion for puna, printed by 'puna completions fish'.\n\
         complete -c puna -f\n",
    );
    for command in commands {
        for name in [Some(command.name), command.alias].into_iter().flatten() {
            text += &format!(
                "complete -c puna -n __fish_use_subcommand -a {name} -d '{}'\n",
                fish_quoted(command.summary)
            );
        }
    }
    for command in commands {
        let seen = format!(
            "__fish_seen_subcommand_from {}",
            pattern(command).replace('|', " ")
        );
        for flag in command.all_flags() {
            let short = flag
                .short
                .map_or(String::new(), |short| format!(" -s {short}"));
            let value = match (flag.long, flag.value) {
                (_, None) => String::new(),
                (_, Some(what)) if takes_file(what) => " -r -F".into(),
                (_, Some(_)) if flag.optional => String::new(),
                ("option", Some(_)) => format!(" -x -a '{}'", option_names()),
                (_, Some(_)) => " -x".into(),
            };
            text += &format!(
                "complete -c puna -n '{seen}' -l {}{short}{value} -d '{}'\n",
                flag.long,
                fish_quoted(flag.help)
            );
        }
        let words = match command.completes {
            Completes::Nothing => continue,
            Completes::Models => {
                text += &format!("complete -c puna -n '{seen}' -F -a '({MODELS})'\n");
                continue;
            }
            Completes::Commands => names(commands).join(" "),
            Completes::Shells => SHELLS.to_string(),
        };
        text += &format!("complete -c puna -n '{seen}' -a '{words}'\n");
    }
    text
}

fn fish_quoted(text: &str) -> String {
    text.replace('\'', "\\'")
}
