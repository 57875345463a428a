//! Template capabilities: detects what a template can express by rendering small conversations with it,
//! and rewrites conversations so that the template can express them.

use minijinja::context;
use minijinja::value::Value;

use super::python;
use super::values::{from_json, tool_value};
use crate::core::error::Result;
use crate::core::message::{Message, Tool, ToolCall};
use crate::format::template::Chat;

/// Texts that occur in no template.
const NEEDLE: &str = "nEEdle1";
const OTHER: &str = "nEEdle2";

/// The note that earlier tool calls were rewritten as text.
pub const CALLS_AS_TEXT: &str = "the template cannot show tool calls: they become text";

type Run<'a> = &'a dyn Fn(&Chat, Vec<Value>) -> Result<String>;

/// The capabilities of one template.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// True if the template shows messages of role `system`.
    system: bool,
    /// True if content must be a list of parts.
    typed: bool,
    /// How the template shows the tools.
    tool_placement: ToolPlacement,
    /// True if the template shows messages of role `tool`.
    tool_role: bool,
    /// The form in which the template shows tool calls; `None` if it shows none.
    calls: Option<Calls>,
    /// The name of the field that carries earlier reasoning.
    reasoning: &'static str,
}

/// How a template shows the tools.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ToolPlacement {
    /// The template writes them itself.
    Shown,
    /// The template reads them as text from the field `tools` of the system message.
    OfSystem,
    /// The template does not show them; the system message describes them.
    InWords,
}

/// The form of tool calls that a template expects.
#[derive(Debug, Clone, Copy)]
struct Calls {
    /// True if arguments are a JSON text instead of an object.
    arguments_as_text: bool,
    /// True if content beside calls is `none` instead of empty.
    content_is_none: bool,
}

impl Capabilities {
    /// Detects the capabilities of a template by rendering probe conversations.
    pub fn detect(source: &str, run: Run) -> Self {
        let plain = Capabilities {
            system: true,
            typed: false,
            tool_placement: ToolPlacement::Shown,
            tool_role: true,
            calls: Some(Calls {
                arguments_as_text: false,
                content_is_none: false,
            }),
            reasoning: reasoning_field(source),
        };
        // No generation prompt: some templates show the last turn only then.
        let chat = Chat {
            opens: false,
            ..Chat::default()
        };
        let shows = |capabilities: &Capabilities, messages: &[Message], tools: &[Tool]| {
            let chat = Chat { tools, ..chat };
            run(&chat, capabilities.values(messages, tools)).unwrap_or_default()
        };
        let user = [Message::new("user", NEEDLE)];
        let parts = Capabilities {
            typed: true,
            ..plain.clone()
        };
        let typed = !shows(&plain, &user, &[]).contains(NEEDLE)
            && shows(&parts, &user, &[]).contains(NEEDLE);
        let plain = Capabilities { typed, ..plain };
        let system = [Message::new("system", NEEDLE), Message::new("user", OTHER)];
        let system = shows(&plain, &system, &[]).contains(NEEDLE);
        let tools = [probe_tool()];
        let tool_placement = tool_placement(&plain, &|capabilities, messages| {
            shows(capabilities, messages, &tools)
        });
        let calls = [(false, false), (true, false), (false, true), (true, true)];
        let calls = calls.map(|(arguments_as_text, content_is_none)| Calls {
            arguments_as_text,
            content_is_none,
        });
        let calls = calls.into_iter().find(|calls| {
            let capabilities = Capabilities {
                calls: Some(*calls),
                ..plain.clone()
            };
            let shown = shows(&capabilities, &called(), &tools);
            let whole = shown.contains(NEEDLE) && shown.contains(OTHER);
            // The model was not trained on arguments that are quoted twice.
            whole && !shown.contains(&format!("\\\"{OTHER}"))
        });
        let answered = [called().as_slice(), &[tool_answer(NEEDLE)]].concat();
        let with_calls = Capabilities {
            calls,
            ..plain.clone()
        };
        let tool_role = calls.is_some()
            && shows(&with_calls, &answered, &tools)
                .matches(NEEDLE)
                .count()
                > 1;
        Capabilities {
            system,
            typed,
            tool_placement,
            tool_role,
            calls,
            reasoning: plain.reasoning,
        }
    }

    /// Rewrites the messages so that the template can express them; adds a note for each change.
    pub fn fit(
        &self,
        messages: &[Message],
        tools: &[Tool],
        notes: &mut Vec<&'static str>,
    ) -> Vec<Message> {
        let with_tools = self.with_tools(messages, tools, notes);
        let messages = with_tools.as_deref().unwrap_or(messages);
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
                note("the template has no system role: system text goes before the user's");
                let earlier = system.take().map_or_else(String::new, |text| text + "\n\n");
                system = Some(earlier + &message.content);
                continue;
            }
            if message.role == "tool" && !self.tool_role {
                note("the template has no tool role: tool results become user messages");
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

    /// Returns the messages with the tools in the system message, unless the template shows them itself.
    fn with_tools(
        &self,
        messages: &[Message],
        tools: &[Tool],
        notes: &mut Vec<&'static str>,
    ) -> Option<Vec<Message>> {
        if tools.is_empty() || self.tool_placement == ToolPlacement::Shown {
            return None;
        }
        let mut messages = messages.to_vec();
        if messages.first().is_none_or(|first| first.role != "system") {
            messages.insert(0, Message::new("system", ""));
        }
        if self.tool_placement == ToolPlacement::OfSystem {
            notes.push("the template reads tools from the system message: they were added to it");
        } else {
            notes.push("the template cannot show tools: they go into the system message");
            let system = &mut messages[0].content;
            *system = match system.as_str() {
                "" => tools_as_text(tools),
                text => format!("{text}\n\n{}", tools_as_text(tools)),
            };
        }
        Some(messages)
    }

    /// Converts the messages to the template's data.
    pub fn values(&self, messages: &[Message], tools: &[Tool]) -> Vec<Value> {
        let mut tools = (self.tool_placement == ToolPlacement::OfSystem && !tools.is_empty())
            .then(|| tools.iter().map(tool_value).collect());
        let values = messages.iter().map(|message| {
            let with_tools = (message.role == "system").then(|| tools.take()).flatten();
            self.value(message, with_tools)
        });
        values.collect()
    }

    fn value(&self, message: &Message, with_tools: Option<Value>) -> Value {
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
        if let Some(tools) = with_tools {
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

/// Detects how a template shows the tools.
fn tool_placement(
    plain: &Capabilities,
    shows: &dyn Fn(&Capabilities, &[Message]) -> String,
) -> ToolPlacement {
    let user = Message::new("user", NEEDLE);
    let system = Message::new("system", "be brief");
    let chats = [vec![user.clone()], vec![system, user]];
    let shown = |capabilities: &Capabilities| {
        chats
            .iter()
            .any(|chat| shows(capabilities, chat).contains(OTHER))
    };
    let of_system = Capabilities {
        tool_placement: ToolPlacement::OfSystem,
        ..plain.clone()
    };
    match () {
        () if shown(plain) => ToolPlacement::Shown,
        () if shown(&of_system) => ToolPlacement::OfSystem,
        // A template that fails in any case proves nothing.
        () if chats.iter().all(|chat| shows(plain, chat).is_empty()) => ToolPlacement::Shown,
        () => ToolPlacement::InWords,
    }
}

/// Describes the tools as text, for models that were not trained on another form.
fn tools_as_text(tools: &[Tool]) -> String {
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

/// Returns the tool with an empty description for each argument that has none.
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

/// Joins adjacent messages of one role with a blank line.
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
