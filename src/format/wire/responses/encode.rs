//! Encodes answers for OpenAI's Responses API: output items, complete or as events.

use serde_json::{Map, Value as Json, json};

use super::custom_tools::custom_input;
use super::items::OUR_THOUGHT;
use crate::core::error::Error;
use crate::core::message::{Delta, Finish, ToolCall, Usage};
use crate::format::wire::encoder::{Encoder, Event, append};

/// Request fields that are echoed in the response.
const ECHOED: [&str; 12] = [
    "instructions",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "truncation",
    "temperature",
    "top_p",
    "max_output_tokens",
    "background",
    "metadata",
    "reasoning",
    "text",
];

/// The kind of the open item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Reasoning,
    Message,
}

impl Open {
    /// The key of its text parts, the name of their index, and the delta event.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Open::Reasoning => (
                "summary",
                "summary_index",
                "response.reasoning_summary_text.delta",
            ),
            Open::Message => ("content", "content_index", "response.output_text.delta"),
        }
    }
}

/// The encoder of one answer.
pub struct ResponseEncoder {
    id: String,
    created: u64,
    completed: Option<u64>,
    request: Map<String, Json>,
    items: Vec<Json>,
    open: Option<Open>,
    finish: Option<Finish>,
    events: u64,
    /// A limit has cut the answer, so its last item is incomplete.
    is_cut: bool,
    now: fn() -> u64,
}

impl ResponseEncoder {
    /// Starts an answer; `request` is the request's body, `now` returns Unix seconds.
    pub fn new(id: String, request: Map<String, Json>, now: fn() -> u64) -> Self {
        ResponseEncoder {
            id,
            created: now(),
            completed: None,
            request,
            items: Vec::new(),
            open: None,
            finish: None,
            events: 0,
            is_cut: false,
            now,
        }
    }

    fn event(&mut self, name: &'static str, mut data: Json) -> Event {
        data["sequence_number"] = self.events.into();
        self.events += 1;
        Event::named(name, data)
    }

    fn response(&self, status: &str) -> Json {
        let mut response = json!({
            "id": format!("resp_{}", self.id),
            "object": "response",
            "created_at": self.created,
            "completed_at": self.completed,
            "status": status,
            "incomplete_details": null,
            "model": self.request.get("model"),
            "previous_response_id": null,
            "output": self.items,
            "error": null,
            "instructions": null,
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": true,
            "truncation": "disabled",
            "temperature": 1.0,
            "top_p": 1.0,
            "max_output_tokens": null,
            "background": false,
            "metadata": {},
            "reasoning": null,
            "text": { "format": { "type": "text" } },
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "top_logprobs": 0,
            "usage": null,
            "max_tool_calls": null,
            "store": false,
            "service_tier": "default",
            "safety_identifier": null,
            "prompt_cache_key": null,
            "user": null,
        });
        for key in ECHOED {
            if let Some(given) = self.request.get(key).filter(|value| !value.is_null()) {
                response[key] = given.clone();
            }
        }
        response
    }

