//! What a template can express, found out by rendering small conversations with it; and
//! conversations put in the words that it can.

use minijinja::context;
use minijinja::value::Value;

use super::{from_json, python, tool_value};
use crate::error::Result;
use crate::message::{Message, Tool, ToolCall};
use crate::prompt::Chat;

/// Texts that no template holds.
const NEEDLE: &str = "nEEdle1";
const OTHER: &str = "nEEdle2";

/// The note that earlier calls were put in our own words.
pub const CALLS_AS_TEXT: &str = "the template shows no calls of tools: they become text";

type Run<'a> = &'a dyn Fn(&Chat, Vec<Value>) -> Result<String>;

/// What one template can express.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Messages of role `system`.
    system: bool,
    /// Content must be a list of parts.
    typed: bool,
    /// Where the tools on offer stand.
    offer: Offer,
    /// Messages of role `tool`.
    tool_role: bool,
    /// Calls of tools, and how it wants them.
    calls: Option<Calls>,
    /// The field that carries earlier reasoning.
    reasoning: &'static str,
}

/// How a template offers tools.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Offer {
    /// It writes them down itself.
    Shown,
    /// As a text in the field `tools` of the system message.
    OfSystem,
    /// Not at all: they go into the system message in words.
    InWords,
}

/// How a template wants calls.
#[derive(Debug, Clone, Copy)]
struct Calls {
    /// Arguments as a JSON text instead of an object.
    arguments_as_text: bool,
    /// No content, instead of an empty one, beside calls.
    content_is_none: bool,
}

impl Habits {
    /// Tries a template out.
    pub fn of(source: &str, run: Run) -> Self {
        let plain = Habits {
            system: true,
            typed: false,
            offer: Offer::Shown,
            tool_role: true,
            calls: Some(Calls {
                arguments_as_text: false,
                content_is_none: false,
            }),
            reasoning: reasoning_field(source),
        };
        // Finished: some templates show the last turn only then.
        let chat = Chat {
            opens: false,
            ..Chat::default()
        };
        let shows = |habits: &Habits, messages: &[Message], tools: &[Tool]| {
            let chat = Chat { tools, ..chat };
            run(&chat, habits.values(messages, tools)).unwrap_or_default()
        };
        let user = [Message::new("user", NEEDLE)];
        let parts = Habits {
            typed: true,
            ..plain.clone()
        };
        let typed = !shows(&plain, &user, &[]).contains(NEEDLE)
            && shows(&parts, &user, &[]).contains(NEEDLE);
        let plain = Habits { typed, ..plain };
        let system = [Message::new("system", NEEDLE), Message::new("user", OTHER)];
        let system = shows(&plain, &system, &[]).contains(NEEDLE);
        let tools = [probe_tool()];
        let offer = offer(&plain, &|habits, messages| shows(habits, messages, &tools));
        let calls = [(false, false), (true, false), (false, true), (true, true)];
        let calls = calls.map(|(arguments_as_text, content_is_none)| Calls {
            arguments_as_text,
            content_is_none,
        });
        let calls = calls.into_iter().find(|calls| {
            let habits = Habits {
                calls: Some(*calls),
                ..plain.clone()
            };
            let shown = shows(&habits, &called(), &tools);
            let whole = shown.contains(NEEDLE) && shown.contains(OTHER);
            // A text that was quoted once more is not what the model learnt.
            whole && !shown.contains(&format!("\\\"{OTHER}"))
        });
        let answered = [called().as_slice(), &[tool_answer(NEEDLE)]].concat();
        let with_calls = Habits {
            calls,
            ..plain.clone()
        };
        let tool_role = calls.is_some()
            && shows(&with_calls, &answered, &tools)
                .matches(NEEDLE)
                .count()
                > 1;
        Habits {
            system,
            typed,
            offer,
            tool_role,
            calls,
            reasoning: plain.reasoning,
        }
    }

