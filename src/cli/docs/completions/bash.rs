//! The completion script for bash.

use super::suggestions::{
    MODELS, Suggestion, both_names, names, names_of, suggestion, takes_next, value_suggestion,
};
use crate::cli::table::Commands;
use crate::core::options;

/// Prints the script.
pub fn script(commands: Commands) -> String {
    let mut text = String::from(
        "# bash completion for puna, printed by 'puna completions bash'.\n\
         _puna() {\n\
         \x20   local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n\
         \x20   local IFS=$' \\t\\n' flags= at=1 i\n\
         \x20   COMPREPLY=()\n\
         \x20   if [ \"$COMP_CWORD\" -eq 1 ]; then\n",
    );
    text += &format!(
        "        COMPREPLY=($(compgen -W '{} --help --version' -- \"$word\"))\n        return\n    fi\n",
        names(commands).join(" ")
    );
    // bash splits words at =, so that --think=low is three.
    text += "    if [ \"$word\" = = ]; then\n        word=\n    elif [ \"$before\" = = ]; then\n        before=${COMP_WORDS[COMP_CWORD-2]}\n    fi\n";
    text += &values(commands);
    text += "    case $command in\n";
    for command in commands {
        let flags: Vec<String> = command
            .all_flags()
            .map(|flag| format!("--{}", flag.long))
            .collect();
        text += &format!(
            "        {}) flags='{}' ;;\n",
            both_names(command, "|"),
            flags.join(" ")
        );
    }
    text += "    esac\n    if [[ $word == -* ]]; then\n        COMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n        return\n    fi\n";
    text += "    for ((i = 2; i < COMP_CWORD; i++)); do\n        case ${COMP_WORDS[i]} in\n";
    text += &format!(
        "            {}) ((i++)) ;;\n            -*) ;;\n            *) at=2 ;;\n        esac\n    done\n",
        names_of(commands, takes_next).join("|")
    );
    text += "    case $command,$at in\n";
    for command in commands {
        for (at, completes) in [(1, command.completes.0), (2, command.completes.1)] {
            let Some(words) = words(&suggestion(completes, commands)) else {
                continue;
            };
            let names = both_names(command, &format!(",{at}|"));
            text += &format!("        {names},{at}) COMPREPLY=({words}) ;;\n");
        }
    }
    text + "    esac\n}\nCOMP_WORDBREAKS=${COMP_WORDBREAKS//:/}\ncomplete -F _puna puna\n"
}

/// The cases for a word behind a flag.
fn values(commands: Commands) -> String {
    let mut text = "    case $command,$before in\n".to_string();
    let options: Vec<String> = { options::TABLE.iter() }
        .map(|entry| format!("{}=", entry.name))
        .collect();
    text += &format!(
        "        *,-o|*,--option) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n",
        options.join(" ")
    );
    // The same flag may take other words with another command.
    for command in commands {
        for flag in command.all_flags().filter(|flag| !flag.words.is_empty()) {
            text += &format!(
                "        {},--{}) COMPREPLY=($(compgen -W '{}' -- \"$word\")); return ;;\n",
                both_names(command, &format!(",--{}|", flag.long)),
                flag.long,
                flag.words.join(" ")
            );
        }
    }
    let any = |names: Vec<String>| {
        let patterns: Vec<String> = names.iter().map(|name| format!("*,{name}")).collect();
        patterns.join("|")
    };
    let files = names_of(commands, |flag| {
        matches!(value_suggestion(flag), Suggestion::Files)
    });
    text += &format!(
        "        {}) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n",
        any(files)
    );
    let others = any(names_of(commands, takes_next));
    text + &format!("        {others}) return ;;\n    esac\n")
}

/// The elements of an array of completions.
fn words(suggestion: &Suggestion) -> Option<String> {
    Some(match suggestion {
        Suggestion::Nothing => return None,
        Suggestion::Words(words) => format!("$(compgen -W '{}' -- \"$word\")", words.join(" ")),
        Suggestion::Printed(command) => format!("$(compgen -W \"$({command})\" -- \"$word\")"),
        Suggestion::ModelsAndFiles => format!(
            "$(compgen -W \"$({MODELS})\" -- \"$word\") $(compgen -f -X '!*.gguf' -- \"$word\") \
             $(compgen -d -S / -- \"$word\")"
        ),
        Suggestion::Files => "$(compgen -f -- \"$word\")".to_string(),
    })
}