    /// The finished response with its status and usage, and the name of its event.
    fn ended(&self) -> (&'static str, Json) {
        let cut = self
            .finish
            .as_ref()
            .is_some_and(|finish| finish.reason.is_cut());
        let (event, status) = if cut {
            ("response.incomplete", "incomplete")
        } else {
            ("response.completed", "completed")
        };
        let mut response = self.response(status);
        if cut {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        let usage = self
            .finish
            .as_ref()
            .map(|finish| finish.usage)
            .unwrap_or_default();
        response["usage"] = usage_json(&usage);
        (event, response)
    }

    fn at(&self) -> usize {
        self.items.len() - 1
    }

    fn item_id(&self) -> Json {
        self.items[self.at()]["id"].clone()
    }

    fn added(&mut self, item: Json) -> Event {
        self.items.push(item.clone());
        let data = json!({ "output_index": self.at(), "item": item });
        self.event("response.output_item.added", data)
    }

    fn done(&mut self) -> Event {
        let data = json!({ "output_index": self.at(), "item": self.items[self.at()] });
        self.event("response.output_item.done", data)
    }

    /// The position of a text part within the open item.
    fn place(&self, index: &str) -> Json {
        json!({ "item_id": self.item_id(), "output_index": self.at(), index: 0 })
    }

    fn open_message(&mut self) -> Vec<Event> {
        let id = format!("msg_{}_{}", self.id, self.items.len());
        let item = json!({
            "id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": [],
        });
        self.open = Some(Open::Message);
        let added = self.added(item);
        let at = self.at();
        let part = json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] });
        self.items[at]["content"] = json!([part]);
        let mut data = self.place("content_index");
        data["part"] = part;
        vec![added, self.event("response.content_part.added", data)]
    }

    fn open_reasoning(&mut self) -> Vec<Event> {
        let id = format!("rs_{}_{}", self.id, self.items.len());
        self.open = Some(Open::Reasoning);
        let added = self.added(json!({ "id": id, "type": "reasoning", "summary": [] }));
        let at = self.at();
        let part = json!({ "type": "summary_text", "text": "" });
        self.items[at]["summary"] = json!([part]);
        let mut data = self.place("summary_index");
        data["part"] = part;
        // The reference omits the parts; OpenAI's npm SDK stops the stream if they are missing.
        vec![
            added,
            self.event("response.reasoning_summary_part.added", data),
        ]
    }

    /// Closes the open item, which must happen before another one starts.
    fn close(&mut self) -> Vec<Event> {
        let at = self.items.len().saturating_sub(1);
        match self.open.take() {
            None => Vec::new(),
            Some(Open::Reasoning) => {
                let part = self.items[at]["summary"][0].clone();
                let text = part["text"].as_str().unwrap_or_default();
                self.items[at]["encrypted_content"] = format!("{OUR_THOUGHT}{text}").into();
                let mut text = self.place("summary_index");
                text["text"] = part["text"].clone();
                let mut whole = self.place("summary_index");
                whole["part"] = part;
                vec![
                    self.event("response.reasoning_summary_text.done", text),
                    self.event("response.reasoning_summary_part.done", whole),
                    self.done(),
                ]
            }
            Some(Open::Message) => {
                let status = if self.is_cut {
                    "incomplete"
                } else {
                    "completed"
                };
                self.items[at]["status"] = status.into();
                let part = self.items[at]["content"][0].clone();
                let mut text = self.place("content_index");
                text["text"] = part["text"].clone();
                text["logprobs"] = json!([]);
                let mut whole = self.place("content_index");
                whole["part"] = part;
                vec![
                    self.event("response.output_text.done", text),
                    self.event("response.content_part.done", whole),
                    self.done(),
                ]
            }
        }
    }

    /// Adds text to the open item, or to a new one.
    fn add(&mut self, kind: Open, more: &str) -> Vec<Event> {
        let mut events = Vec::new();
        if self.open != Some(kind) {
            events = self.close();
            events.extend(match kind {
                Open::Reasoning => self.open_reasoning(),
                Open::Message => self.open_message(),
            });
        }
        let (texts, index, name) = kind.words();
        let at = self.at();
        append(&mut self.items[at][texts][0]["text"], more);
        let mut data = self.place(index);
        data["delta"] = more.into();
        if kind == Open::Message {
            data["logprobs"] = json!([]);
        }
        events.push(self.event(name, data));
        events
    }

    /// True for a tool of the request that takes text.
    fn is_custom(&self, name: &str) -> bool {
        let tools = self.request.get("tools").and_then(Json::as_array);
        let mut tools = tools.into_iter().flatten();
        tools.any(|tool| tool["type"] == "custom" && tool["name"] == name)
    }

    /// A call as an item of its own; `id`, `call_id` and the name are known from its start.
    fn call(&mut self, call: &ToolCall) -> Vec<Event> {
        let is_custom = self.is_custom(&call.name);
        let (prefix, kind, key, names) = if is_custom {
            ("ctc", "custom_tool_call", "input", INPUT_EVENTS)
        } else {
            ("fc", "function_call", "arguments", ARGUMENTS_EVENTS)
        };
        let value = if is_custom {
            custom_input(&call.arguments)
        } else {
            call.arguments.clone()
        };
        let mut events = self.close();
        let id = format!("{prefix}_{}_{}", self.id, self.items.len());
        let item = json!({
            "id": id,
            "type": kind,
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            key: "",
        });
        events.push(self.added(item));
        let at = self.at();
        self.items[at]["status"] = "completed".into();
        self.items[at][key] = value.as_str().into();
        for (name, field) in names.into_iter().zip(["delta", key]) {
            let mut data = json!({ "item_id": id, "output_index": at });
            if !is_custom {
                data["name"] = call.name.as_str().into();
            }
            data[field] = value.as_str().into();
            events.push(self.event(name, data));
        }
        events.push(self.done());
        events
    }
}

