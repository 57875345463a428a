//! The records of `/api/generate` and `/api/chat`: fields in the reference's order, absent where the
//! reference omits them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::calls::call_json;
use super::is_false;
use crate::core::clock;
use crate::core::error::Error;
use crate::core::message::{self, Delta, Finish, Logprob, Reason};
use crate::core::turn::TurnRequest;
use crate::format::wire::encoder::{Encoder, Event, Framing};

/// The usage of an answer, in nanoseconds and tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    #[serde(skip_serializing_if = "is_zero")]
    total_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    load_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    prompt_eval_duration: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    eval_duration: u64,
    /// Ours: tokens dropped from the prompt; absent if 0.
    #[serde(skip_serializing_if = "is_zero")]
    prompt_truncated_count: u64,
    /// Ours: tokens dropped because the context was full; absent if 0.
    #[serde(skip_serializing_if = "is_zero")]
    context_shifted_count: u64,
    /// Ours: tokens of the prompt that were cached and not computed; absent if 0.
    #[serde(skip_serializing_if = "is_zero")]
    prompt_cached_count: u64,
    /// Ours: tokens guessed and computed in advance; absent if 0.
    #[serde(skip_serializing_if = "is_zero")]
    draft_count: u64,
    /// Ours: those of them that the answer kept; absent if 0.
    #[serde(skip_serializing_if = "is_zero")]
    draft_accepted_count: u64,
}

/// A duration in nanoseconds, the API's unit.
pub fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl From<message::Usage> for Metrics {
    fn from(usage: message::Usage) -> Self {
        Metrics {
            total_duration: nanos(usage.total),
            load_duration: nanos(usage.load),
            prompt_eval_count: usage.prompt_tokens as u64,
            prompt_eval_duration: nanos(usage.prompt),
            eval_count: usage.answer_tokens as u64,
            eval_duration: nanos(usage.answer),
            prompt_cached_count: usage.cached_tokens as u64,
            prompt_truncated_count: usage.truncated_tokens as u64,
            context_shifted_count: usage.shifted_tokens as u64,
            draft_count: usage.draft_tokens as u64,
            draft_accepted_count: usage.draft_tokens_kept as u64,
        }
    }
}

impl From<Metrics> for message::Usage {
    fn from(metrics: Metrics) -> Self {
        let duration = std::time::Duration::from_nanos;
        message::Usage {
            prompt_tokens: metrics.prompt_eval_count as usize,
            cached_tokens: metrics.prompt_cached_count as usize,
            truncated_tokens: metrics.prompt_truncated_count as usize,
            shifted_tokens: metrics.context_shifted_count as usize,
            answer_tokens: metrics.eval_count as usize,
            draft_tokens: metrics.draft_count as usize,
            draft_tokens_kept: metrics.draft_accepted_count as usize,
            total: duration(metrics.total_duration),
            load: duration(metrics.load_duration),
            prompt: duration(metrics.prompt_eval_duration),
            answer: duration(metrics.eval_duration),
        }
    }
}

/// The answer of `/api/embed`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EmbedRecord {
    /// The model's name as given.
    pub model: String,
    /// One vector per text.
    pub embeddings: Vec<Vec<f32>>,
    /// Total time in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_duration: u64,
    /// Time until the model was loaded, in nanoseconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub load_duration: u64,
    /// Tokens of all texts together.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_eval_count: u64,
}

/// The answer of `/api/embeddings`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct EmbeddingRecord {
    /// The vector of the prompt.
    pub embedding: Vec<f64>,
}

/// A record of `/api/generate` or `/api/chat`.
pub trait Record: Serialize {
    /// An empty record with the current time.
    fn new(model: &str) -> Self;

    /// Adds a delta: to a record of its own in a stream, else to the single record of the answer.
    fn add(&mut self, delta: Delta);

    /// Sets the rendered prompt, for a request that asks only for it.
    fn debug(&mut self, info: DebugInfo);

    /// Marks the record as done without an answer, for a request that only loads or unloads.
    fn only(&mut self, reason: &str);
}

