//! One turn: a conversation or a raw prompt in, the pieces of an answer out. The one path that
//! every face takes to an answer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use crate::duration::KeepAlive;
use crate::engine::{Answer, Engine, Event, Job, Sampling};
use crate::error::{Error, Result};
use crate::message::{Delta, Finish, Message, Reason, Usage};
use crate::model::Model;
use crate::options::Options;
use crate::pool::{Lease, Pool, Progress};
use crate::prompt::Surroundings;
use crate::reply::{Stops, Utf8};

/// Tokens of an answer where nothing limits it and no context was asked for.
const ANSWER_TOKENS: usize = 2048;
/// Tokens kept at the front of a raw prompt that is cut (the API's default `num_keep`).
const KEEP_TOKENS: i64 = 4;

/// A context below this cannot be cut to.
const LIMIT_MIN: usize = 4;

/// What to continue.
#[derive(Debug, Clone)]
pub enum Input {
    /// A conversation, rendered with the model's template.
    Chat(Vec<Message>),
    /// A prompt as it is.
    Raw(String),
}

/// What to do when the input is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Fail with both numbers.
    Error,
    /// Drop the oldest messages, then the middle of the prompt, and say how much.
    Truncate,
}

/// One turn to take.
pub struct Request<'a> {
    /// The model.
    pub model: &'a Model,
    /// What to continue.
    pub input: Input,
    /// Text put before the rendered prompt: tokens of an earlier answer.
    pub context: Vec<i32>,
    /// Options of this request, over the model's own.
    pub options: Options,
    /// How long the model stays loaded afterwards.
    pub keep_alive: Option<KeepAlive>,
    /// What to do with too long an input.
    pub overflow: Overflow,
    /// Set by whoever wants it to end early.
    pub cancel: Arc<AtomicBool>,
    /// When it was asked.
    pub started: Instant,
}

/// The options in force: the model's own, overlaid with the request's.
pub fn options_in_force(model: &Model, options: &Options) -> Options {
    let mut merged = model.options.clone();
    merged.overlay(options);
    merged
}

/// The whole conversation: the model's SYSTEM unless the request brings one, its MESSAGEs, then
/// the request's.
pub fn conversation(model: &Model, asked: Vec<Message>) -> Vec<Message> {
    let brings_system = asked
        .first()
        .is_some_and(|message| message.role == "system");
    let system = model
        .system
        .iter()
        .filter(|text| !brings_system && !text.is_empty());
    let system = system.map(|text| Message::new("system", text));
    system
        .chain(model.messages.iter().cloned())
        .chain(asked)
        .collect()
}

/// The prompt text of a request, as the model will see it.
///
/// # Errors
/// What the template raises.
pub fn render(model: &Model, engine: &Engine, messages: &[Message]) -> Result<String> {
    let (begin, end) = engine.border_texts();
    model.template.render(
        messages,
        &Surroundings {
            begin: &begin,
            end: &end,
            now: SystemTime::now(),
        },
    )
}

/// Starts a turn; returns once its prompt is accepted.
///
/// # Errors
/// Everything that is wrong with the request shows here and not in the middle of the answer.
pub fn start(pool: &Pool, request: Request, progress: Progress) -> Result<Turn> {
    let options = options_in_force(request.model, &request.options);
    let lease = pool.acquire(
        request.model,
        &options,
        request.keep_alive,
        &request.cancel,
        progress,
    )?;
    let load = request.started.elapsed();
    let prompt = prompt_tokens(&request, &options, &lease)?;
    let answer_tokens = match (options.int("num_predict"), lease.context_tokens) {
        (Some(limit @ 0..), _) => usize::try_from(limit).unwrap_or(usize::MAX),
        (_, Some(_)) => usize::MAX,
        (_, None) => ANSWER_TOKENS,
    };
    let job = Job {
        prompt: prompt.tokens.clone(),
        answer_tokens,
        sampling: Sampling::of(&options),
        patience: lease.patience(),
        cancel: request.cancel.clone(),
    };
    let answer = lease.engine().submit(job)?;
    let cached_tokens = match answer.next()? {
        Event::Admitted { cached_tokens } => cached_tokens,
        Event::Failed(error) => return Err(error),
        event => return Err(Error::failed(format!("the engine began with {event:?}"))),
    };
    let usage = Usage {
        prompt_tokens: prompt.tokens.len(),
        cached_tokens,
        truncated_tokens: prompt.truncated_tokens,
        load,
        ..Usage::default()
    };
    Ok(Turn {
        answer,
        lease,
        utf8: Utf8::default(),
        stops: Stops::new(options.texts("stop").unwrap_or_default()),
        usage,
        context: prompt.tokens,
        started: request.started,
        admitted: Instant::now(),
        first_token: None,
        ended: None,
        done: false,
    })
}

struct Prompt {
    tokens: Vec<i32>,
    truncated_tokens: usize,
}

