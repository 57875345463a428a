//! The completion script for zsh.

use super::suggestions::{MODELS, Suggestion, both_names, suggestion, value_suggestion};
use crate::cli::flag::Flag;
use crate::cli::table::Commands;
use crate::core::options;

/// Prints the script.
pub fn script(commands: Commands) -> String {
    let mut text = String::from(
        "#compdef puna\n\
         # zsh completion for puna, printed by 'puna completions zsh'.\n\
         _puna_printed() {\n\
         \x20   local -a words\n\
         \x20   words=(${(f)\"$(eval $1)\"})\n\
         \x20   compadd -a words\n\
         }\n",
    );
    text +=
        &format!("_puna_models() {{\n    _puna_printed '{MODELS}'\n    _files -g '*.gguf'\n}}\n");
    text += "_puna() {\n    local -a commands\n    commands=(\n";
    for command in commands {
        for name in command.names() {
            text += &format!("        '{name}:{}'\n", quoted(command.summary));
        }
    }
    text += "    )\n    if (( CURRENT == 2 )); then\n        _describe command commands\n        return\n    fi\n";
    text +=
        "    local command=$words[2]\n    shift words\n    (( CURRENT-- ))\n    case $command in\n";
    for command in commands {
        text += &format!(
            "        {})\n            _arguments -s",
            both_names(command, "|")
        );
        for flag in command.all_flags() {
            text += &zsh_flag(flag);
        }
        for (place, completes) in [("1", command.completes.0), ("*", command.completes.1)] {
            let action = action(&suggestion(completes, commands));
            // An empty action keeps the words of the next place away.
            if !action.is_empty() || place == "1" {
                text += &format!(" \\\n                '{place}:operand:{action}'");
            }
        }
        text += "\n            ;;\n";
    }
    text + "    esac\n}\nif [ \"$funcstack[1]\" = _puna ]; then\n    _puna \"$@\"\nelse\n    compdef _puna puna\nfi\n"
}

fn action(suggestion: &Suggestion) -> String {
    match suggestion {
        Suggestion::Nothing => String::new(),
        Suggestion::Words(words) => format!("({})", words.join(" ")),
        Suggestion::Printed(command) => format!(" _puna_printed \"{command}\""),
        Suggestion::ModelsAndFiles => "_puna_models".to_string(),
        Suggestion::Files => "_files".to_string(),
    }
}

fn zsh_flag(flag: &Flag) -> String {
    let value = match (flag.long, flag.value) {
        (_, None) => String::new(),
        ("option", Some(what)) => {
            let names = options::TABLE.iter().map(|entry| entry.name);
            format!(":{what}:({})", names.collect::<Vec<_>>().join(" "))
        }
        (_, Some(what)) => format!(":{}:{}", quoted(what), action(&value_suggestion(flag))),
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

/// Escapes text for single quotes and for a place before a colon.
fn quoted(text: &str) -> String {
    text.replace('\'', "'\\''").replace(':', "\\:")
}
