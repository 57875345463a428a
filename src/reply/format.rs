//! What the answers of a model look like, read off its own template: marks around thinking,
//! calls of functions and the end. Nothing here knows the name of a model.
//!
//! The template is asked to render small conversations whose parts are easy to find again; what it
//! writes around them is what the model was taught to write.

use super::discover::{self, ID, KEY, KEY_NUMBER, NAME, NEXT, NUMBER, OTHER, VALUE};
use super::mark::{MARK_BYTES_MAX, common, last_mark, whole_mark, whole_start};
use super::shape::{Body, Shape};
use super::think::Thought;
use crate::message::{Message, Tool, ToolCall};
use crate::prompt::{CALLS_AS_TEXT, Chat, Rendered, Template};

const CONTENT: &str = "nEEdlesay";
const THOUGHT: &str = "nEEdlethink";

/// Words before calls that are no marks, as a template's instructions and the family's vocabulary
/// have them.
const TRIGGERS: [(&str, &str); 2] = [
    ("<|python_tag|>", "<|python_tag|>"),
    ("functools[", "functools"),
];

/// What answers look like.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Format {
    /// Before and after thinking.
    pub think: Option<(String, String)>,
    /// Calls of functions.
    pub calls: Option<Shape>,
    /// Other marks that calls may stand behind.
    pub triggers: Vec<String>,
    /// Before and after the text that is meant for the user.
    pub content: (String, String),
    /// Marks that end an answer, where the model writes them as text.
    pub ends: Vec<String>,
    /// Thinking, text and calls come in channels.
    pub channels: bool,
}

impl Format {
    /// Reads the format off a template; `source` is its text.
    pub fn of(template: &Template, source: &str) -> Self {
        if source.contains("<|channel|>") && source.contains("<|message|>") {
            return Format {
                channels: true,
                ..Format::default()
            };
        }
        let probe = Probe { template, source };
        let (opened, said) = (
            probe.opened(),
            probe.shown(vec![Message::new("assistant", CONTENT)], &[]),
        );
        let mut ends = probe.ends(&said);
        let (mut think, behind) = probe.think(&opened, &said);
        let mut content = probe.content(&opened, &said);
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
        // What also stands before a call ends no answer.
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

    /// Whether the answer to a prompt begins with a thought.
    pub fn thought(&self, prompt: &str) -> Thought {
        let prompt = prompt.trim_end();
        match &self.think {
            Some((open, _)) if prompt.ends_with(open.as_str()) => Thought::Begun,
            Some((_, close)) if !prompt.ends_with(close.as_str()) => Thought::Possible,
            _ => Thought::None,
        }
    }

    /// Every text that a reader of answers looks for: special tokens in them must be seen.
    pub fn marks(&self) -> Vec<&str> {
        if self.channels {
            return super::channels::MARKS.to_vec();
        }
        let mut marks: Vec<&str> = self.triggers.iter().map(String::as_str).collect();
        marks.extend(
            self.think
                .iter()
                .flat_map(|(open, close)| [open.as_str(), close]),
        );
        marks.extend([self.content.0.as_str(), self.content.1.as_str()]);
        if let Some(shape) = &self.calls {
            marks.extend([shape.lead.as_str(), &shape.again]);
            marks.extend([shape.between.as_str(), &shape.last]);
            match &shape.body {
                Body::Named { between } => marks.push(between),
                Body::Tagged {
                    between,
                    key_lead,
                    key_ends,
                    value_end,
                } => {
                    marks.extend([between.as_str(), key_lead, value_end]);
                    marks.extend(key_ends.iter().map(String::as_str));
                }
                Body::Braced { quote } => marks.push(quote),
                Body::Object { .. } | Body::Python => {}
            }
        }
        marks.retain(|mark| !mark.trim().is_empty());
        marks
    }
}

struct Probe<'a> {
    template: &'a Template,
    source: &'a str,
}

