//! The state of a session: the conversation, and the settings of its next turn.
//!
//! Pure, except that [`dragged`] checks whether a file exists.

use super::commands::Set;
use crate::cli::docs::help::capitalised;
use crate::cli::run::turn_args::Ask;
use crate::cli::transcript;
use crate::core::error::{Error, Result};
use crate::core::message::Message;
use crate::core::options::Options;
use crate::core::turn::OutputConstraint;

/// The state of a session.
pub struct Session {
    /// The request of the next turn: model, system text, options, earlier messages.
    pub ask: Ask,
    /// Timings are printed.
    pub verbose: bool,
    /// Lines are broken between words.
    pub wraps: bool,
    /// Prompts are stored for other sessions.
    pub keeps_history: bool,
    /// Thinking is printed.
    pub shows_thinking: bool,
    /// Models that this session has saved and may save again.
    pub saved: Vec<String>,
    /// Texts of attached files, which come before the next prompt.
    pub attached: Vec<String>,
    /// The last prompt, if it has no answer.
    pub unanswered: Option<Message>,
    /// A file keeps every turn.
    pub keeps_all: bool,
}

impl Session {
    /// The prompt, with the attached files before it; they are attached only once.
    pub fn prompt(&mut self, line: &str) -> Message {
        let mut text: String = self.attached.drain(..).collect();
        text += line;
        Message::new("user", text)
    }

    /// Removes the last prompt and its answer from the conversation; returns the prompt.
    pub fn undo(&mut self) -> Option<Message> {
        let messages = &mut self.ask.messages;
        let last = messages
            .iter()
            .rposition(|message| message.role == "user")?;
        let prompt = messages[last].clone();
        messages.truncate(last);
        Some(prompt)
    }

    /// Changes a setting; returns the message to print.
    ///
    /// # Errors
    /// `Usage` for an unknown option or an invalid value.
    pub fn set(&mut self, set: Set) -> Result<String> {
        let mode = |on: bool, word: &str, other: &str| {
            format!("Set '{}' mode.", if on { word } else { other })
        };
        Ok(match set {
            Set::History(on) => {
                self.keeps_history = on;
                String::new()
            }
            Set::Wrap(on) => {
                self.wraps = on;
                mode(on, "wordwrap", "nowordwrap")
            }
            Set::Verbose(on) => {
                self.verbose = on;
                mode(on, "verbose", "quiet")
            }
            Set::Json(true) => {
                self.ask.turn.constraint = OutputConstraint::Json;
                "Set format to 'json' mode.".into()
            }
            Set::Json(false) => {
                self.ask.turn.constraint = OutputConstraint::None;
                "Disabled format.".into()
            }
            Set::Think(think) => {
                self.ask.turn.think = Some(think);
                self.shows_thinking = think.is_on();
                if think.is_on() {
                    "Set 'think' mode.".into()
                } else {
                    "Set 'nothink' mode.".into()
                }
            }
            Set::Parameter(name, values) => {
                let mut options = Options::default();
                for value in &values {
                    options.set_text(&name, value)?;
                }
                self.ask.turn.options.overlay(&options);
                format!("Set parameter '{name}' to '{}'", values.join(", "))
            }
            Set::System(text) => {
                self.ask.system = Some(text);
                "Set system message.".into()
            }
        })
    }

    /// The conversation as Markdown or JSON lines, by the extension of the path.
    ///
    /// # Errors
    /// `Usage` for another extension.
    pub fn exported(&self, path: &str) -> Result<String> {
        let messages = self.ask.conversation();
        if path.ends_with(".jsonl") {
            return Ok(messages.iter().map(transcript::line).collect());
        }
        if path.ends_with(".md") {
            let section = |message: &Message| {
                let role = capitalised(&message.role);
                format!("## {role}\n\n{}\n\n", message.content.trim())
            };
            let text: String = messages.iter().map(section).collect();
            return Ok(text.trim_end().to_string() + "\n");
        }
        Err(Error::usage(
            "a conversation can be exported to .md or .jsonl",
        ))
    }
}

/// The path of a file that was dragged into the terminal, without quotes and backslashes; `None` if the
/// line is not the absolute path of a file.
pub fn dragged(line: &str) -> Option<String> {
    let line = line.trim();
    let quoted = ['\'', '"'].iter().find_map(|quote| {
        let inner = line.strip_prefix(*quote)?.strip_suffix(*quote)?;
        (!inner.contains(*quote)).then(|| inner.to_string())
    });
    let path = quoted.unwrap_or_else(|| unescaped(line));
    let is_whole = path.starts_with('/') && std::path::Path::new(&path).is_file();
    is_whole.then_some(path)
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(c) = letters.next() {
        plain.push(if c == '\\' {
            letters.next().unwrap_or(c)
        } else {
            c
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_paths_of_files_count_as_dragged() {
        let folder = std::env::temp_dir();
        let path = folder.join(format!("puna dragged {}.txt", std::process::id()));
        std::fs::write(&path, "x").unwrap();
        let path = path.to_str().unwrap().to_string();
        for line in [path.clone(), format!("'{path}' "), path.replace(' ', "\\ ")] {
            assert_eq!(dragged(&line), Some(path.clone()), "{line}");
        }
        for line in [
            "what is /etc/passwd?".into(),
            format!("read {path}"),
            "/nowhere".into(),
        ] {
            assert_eq!(dragged(&line), None, "{line}");
        }
        std::fs::remove_file(&path).unwrap();
    }
}
