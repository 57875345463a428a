//! The format of a model's answers, detected from its own template: markers around thinking, tool
//! calls and the end of an answer. Nothing here depends on the name of a model.
//!
//! The template renders small conversations whose parts are easy to find again; the text around these
//! parts is what the model was trained to write.

use super::delimiters::{TAG_BYTES_MAX, common, last_tag, whole_start, whole_tag};
use super::discover::{self, ID, KEY, KEY_NUMBER, NAME, NEXT, NUMBER, OTHER, VALUE};
use super::thinking::Thought;
use super::tool_syntax::{CallBody, ToolSyntax};
use crate::core::message::{Message, Tool, ToolCall};
use crate::format::template::{CALLS_AS_TEXT, Chat, Rendered, Template};

const CONTENT: &str = "nEEdlesay";
const THOUGHT: &str = "nEEdlethink";

/// Texts before calls that are not markers: as a template's instructions write them, and as the
/// family's vocabulary does.
const TRIGGERS: [(&str, &str); 2] = [
    ("<|python_tag|>", "<|python_tag|>"),
    ("functools[", "functools"),
];

/// The format of answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Format {
    /// Markers before and after thinking.
    pub think: Option<(String, String)>,
    /// The tool-call syntax.
    pub calls: Option<ToolSyntax>,
    /// Other markers that may precede calls.
    pub triggers: Vec<String>,
    /// Markers before and after the text for the user.
    pub content: (String, String),
    /// Markers that end an answer, if the model writes them as text.
    pub ends: Vec<String>,
    /// True if thinking, text and calls come in channels.
    pub channels: bool,
}

impl Format {
    /// Detects the format from a template; `source` is its text.
    pub fn detect(template: &Template, source: &str) -> Self {
        if source.contains("<|channel|>") && source.contains("<|message|>") {
            return Format {
                channels: true,
                ..Format::default()
            };
        }
        let probe = Probe { template, source };
        let (opened, answered) = (
            probe.opened(),
            probe.shown(vec![Message::new("assistant", CONTENT)], &[]),
        );
        let mut ends = probe.ends(&answered);
        let (mut think, behind) = probe.think(&opened, &answered);
        let mut content = probe.content(&opened, &answered);
        if think.as_ref().is_some_and(|(open, close)| {
            content.0.contains(open.as_str()) || content.0.contains(close.as_str())
        }) {
            content = Default::default();
        }
        if content.0.is_empty() && !behind.is_empty() {
            content = (behind, ends.first().cloned().unwrap_or_default());
        }
        let jinja = matches!(template, Template::Jinja { .. });
        let mut calls = probe.calls().or_else(|| named_in(source, jinja));
        if let Some(shape) = &mut calls
            && let Some((open, close)) = empty_thinking(&shape.lead)
        {
            shape.lead = shape.lead.replacen(&open, "", 1).replacen(&close, "", 1);
            think = think.or(Some((open, close)));
        }
        // A marker that also precedes a call does not end an answer.
        let before_call = |end: &String| {
            calls
                .as_ref()
                .is_some_and(|shape| shape.lead.contains(end.as_str()))
        };
        ends.retain(|end| !before_call(end));
        let triggers = TRIGGERS
            .iter()
            .filter(|(sign, _)| source.contains(sign))
            .map(|(_, trigger)| trigger.to_string());
        Format {
            think,
            calls,
            triggers: triggers.collect(),
            content,
            ends,
            channels: false,
        }
    }

    /// Returns whether the answer to a prompt begins with thinking.
    pub fn thought(&self, prompt: &str) -> Thought {
        let prompt = prompt.trim_end();
        match &self.think {
            Some((open, _)) if prompt.ends_with(open.as_str()) => Thought::Begun,
            Some((_, close)) if !prompt.ends_with(close.as_str()) => Thought::Possible,
            _ => Thought::None,
        }
    }

    /// Every text that a reader of answers searches for; special tokens in these texts must be visible.
    pub fn tags(&self) -> Vec<&str> {
        if self.channels {
            return super::channels::TAGS.to_vec();
        }
        let mut tags: Vec<&str> = self.triggers.iter().map(String::as_str).collect();
        tags.extend(
            self.think
                .iter()
                .flat_map(|(open, close)| [open.as_str(), close]),
        );
        tags.extend([self.content.0.as_str(), self.content.1.as_str()]);
        if let Some(shape) = &self.calls {
            tags.extend([shape.lead.as_str(), &shape.next_lead]);
            tags.extend([shape.between.as_str(), &shape.last]);
            match &shape.body {
                CallBody::Named { between } => tags.push(between),
                CallBody::Tagged {
                    between,
                    key_lead,
                    key_ends,
                    value_end,
                } => {
                    tags.extend([between.as_str(), key_lead, value_end]);
                    tags.extend(key_ends.iter().map(String::as_str));
                }
                CallBody::Braced { quote } => tags.push(quote),
                CallBody::Object { .. } | CallBody::Python => {}
            }
        }
        tags.retain(|tag| !tag.trim().is_empty());
        tags
    }
}

