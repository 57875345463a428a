//! The commands of a session, which begin with `/`: parsing, completion and help.
//!
//! Pure. Commands are exact words: `/byebye` is an error.

use crate::core::error::{Error, Result};
use crate::core::message::Think;
use crate::core::options;

/// A command of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplCommand {
    /// List models whose names have this prefix.
    List(String),
    /// Continue with another model.
    Load(String),
    /// Save the session as a model.
    Save(String),
    /// Drop the conversation.
    Clear,
    /// Change a setting.
    Set(Set),
    /// Show a part of the model: `info`, or a flag of `show`.
    Show(&'static str),
    /// Print the help on a topic.
    Help(String),
    /// Leave.
    Bye,
    /// Put a file before the next prompt.
    File(String),
    /// Answer the last prompt again.
    Retry,
    /// Drop the last prompt and its answer.
    Undo,
    /// Write the conversation to a file.
    Export(String),
}

/// A setting of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Set {
    /// Whether prompts are stored for other sessions.
    History(bool),
    /// Whether lines are broken between words.
    Wrap(bool),
    /// Whether timings are printed.
    Verbose(bool),
    /// Whether answers are JSON.
    Json(bool),
    /// Whether to think.
    Think(Think),
    /// An option of the API.
    Parameter(String, Vec<String>),
    /// The system text.
    System(String),
}

/// Commands with their operands and descriptions.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("/set", "SETTING", "change a setting: see /? set"),
    ("/show", "PART", "show the model: see /? show"),
    ("/load", "MODEL", "continue with another model"),
    ("/save", "MODEL", "save this session as a model"),
    ("/clear", "", "drop the conversation"),
    ("/list", "[PREFIX]", "list models"),
    ("/file", "FILE", "put a text file before the next prompt"),
    ("/retry", "", "answer the last prompt again"),
    ("/undo", "", "drop the last prompt and its answer"),
    (
        "/export",
        "FILE",
        "write the conversation to FILE.md or FILE.jsonl",
    ),
    ("/bye, /exit", "", "leave the session"),
    ("/?, /help", "[set|show|shortcuts]", "print help"),
];

const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "parameter",
        "NAME VALUE...",
        "set an option, such as temperature 0",
    ),
    ("system", "TEXT", "set the system text"),
    ("history", "", "store prompts for other sessions"),
    ("nohistory", "", "do not store prompts"),
    ("wordwrap", "", "break lines between words"),
    ("nowordwrap", "", "do not break lines between words"),
    ("format", "json", "answer in JSON"),
    ("noformat", "", "answer in text"),
    ("verbose", "", "print timings"),
    ("quiet", "", "do not print timings"),
    ("think", "[LEVEL]", "think before the answer"),
    ("nothink", "", "answer without thinking"),
];

const SECTIONS: &[(&str, &str, &str)] = &[
    ("info", "", "the model's details"),
    ("license", "", "the model's licences"),
    ("modelfile", "", "a Modelfile that recreates the model"),
    ("parameters", "", "the options of the model and the session"),
    ("system", "", "the system text"),
    ("template", "", "the template in force"),
];

const SHORTCUTS: &[(&str, &str, &str)] = &[
    ("Ctrl-c", "", "stop an answer, or drop the line"),
    ("Ctrl-d", "", "leave the session, on an empty line"),
    ("Ctrl-j", "", "start a new line of the prompt"),
    ("\"\"\"", "", "start and end a prompt of several lines"),
    ("Tab", "", "complete commands, models, options and files"),
    ("Ctrl-r", "", "search the history"),
    ("Ctrl-a, Ctrl-e", "", "move to the start, end of the line"),
    ("Alt-b, Alt-f", "", "move back, forward by a word"),
    (
        "Ctrl-k, Ctrl-u, Ctrl-w",
        "",
        "delete to the end, to the start, a word",
    ),
    ("Ctrl-l", "", "clear the screen"),
];

/// The topics of help.
const TOPICS: [&str; 3] = ["set", "show", "shortcuts"];

