//! The suggestions of the completion scripts, the same for every shell.

use crate::cli::docs::pages::PAGES;
use crate::cli::flag::Flag;
use crate::cli::table::{Command, Commands, Completes};

/// The suggestion in one place of a script.
pub enum Suggestion {
    /// Nothing.
    Nothing,
    /// These words.
    Words(Vec<&'static str>),
    /// The lines that a shell command prints; it prints none if it fails.
    Printed(&'static str),
    /// The names of models, and GGUF files.
    ModelsAndFiles,
    /// Files.
    Files,
}

/// The shell command that lists model names.
pub const MODELS: &str = "puna ls 2>/dev/null | cut -f1";

/// The suggestion for an operand.
pub fn suggestion(completes: Completes, commands: Commands) -> Suggestion {
    match completes {
        Completes::Nothing => Suggestion::Nothing,
        Completes::Models => Suggestion::Printed(MODELS),
        Completes::ModelsAndFiles => Suggestion::ModelsAndFiles,
        Completes::Files => Suggestion::Files,
        Completes::Loaded => Suggestion::Printed("puna ps 2>/dev/null | cut -f1"),
        Completes::Keys => Suggestion::Printed("puna config 2>/dev/null | cut -f1"),
        Completes::SavedPrompts => Suggestion::Printed("puna cache ls 2>/dev/null | cut -f1"),
        Completes::Commands => Suggestion::Words(names(commands)),
        Completes::Pages => {
            let pages = PAGES.iter().map(|page| page.name);
            Suggestion::Words(names(commands).into_iter().chain(pages).collect())
        }
        Completes::Words(words) => Suggestion::Words(words.to_vec()),
    }
}

/// The suggestion for a flag's value.
pub fn value_suggestion(flag: &Flag) -> Suggestion {
    match flag.value {
        Some("FILE" | "PATH" | "FILE|JSON") => Suggestion::Files,
        Some(_) if !flag.words.is_empty() => Suggestion::Words(flag.words.to_vec()),
        _ => Suggestion::Nothing,
    }
}

/// The names of all commands.
pub fn names(commands: Commands) -> Vec<&'static str> {
    commands
        .iter()
        .flat_map(|command| command.names())
        .collect()
}

/// A command's names with something between them.
pub fn both_names(command: &Command, between: &str) -> String {
    command.names().collect::<Vec<_>>().join(between)
}

/// A flag's names: `--num-predict` and `-n`.
pub fn flag_names(flag: &Flag) -> Vec<String> {
    let short = flag.short.map(|short| format!("-{short}"));
    [format!("--{}", flag.long)]
        .into_iter()
        .chain(short)
        .collect()
}

/// The names of all flags that satisfy `wanted`, sorted, each once.
pub fn names_of(commands: Commands, wanted: impl Fn(&Flag) -> bool) -> Vec<String> {
    let flags = commands.iter().flat_map(|command| command.all_flags());
    let mut names: Vec<String> = flags
        .filter(|flag| wanted(flag))
        .flat_map(flag_names)
        .collect();
    names.sort();
    names.dedup();
    names
}

/// True if the next word is the flag's value.
pub fn takes_next(flag: &Flag) -> bool {
    flag.value.is_some() && !flag.optional
}