struct Probe<'a> {
    template: &'a Template,
    source: &'a str,
}

impl Probe<'_> {
    /// Renders a prompt with the assistant's turn opened.
    fn opened(&self) -> String {
        self.rendered(&[Message::new("user", "hi")], &[], true).text
    }

    /// Renders a finished conversation of the user's `hi` and these messages.
    fn shown(&self, answer: Vec<Message>, tools: &[Tool]) -> String {
        self.finished(answer, tools).text
    }

    fn finished(&self, answer: Vec<Message>, tools: &[Tool]) -> Rendered {
        let mut messages = vec![Message::new("user", "hi")];
        messages.extend(answer);
        if let Template::Go(_) = self.template {
            // These templates leave the last turn open.
            messages.push(Message::new("user", NEXT));
        }
        self.rendered(&messages, tools, false)
    }

    fn rendered(&self, messages: &[Message], tools: &[Tool], opens: bool) -> Rendered {
        let rendered = self.template.render(&Chat {
            messages,
            tools,
            opens,
            ..Chat::default()
        });
        rendered.unwrap_or_default()
    }

    /// Returns the marker after a finished answer.
    fn ends(&self, answered: &str) -> Vec<String> {
        let after = answered.split_once(CONTENT).map_or("", |(_, after)| after);
        let after = after.split(NEXT).next().unwrap_or_default().trim_start();
        let tag = whole_tag(after);
        tag.map(str::to_string).into_iter().collect()
    }

    /// Returns the markers directly around the text of an answer, without those of its turn.
    fn content(&self, opened: &str, answered: &str) -> (String, String) {
        let Some((before, after)) = answered.split_once(CONTENT) else {
            return Default::default();
        };
        let Some(open) = before
            .strip_prefix(opened)
            .map(str::trim)
            .filter(|open| !open.is_empty())
        else {
            return Default::default();
        };
        let close = whole_tag(after.trim_start()).unwrap_or_default();
        (open.to_string(), close.to_string())
    }

    /// Returns the markers of thinking, and the marker of the answer after it.
    fn think(&self, opened: &str, answered: &str) -> (Option<(String, String)>, String) {
        let message = Message {
            thinking: Some(THOUGHT.into()),
            ..Message::new("assistant", CONTENT)
        };
        let shown = self.shown(vec![message], &[]);
        if let Some((before, after)) = shown.split_once(THOUGHT)
            && let Some((close, _)) = after.split_once(CONTENT)
        {
            let header = common(opened, answered)
                .min(common(opened, &shown))
                .min(before.len());
            let open = whole_start(before, header).trim();
            let open = if open.is_empty() || open.len() > TAG_BYTES_MAX {
                last_tag(before)
            } else {
                open
            };
            let tag = whole_tag(close.trim_start()).unwrap_or(close.trim());
            if !open.is_empty() && !tag.is_empty() && tag.len() <= TAG_BYTES_MAX {
                let behind = close.trim_start()[tag.len()..].trim().to_string();
                return (Some((open.to_string(), tag.to_string())), behind);
            }
        }
        (
            self.think_beside_call().or_else(|| self.think_in_source()),
            String::new(),
        )
    }

    /// Finds the markers in templates that show earlier thinking only beside a call.
    fn think_beside_call(&self) -> Option<(String, String)> {
        let tools = [tool(NAME)];
        let message = |thinking: Option<String>| Message {
            thinking,
            tool_calls: vec![call(NAME, 0, None)],
            ..Message::new("assistant", "")
        };
        let bare = self.shown(vec![message(None)], &tools);
        let shown = self.shown(vec![message(Some(THOUGHT.into()))], &tools);
        let (before, after) = shown.split_once(THOUGHT)?;
        let open = whole_start(before, common(&bare, &shown).min(before.len())).trim();
        let close = whole_tag(after.trim_start())?;
        (!open.is_empty() && open.len() <= TAG_BYTES_MAX)
            .then(|| (open.to_string(), close.to_string()))
    }

    /// Finds the markers in templates that remove earlier thinking: they split at its closing marker.
    fn think_in_source(&self) -> Option<(String, String)> {
        for (quote, rest) in self.source.match_indices(".split(").map(|(at, found)| {
            let rest = self.source[at + found.len()..].trim_start();
            (rest.chars().next().unwrap_or(' '), rest)
        }) {
            let Some(close) = rest.get(1..).and_then(|rest| rest.split(quote).next()) else {
                continue;
            };
            let slash = close.starts_with("</") || close.starts_with("[/");
            if slash && whole_tag(close) == Some(close) {
                return Some((close.replacen('/', "", 1), close.to_string()));
            }
        }
        // Otherwise the instructions name a pair: `<think>…</think>`, `[THINK]…[/THINK]`.
        let closes = ["</", "[/"]
            .iter()
            .flat_map(|slash| self.source.match_indices(slash));
        closes
            .filter_map(|(at, _)| whole_tag(&self.source[at..]))
            .find_map(|close| {
                let open = close.replacen('/', "", 1);
                let thinks = close.to_lowercase().contains("think") && self.source.contains(&open);
                thinks.then(|| (open, close.to_string()))
            })
    }

    fn calls(&self) -> Option<ToolSyntax> {
        let tools = [tool(NAME), tool(OTHER)];
        let answered = self.shown(vec![Message::new("assistant", CONTENT)], &tools);
        for prefix in [None, Some("functions.")] {
            let calls = [call(NAME, 0, prefix), call(OTHER, 1, prefix)];
            let message = |calls: &[ToolCall]| Message {
                tool_calls: calls.to_vec(),
                ..Message::new("assistant", "")
            };
            let Rendered { text: one, notes } = self.finished(vec![message(&calls[..1])], &tools);
            let start = common(&answered, &one);
            let section = whole_start(&one, start);
            if !section.contains(NAME) || notes.contains(&CALLS_AS_TEXT) {
                continue;
            }
            let two = self.shown(vec![message(&calls)], &tools);
            let two = two.get(one.len() - section.len()..).unwrap_or_default();
            let ending = answered.split_once(CONTENT).map_or("", |(_, after)| after);
            if let Some(shape) = discover::shape(section, two, ending) {
                return Some(shape);
            }
        }
        None
    }
}

