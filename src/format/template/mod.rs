//! Renders messages as prompt text with the model's own template, or as plain completion without one.

pub mod escape;
pub mod go;
mod jinja;
pub mod named;

use std::time::SystemTime;

use serde_json::Value as Json;

use crate::core::clock::Local;
use crate::core::error::{Error, Result};
use crate::core::message::{Message, Think, Tool};

pub use go::GoTemplate;
pub use jinja::{CALLS_AS_TEXT, Jinja};

/// How the prompts of a model are rendered.
pub enum Template {
    /// The chat template of the GGUF, and a separate one for conversations with tools if there is one.
    Jinja {
        /// The template for every conversation, unless `tools` applies.
        chat: Box<Jinja>,
        /// The template for conversations with tools.
        tools: Option<Box<Jinja>>,
    },
    /// The TEMPLATE of the Modelfile.
    Go(Box<GoTemplate>),
    /// No template: the prompt is the text of the messages, which the model continues.
    Completion,
}

/// A conversation, and the other values that a template may read.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The messages, oldest first.
    pub messages: &'a [Message],
    /// Functions that the model may call.
    pub tools: &'a [Tool],
    /// Whether to think; `None` leaves it to the template.
    pub think: Option<Think>,
    /// True if the prompt ends with the opening of the assistant's turn.
    pub opens: bool,
    /// Text of the model's beginning-of-sequence token.
    pub begin: &'a str,
    /// Text of the model's end-of-sequence token.
    pub end: &'a str,
    /// The local time that a template may print.
    pub now: Local,
    /// Further variables of a Jinja template; they do not hide its own.
    pub variables: &'a [(String, Json)],
}

impl Default for Chat<'_> {
    fn default() -> Self {
        Chat {
            messages: &[],
            tools: &[],
            think: None,
            opens: true,
            begin: "",
            end: "",
            now: Local::utc(SystemTime::UNIX_EPOCH),
            variables: &[],
        }
    }
}

/// A rendered prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text of the prompt.
    pub text: String,
    /// Notes for the user on how the conversation was changed to fit the template.
    pub notes: Vec<&'static str>,
}

impl Template {
    /// Compiles the template of a GGUF, or looks it up if it is the name of a well-known one.
    ///
    /// # Errors
    /// If the template cannot be compiled, or its name is unknown.
    pub fn from_gguf(chat: &str, tools: Option<&str>) -> Result<Self> {
        if chat.trim().is_empty() {
            return Ok(Template::Completion);
        }
        if !chat.contains("{{") && !chat.contains("{%") {
            let source = named::template(chat.trim());
            let source =
                source.ok_or_else(|| Error::failed(format!("unknown chat template '{chat}'")))?;
            return Template::from_text(source);
        }
        let tools = tools.map(Jinja::compile).transpose()?.map(Box::new);
        Ok(Template::Jinja {
            chat: Box::new(Jinja::compile(chat)?),
            tools,
        })
    }

    /// Compiles the TEMPLATE of a Modelfile.
    ///
    /// # Errors
    /// If the template cannot be compiled.
    pub fn from_text(source: &str) -> Result<Self> {
        Ok(Template::Go(Box::new(GoTemplate::compile(source)?)))
    }

    /// Renders the prompt for a conversation. An assistant message at its end is left open, so that
    /// the model continues it.
    ///
    /// # Errors
    /// The error that the template raises, in one line.
    pub fn render(&self, chat: &Chat) -> Result<Rendered> {
        match self {
            Template::Jinja { chat: plain, tools } => {
                let jinja = match tools {
                    Some(jinja) if !chat.tools.is_empty() => jinja,
                    _ => plain,
                };
                let (last, earlier) = match chat.messages.split_last() {
                    Some((last, earlier)) if chat.opens && is_opening(last) => {
                        (Some(last), earlier)
                    }
                    _ => (None, chat.messages),
                };
                let mut rendered = jinja.render(&Chat {
                    messages: earlier,
                    ..*chat
                })?;
                rendered
                    .text
                    .extend(last.map(|message| message.content.as_str()));
                Ok(rendered)
            }
            Template::Go(template) => {
                let text = template.render(&go::Input {
                    messages: chat.messages,
                    tools: chat.tools,
                    think: chat.think,
                    now: chat.now,
                })?;
                Ok(Rendered {
                    text,
                    notes: Vec::new(),
                })
            }
            Template::Completion => {
                let texts: Vec<&str> = chat
                    .messages
                    .iter()
                    .map(|message| message.content.as_str())
                    .collect();
                Ok(Rendered {
                    text: texts.join("\n\n"),
                    notes: Vec::new(),
                })
            }
        }
    }
}

fn is_opening(message: &Message) -> bool {
    message.role == "assistant" && message.tool_calls.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &Template, messages: &[Message]) -> String {
        let chat = Chat {
            messages,
            ..Chat::default()
        };
        template.render(&chat).unwrap().text
    }

    #[test]
    fn without_a_template_the_text_is_the_prompt() {
        let messages = [Message::new("user", "Once upon a time")];
        assert_eq!(render(&Template::Completion, &messages), "Once upon a time");
    }

    #[test]
    fn an_assistant_at_the_end_is_left_open() {
        let source = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}{% if add_generation_prompt %}[assistant:{% endif %}";
        let messages = [Message::new("user", "u"), Message::new("assistant", "Once")];
        let template = Template::from_gguf(source, None).unwrap();
        assert_eq!(render(&template, &messages), "[user:u][assistant:Once");
    }

    #[test]
    fn a_templates_name_stands_for_it() {
        let messages = [
            Message::new("system", "S"),
            Message::new("user", "U1"),
            Message::new("assistant", "A1"),
            Message::new("user", "U2"),
        ];
        let found = render(&Template::from_gguf("chatml", None).unwrap(), &messages);
        assert_eq!(
            found,
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
        );
        assert!(Template::from_gguf("nonesuch", None).is_err());
    }
}
