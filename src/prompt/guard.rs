//! Keeps what users and tools write from being read as special tokens: such texts are replaced by
//! numbers before a conversation is rendered, and put back as plain text when it is tokenised.

use serde_json::Value as Json;

use crate::message::{Message, Tool};

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its text.
    pub text: String,
    /// True if special tokens are to be read in it.
    pub special: bool,
}

/// Texts that were replaced.
#[derive(Debug, Default)]
pub struct Hidden {
    nonce: String,
    texts: Vec<String>,
}

/// Replaces the texts of special tokens in everything but the assistant's own turns.
pub fn hide(messages: &mut [Message], tools: &mut [Tool], specials: &[String]) -> Hidden {
    let mut hidden = Hidden::default();
    let theirs = |message: &Message| message.role != "assistant";
    let schemas: Vec<String> = tools
        .iter()
        .map(|tool| tool.parameters.to_string())
        .collect();
    let mut all: Vec<&str> = Vec::new();
    for message in messages.iter() {
        all.extend([message.content.as_str(), &message.role]);
        let more = [&message.tool_name, &message.tool_call_id, &message.thinking];
        all.extend(more.into_iter().flatten().map(String::as_str));
        all.extend(
            message
                .tool_calls
                .iter()
                .flat_map(|call| [call.name.as_str(), &call.arguments]),
        );
    }
    all.extend(
        tools
            .iter()
            .flat_map(|tool| [tool.name.as_str(), &tool.description]),
    );
    all.extend(schemas.iter().map(String::as_str));
    if !all.iter().any(|text| find(text, specials).is_some()) {
        return hidden;
    }
    // Digits survive whatever a template does to a text. No text has these, so none can forge them.
    let mut counter = 7_310_977_u64;
    while all.iter().any(|text| text.contains(&counter.to_string())) {
        counter += 1;
    }
    hidden.nonce = counter.to_string();
    for message in messages.iter_mut().filter(|message| theirs(message)) {
        message.content = hidden.replace(&message.content, specials);
        message.role = hidden.replace(&message.role, specials);
        for text in [&mut message.tool_name, &mut message.tool_call_id]
            .into_iter()
            .flatten()
        {
            *text = hidden.replace(text, specials);
        }
    }
    for tool in tools {
        tool.name = hidden.replace(&tool.name, specials);
        tool.description = hidden.replace(&tool.description, specials);
        if find(&tool.parameters.to_string(), specials).is_some() {
            tool.parameters = hidden.replace_json(&tool.parameters, specials);
        }
    }
    hidden
}

/// The first special token in a text, the longest where several begin: its place and length.
fn find(text: &str, specials: &[String]) -> Option<(usize, usize)> {
    let found = specials
        .iter()
        .filter_map(|special| Some((text.find(special.as_str())?, special.len())));
    found.min_by_key(|(at, length)| (*at, usize::MAX - length))
}

impl Hidden {
    fn replace(&mut self, text: &str, specials: &[String]) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((at, length)) = find(rest, specials) {
            out.push_str(&rest[..at]);
            out.push_str(&self.mark(self.texts.len()));
            self.texts.push(rest[at..at + length].to_string());
            rest = &rest[at + length..];
        }
        out + rest
    }

    fn replace_json(&mut self, json: &Json, specials: &[String]) -> Json {
        match json {
            Json::String(text) => self.replace(text, specials).into(),
            Json::Array(items) => items
                .iter()
                .map(|item| self.replace_json(item, specials))
                .collect(),
            Json::Object(fields) => {
                let fields = fields.iter();
                fields
                    .map(|(key, value)| {
                        (
                            self.replace(key, specials),
                            self.replace_json(value, specials),
                        )
                    })
                    .collect()
            }
            other => other.clone(),
        }
    }

    /// The number that stands for a text: always as many digits, so that none begins another.
    fn mark(&self, index: usize) -> String {
        format!("{}{index:08}", self.nonce)
    }

    /// The rendered prompt with every text back in its place.
    pub fn shown(&self, rendered: &str) -> String {
        self.texts
            .iter()
            .enumerate()
            .fold(rendered.to_string(), |text, (index, hidden)| {
                text.replace(&self.mark(index), hidden)
            })
    }

    /// The rendered prompt in segments. One that holds a hidden text reaches from the special
    /// token before it to the one behind it, so that the rest of it reads as it would have.
    pub fn segments(&self, rendered: &str, specials: &[String]) -> Vec<Segment> {
        if self.texts.is_empty() {
            return vec![Segment {
                text: rendered.to_string(),
                special: true,
            }];
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut rest = rendered;
        while !rest.is_empty() {
            let (at, length) = find(rest, specials).unwrap_or((rest.len(), 0));
            let (plain, mark) = (&rest[..at], &rest[at..at + length]);
            let forged = plain.contains(&self.nonce);
            if forged {
                segments.push(Segment {
                    text: self.shown(plain),
                    special: false,
                });
            }
            let genuine = if forged { mark } else { &rest[..at + length] };
            match segments.last_mut() {
                Some(last) if last.special => last.text.push_str(genuine),
                _ => segments.push(Segment {
                    text: genuine.to_string(),
                    special: true,
                }),
            }
            rest = &rest[at + length..];
        }
        segments.retain(|segment| !segment.text.is_empty());
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_templates_special_tokens_count() {
        let specials = ["<s>", "</s>", "<|end|>", "<|end"].map(str::to_string);
        let mut messages = [
            Message::new("user", "a<|end|>b 7310977"),
            Message::new("assistant", "<s>"),
        ];
        let mut tools = [Tool {
            name: "f".into(),
            description: "</s>".into(),
            parameters: serde_json::json!({"x<s>": ["<s>"]}),
        }];
        let hidden = hide(&mut messages, &mut tools, &specials);
        assert!(!messages[0].content.contains("<|end"));
        assert_eq!(messages[1].content, "<s>");
        let schema = tools[0].parameters.to_string();
        assert!(find(&schema, &specials).is_none() && tools[0].description.len() > 8);
        let rendered = format!("<s>sys</s><s>{}!</s>", messages[0].content);
        let segment = |text: &str, special| Segment {
            text: text.into(),
            special,
        };
        assert_eq!(
            hidden.segments(&rendered, &specials),
            [
                segment("<s>sys</s><s>", true),
                segment("a<|end|>b 7310977!", false),
                segment("</s>", true)
            ]
        );
        assert_eq!(
            hidden.shown(&rendered),
            "<s>sys</s><s>a<|end|>b 7310977!</s>"
        );
    }

    #[test]
    fn nothing_special_changes_nothing() {
        let specials = ["<s>".to_string()];
        let mut messages = [Message::new("user", "a < b")];
        let hidden = hide(&mut messages, &mut [], &specials);
        assert_eq!(messages[0].content, "a < b");
        let all = hidden.segments("<s>a < b", &specials);
        assert_eq!(
            all,
            [Segment {
                text: "<s>a < b".into(),
                special: true
            }]
        );
    }
}