/// A record of `/api/generate`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerateRecord {
    /// The model's name as given.
    pub model: String,
    /// When the record was created, in RFC 3339.
    pub created_at: String,
    /// The text.
    pub response: String,
    /// The thinking.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    /// True on the last record.
    pub done: bool,
    /// The reason it ended: `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub done_reason: String,
    /// Ours: it ended because it went round in circles.
    #[serde(skip_serializing_if = "is_false")]
    pub repeats: bool,
    /// Tokens for the `context` of a later request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<i32>,
    /// The usage, on the last record.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// The tool calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Json>,
    /// The rendered prompt, for a request that asks only for it.
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    pub debug_info: Option<DebugInfo>,
    /// The log probabilities of tokens, if requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<Json>,
}

/// A record of `/api/chat`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRecord {
    /// The model's name as given.
    pub model: String,
    /// When the record was created, in RFC 3339.
    pub created_at: String,
    /// The next piece of the answer.
    pub message: AnswerMessage,
    /// True on the last record.
    pub done: bool,
    /// The reason it ended: `stop`, `length`, `load` or `unload`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub done_reason: String,
    /// Ours: it ended because it went round in circles.
    #[serde(skip_serializing_if = "is_false")]
    pub repeats: bool,
    /// The rendered prompt, for a request that asks only for it.
    #[serde(rename = "_debug_info", skip_serializing_if = "Option::is_none")]
    pub debug_info: Option<DebugInfo>,
    /// The log probabilities of tokens, if requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<Json>,
    /// The usage, on the last record.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// The message of a chat record.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// The thinking.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub thinking: String,
    /// The tool calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Json>,
}

/// The answer to `_debug_render_only`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DebugInfo {
    /// The exact prompt.
    pub rendered_template: String,
    /// Ours: tokens dropped to make it fit; absent if 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub prompt_truncated_count: u64,
}

impl Record for GenerateRecord {
    fn new(model: &str) -> Self {
        GenerateRecord {
            model: model.into(),
            created_at: now(),
            ..GenerateRecord::default()
        }
    }

    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Logprob(logprob) => self.logprobs.push(logprob_json(&logprob)),
            Delta::Text(text) => self.response += &text,
            Delta::Thinking(text) => self.thinking += &text,
            Delta::Call { index, call } => self.tool_calls.push(call_json(&call, index)),
            Delta::Finish(finish) => {
                self.done = true;
                self.done_reason = finish.reason.word().into();
                self.repeats = finish.reason == Reason::Repetition;
                self.context = finish.context;
                self.metrics = finish.usage.into();
            }
        }
    }

    fn debug(&mut self, info: DebugInfo) {
        self.debug_info = Some(info);
    }

    fn only(&mut self, reason: &str) {
        self.done = true;
        self.done_reason = reason.into();
    }
}

impl Record for ChatRecord {
    fn new(model: &str) -> Self {
        let message = AnswerMessage {
            role: "assistant".into(),
            ..AnswerMessage::default()
        };
        ChatRecord {
            model: model.into(),
            created_at: now(),
            message,
            ..ChatRecord::default()
        }
    }

    fn add(&mut self, delta: Delta) {
        match delta {
            Delta::Logprob(logprob) => self.logprobs.push(logprob_json(&logprob)),
            Delta::Text(text) => self.message.content += &text,
            Delta::Thinking(text) => self.message.thinking += &text,
            Delta::Call { index, call } => self.message.tool_calls.push(call_json(&call, index)),
            Delta::Finish(finish) => {
                self.done = true;
                self.done_reason = finish.reason.word().into();
                self.repeats = finish.reason == Reason::Repetition;
                self.metrics = finish.usage.into();
            }
        }
    }

    fn debug(&mut self, info: DebugInfo) {
        self.message = AnswerMessage::default();
        self.debug_info = Some(info);
    }

    fn only(&mut self, reason: &str) {
        self.done = true;
        self.done_reason = reason.into();
    }
}

impl GenerateRecord {
    /// The deltas in a record received from a server.
    pub fn deltas(self) -> Vec<Delta> {
        let end = self
            .done
            .then(|| finish(&self.done_reason, self.repeats, self.metrics));
        deltas(self.thinking, self.response, &self.tool_calls, end)
    }
}

impl ChatRecord {
    /// The deltas in a record received from a server.
    pub fn deltas(self) -> Vec<Delta> {
        let end = self
            .done
            .then(|| finish(&self.done_reason, self.repeats, self.metrics));
        deltas(
            self.message.thinking,
            self.message.content,
            &self.message.tool_calls,
            end,
        )
    }
}

