//! One turn: a conversation or a raw prompt in, the pieces of an answer out. The one path that
//! every face takes to an answer.

mod promise;
mod prompt;
mod turn;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

pub use promise::{Promise, ToolChoice};
pub use prompt::{Prompt, Prompter, Token};
pub use turn::Turn;

use crate::dialect::{Dialect, Given};
use crate::duration::KeepAlive;
use crate::engine::{Event, Job, Sampling};
use crate::error::{Class, Error, Result};
use crate::message::{Message, Think, Tool};
use crate::model::Model;
use crate::options::Options;
use crate::pool::{Pool, Progress};

/// Tokens of an answer where nothing limits it and no context was asked for.
const ANSWER_TOKENS: usize = 2048;

/// An answer that nothing limits ends after so many contexts, as the reference's does.
const SHIFTED_CONTEXTS_MAX: usize = 10;

/// What to continue.
#[derive(Debug, Clone)]
pub enum Input {
    /// A conversation, rendered with the model's template.
    Chat(Vec<Message>),
    /// A prompt as it is.
    Raw(String),
    /// What stands before and after a gap.
    Insert(String, String),
}

/// What to do when the input is longer than the context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Fail with both numbers.
    Error,
    /// Drop the oldest messages, then the middle of the prompt, and say how much.
    Truncate,
    /// Drop the oldest messages; what is then still too long is an error.
    Whole,
    /// Cut the longest message, and keep this of it.
    Keep(Part),
}

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its beginning.
    Head,
    /// Its end.
    Tail,
    /// Both ends: the middle goes.
    Ends,
}

impl Part {
    /// Its word for `--overflow`.
    pub fn word(self) -> &'static str {
        match self {
            Part::Head => "head",
            Part::Tail => "tail",
            Part::Ends => "middle",
        }
    }

    /// By the word of `--overflow`: `head` and `tail` name what is kept, `middle` what goes.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "head" => Part::Head,
            "tail" => Part::Tail,
            "middle" => Part::Ends,
            _ => return None,
        })
    }
}

/// One turn to take.
pub struct Request<'a> {
    /// The model.
    pub model: &'a Model,
    /// What to continue.
    pub input: Input,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it must call.
    pub tool_choice: ToolChoice,
    /// Whether to think; `None`: as the model does by itself.
    pub think: Option<Think>,
    /// A TEMPLATE to use instead of the model's own.
    pub template: Option<Given>,
    /// What the answer must look like.
    pub promise: Promise,
    /// Tell how likely each token was, and so many of the likeliest at its place.
    pub likely: Option<usize>,
    /// Tokens that are made likelier or less likely, by what is added to their logits.
    pub bias: Vec<(i32, f32)>,
    /// Text put before the rendered prompt: tokens of an earlier answer.
    pub context: Vec<i32>,
    /// Options of this request, over the model's own.
    pub options: Options,
    /// How long the model stays loaded afterwards.
    pub keep_alive: Option<KeepAlive>,
    /// What to do with too long an input.
    pub overflow: Overflow,
    /// Let the answer go on where the context is full, by dropping older tokens.
    pub shift: bool,
    /// Set by whoever wants it to end early.
    pub cancel: Arc<AtomicBool>,
    /// When it was asked.
    pub started: Instant,
}

impl<'a> Request<'a> {
    /// A request that has only a model and an input.
    pub fn new(model: &'a Model, input: Input) -> Self {
        Request {
            model,
            input,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            think: None,
            template: None,
            promise: Promise::None,
            likely: None,
            bias: Vec::new(),
            context: Vec::new(),
            options: Options::default(),
            keep_alive: None,
            overflow: Overflow::Error,
            shift: false,
            cancel: Arc::default(),
            started: Instant::now(),
        }
    }

    /// How the model is spoken to in this request.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub fn dialect(&self, pool: &Pool) -> Result<Arc<Dialect>> {
        match &self.template {
            Some(given) => Dialect::of(given.choice()).map(Arc::new),
            None => pool.dialect(self.model),
        }
    }
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

/// Starts a turn; returns once its prompt is accepted.
///
/// # Errors
/// Everything that is wrong with the request shows here and not in the middle of the answer.
pub fn start(pool: &Pool, request: Request, progress: Progress) -> Result<Turn> {
    let options = options_in_force(request.model, &request.options);
    if request.model.header.is_embedding() {
        let text = format!("\"{}\" turns text into vectors only", request.model.label);
        return Err(Error::plain(Class::NoText, text));
    }
    let dialect = request.dialect(pool)?;
    refuse_unsupported(&request, &dialect)?;
    let lease = pool.acquire(
        request.model,
        &options,
        request.keep_alive,
        &request.cancel,
        progress,
    )?;
    let load = request.started.elapsed();
    let engine = lease.engine();
    let prompter = Prompter::new(&request, &dialect, engine, &options);
    let prompt = prompter.prompt(lease.context_tokens)?;
    let answer_tokens = match (options.int("num_predict"), lease.context_tokens) {
        (Some(limit @ 0..), _) => usize::try_from(limit).unwrap_or(usize::MAX),
        (_, Some(tokens)) => tokens as usize * SHIFTED_CONTEXTS_MAX,
        (_, None) => ANSWER_TOKENS,
    };
    let shift = request.shift.then(|| prompt::kept_tokens(&options, engine));
    let chats = matches!(request.input, Input::Chat(_));
    let format = chats.then(|| dialect.format());
    let grammar = promise::grammar(&request, format.as_deref(), &prompt.text, engine)?;
    let job = Job {
        prompt: prompt.tokens.clone(),
        answer_tokens,
        sampling: Sampling {
            bias: known(&request.bias, engine.facts().vocabulary),
            ..Sampling::of(&options)
        },
        visible: match &format {
            Some(format) => engine.specials()?.within(&format.marks()),
            None => Vec::new(),
        },
        likely: request.likely,
        guide: grammar.map(|grammar| engine.guide(grammar)).transpose()?,
        budget: promise::budget(&request, &options, format.as_deref(), &prompt.text, engine),
        shift: shift.flatten(),
        endless: false,
        patience: lease.patience(),
        cancel: request.cancel.clone(),
    };
    let answer = engine.submit(job)?;
    let cached_tokens = match answer.next()? {
        Event::Admitted { cached_tokens } => cached_tokens,
        Event::Failed(error) => return Err(error),
        event => return Err(Error::failed(format!("the engine began with {event:?}"))),
    };
    let begun = turn::Begun {
        answer,
        lease,
        load,
        cached_tokens,
    };
    Ok(Turn::new(&request, prompt, &options, format, begun))
}

/// Refuses tools and thinking where the model's prompt has no place for them. A template of the caller's own decides
/// about thinking itself.
fn refuse_unsupported(request: &Request, dialect: &Dialect) -> Result<()> {
    let thinks = request.template.is_none() && request.think.is_some_and(Think::is_on);
    let lacking = if !request.tools.is_empty() && !dialect.can("tools") {
        "tools"
    } else if thinks && !dialect.can("thinking") {
        "thinking"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!(
        "\"{}\" does not support {lacking}",
        request.model.label
    )))
}

/// The biases of tokens that the vocabulary has.
fn known(bias: &[(i32, f32)], vocabulary: i32) -> Vec<(i32, f32)> {
    let known = bias.iter().filter(|(id, _)| (0..vocabulary).contains(id));
    known.copied().collect()
}