/// The events of the input of a call of a custom tool, and of the arguments of a function.
const INPUT_EVENTS: [&str; 2] = [
    "response.custom_tool_call_input.delta",
    "response.custom_tool_call_input.done",
];
const ARGUMENTS_EVENTS: [&str; 2] = [
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
];

fn usage_json(usage: &Usage) -> Json {
    json!({
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": { "cached_tokens": usage.cached_tokens, "cache_write_tokens": 0 },
        "output_tokens": usage.answer_tokens,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.prompt_tokens + usage.answer_tokens,
    })
}

impl Encoder for ResponseEncoder {
    fn open(&mut self, _: &Usage) -> Vec<Event> {
        let response = self.response("in_progress");
        let data = json!({ "response": response });
        vec![
            self.event("response.created", data.clone()),
            self.event("response.in_progress", data),
        ]
    }

    fn encode(&mut self, _: usize, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Logprob(_) => Vec::new(),
            Delta::Thinking(text) => self.add(Open::Reasoning, &text),
            Delta::Text(text) => self.add(Open::Message, &text),
            Delta::Call { call, .. } => self.call(&call),
            Delta::Finish(finish) => {
                self.is_cut = finish.reason.is_cut();
                let mut events = self.close();
                if self.items.iter().all(|item| item["type"] == "reasoning") {
                    events.extend(self.open_message()); // An empty answer still needs a message item.
                    events.extend(self.close());
                }
                self.finish = Some(*finish);
                self.completed = Some((self.now)());
                let (name, response) = self.ended();
                events.push(self.event(name, json!({ "response": response })));
                events
            }
        }
    }

    fn fail(&mut self, error: &Error) -> Vec<Event> {
        let mut events = self.close();
        let mut response = self.response("failed");
        response["error"] = json!({ "code": "server_error", "message": error.public_text() });
        events.push(self.event("response.failed", json!({ "response": response })));
        events
    }

    fn complete(&mut self) -> Json {
        self.ended().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::message::Reason;

    #[test]
    fn every_item_is_closed_before_the_next_begins() {
        let request = json!({ "model": "m" });
        let mut encoder =
            ResponseEncoder::new("0".into(), request.as_object().unwrap().clone(), || 7);
        let mut events = encoder.open(&Usage::default());
        let call = ToolCall {
            id: Some("c".into()),
            name: "f".into(),
            arguments: "{}".into(),
        };
        let finish = Finish {
            reason: Reason::Length,
            usage: Usage::default(),
            context: Vec::new(),
            stop: None,
        };
        for delta in [
            Delta::Thinking("hm".into()),
            Delta::Text("a".into()),
            Delta::Call { index: 0, call },
            Delta::Finish(Box::new(finish)),
        ] {
            events.extend(encoder.encode(0, delta));
        }
        let numbers = events
            .iter()
            .map(|event| event.data["sequence_number"].as_u64().unwrap());
        assert!(numbers.eq(0..events.len() as u64));
        let mut open = None;
        for event in &events {
            let index = event.data["output_index"].as_u64();
            match event.name.unwrap() {
                "response.output_item.added" => assert_eq!(open.replace(index), None),
                "response.output_item.done" => assert_eq!(open.take(), Some(index)),
                _ => {}
            }
        }
        let last = events.last().unwrap();
        assert_eq!(last.name, Some("response.incomplete"));
        let kinds: Vec<&str> = encoder
            .items
            .iter()
            .filter_map(|item| item["type"].as_str())
            .collect();
        assert_eq!(kinds, ["reasoning", "message", "function_call"]);
        assert_eq!(encoder.complete()["completed_at"], 7);
    }
}
