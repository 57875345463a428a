//! The completion script for fish.

use super::suggestions::{
    MODELS, Suggestion, both_names, names_of, suggestion, takes_next, value_suggestion,
};
use crate::cli::flag::Flag;
use crate::cli::table::Commands;
use crate::core::options;

/// Prints the script.
pub fn script(commands: Commands) -> String {
    let mut text = String::from(
        "# fish completion for puna, printed by 'puna completions fish'.\n\
         function __puna_is\n\
         \x20   set -l words (commandline -opc)\n\
         \x20   test (count $words) -ge 2; and contains -- $words[2] $argv\n\
         end\n\
         function __puna_at\n\
         \x20   set -l at 1\n\
         \x20   set -l skip no\n\
         \x20   for word in (commandline -opc)[3..-1]\n\
         \x20       if test $skip = yes\n\
         \x20           set skip no\n",
    );
    text += &format!(
        "        else if contains -- $word {}\n            set skip yes\n",
        names_of(commands, takes_next).join(" ")
    );
    text += "        else if not string match -q -- '-*' $word\n            set at 2\n        end\n    end\n    test $at = $argv[1]\nend\n";
    text += "function __puna_options\n";
    for entry in options::TABLE {
        text += &format!(
            "    printf '%s\\t%s\\n' {}= '{}'\n",
            entry.name,
            quoted(entry.help)
        );
    }
    text += "end\ncomplete -c puna -f\n";
    for command in commands {
        for name in command.names() {
            text += &format!(
                "complete -c puna -n __fish_use_subcommand -a {name} -d '{}'\n",
                quoted(command.summary)
            );
        }
    }
    for command in commands {
        let is = format!("__puna_is {}", both_names(command, " "));
        for flag in command.all_flags() {
            let short = flag
                .short
                .map_or(String::new(), |short| format!(" -s {short}"));
            text += &format!(
                "complete -c puna -n '{is}' -l {}{short}{} -d '{}'\n",
                flag.long,
                value(flag),
                quoted(flag.help)
            );
        }
        for (at, completes) in [(1, command.completes.0), (2, command.completes.1)] {
            let words = match suggestion(completes, commands) {
                Suggestion::Nothing => continue,
                Suggestion::Words(words) => format!("-a '{}'", words.join(" ")),
                Suggestion::Printed(command) => format!("-a '({command})'"),
                Suggestion::ModelsAndFiles => {
                    format!("-k -a '({MODELS}; __fish_complete_suffix .gguf)'")
                }
                Suggestion::Files => "-F".to_string(),
            };
            text += &format!("complete -c puna -n '{is}; and __puna_at {at}' {words}\n");
        }
    }
    text
}

/// The words that complete a flag's value, as arguments of `complete`.
fn value(flag: &Flag) -> String {
    if flag.value.is_none() {
        return String::new();
    }
    match value_suggestion(flag) {
        _ if flag.long == "option" => " -x -a '(__puna_options)'".to_string(),
        Suggestion::Files => " -r -F".to_string(),
        Suggestion::Words(words) if flag.optional => format!(" -f -a '{}'", words.join(" ")),
        Suggestion::Words(words) => format!(" -x -a '{}'", words.join(" ")),
        _ if flag.optional => String::new(),
        _ => " -x".to_string(),
    }
}

fn quoted(text: &str) -> String {
    text.replace('\'', "\\'")
}
