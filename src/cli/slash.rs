//! The lines of a session that begin with `/`: what they mean, what completes them, their help.
//!
//! Pure. Commands are exact words: `/byebye` is none.

use crate::error::{Error, Result};
use crate::message::Think;
use crate::options;

/// A command of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Slash {
    /// List models.
    List(String),
    /// Go on with another model.
    Load(String),
    /// Make a model of the session.
    Save(String),
    /// Forget the conversation.
    Clear,
    /// Change a setting.
    Set(Set),
    /// Show a part of the model: `info`, or a flag of `show`.
    Show(&'static str),
    /// Explain something.
    Help(String),
    /// Leave.
    Bye,
    /// Put a file before the next prompt.
    File(String),
    /// Answer the last prompt again.
    Retry,
    /// Forget the last prompt and its answer.
    Undo,
    /// Write the conversation to a file.
    Export(String),
}

/// A setting of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Set {
    /// Whether prompts are kept for other sessions.
    History(bool),
    /// Whether lines are broken between words.
    Wrap(bool),
    /// Whether timings are told.
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

/// Commands with what they take and what they do.
const COMMANDS: &[(&str, &str, &str)] = &[
    ("/set", "", "change a setting: see /? set"),
    ("/show", "", "show the model: see /? show"),
    ("/load", "MODEL", "go on with another model"),
    ("/save", "MODEL", "make a model of this session"),
    ("/clear", "", "forget the conversation"),
    ("/list", "[PREFIX]", "list models"),
    ("/file", "FILE", "put a text file before the next prompt"),
    ("/retry", "", "answer the last prompt again"),
    ("/undo", "", "forget the last prompt and its answer"),
    (
        "/export",
        "FILE",
        "write the conversation to FILE.md or FILE.jsonl",
    ),
    ("/bye, /exit", "", "leave"),
    ("/?, /help", "[set|show|shortcuts]", "explain"),
];

const SETTINGS: &[(&str, &str, &str)] = &[
    (
        "parameter",
        "NAME VALUE...",
        "set an option, such as temperature 0",
    ),
    ("system", "TEXT", "set the system text"),
    ("history", "", "keep prompts for other sessions"),
    ("nohistory", "", "keep none"),
    ("wordwrap", "", "break lines between words"),
    ("nowordwrap", "", "leave lines to the terminal"),
    ("format", "json", "answer in JSON"),
    ("noformat", "", "answer in text"),
    ("verbose", "", "tell timings"),
    ("quiet", "", "tell none"),
    ("think", "[LEVEL]", "think before the answer"),
    ("nothink", "", "answer at once"),
];

const SECTIONS: &[(&str, &str, &str)] = &[
    ("info", "", "what the model is"),
    ("license", "", "its licences"),
    ("modelfile", "", "a Modelfile that makes it"),
    ("parameters", "", "its options and the session's"),
    ("system", "", "the system text"),
    ("template", "", "the template in force"),
];

const SHORTCUTS: &[(&str, &str, &str)] = &[
    ("Ctrl-c", "", "end an answer, or drop the line"),
    ("Ctrl-d", "", "leave, on an empty line"),
    ("Ctrl-j", "", "begin a new line of the prompt"),
    ("\"\"\"", "", "begin and end a prompt of several lines"),
    ("Tab", "", "complete commands, models, options and files"),
    ("Ctrl-r", "", "search the history"),
    (
        "Ctrl-a, Ctrl-e",
        "",
        "to the beginning, the end of the line",
    ),
    ("Alt-b, Alt-f", "", "a word back, forward"),
    (
        "Ctrl-k, Ctrl-u, Ctrl-w",
        "",
        "delete to the end, to the beginning, a word",
    ),
    ("Ctrl-l", "", "clear the screen"),
];

