//! Encodes OpenAI's chat completions and completions, complete or as chunks, and errors.

use serde_json::{Value as Json, json};

use crate::core::error::Error;
use crate::core::message::{Delta, Finish, Logprob, Message, Reason, ToolCall, Usage};
use crate::format::wire::encoder::{Encoder, Event};

/// The reference's fingerprint, which clients may check for.
const FINGERPRINT: &str = "fp_ollama";

/// An error's body, by its HTTP status.
pub fn error_body(message: &str, status: u16) -> Json {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        _ => "api_error",
    };
    json!({ "error": { "message": message, "type": kind, "param": null, "code": null } })
}

/// The usage of an answer.
fn usage_json(usage: &Usage) -> Json {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.answer_tokens,
        "total_tokens": usage.prompt_tokens + usage.answer_tokens,
        "prompt_tokens_details": { "cached_tokens": usage.cached_tokens },
    })
}

/// One of the answers (`n`) to a prompt.
#[derive(Debug, Default)]
struct Choice {
    message: Message,
    /// Logprobs not sent in a chunk yet (`pending`), and those of the complete answer.
    pending: Vec<Json>,
    logprobs: Vec<Json>,
    opened: bool,
    finish: Option<Finish>,
}

/// The fields that both kinds of completion share.
pub struct Head {
    /// The answer's id.
    pub id: String,
    /// When it was created, in Unix seconds.
    pub created: u64,
    /// The model's name as given.
    pub model: String,
    /// Send the usage at the end of a stream.
    pub include_usage: bool,
    /// The answer is streamed, so its text need not be stored.
    pub streams: bool,
}

/// The state of all choices, and the fields common to their records.
struct Answers {
    head: Head,
    choices: Vec<Choice>,
}

impl Answers {
    fn new(head: Head, choices: usize) -> Self {
        Answers {
            head,
            choices: (0..choices).map(|_| Choice::default()).collect(),
        }
    }