impl Probe<'_> {
    /// A prompt with the assistant's turn opened.
    fn opened(&self) -> String {
        self.rendered(&[Message::new("user", "hi")], &[], true).text
    }

    /// A finished conversation of the user's `hi` and these messages.
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

    /// The mark behind a finished answer.
    fn ends(&self, said: &str) -> Vec<String> {
        let after = said.split_once(CONTENT).map_or("", |(_, after)| after);
        let after = after.split(NEXT).next().unwrap_or_default().trim_start();
        let mark = whole_mark(after);
        mark.map(str::to_string).into_iter().collect()
    }

    /// What stands directly around the text of an answer, beside its turn.
    fn content(&self, opened: &str, said: &str) -> (String, String) {
        let Some((before, after)) = said.split_once(CONTENT) else {
            return Default::default();
        };
        let Some(open) = before
            .strip_prefix(opened)
            .map(str::trim)
            .filter(|open| !open.is_empty())
        else {
            return Default::default();
        };
        let close = whole_mark(after.trim_start()).unwrap_or_default();
        (open.to_string(), close.to_string())
    }

    /// The marks of thinking, and the mark of the answer behind it.
    fn think(&self, opened: &str, said: &str) -> (Option<(String, String)>, String) {
        let message = Message {
            thinking: Some(THOUGHT.into()),
            ..Message::new("assistant", CONTENT)
        };
        let shown = self.shown(vec![message], &[]);
        if let Some((before, after)) = shown.split_once(THOUGHT)
            && let Some((close, _)) = after.split_once(CONTENT)
        {
            let header = common(opened, said)
                .min(common(opened, &shown))
                .min(before.len());
            let open = whole_start(before, header).trim();
            let open = if open.is_empty() || open.len() > MARK_BYTES_MAX {
                last_mark(before)
            } else {
                open
            };
            let mark = whole_mark(close.trim_start()).unwrap_or(close.trim());
            if !open.is_empty() && !mark.is_empty() && mark.len() <= MARK_BYTES_MAX {
                let behind = close.trim_start()[mark.len()..].trim().to_string();
                return (Some((open.to_string(), mark.to_string())), behind);
            }
        }
        (
            self.think_beside_call().or_else(|| self.think_in_source()),
            String::new(),
        )
    }

    /// Some templates show earlier thinking only beside a call.
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
        let close = whole_mark(after.trim_start())?;
        (!open.is_empty() && open.len() <= MARK_BYTES_MAX)
            .then(|| (open.to_string(), close.to_string()))
    }

    /// Templates that cut thinking out of earlier answers do so at its closing mark.
    fn think_in_source(&self) -> Option<(String, String)> {
        for (quote, rest) in self.source.match_indices(".split(").map(|(at, found)| {
            let rest = self.source[at + found.len()..].trim_start();
            (rest.chars().next().unwrap_or(' '), rest)
        }) {
            let Some(close) = rest.get(1..).and_then(|rest| rest.split(quote).next()) else {
                continue;
            };
            let slash = close.starts_with("</") || close.starts_with("[/");
            if slash && whole_mark(close) == Some(close) {
                return Some((close.replacen('/', "", 1), close.to_string()));
            }
        }
        // Else the instructions name a pair: `<think>…</think>`, `[THINK]…[/THINK]`.
        let closes = ["</", "[/"]
            .iter()
            .flat_map(|slash| self.source.match_indices(slash));
        closes
            .filter_map(|(at, _)| whole_mark(&self.source[at..]))
            .find_map(|close| {
                let open = close.replacen('/', "", 1);
                let thinks = close.to_lowercase().contains("think") && self.source.contains(&open);
                thinks.then(|| (open, close.to_string()))
            })
    }

    fn calls(&self) -> Option<Shape> {
        let tools = [tool(NAME), tool(OTHER)];
        let said = self.shown(vec![Message::new("assistant", CONTENT)], &tools);
        for prefix in [None, Some("functions.")] {
            let calls = [call(NAME, 0, prefix), call(OTHER, 1, prefix)];
            let message = |calls: &[ToolCall]| Message {
                tool_calls: calls.to_vec(),
                ..Message::new("assistant", "")
            };
            let Rendered { text: one, notes } = self.finished(vec![message(&calls[..1])], &tools);
            let start = common(&said, &one);
            let section = whole_start(&one, start);
            if !section.contains(NAME) || notes.contains(&CALLS_AS_TEXT) {
                continue;
            }
            let two = self.shown(vec![message(&calls)], &tools);
            let two = two.get(one.len() - section.len()..).unwrap_or_default();
            let ending = said.split_once(CONTENT).map_or("", |(_, after)| after);
            if let Some(shape) = discover::shape(section, two, ending) {
                return Some(shape);
            }
        }
        None
    }
}

/// The marks of thinking that a text begins with, if nothing stands between them.
fn empty_thinking(lead: &str) -> Option<(String, String)> {
    let open = whole_mark(lead.trim_start())?;
    let close = whole_mark(lead.trim_start()[open.len()..].trim_start())?;
    let pair = close == open.replace("START", "END") || close.replacen('/', "", 1) == open;
    (pair && open != close).then(|| (open.to_string(), close.to_string()))
}

/// The shape that a template names in its instructions without showing a call itself; else the
/// plainest one, which is also that of our own words where a template knows of no tools.
fn named_in(source: &str, jinja: bool) -> Option<Shape> {
    let keys = |key: &str| vec![key.to_string()];
    let object = |name: &str, arguments: &str| Body::Object {
        name: keys(name),
        arguments: keys(arguments),
        id: None,
    };
    let (lead, close, body) = match () {
        () if source.contains("<tool_call>") => {
            ("<tool_call>", "</tool_call>", object("name", "arguments"))
        }
        () if source.contains("<|tool_call_start|>") => {
            ("<|tool_call_start|>", "<|tool_call_end|>", Body::Python)
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
    let array = body == Body::Python || lead == "<|tool_call|>";
    Some(Shape {
        lead: lead.into(),
        again: if array { "" } else { lead }.into(),
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