/// Reads a line that begins with `/`.
///
/// # Errors
/// `Usage` with the line to print.
pub fn parse(line: &str) -> Result<Slash> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let one = |what: &str| match rest.is_empty() {
        true => Err(Error::usage(format!("usage: {word} {what}"))),
        false => Ok(rest.to_string()),
    };
    Ok(match word {
        "/list" => Slash::List(rest.to_string()),
        "/load" => Slash::Load(one("MODEL")?),
        "/save" => Slash::Save(one("MODEL")?),
        "/clear" => Slash::Clear,
        "/set" => Slash::Set(setting(rest)?),
        "/show" => match SECTIONS.iter().find(|(known, ..)| *known == rest) {
            Some((section, ..)) => Slash::Show(section),
            None => return Err(unknown(line, rest, SECTIONS)),
        },
        "/help" | "/?" => Slash::Help(rest.trim_start_matches('/').to_string()),
        "/bye" | "/exit" => Slash::Bye,
        "/file" => Slash::File(one("FILE")?),
        "/retry" => Slash::Retry,
        "/undo" => Slash::Undo,
        "/export" => Slash::Export(one("FILE.md or FILE.jsonl")?),
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
            Error::usage(format!("think is low, medium, high or max, not '{value}'"))
        })?),
        "parameter" => {
            let mut words = value.split_whitespace().map(str::to_string);
            match (words.next(), words.collect::<Vec<_>>()) {
                (Some(name), values) if !values.is_empty() => Set::Parameter(name, values),
                _ => return Err(Error::usage(table(&parameters()))),
            }
        }
        "system" if !value.is_empty() => Set::System(unquoted(value).to_string()),
        "system" => return Err(Error::usage("usage: /set system TEXT")),
        _ => return Err(unknown(&format!("/set {rest}"), rest, SETTINGS)),
    })
}

/// A text without the `"""` around it.
pub fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix(QUOTES);
    inner.map_or(text, |inner| inner.strip_suffix(QUOTES).unwrap_or(inner))
}

/// What begins and ends a text of several lines.
const QUOTES: &str = "\"\"\"";

/// True if a line begins a text of several lines and does not end it.
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
    match rest.is_empty() {
        true => Error::usage(table(known)),
        false => Error::usage(format!("unknown command '{line}': /? lists them")),
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
    options.map(|(name, _, help)| (*name, "", *help)).collect()
}

fn table(rows: &[(&str, &str, &str)]) -> String {
    let line = |(word, operand, what): &(&str, &str, &str)| {
        format!("  {:<28}{what}\n", format!("{word} {operand}"))
    };
    let text: String = rows.iter().map(line).collect();
    text.trim_end().to_string()
}

/// What may stand where the cursor is.
#[derive(Debug, Clone, PartialEq)]
pub enum Completion {
    /// One of these words, in place of the text from this byte on.
    Words(usize, Vec<String>),
    /// A model's name, from this byte on.
    Model(usize),
    /// A file's name.
    File,
    /// Nothing known.
    None,
}

/// What completes a line.
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
        ["/set", "parameter"] => among(options::TABLE.iter().map(|(name, ..)| *name).collect()),
        ["/set", "format"] => among(vec!["json"]),
        ["/?" | "/help"] => among(vec!["set", "show", "shortcuts"]),
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
        for (line, slash) in [
            ("/bye", Slash::Bye),
            ("  /exit  ", Slash::Bye),
            ("/load smol:135m", Slash::Load("smol:135m".into())),
            ("/show  template", Slash::Show("template")),
            (
                "/set system  Be  brief. ",
                Slash::Set(Set::System("Be  brief.".into())),
            ),
            (
                "/set system \"\"\"a\nb\"\"\"",
                Slash::Set(Set::System("a\nb".into())),
            ),
            ("/set think", Slash::Set(Set::Think(Think::On))),
            (
                "/set parameter stop a b",
                Slash::Set(Set::Parameter("stop".into(), vec!["a".into(), "b".into()])),
            ),
            ("/? /set", Slash::Help("set".into())),
            ("/file my notes.txt", Slash::File("my notes.txt".into())),
        ] {
            assert_eq!(parse(line).unwrap(), slash, "{line}");
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
    fn what_fits_is_offered() {
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