    fn record(&self, object: &str, choices: Json) -> Json {
        json!({
            "id": self.head.id,
            "object": object,
            "created": self.head.created,
            "model": self.head.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    /// The record of the complete answers.
    fn complete_record(
        &self,
        object: &str,
        choice_json: impl Fn((usize, &Choice)) -> Json,
    ) -> Json {
        let choices = self.choices.iter().enumerate().map(choice_json).collect();
        let mut record = self.record(object, choices);
        record["usage"] = usage_json(&usage_of(&self.choices));
        record
    }

    /// The usage event after the last choice has finished, if requested.
    fn cost(&self, object: &str) -> Option<Event> {
        let all = self.choices.iter().all(|choice| choice.finish.is_some());
        (self.head.include_usage && all).then(|| {
            let mut record = self.record(object, json!([]));
            record["usage"] = usage_json(&usage_of(&self.choices));
            Event::new(record)
        })
    }
}

const CHUNK: &str = "chat.completion.chunk";

/// The encoder of a chat completion.
pub struct ChatEncoder(Answers);

impl ChatEncoder {
    /// Starts a completion with this many choices.
    pub fn new(head: Head, choices: usize) -> Self {
        ChatEncoder(Answers::new(head, choices))
    }

    fn piece(&mut self, index: usize, mut delta: Json) -> Event {
        let choice = &mut self.0.choices[index];
        if !std::mem::replace(&mut choice.opened, true) {
            let mut first = json!({ "role": "assistant" });
            let fields = delta.as_object_mut().into_iter().flatten();
            fields.for_each(|(key, value)| first[key] = value.take());
            delta = first;
        }
        let mut choice_json = json!({ "index": index, "delta": delta, "finish_reason": null });
        let pending = std::mem::take(&mut choice.pending);
        if !pending.is_empty() {
            choice_json["logprobs"] = json!({ "content": pending });
        }
        Event::new(self.0.record(CHUNK, json!([choice_json])))
    }

    fn ended(&mut self, index: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let choice = &self.0.choices[index];
        if !choice.opened || !choice.pending.is_empty() {
            events.push(self.piece(index, json!({ "content": "" })));
        }
        let reason = self.0.choices[index].reason();
        let last = json!([{ "index": index, "delta": {}, "finish_reason": reason }]);
        events.push(Event::new(self.0.record(CHUNK, last)));
        events.extend(self.0.cost(CHUNK));
        events
    }
}

impl Choice {
    /// Stores what the last chunk needs, and everything if the answer is not streamed.
    fn store(&mut self, delta: &Delta, streams: bool) {
        match delta {
            Delta::Logprob(logprob) if streams => self.pending.push(logprob_json(logprob)),
            Delta::Logprob(logprob) => self.logprobs.push(logprob_json(logprob)),
            Delta::Text(_) | Delta::Thinking(_) if streams => {}
            delta => self.message.add(delta),
        }
    }

    fn reason(&self) -> &'static str {
        match self.finish.as_ref().map(|finish| finish.reason) {
            Some(Reason::Stop) if !self.message.tool_calls.is_empty() => "tool_calls",
            Some(reason) => reason.word(),
            None => "stop",
        }
    }
}

/// The usage of all choices: the prompt counts once, the answers are summed.
fn usage_of(choices: &[Choice]) -> Usage {
    let finishes = choices.iter().filter_map(|choice| choice.finish.as_ref());
    let all: Vec<Usage> = finishes.map(|finish| finish.usage).collect();
    let sum = |count: fn(&Usage) -> usize| all.iter().map(count).sum();
    Usage {
        answer_tokens: sum(|usage| usage.answer_tokens),
        draft_tokens: sum(|usage| usage.draft_tokens),
        draft_tokens_kept: sum(|usage| usage.draft_tokens_kept),
        ..all.first().copied().unwrap_or_default()
    }
}

/// A tool call, with its index among all calls of the answer.
fn call_json(call: &ToolCall, index: usize) -> Json {
    json!({
        "id": call.id,
        "index": index,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments },
    })
}

fn logprob_json(logprob: &Logprob) -> Json {
    let one = |logprob: &Logprob| {
        json!({
            "token": String::from_utf8_lossy(&logprob.bytes),
            "logprob": logprob.logprob,
            "bytes": logprob.bytes,
        })
    };
    let mut choice_json = one(logprob);
    choice_json["top_logprobs"] = logprob.top.iter().map(one).collect();
    choice_json
}

impl Encoder for ChatEncoder {
    fn open(&mut self, _: &Usage) -> Vec<Event> {
        Vec::new()
    }

    fn encode(&mut self, index: usize, delta: Delta) -> Vec<Event> {
        let choice = &mut self.0.choices[index];
        choice.store(&delta, self.0.head.streams);
        match delta {
            Delta::Logprob(_) => Vec::new(),
            Delta::Thinking(text) => {
                vec![self.piece(index, json!({ "content": "", "reasoning": text }))]
            }
            Delta::Text(text) => vec![self.piece(index, json!({ "content": text }))],
            Delta::Call { index: place, call } => {
                let calls = json!([call_json(&call, place)]);
                vec![self.piece(index, json!({ "content": "", "tool_calls": calls }))]
            }
            Delta::Finish(finish) => {
                choice.finish = Some(*finish);
                self.ended(index)
            }
        }
    }

    fn fail(&mut self, error: &Error) -> Vec<Event> {
        vec![Event::new(error_body(&error.public_text(), 500))]
    }

    fn complete(&mut self) -> Json {
        let choice_json = |(index, choice): (usize, &Choice)| {
            let mut message = json!({ "role": "assistant", "content": choice.message.content });
            if let Some(thinking) = &choice.message.thinking {
                message["reasoning"] = thinking.as_str().into();
            }
            let calls = choice.message.tool_calls.iter().enumerate();
            if !choice.message.tool_calls.is_empty() {
                message["tool_calls"] = calls.map(|(at, call)| call_json(call, at)).collect();
            }
            let mut choice_json = json!({
                "index": index,
                "message": message,
                "finish_reason": choice.reason(),
            });
            if !choice.logprobs.is_empty() {
                choice_json["logprobs"] = json!({ "content": choice.logprobs });
            }
            choice_json
        };
        self.0.complete_record("chat.completion", choice_json)
    }

