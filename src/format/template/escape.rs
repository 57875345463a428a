//! Special-token escaping: keeps text of users and tools from being parsed as special tokens. Such text is
//! replaced by numbers before a conversation is rendered, and restored as plain text when it is tokenised.

use std::collections::HashSet;

use serde_json::Value as Json;

use crate::core::message::{Message, Tool};
use crate::core::special_tokens::{Piece, Specials};

/// Digits of the index in a placeholder number, which follow its nonce.
const INDEX_DIGITS: usize = 8;
/// Digits of the nonce after its leading nine; no text of the conversation contains the nonce.
const NONCE_DIGITS: usize = 8;

/// A segment of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The text of the segment, with all placeholders resolved.
    pub text: String,
    /// True if special tokens in the text are parsed as such.
    pub special: bool,
}

/// The texts that [`hide`] replaced, and the nonce of their placeholders.
#[derive(Debug, Default)]
pub struct Hidden {
    nonce: String,
    texts: Vec<String>,
}

/// Replaces the texts of special tokens in everything but the assistant's own turns.
pub fn hide(messages: &mut [Message], tools: &mut [Tool], specials: &Specials) -> Hidden {
    let mut hidden = Hidden::default();
    let schemas: Vec<String> = tools
        .iter()
        .map(|tool| tool.parameters.to_string())
        .collect();
    let mut all: Vec<&str> = schemas.iter().map(String::as_str).collect();
    for message in messages.iter() {
        all.extend([message.content.as_str(), &message.role]);
        let more = [&message.tool_name, &message.tool_call_id, &message.thinking];
        all.extend(more.into_iter().flatten().map(String::as_str));
        for call in &message.tool_calls {
            all.extend([call.name.as_str(), &call.arguments]);
        }
    }
    for tool in tools.iter() {
        all.extend([tool.name.as_str(), &tool.description]);
    }
    if !all.iter().any(|text| specials.are_in(text)) {
        return hidden;
    }
    hidden.nonce = nonce(&all);
    let theirs = |message: &&mut Message| message.role != "assistant";
    for message in messages.iter_mut().filter(theirs) {
        let more = [&mut message.tool_name, &mut message.tool_call_id];
        let texts = [&mut message.content, &mut message.role];
        for text in texts.into_iter().chain(more.into_iter().flatten()) {
            *text = hidden.replace(text, specials);
        }
    }
    for (tool, schema) in tools.iter_mut().zip(&schemas) {
        tool.name = hidden.replace(&tool.name, specials);
        tool.description = hidden.replace(&tool.description, specials);
        if specials.are_in(schema) {
            tool.parameters = hidden.replace_json(&tool.parameters, specials);
        }
    }
    hidden
}

/// Finds digits that occur in no text, so that no text can forge a placeholder; digits survive whatever a
/// template does to a text. Only the first is a nine, so that no preceding digits can start a match.
fn nonce(texts: &[&str]) -> String {
    let mut taken = HashSet::new();
    for text in texts {
        for (at, _) in text.match_indices('9') {
            let digits = text.as_bytes().get(at + 1..=at + NONCE_DIGITS);
            taken.extend(
                digits.filter(|digits| digits.iter().all(|digit| (b'0'..=b'8').contains(digit))),
            );
        }
    }
    let digits = |mut counter: u32| {
        let mut digits = [b'0'; NONCE_DIGITS];
        for digit in digits.iter_mut().rev() {
            *digit += (counter % 9) as u8;
            counter /= 9;
        }
        digits
    };
    let mut counter = 1;
    while taken.contains(&digits(counter)[..]) {
        counter += 1;
    }
    format!("9{}", String::from_utf8_lossy(&digits(counter)))
}

impl Hidden {
    fn replace(&mut self, text: &str, specials: &Specials) -> String {
        let mut out = String::with_capacity(text.len());
        for piece in specials.cut(text) {
            match piece {
                Piece::Plain(text) => out.push_str(text),
                Piece::Special(text, _) => {
                    let index = self.texts.len();
                    out += &format!("{}{index:0INDEX_DIGITS$}", self.nonce);
                    self.texts.push(text.to_string());
                }
            }
        }
        out
    }

    fn replace_json(&mut self, json: &Json, specials: &Specials) -> Json {
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

    /// Restores every hidden text in a part of the rendered prompt.
    fn shown(&self, rendered: &str) -> String {
        let mut out = String::with_capacity(rendered.len());
        let mut rest = rendered;
        while let Some((before, behind)) = rest.split_once(&self.nonce) {
            out.push_str(before);
            let index = behind.get(..INDEX_DIGITS);
            let text = index
                .and_then(|index| index.parse::<usize>().ok())
                .and_then(|index| self.texts.get(index));
            match text {
                Some(text) => {
                    out.push_str(text);
                    rest = &behind[INDEX_DIGITS..];
                }
                // The template split the placeholder in two.
                None => rest = behind,
            }
        }
        out + rest
    }

    /// Splits the rendered prompt into segments. A segment with a hidden text extends from the special token
    /// before it to the next special token, so that the rest of it is tokenised as it would have been.
    pub fn segments(&self, rendered: &str, specials: &Specials) -> Vec<Segment> {
        if self.texts.is_empty() {
            return vec![Segment {
                text: rendered.to_string(),
                special: true,
            }];
        }
        let mut segments: Vec<Segment> = Vec::new();
        for piece in specials.cut(rendered) {
            let text = match piece {
                Piece::Plain(text) if text.contains(&self.nonce) => {
                    segments.push(Segment {
                        text: self.shown(text),
                        special: false,
                    });
                    continue;
                }
                Piece::Plain(text) | Piece::Special(text, _) => text,
            };
            match segments.last_mut() {
                Some(last) if last.special => last.text.push_str(text),
                _ => segments.push(Segment {
                    text: text.to_string(),
                    special: true,
                }),
            }
        }
        segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(texts: &[&str]) -> Specials {
        Specials::new(texts.iter().map(|text| (text.to_string(), 0))).unwrap()
    }

    #[test]
    fn only_the_templates_special_tokens_count() {
        let specials = specials(&["<s>", "</s>", "<|end|>", "<|end"]);
        let mut messages = [
            Message::new("user", "a<|end|>b 90000000190000000<|end"),
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
        assert!(!specials.are_in(&schema) && tools[0].description.len() > 8);
        let rendered = format!("<s>sys</s><s>{}!</s>", messages[0].content);
        let segment = |text: &str, special| Segment {
            text: text.into(),
            special,
        };
        assert_eq!(
            hidden.segments(&rendered, &specials),
            [
                segment("<s>sys</s><s>", true),
                segment("a<|end|>b 90000000190000000<|end!", false),
                segment("</s>", true)
            ]
        );
    }

    #[test]
    fn nothing_special_changes_nothing() {
        let specials = specials(&["<s>"]);
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

    #[test]
    fn many_special_tokens_and_numbers_take_no_longer() {
        let specials = specials(&["<s>", "<|im_end|>"]);
        let numbers: String = (0..200_000).map(|index| format!("9{index:08}")).collect();
        let text = "<|im_end|>".repeat(200_000) + &numbers;
        let mut messages = [Message::new("user", &text)];
        let begun = std::time::Instant::now();
        let hidden = hide(&mut messages, &mut [], &specials);
        let segments = hidden.segments(&messages[0].content, &specials);
        // A search that restarted at each token took minutes.
        assert!(begun.elapsed().as_secs() < 5);
        assert!(segments.len() == 1 && segments[0].text == text);
    }
}