fn prompt_tokens(request: &Request, options: &Options, lease: &Lease) -> Result<Prompt> {
    let engine = lease.engine();
    let limit = lease
        .context_tokens
        .map_or(engine.trained_tokens(), |tokens| tokens as usize);
    let whole = match &request.input {
        Input::Raw(text) => tokenize(engine, text),
        Input::Chat(messages) => chat_tokens(request, messages, engine)?,
    };
    if whole.is_empty() {
        return Err(Error::usage("the prompt is empty"));
    }
    if whole.len() < limit || limit < LIMIT_MIN || request.overflow == Overflow::Error {
        return Ok(Prompt {
            tokens: whole,
            truncated_tokens: 0,
        });
    }
    let tokens = match &request.input {
        Input::Raw(_) => whole.clone(),
        Input::Chat(messages) => shortened(request, messages, engine, limit)?,
    };
    let tokens = if tokens.len() < limit {
        tokens
    } else {
        cut_middle(&tokens, options, engine, limit)
    };
    Ok(Prompt {
        truncated_tokens: whole.len() - tokens.len(),
        tokens,
    })
}

fn chat_tokens(request: &Request, messages: &[Message], engine: &Engine) -> Result<Vec<i32>> {
    let earlier = if request.context.is_empty() {
        String::new()
    } else {
        engine.text(&request.context)
    };
    let rendered = render(request.model, engine, messages)?;
    Ok(tokenize(engine, &(earlier + &rendered)))
}

/// Token ids of a prompt; a begin token that the text already brings is not put there twice.
pub fn tokenize(engine: &Engine, text: &str) -> Vec<i32> {
    let (begin, _) = engine.border_texts();
    let brings = !begin.is_empty() && text.starts_with(&begin);
    engine.tokens(text, engine.wants_begin() && !brings, true)
}

/// Drops messages from the front until the rest fits; system messages and the last one stay.
fn shortened(
    request: &Request,
    messages: &[Message],
    engine: &Engine,
    limit: usize,
) -> Result<Vec<i32>> {
    let mut tokens = Vec::new();
    for dropped in 1..messages.len() {
        let (front, rest) = messages.split_at(dropped);
        let systems = front
            .iter()
            .filter(|message| message.role == "system")
            .cloned();
        let kept: Vec<Message> = systems.chain(rest.iter().cloned()).collect();
        if kept.len() == messages.len() {
            continue; // Only system messages were in front: nothing is shorter.
        }
        tokens = chat_tokens(request, &kept, engine)?;
        if tokens.len() < limit {
            return Ok(tokens);
        }
    }
    if tokens.is_empty() {
        chat_tokens(request, messages, engine)
    } else {
        Ok(tokens)
    }
}

/// Keeps the first `num_keep` tokens and the end, so that about half the context is free again.
fn cut_middle(tokens: &[i32], options: &Options, engine: &Engine, limit: usize) -> Vec<i32> {
    let keep = match options.int("num_keep").unwrap_or(KEEP_TOKENS) {
        keep @ 0.. => keep as usize + usize::from(engine.wants_begin()),
        _ => limit,
    };
    let keep = keep.min(limit.saturating_sub(2));
    let total = limit - ((limit - keep) / 2).max(1);
    let tail = tokens.len() - (total - keep);
    [&tokens[..keep], &tokens[tail..]].concat()
}

/// An answer as it comes. Dropping it cancels what is left.
pub struct Turn {
    answer: Answer,
    lease: Lease,
    utf8: Utf8,
    stops: Stops,
    usage: Usage,
    context: Vec<i32>,
    started: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
    ended: Option<Finish>,
    done: bool,
}

impl Turn {
    /// Where the model computes.
    pub fn device(&self) -> String {
        let facts = self.lease.engine().facts();
        match facts.gpu_layers {
            0 => facts.device.clone(),
            layers => format!("{}, {layers} of {} layers", facts.device, facts.layers),
        }
    }

    fn step(&mut self) -> Result<Option<Delta>> {
        if let Some(finish) = self.ended.take() {
            self.done = true;
            return Ok(Some(Delta::Finish(Box::new(finish))));
        }
        match self.answer.next()? {
            Event::Token { id, bytes } => Ok(self.token(id, &bytes)),
            Event::End {
                reason,
                prompt,
                answer,
            } => {
                let held = self.utf8.finish();
                let (mut text, found) = self.stops.push(&held);
                text += &self.stops.finish();
                let reason = if found { Reason::Stop } else { reason };
                self.end(reason, prompt, answer);
                Ok((!text.is_empty()).then_some(Delta::Text(text)))
            }
            Event::Failed(error) => Err(error),
            Event::Admitted { .. } => Ok(None),
        }
    }

    fn token(&mut self, id: i32, bytes: &[u8]) -> Option<Delta> {
        self.first_token.get_or_insert_with(Instant::now);
        self.usage.answer_tokens += 1;
        self.context.push(id);
        let whole = self.utf8.push(bytes);
        let (text, found) = self.stops.push(&whole);
        if found {
            let first = self.first_token.unwrap_or(self.admitted);
            self.end(Reason::Stop, first - self.admitted, first.elapsed());
        }
        (!text.is_empty()).then_some(Delta::Text(text))
    }

    fn end(&mut self, reason: Reason, prompt: Duration, answer: Duration) {
        self.usage.prompt = prompt;
        self.usage.answer = answer;
        self.usage.total = self.started.elapsed();
        self.ended = Some(Finish {
            reason,
            usage: self.usage,
            context: std::mem::take(&mut self.context),
        });
    }
}

impl Iterator for Turn {
    type Item = Result<Delta>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            match self.step() {
                Ok(None) => {}
                Ok(Some(delta)) => return Some(Ok(delta)),
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