/// Parses a line that begins with `/`.
///
/// # Errors
/// `Usage`; a message of several lines is help.
pub fn parse(line: &str) -> Result<ReplCommand> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let one = |what: &str| {
        if rest.is_empty() {
            Err(Error::usage(format!("usage: {word} {what}")))
        } else {
            Ok(rest.to_string())
        }
    };
    let is_this = |names: &str| names.split(", ").any(|name| name == word);
    let known = COMMANDS.iter().find(|(names, ..)| is_this(names));
    if known.is_some_and(|(_, operand, _)| operand.is_empty()) && !rest.is_empty() {
        return Err(Error::usage(format!("{word} takes no operand")));
    }
    Ok(match word {
        "/list" => ReplCommand::List(rest.to_string()),
        "/load" => ReplCommand::Load(one("MODEL")?),
        "/save" => ReplCommand::Save(one("MODEL")?),
        "/clear" => ReplCommand::Clear,
        "/set" => ReplCommand::Set(setting(rest)?),
        "/show" => match SECTIONS.iter().find(|(known, ..)| *known == rest) {
            Some((section, ..)) => ReplCommand::Show(section),
            None => return Err(unknown(line, rest, SECTIONS)),
        },
        "/help" | "/?" => {
            let topic = rest.trim_start_matches('/');
            if !topic.is_empty() && !TOPICS.contains(&topic) {
                let text = format!("no help on '{topic}': {}", TOPICS.join(", "));
                return Err(Error::usage(text));
            }
            ReplCommand::Help(topic.to_string())
        }
        "/bye" | "/exit" => ReplCommand::Bye,
        "/file" => ReplCommand::File(one("FILE")?),
        "/retry" => ReplCommand::Retry,
        "/undo" => ReplCommand::Undo,
        "/export" => ReplCommand::Export(one("FILE.md or FILE.jsonl")?),
        _ => {
            return Err(Error::usage(format!(
                "unknown command '{word}': /? lists them"
            )));
        }
    })
}

fn setting(rest: &str) -> Result<Set> {
    let (word, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let value = value.trim();
    let known = SETTINGS.iter().find(|(known, ..)| *known == word);
    if known.is_some_and(|(_, operand, _)| operand.is_empty()) && !value.is_empty() {
        return Err(Error::usage(format!(
            "/set {word} takes no value: /? set lists its opposite"
        )));
    }
    Ok(match word {
        "history" => Set::History(true),
        "nohistory" => Set::History(false),
        "wordwrap" => Set::Wrap(true),
        "nowordwrap" => Set::Wrap(false),
        "verbose" => Set::Verbose(true),
        "quiet" => Set::Verbose(false),
        "format" if value == "json" => Set::Json(true),
        "format" => {
            let text = "invalid or missing format: for JSON use '/set format json'";
            return Err(Error::usage(text));
        }
        "noformat" => Set::Json(false),
        "nothink" => Set::Think(Think::Off),
        "think" if value.is_empty() => Set::Think(Think::On),
        "think" => Set::Think(Think::parse(value).ok_or_else(|| {
            Error::usage(format!(
                "think must be low, medium, high or max, not '{value}'"
            ))
        })?),
        "parameter" => {
            let mut words = quoted_words(value).into_iter();
            match (words.next(), words.collect::<Vec<_>>()) {
                (Some(name), values) if !values.is_empty() => Set::Parameter(name, values),
                _ => return Err(Error::usage(table(&parameters()))),
            }
        }
        "system" if value == "\"\"" => Set::System(String::new()),
        "system" if !value.is_empty() => Set::System(unquoted(value).to_string()),
        "system" => return Err(Error::usage("usage: /set system TEXT")),
        _ => return Err(unknown(&format!("/set {rest}"), rest, SETTINGS)),
    })
}

/// The words of a text; one in `"` may hold blanks.
fn quoted_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let inner = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
        let (word, behind) = match inner {
            Some(parts) => parts,
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_string());
        rest = behind.trim_start();
    }
    words
}

/// A text without the `"""` around it.
pub fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix(QUOTES);
    inner.map_or(text, |inner| inner.strip_suffix(QUOTES).unwrap_or(inner))
}

/// The delimiter of a text of several lines.
const QUOTES: &str = "\"\"\"";

/// True if a line opens a text of several lines and does not close it.
pub fn is_open(line: &str) -> bool {
    let text = line.trim_start();
    let text = text
        .strip_prefix("/set system")
        .map_or(text, str::trim_start);
    match text.strip_prefix(QUOTES) {
        Some(inner) => !inner.trim_end().ends_with(QUOTES),
        None => false,
    }
}

fn unknown(line: &str, rest: &str, known: &[(&str, &str, &str)]) -> Error {
    if rest.is_empty() {
        Error::usage(table(known))
    } else {
        Error::usage(format!("unknown command '{line}': /? lists them"))
    }
}

/// The help on a topic.
pub fn help(topic: &str) -> String {
    match topic {
        "set" => table(SETTINGS),
        "show" => table(SECTIONS),
        "shortcuts" => table(SHORTCUTS),
        _ => table(COMMANDS),
    }
}

fn parameters() -> Vec<(&'static str, &'static str, &'static str)> {
    let options = options::TABLE.iter();
    options.map(|entry| (entry.name, "", entry.help)).collect()
}

fn table(rows: &[(&str, &str, &str)]) -> String {
    let line = |(word, operand, what): &(&str, &str, &str)| {
        format!("  {:<28}  {what}\n", format!("{word} {operand}"))
    };
    let text: String = rows.iter().map(line).collect();
    text.trim_end().to_string()
}

