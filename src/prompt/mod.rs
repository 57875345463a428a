//! Messages to prompt text: the model's own template, or plain completion where it has none.

pub mod gotmpl;
mod jinja;

use std::time::SystemTime;

pub use jinja::Jinja;

use crate::error::Result;
use crate::message::Message;

/// How a model's prompts are made.
pub enum Template {
    /// The chat template of its GGUF.
    Jinja(Box<Jinja>),
    /// The texts themselves: a model without a template continues what it is given.
    Completion,
}

/// What a template may ask about besides the messages.
pub struct Surroundings<'a> {
    /// Text of the model's begin token.
    pub begin: &'a str,
    /// Text of the model's end token.
    pub end: &'a str,
    /// The time that `strftime_now` tells.
    pub now: SystemTime,
}

impl Template {
    /// The template for a model whose GGUF carries `source`, if it carries any.
    ///
    /// # Errors
    /// If the template cannot be compiled.
    pub fn new(source: Option<&str>) -> Result<Self> {
        Ok(match source {
            Some(source) if !source.trim().is_empty() => {
                Template::Jinja(Box::new(Jinja::compile(source)?))
            }
            _ => Template::Completion,
        })
    }

    /// The prompt for these messages, with the assistant's turn opened at its end.
    ///
    /// # Errors
    /// What the template raises; one line.
    pub fn render(&self, messages: &[Message], surroundings: &Surroundings) -> Result<String> {
        match self {
            Template::Jinja(jinja) => jinja.render(messages, surroundings),
            Template::Completion => {
                let texts: Vec<&str> = messages
                    .iter()
                    .map(|message| message.content.as_str())
                    .collect();
                Ok(texts.join("\n\n"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_template_the_text_is_the_prompt() {
        let surroundings = Surroundings {
            begin: "",
            end: "",
            now: SystemTime::UNIX_EPOCH,
        };
        let messages = [Message::new("user", "Once upon a time")];
        let template = Template::new(None).unwrap();
        assert_eq!(
            template.render(&messages, &surroundings).unwrap(),
            "Once upon a time"
        );
    }
}