    /// The messages in words that the template has; a note for each departure.
    pub fn fit(
        &self,
        messages: &[Message],
        tools: &[Tool],
        notes: &mut Vec<&'static str>,
    ) -> Vec<Message> {
        let offered = self.offered(messages, tools, notes);
        let messages = offered.as_deref().unwrap_or(messages);
        let mut fitted: Vec<Message> = Vec::with_capacity(messages.len());
        let mut system: Option<String> = None;
        let mut note = |text: &'static str| {
            if !notes.contains(&text) {
                notes.push(text);
            }
        };
        for message in messages {
            let mut message = message.clone();
            if message.role == "system" && !self.system {
                note("the template has no system role: its text goes before the user's");
                let earlier = system.take().map_or_else(String::new, |text| text + "\n\n");
                system = Some(earlier + &message.content);
                continue;
            }
            if message.role == "tool" && !self.tool_role {
                note("the template has no tool role: answers of tools become the user's");
                message = answer_as_text(&message);
            }
            if !message.tool_calls.is_empty() && self.calls.is_none() {
                note(CALLS_AS_TEXT);
                message = calls_as_text(message);
            }
            if message.role == "user"
                && let Some(text) = system.take()
            {
                message.content = text + "\n\n" + &message.content;
            }
            fitted.push(message);
        }
        fitted.extend(system.map(|text| Message::new("user", text)));
        fitted
    }

    /// The messages with a system message that offers the tools, if the template does not do so.
    fn offered(
        &self,
        messages: &[Message],
        tools: &[Tool],
        notes: &mut Vec<&'static str>,
    ) -> Option<Vec<Message>> {
        if tools.is_empty() || self.offer == Offer::Shown {
            return None;
        }
        let mut messages = messages.to_vec();
        if messages.first().is_none_or(|first| first.role != "system") {
            messages.insert(0, Message::new("system", ""));
        }
        if self.offer == Offer::OfSystem {
            notes.push("the template reads the tools off the system message: one was made");
        } else {
            notes.push("the template offers no tools: they go into the system message");
            let system = &mut messages[0].content;
            *system = match system.as_str() {
                "" => offer_in_words(tools),
                text => format!("{text}\n\n{}", offer_in_words(tools)),
            };
        }
        Some(messages)
    }

    /// The messages as the template's own data.
    pub fn values(&self, messages: &[Message], tools: &[Tool]) -> Vec<Value> {
        let mut tools = (self.offer == Offer::OfSystem && !tools.is_empty())
            .then(|| tools.iter().map(tool_value).collect());
        let values = messages.iter().map(|message| {
            let offered = (message.role == "system").then(|| tools.take()).flatten();
            self.value(message, offered)
        });
        values.collect()
    }

    fn value(&self, message: &Message, offered: Option<Value>) -> Value {
        let text = Value::from(message.content.as_str());
        let bare = message.content.is_empty() && !message.tool_calls.is_empty();
        let content = match self.calls {
            Some(calls) if bare && calls.content_is_none => Value::from(()),
            _ if self.typed => Value::from(vec![context! { type => "text", text }]),
            _ => text,
        };
        let mut fields = vec![
            ("role", Value::from(message.role.as_str())),
            ("content", content),
        ];
        if let Some(tools) = offered {
            fields.push(("tools", python::dumped(tools)));
        }
        if let Some(thinking) = &message.thinking {
            fields.push((self.reasoning, thinking.as_str().into()));
        }
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| self.call(call));
            fields.push(("tool_calls", calls.collect()));
        }
        if let Some(name) = &message.tool_name {
            fields.push(("name", name.as_str().into()));
        }
        if let Some(id) = &message.tool_call_id {
            fields.push(("tool_call_id", id.as_str().into()));
        }
        Value::from_pairs(fields)
    }

    fn call(&self, call: &ToolCall) -> Value {
        let arguments = match self.calls {
            Some(calls) if calls.arguments_as_text => call.arguments.as_str().into(),
            _ => from_json(&serde_json::from_str(&call.arguments).unwrap_or_default()),
        };
        let function = context! { name => call.name.as_str(), arguments };
        match &call.id {
            Some(id) => context! { id => id.as_str(), type => "function", function },
            None => context! { type => "function", function },
        }
    }
}