/// Returns the markers of empty thinking at the start of a text.
fn empty_thinking(lead: &str) -> Option<(String, String)> {
    let open = whole_tag(lead.trim_start())?;
    let close = whole_tag(lead.trim_start()[open.len()..].trim_start())?;
    let pair = close == open.replace("START", "END") || close.replacen('/', "", 1) == open;
    (pair && open != close).then(|| (open.to_string(), close.to_string()))
}

/// Returns the syntax that a template names in its instructions without showing a call; otherwise the
/// plainest one, which puna's own instructions also use if a template does not support tools.
fn named_in(source: &str, jinja: bool) -> Option<ToolSyntax> {
    let keys = |key: &str| vec![key.to_string()];
    let object = |name: &str, arguments: &str| CallBody::Object {
        name: keys(name),
        arguments: keys(arguments),
        id: None,
    };
    let (lead, close, body) = match () {
        () if source.contains("<tool_call>") => {
            ("<tool_call>", "</tool_call>", object("name", "arguments"))
        }
        () if source.contains("<|tool_call_start|>") => {
            ("<|tool_call_start|>", "<|tool_call_end|>", CallBody::Python)
        }
        () if source.contains("<|tool|>") => (
            "<|tool_call|>",
            "<|/tool_call|>",
            object("name", "arguments"),
        ),
        () if jinja || source.contains("tools") || source.contains("Tools") => {
            ("", "", object("name", "arguments"))
        }
        () => return None,
    };
    let array = body == CallBody::Python || lead == "<|tool_call|>";
    Some(ToolSyntax {
        lead: lead.into(),
        next_lead: if array { "" } else { lead }.into(),
        between: close.into(),
        last: close.into(),
        array,
        body,
    })
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.into(),
        description: "a function".into(),
        parameters: serde_json::json!({
            "type": "object",
            "properties": {
                KEY: { "type": "string", "description": "a text" },
                KEY_NUMBER: { "type": "integer", "description": "a number" },
            },
            "required": [KEY, KEY_NUMBER],
        }),
    }
}

fn call(name: &str, index: usize, prefix: Option<&str>) -> ToolCall {
    let id = match prefix {
        Some(prefix) => format!("{prefix}{name}:{index}"),
        None => ID.to_string(),
    };
    ToolCall {
        id: Some(id),
        name: name.into(),
        arguments: format!(r#"{{"{KEY}":"{VALUE}","{KEY_NUMBER}":{NUMBER}}}"#),
    }
}