fn deltas(thinking: String, text: String, calls: &[Json], end: Option<Delta>) -> Vec<Delta> {
    let thinking = (!thinking.is_empty()).then_some(Delta::Thinking(thinking));
    let text = (!text.is_empty()).then_some(Delta::Text(text));
    let calls = calls.iter().enumerate().map(|(at, json)| {
        let index = json["function"]["index"]
            .as_u64()
            .map_or(at, |index| index as usize);
        Delta::Call {
            index,
            call: super::tool_call(json),
        }
    });
    thinking
        .into_iter()
        .chain(text)
        .chain(calls)
        .chain(end)
        .collect()
}

fn finish(word: &str, repeats: bool, metrics: Metrics) -> Delta {
    let reason = match word {
        _ if repeats => Reason::Repetition,
        "length" => Reason::Length,
        _ => Reason::Stop,
    };
    Delta::Finish(Box::new(Finish {
        reason,
        usage: metrics.into(),
        context: Vec::new(),
        stop: None,
    }))
}

/// The encoder of the native API: one record a token, or one record of the complete answer.
pub struct NativeEncoder<R> {
    model: String,
    /// The answer is streamed, so its record need not be kept.
    streams: bool,
    record: R,
}

impl<R: Record> NativeEncoder<R> {
    /// An encoder for the answer to this turn.
    pub fn new(turn: &TurnRequest) -> Self {
        NativeEncoder {
            model: turn.model.clone(),
            streams: turn.stream,
            record: R::new(&turn.model),
        }
    }
}

impl<R: Record> Encoder for NativeEncoder<R> {
    fn framing(&self) -> Framing {
        Framing::Lines
    }

    fn open(&mut self, _: &message::Usage) -> Vec<Event> {
        Vec::new()
    }

    fn encode(&mut self, index: usize, delta: Delta) -> Vec<Event> {
        self.encode_token(index, vec![delta])
    }

    fn encode_token(&mut self, _: usize, deltas: Vec<Delta>) -> Vec<Event> {
        if !self.streams {
            deltas.into_iter().for_each(|delta| self.record.add(delta));
            return Vec::new();
        }
        let mut record = R::new(&self.model);
        deltas.into_iter().for_each(|delta| record.add(delta));
        vec![Event::new(json!(record))]
    }

    fn beat(&mut self) -> Option<Event> {
        Some(Event::new(json!(R::new(&self.model))))
    }

    fn fail(&mut self, error: &Error) -> Vec<Event> {
        vec![Event::new(super::error_record(error))]
    }

    fn complete(&mut self) -> Json {
        json!(self.record)
    }

    fn loaded(&mut self, reason: &'static str) -> Vec<Event> {
        self.record.only(reason);
        Vec::new()
    }

    fn rendered(&mut self, prompt: String, truncated_tokens: usize) -> Json {
        self.record.debug(DebugInfo {
            rendered_template: prompt,
            prompt_truncated_count: truncated_tokens as u64,
        });
        json!(self.record)
    }
}

/// A token's log probability in the wire format.
fn logprob_json(logprob: &Logprob) -> Json {
    let token = String::from_utf8_lossy(&logprob.bytes);
    let mut json = json!({ "token": token, "logprob": logprob.logprob });
    if !logprob.bytes.is_empty() {
        json["bytes"] = logprob.bytes.clone().into();
    }
    if !logprob.top.is_empty() {
        json["top_logprobs"] = logprob.top.iter().map(logprob_json).collect();
    }
    json
}

fn now() -> String {
    clock::rfc3339(SystemTime::now())
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::json;
    use crate::core::message::ToolCall;

    #[test]
    fn records_have_the_references_fields_in_its_order() {
        let mut record = ChatRecord::new("m");
        record.only("load");
        record.created_at = "T".into();
        let text = r#"{"model":"m","created_at":"T","message":{"role":"assistant","content":""},"done":true,"done_reason":"load"}"#;
        assert_eq!(json::line(&record), text);
        let mut record = ChatRecord::new("m");
        record.created_at = "T".into();
        record.add(Delta::Thinking("t".into()));
        let call = ToolCall {
            id: Some("i".into()),
            name: "f".into(),
            arguments: r#"{"b":1,"a":2}"#.into(),
        };
        record.add(Delta::Call { index: 0, call });
        let text = r#"{"model":"m","created_at":"T","message":{"role":"assistant","content":"","thinking":"t","tool_calls":[{"id":"i","function":{"index":0,"name":"f","arguments":{"b":1,"a":2}}}]},"done":false}"#;
        assert_eq!(json::line(&record), text);
    }
}