/// Finds out where a template writes down the tools on offer.
fn offer(plain: &Habits, shows: &dyn Fn(&Habits, &[Message]) -> String) -> Offer {
    let user = Message::new("user", NEEDLE);
    let system = Message::new("system", "be brief");
    let chats = [vec![user.clone()], vec![system, user]];
    let shown = |habits: &Habits| chats.iter().any(|chat| shows(habits, chat).contains(OTHER));
    let of_system = Habits {
        offer: Offer::OfSystem,
        ..plain.clone()
    };
    match () {
        () if shown(plain) => Offer::Shown,
        () if shown(&of_system) => Offer::OfSystem,
        // What fails in any case tells nothing.
        () if chats.iter().all(|chat| shows(plain, chat).is_empty()) => Offer::Shown,
        () => Offer::InWords,
    }
}

/// The tools as a text for models that were not taught any other way.
fn offer_in_words(tools: &[Tool]) -> String {
    let tools: Vec<String> = tools
        .iter()
        .map(|tool| {
            serde_json::json!({
                "name": tool.name, "description": tool.description, "parameters": tool.parameters,
            })
            .to_string()
        })
        .collect();
    format!(
        "You may call these functions:\n{}\nTo call one, answer with a JSON object and nothing else: \
         {{\"name\": \"the function\", \"arguments\": {{\"an argument\": \"its value\"}}}}",
        tools.join("\n")
    )
}

/// A tool whose arguments all have a description, if only an empty one.
pub fn described(tool: &Tool) -> Tool {
    let mut tool = tool.clone();
    if let Some(properties) = tool.parameters["properties"].as_object_mut() {
        for schema in properties
            .values_mut()
            .filter_map(serde_json::Value::as_object_mut)
        {
            schema.entry("description").or_insert_with(|| "".into());
        }
    }
    tool
}

/// Templates that show earlier reasoning read it from one of two fields.
fn reasoning_field(source: &str) -> &'static str {
    let names = [
        "message.thinking",
        "message['thinking']",
        "message[\"thinking\"]",
    ];
    let thinks = names.iter().any(|name| source.contains(name));
    if thinks && !source.contains("reasoning_content") {
        "thinking"
    } else {
        "reasoning_content"
    }
}

/// Neighbours of one role joined by a blank line.
pub fn alternating(messages: &[Message]) -> Vec<Message> {
    let mut joined: Vec<Message> = Vec::with_capacity(messages.len());
    for message in messages {
        match joined.last_mut() {
            Some(last) if last.role == message.role && message.role != "tool" => {
                last.content = format!("{}\n\n{}", last.content, message.content);
                last.tool_calls.extend(message.tool_calls.iter().cloned());
            }
            _ => joined.push(message.clone()),
        }
    }
    joined
}

fn probe_tool() -> Tool {
    let parameters = format!(
        r#"{{"type":"object","properties":{{"{OTHER}":{{"type":"string","description":"probe"}}}},"required":["{OTHER}"]}}"#
    );
    Tool {
        name: "probe".into(),
        description: "probe".into(),
        parameters: serde_json::from_str(&parameters).unwrap_or_default(),
    }
}

fn called() -> Vec<Message> {
    let mut call = Message::new("assistant", "");
    call.tool_calls = vec![ToolCall {
        id: Some("call00001".into()),
        name: NEEDLE.into(),
        arguments: format!(r#"{{"{OTHER}":"{OTHER}"}}"#),
    }];
    vec![Message::new("user", "hi"), call]
}

fn tool_answer(content: &str) -> Message {
    Message {
        tool_name: Some("probe".into()),
        tool_call_id: Some("call00001".into()),
        ..Message::new("tool", content)
    }
}

fn answer_as_text(message: &Message) -> Message {
    let mut answer = serde_json::Map::new();
    if let Some(name) = &message.tool_name {
        answer.insert("tool".into(), name.as_str().into());
    }
    answer.insert("content".into(), message.content.as_str().into());
    let whole = serde_json::json!({ "tool_response": answer });
    Message::new("user", format!("{whole:#}"))
}

fn calls_as_text(message: Message) -> Message {
    let calls = message.tool_calls.iter().map(|call| {
        let arguments: serde_json::Value =
            serde_json::from_str(&call.arguments).unwrap_or_default();
        serde_json::json!({ "name": call.name, "arguments": arguments }).to_string()
    });
    let calls = calls.collect::<Vec<_>>().join("\n");
    let content = match message.content.as_str() {
        "" => calls,
        text => format!("{text}\n\n{calls}"),
    };
    Message {
        content,
        tool_calls: Vec::new(),
        ..message
    }
}