/// The completions at the cursor.
#[derive(Debug, Clone, PartialEq)]
pub enum Completion {
    /// These words; each replaces the text from this byte offset on.
    Words(usize, Vec<String>),
    /// A model's name, from this byte offset on.
    Model(usize),
    /// A file name.
    File,
    /// No completion.
    None,
}

/// The completions of a line whose end is the cursor.
pub fn complete(line: &str) -> Completion {
    if !line.starts_with('/') {
        return Completion::None;
    }
    let mut letters = line.char_indices().rev();
    let blank = letters.find(|(_, c)| c.is_whitespace());
    let start = blank.map_or(0, |(at, c)| at + c.len_utf8());
    let words: Vec<&str> = line[..start].split_whitespace().collect();
    let typed = &line[start..];
    let among = |names: Vec<&str>| {
        let fitting = names.into_iter().filter(|name| name.starts_with(typed));
        Completion::Words(start, fitting.map(|name| format!("{name} ")).collect())
    };
    match words.as_slice() {
        [] => among(
            COMMANDS
                .iter()
                .flat_map(|(names, ..)| names.split(", "))
                .collect(),
        ),
        ["/set"] => among(SETTINGS.iter().map(|(name, ..)| *name).collect()),
        ["/show"] => among(SECTIONS.iter().map(|(name, ..)| *name).collect()),
        ["/set", "parameter"] => among(options::TABLE.iter().map(|entry| entry.name).collect()),
        ["/set", "format"] => among(vec!["json"]),
        ["/?" | "/help"] => among(TOPICS.to_vec()),
        ["/load" | "/save" | "/list"] => Completion::Model(start),
        ["/file" | "/export", ..] => Completion::File,
        _ => Completion::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_exact_words() {
        for (line, command) in [
            ("/bye", ReplCommand::Bye),
            ("  /exit  ", ReplCommand::Bye),
            ("/load smol:135m", ReplCommand::Load("smol:135m".into())),
            ("/show  template", ReplCommand::Show("template")),
            (
                "/set system  Be  brief. ",
                ReplCommand::Set(Set::System("Be  brief.".into())),
            ),
            (
                "/set system \"\"\"a\nb\"\"\"",
                ReplCommand::Set(Set::System("a\nb".into())),
            ),
            ("/set think", ReplCommand::Set(Set::Think(Think::On))),
            (
                "/set parameter stop a b",
                ReplCommand::Set(Set::Parameter("stop".into(), vec!["a".into(), "b".into()])),
            ),
            (
                "/set parameter stop \"a b\" c",
                ReplCommand::Set(Set::Parameter(
                    "stop".into(),
                    vec!["a b".into(), "c".into()],
                )),
            ),
            (
                "/set system \"\"",
                ReplCommand::Set(Set::System(String::new())),
            ),
            ("/? /set", ReplCommand::Help("set".into())),
            (
                "/file my notes.txt",
                ReplCommand::File("my notes.txt".into()),
            ),
        ] {
            assert_eq!(parse(line).unwrap(), command, "{line}");
        }
        for (line, words) in [
            ("/byebye", "unknown command '/byebye'"),
            ("/clearly x", "unknown command '/clearly'"),
            ("/load", "usage: /load MODEL"),
            ("/set", "parameter NAME VALUE"),
            ("/set nonsense", "unknown command '/set nonsense'"),
            ("/set think loud", "not 'loud'"),
            ("/set parameter temperature", "temperature"),
            ("/show everything", "unknown command"),
            ("/set verbose false", "takes no value"),
            ("/undo 3", "takes no operand"),
            ("/help nonsense", "no help on 'nonsense'"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(words), "{line}: {error}");
        }
    }

    #[test]
    fn quotes_open_and_close_a_text_of_lines() {
        for (line, open) in [
            ("\"\"\"", true),
            ("\"\"\"a", true),
            ("\"\"\"a\nb\"\"\"", false),
            ("\"\"\"\"\"\"", false),
            ("/set system \"\"\"a", true),
            ("a \"\"\"b", false),
        ] {
            assert_eq!(is_open(line), open, "{line:?}");
        }
        assert_eq!(unquoted("\"\"\"a \"\"\""), "a ");
    }

    #[test]
    fn matching_words_are_completed() {
        let words = |line: &str| match complete(line) {
            Completion::Words(start, words) => (start, words),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(words("/lo"), (0, vec!["/load ".to_string()]));
        assert_eq!(words("/set no").1.len(), 4);
        assert_eq!(
            words("/set parameter top_k"),
            (15, vec!["top_k ".to_string()])
        );
        assert_eq!(complete("/load sm"), Completion::Model(6));
        assert_eq!(complete("/file no"), Completion::File);
        assert_eq!(complete("/file\u{3000}no"), Completion::File);
        assert_eq!(complete("hello"), Completion::None);
    }
}