    fn end(&self) -> &'static str {
        "data: [DONE]\n\n"
    }
}

const TEXT: &str = "text_completion";

/// The encoder of a completion.
pub struct CompletionEncoder {
    answers: Answers,
    loads: bool,
}

impl CompletionEncoder {
    /// Starts a completion with this many choices; `loads`: an empty prompt only loads the model.
    pub fn new(head: Head, choices: usize, loads: bool) -> Self {
        CompletionEncoder {
            answers: Answers::new(head, choices),
            loads,
        }
    }

    fn reason(&self, finish: &Finish) -> &'static str {
        if self.loads {
            "load"
        } else {
            finish.reason.word()
        }
    }
}

/// Logprobs in the format of completions: one list per field.
fn logprob_lists(logprobs: &[Json]) -> Json {
    let mut offset = 0;
    let (mut offsets, mut tops) = (Vec::new(), Vec::new());
    for logprob in logprobs {
        offsets.push(offset);
        offset += logprob["token"]
            .as_str()
            .unwrap_or_default()
            .chars()
            .count();
        let top = logprob["top_logprobs"].as_array().into_iter().flatten();
        let pair = |top: &Json| {
            (
                top["token"].as_str().unwrap_or_default().to_string(),
                top["logprob"].clone(),
            )
        };
        tops.push(top.map(pair).collect::<serde_json::Map<_, _>>());
    }
    let all = |key: &str| {
        logprobs
            .iter()
            .map(|logprob| logprob[key].clone())
            .collect::<Vec<_>>()
    };
    json!({
        "tokens": all("token"),
        "token_logprobs": all("logprob"),
        "top_logprobs": tops,
        "text_offset": offsets,
    })
}

impl Encoder for CompletionEncoder {
    fn open(&mut self, _: &Usage) -> Vec<Event> {
        Vec::new()
    }

    fn encode(&mut self, index: usize, delta: Delta) -> Vec<Event> {
        let choice = &mut self.answers.choices[index];
        choice.store(&delta, self.answers.head.streams);
        match delta {
            Delta::Logprob(_) => Vec::new(),
            Delta::Text(text) => {
                let mut choice_json =
                    json!({ "text": text, "index": index, "finish_reason": null });
                let pending = std::mem::take(&mut choice.pending);
                if !pending.is_empty() {
                    choice_json["logprobs"] = logprob_lists(&pending);
                }
                vec![Event::new(self.answers.record(TEXT, json!([choice_json])))]
            }
            // Completions have no field for thinking and calls.
            Delta::Thinking(_) | Delta::Call { .. } => Vec::new(),
            Delta::Finish(finish) => {
                let reason = self.reason(&finish);
                self.answers.choices[index].finish = Some(*finish);
                let last = json!([{ "text": "", "index": index, "finish_reason": reason }]);
                let mut events = vec![Event::new(self.answers.record(TEXT, last))];
                events.extend(self.answers.cost(TEXT));
                events
            }
        }
    }

    fn fail(&mut self, error: &Error) -> Vec<Event> {
        vec![Event::new(error_body(&error.public_text(), 500))]
    }

    fn complete(&mut self) -> Json {
        let choice_json = |(index, choice): (usize, &Choice)| {
            let reason = choice.finish.as_ref().map(|finish| self.reason(finish));
            let mut choice_json = json!({
                "text": choice.message.content,
                "index": index,
                "finish_reason": reason,
            });
            if !choice.logprobs.is_empty() {
                choice_json["logprobs"] = logprob_lists(&choice.logprobs);
            }
            choice_json
        };
        self.answers.complete_record(TEXT, choice_json)
    }

    fn end(&self) -> &'static str {
        "data: [DONE]\n\n"
    }
}
