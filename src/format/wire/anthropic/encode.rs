//! Encodes answers for Anthropic's Messages API: content blocks, complete or as events, and errors.

use serde_json::{Value as Json, json};

use crate::core::error::Error;
use crate::core::message::{Delta, Finish, Reason, Usage};
use crate::format::wire::encoder::{Encoder, Event, append};

/// An error's body, by its HTTP status.
pub fn error_body(message: &str, status: u16, id: &str) -> Json {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    };
    json!({
        "type": "error",
        "error": { "type": kind, "message": message },
        "request_id": format!("req_{id}"),
    })
}

/// The kind of the open text block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
}

/// The encoder of one answer.
pub struct MessageEncoder {
    id: String,
    model: String,
    blocks: Vec<Json>,
    open: Option<Block>,
    finish: Option<Finish>,
}

impl MessageEncoder {
    /// Starts an answer without blocks.
    pub fn new(id: String, model: String) -> Self {
        MessageEncoder {
            id,
            model,
            blocks: Vec::new(),
            open: None,
            finish: None,
        }
    }

    fn message(&self) -> Json {
        json!({
            "id": format!("msg_{}", self.id),
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
        })
    }

    fn close(&mut self) -> Option<Event> {
        self.open.take()?;
        let index = self.blocks.len() - 1;
        Some(Event::named(
            "content_block_stop",
            json!({ "index": index }),
        ))
    }

    /// Adds text to the open block, or to a new one.
    fn add(&mut self, block: Block, more: &str) -> Vec<Event> {
        let (kind, field, delta) = match block {
            Block::Thinking => ("thinking", "thinking", "thinking_delta"),
            Block::Text => ("text", "text", "text_delta"),
        };
        let mut events = Vec::new();
        if self.open != Some(block) {
            events.extend(self.close());
            let mut empty = json!({ "type": kind, field: "" });
            if block == Block::Thinking {
                empty["signature"] = "".into();
            }
            self.blocks.push(empty.clone());
            self.open = Some(block);
            let index = self.blocks.len() - 1;
            let data = json!({ "index": index, "content_block": empty });
            events.push(Event::named("content_block_start", data));
        }
        let index = self.blocks.len() - 1;
        append(&mut self.blocks[index][field], more);
        let data = json!({ "index": index, "delta": { "type": delta, field: more } });
        events.push(Event::named("content_block_delta", data));
        events
    }

    fn stop(&self) -> (&'static str, Json) {
        let called = self.blocks.iter().any(|block| block["type"] == "tool_use");
        let Some(finish) = &self.finish else {
            return ("end_turn", Json::Null);
        };
        match (finish.reason, &finish.stop) {
            _ if called => ("tool_use", Json::Null),
            (Reason::Length | Reason::Repetition, _) => ("max_tokens", Json::Null),
            (Reason::Stop, Some(stop)) => ("stop_sequence", stop.as_str().into()),
            (Reason::Stop, None) => ("end_turn", Json::Null),
        }
    }
}

/// Tokens read from the prefix cache are counted separately, not among `input_tokens`.
fn usage_json(usage: &Usage) -> Json {
    json!({
        "input_tokens": usage.prompt_tokens.saturating_sub(usage.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.answer_tokens,
    })
}

impl Encoder for MessageEncoder {
    fn open(&mut self, usage: &Usage) -> Vec<Event> {
        let mut message = self.message();
        message["usage"] = usage_json(usage);
        let start = Event::named("message_start", json!({ "message": message }));
        vec![start, Event::named("ping", json!({}))]
    }

    fn beat(&mut self) -> Option<Event> {
        Some(Event::named("ping", json!({})))
    }

    fn encode(&mut self, _: usize, delta: Delta) -> Vec<Event> {
        match delta {
            Delta::Logprob(_) => Vec::new(),
            Delta::Thinking(text) => self.add(Block::Thinking, &text),
            Delta::Text(text) => self.add(Block::Text, &text),
            Delta::Call { call, .. } => {
                let mut events: Vec<Event> = self.close().into_iter().collect();
                let input: Json =
                    serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
                let index = self.blocks.len();
                let head = json!({ "type": "tool_use", "id": call.id, "name": call.name });
                let mut empty = head.clone();
                empty["input"] = json!({});
                let mut whole = head;
                whole["input"] = input;
                self.blocks.push(whole);
                let delta = json!({ "type": "input_json_delta", "partial_json": call.arguments });
                events.extend([
                    Event::named(
                        "content_block_start",
                        json!({ "index": index, "content_block": empty }),
                    ),
                    Event::named(
                        "content_block_delta",
                        json!({ "index": index, "delta": delta }),
                    ),
                    Event::named("content_block_stop", json!({ "index": index })),
                ]);
                events
            }
            Delta::Finish(finish) => {
                let mut events: Vec<Event> = self.close().into_iter().collect();
                let usage = usage_json(&finish.usage);
                self.finish = Some(*finish);
                let (reason, sequence) = self.stop();
                let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
                let data = json!({ "delta": delta, "usage": usage });
                events.push(Event::named("message_delta", data));
                events.push(Event::named("message_stop", json!({})));
                events
            }
        }
    }

    fn fail(&mut self, error: &Error) -> Vec<Event> {
        let body = error_body(&error.public_text(), 500, &self.id);
        vec![Event::named("error", body)]
    }

    fn complete(&mut self) -> Json {
        let mut message = self.message();
        let (reason, sequence) = self.stop();
        message["content"] = self.blocks.clone().into();
        message["stop_reason"] = reason.into();
        message["stop_sequence"] = sequence;
        let usage = self.finish.as_ref().map(|finish| finish.usage);
        message["usage"] = usage_json(&usage.unwrap_or_default());
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::message;

    #[test]
    fn blocks_open_and_close_in_turn() {
        let mut encoder = MessageEncoder::new("0".into(), "m".into());
        let mut names = Vec::new();
        let deltas = [
            Delta::Thinking("hm".into()),
            Delta::Text("a".into()),
            Delta::Text("b".into()),
            Delta::Call {
                index: 0,
                call: message::ToolCall {
                    id: Some("c".into()),
                    name: "f".into(),
                    arguments: "{}".into(),
                },
            },
            Delta::Finish(Box::new(Finish {
                reason: Reason::Stop,
                usage: Usage::default(),
                context: Vec::new(),
                stop: None,
            })),
        ];
        for delta in deltas {
            names.extend(
                encoder
                    .encode(0, delta)
                    .into_iter()
                    .filter_map(|event| event.name),
            );
        }
        let short: Vec<&str> = names
            .iter()
            .map(|name| name.rsplit('_').next().unwrap())
            .collect();
        assert_eq!(
            short,
            [
                "start", "delta", "stop", "start", "delta", "delta", "stop", "start", "delta",
                "stop", "delta", "stop"
            ]
        );
        let whole = encoder.complete();
        assert_eq!(whole["stop_reason"], "tool_use");
        assert_eq!(whole["content"][1]["text"], "ab");
        assert_eq!(whole["content"][0]["signature"], "");
    }
}
