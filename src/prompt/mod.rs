//! Messages to prompt text: the model's own template, or plain completion where it has none.

pub mod gotmpl;
pub mod guard;
mod jinja;
pub mod named;

use std::time::SystemTime;

pub use gotmpl::GoTemplate;
pub use jinja::{CALLS_AS_TEXT, Jinja};

use crate::clock::Local;
use crate::error::{Error, Result};
use crate::message::{Message, Think, Tool};

/// How a model's prompts are made.
pub enum Template {
    /// The chat template of its GGUF, and the one for conversations with tools, if it is another.
    Jinja {
        /// For every conversation.
        chat: Box<Jinja>,
        /// With tools.
        tools: Option<Box<Jinja>>,
    },
    /// The TEMPLATE of its Modelfile.
    Go(Box<GoTemplate>),
    /// The texts themselves: a model without a template continues what it is given.
    Completion,
}

/// A conversation, and what a template may ask about besides.
#[derive(Debug, Clone, Copy)]
pub struct Chat<'a> {
    /// The messages.
    pub messages: &'a [Message],
    /// Functions that the model may call.
    pub tools: &'a [Tool],
    /// Whether to think; `None`: as the template does.
    pub think: Option<Think>,
    /// True: the prompt ends where the assistant begins.
    pub opens: bool,
    /// Text of the model's begin token.
    pub begin: &'a str,
    /// Text of the model's end token.
    pub end: &'a str,
    /// The time that a template may tell.
    pub now: Local,
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
        }
    }
}

/// A prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Its text.
    pub text: String,
    /// How the conversation was changed to suit the template, for who wants to know.
    pub notes: Vec<&'static str>,
}

impl Template {
    /// A template of a GGUF: Jinja, or the name of a well-known one.
    ///
    /// # Errors
    /// If it cannot be compiled, or is a name that puna does not know.
    pub fn of_gguf(chat: &str, tools: Option<&str>) -> Result<Self> {
        if chat.trim().is_empty() {
            return Ok(Template::Completion);
        }
        if !chat.contains("{{") && !chat.contains("{%") {
            let source = named::template(chat.trim());
            let source = source.ok_or_else(|| {
                Error::failed(format!(
                    "the chat template is '{chat}', which puna does not know"
                ))
            })?;
            return Template::of_text(source);
        }
        let tools = tools.map(Jinja::compile).transpose()?.map(Box::new);
        Ok(Template::Jinja {
            chat: Box::new(Jinja::compile(chat)?),
            tools,
        })
    }

    /// A TEMPLATE of a Modelfile.
    ///
    /// # Errors
    /// If it cannot be compiled.
    pub fn of_text(source: &str) -> Result<Self> {
        Ok(Template::Go(Box::new(GoTemplate::compile(source)?)))
    }

    /// The prompt for a conversation. An assistant's message at its end is left open, for the
    /// model to go on with.
    ///
    /// # Errors
    /// What the template raises; one line.
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
                let text = template.render(&gotmpl::Input {
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
        let template = Template::of_gguf(source, None).unwrap();
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
        let found = render(&Template::of_gguf("chatml", None).unwrap(), &messages);
        assert_eq!(
            found,
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
        );
        assert!(Template::of_gguf("nonesuch", None).is_err());
    }
}
