//! What a body of `/api/generate` or `/api/chat` asks for: checked in the reference's order, with
//! its words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::DecodeError;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value as Json;

use super::handlers::models::{not_found, to_run};
use super::shared::Server;
use crate::core::duration::KeepAlive;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Message, Think, Tool};
use crate::core::turn::{Input, OutputConstraint, Overflow, Part, ToolChoice};
use crate::format::template::GoTemplate;
use crate::format::wire::native::{self, ChatRequest, Common, GenerateRequest};
use crate::format::wire::options::keep_alive;
use crate::ops::model::Model;
use crate::ops::turn::template_choice::{Given, Sources};
use crate::ops::{list, turn};

const NO_MEDIA: &str = "Multimodal data provided, but model does not support multimodal requests.";

/// Most alternatives to a token that are told.
const LIKELY_MAX: i64 = 20;

/// A request, understood.
pub struct Asked {
    /// What both routes share.
    pub common: Common,
    /// The model.
    pub model: Arc<Model>,
    /// What it can do.
    abilities: Vec<String>,
    /// `None`: only load or unload.
    pub input: Option<Input>,
    /// Functions that may be called.
    pub tools: Vec<Tool>,
    /// Which must be.
    pub tool_choice: ToolChoice,
    /// Whether to think.
    pub think: Option<Think>,
    /// A TEMPLATE in place of the model's.
    pub template: Option<Given>,
    /// What the answer must look like.
    pub constraint: OutputConstraint,
    /// Tokens of an earlier answer.
    pub context: Vec<i32>,
    /// How long the model stays.
    pub keep_alive: Option<KeepAlive>,
    /// What to do with too long an input.
    pub overflow: Overflow,
    /// When it was asked.
    pub started: Instant,
}

impl Asked {
    /// What both routes ask for in the same words.
    fn of(
        server: &Server,
        common: Common,
        (verb, is_empty): (&str, bool),
        started: Instant,
    ) -> Result<Self> {
        if !(0..=LIKELY_MAX).contains(&common.top_logprobs) {
            return Err(Error::usage("top_logprobs must be between 0 and 20"));
        }
        let name = to_run(&common.model)?;
        let found = server.model_cache.open(&server.store, &common.model, &name);
        let model = found.map_err(|error| match error.class() {
            // As the reference: what the model can do cannot be read off it.
            Class::Damaged => Error::plain(
                Class::NoText,
                format!("\"{}\" does not support {verb}: {error}", common.model),
            ),
            _ => not_found(error, &common.model),
        })?;
        let abilities = list::capabilities(Sources::of(&model));
        let unloads =
            keep_alive(common.keep_alive.as_ref())? == Some(KeepAlive::For(Duration::ZERO));
        let can = |word: &str| abilities.iter().any(|ability| ability == word);
        let keep_alive = keep_alive(common.keep_alive.as_ref())?;
        let asked = native::think(common.think.as_ref())?;
        let think =
            asked.filter(|think| can("thinking") || !(think.is_on() && common.think_if_able));
        let only_unloads = is_empty && unloads;
        if think.is_some_and(Think::is_on) && !can("thinking") && !only_unloads {
            return Err(Error::usage(format!(
                "\"{}\" does not support thinking",
                model.label
            )));
        }
        if model.header.is_embedding() && !only_unloads {
            let text = format!("\"{}\" does not support {verb}", model.label);
            return Err(Error::plain(Class::NoText, text));
        }
        Ok(Asked {
            think: think.or(can("thinking").then_some(Think::On)),
            constraint: constraint(&common)?,
            overflow: overflow(&common)?,
            common,
            model,
            abilities,
            input: None,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            template: None,
            context: Vec::new(),
            keep_alive,
            started,
        })
    }

    fn can(&self, word: &str) -> bool {
        self.abilities.iter().any(|ability| ability == word)
    }

    /// `<full name> does not support <what>`.
    fn lacks(&self, what: &str) -> Error {
        let name = self
            .model
            .name
            .as_ref()
            .map(|name| name.full())
            .unwrap_or_default();
        Error::usage(format!("{name} does not support {what}"))
    }
}

/// `/api/generate`.
///
/// # Errors
/// What is wrong with the request.
pub fn generate(server: &Server, request: GenerateRequest, started: Instant) -> Result<Asked> {
    let text = &request.common.model;
    if text.trim().is_empty() {
        return Err(Error::plain(
            Class::NoModel,
            format!("model '{text}' not found"),
        ));
    }
    let mut asked = Asked::of(
        server,
        request.common,
        ("generate", request.prompt.is_empty()),
        started,
    )?;
    if request.raw
        && !(request.template.is_empty() && request.system.is_empty() && request.context.is_empty())
    {
        return Err(Error::usage(
            "raw mode does not support template, system, or context",
        ));
    }
    if !request.prompt.is_empty() {
        no_media(&request.images)?;
    }
    if !request.template.is_empty() {
        // The reference finds it out when it renders.
        GoTemplate::compile(&request.template).map_err(|error| Error::failed(error.to_string()))?;
    }
    asked.template = (!request.template.is_empty()).then_some(Given::Go(request.template));
    asked.input = match (request.prompt.is_empty(), request.raw) {
        (true, _) => None,
        (false, true) => Some(Input::Raw(request.prompt)),
        (false, false) if !request.suffix.is_empty() => {
            Some(Input::Insert(request.prompt, request.suffix))
        }
        (false, false) => {
            let turn = single_turn(
                &asked.model,
                request.system,
                request.prompt,
                &request.context,
            );
            Some(Input::Chat(turn))
        }
    };
    asked.context = request.context;
    Ok(asked)
}

/// The conversation of a generate request: the model's MESSAGEs only where no context goes on.
fn single_turn(model: &Model, system: String, prompt: String, context: &[i32]) -> Vec<Message> {
    let system = (!system.is_empty()).then(|| Message::new("system", system));
    let asked = system
        .into_iter()
        .chain([Message::new("user", prompt)])
        .collect();
    let mut messages = turn::conversation(model, asked);
    if !context.is_empty() {
        let own = |message: &Message| model.messages.contains(message);
        let last = messages.pop();
        messages.retain(|message| !own(message));
        messages.extend(last);
    }
    messages
}

/// `/api/chat`.
///
/// # Errors
/// What is wrong with the request.
pub fn chat(server: &Server, request: ChatRequest, started: Instant) -> Result<Asked> {
    let mut asked = Asked::of(
        server,
        request.common,
        ("chat", request.messages.is_empty()),
        started,
    )?;
    if !request.tools.is_empty() && !asked.can("tools") {
        return Err(asked.lacks("tools"));
    }
    for message in &request.messages {
        no_media(message.images())?;
    }
    asked.tools = request
        .tools
        .iter()
        .map(native::tool)
        .collect::<Result<_>>()?;
    asked.tool_choice = ToolChoice::of_json(asked.common.tool_choice.as_ref())?;
    asked.tool_choice.among(&asked.tools)?;
    let messages: Vec<Message> = request.messages.into_iter().map(Into::into).collect();
    asked.input =
        (!messages.is_empty()).then(|| Input::Chat(turn::conversation(&asked.model, messages)));
    Ok(asked)
}

/// Refuses images and audio, and first what is none in base64.
fn no_media(images: &[String]) -> Result<()> {
    for image in images {
        let bare: String = image
            .chars()
            .filter(|c| !matches!(c, '\n' | '\r'))
            .collect();
        if let Err(error) = BASE64_STANDARD.decode(bare) {
            let place = match error {
                DecodeError::InvalidByte(at, _) => at,
                _ => image.len(),
            };
            let text = format!("illegal base64 data at input byte {place}");
            return Err(Error::usage(text));
        }
    }
    match images.is_empty() {
        true => Ok(()),
        false => Err(Error::usage(NO_MEDIA)),
    }
}

/// `format` and `grammar`.
fn constraint(common: &Common) -> Result<OutputConstraint> {
    let constraint = match &common.format {
        None | Some(Json::Null) => OutputConstraint::None,
        Some(Json::String(word)) if word.is_empty() => OutputConstraint::None,
        Some(Json::String(word)) if word == "json" => OutputConstraint::Json,
        Some(Json::Object(fields)) if fields.is_empty() => OutputConstraint::Json,
        Some(schema @ Json::Object(_)) => OutputConstraint::Schema(schema.clone()),
        Some(other) => {
            let text = other.to_string();
            return Err(Error::failed(format!(
                "invalid format: {text:?}; expected \"json\" or a valid JSON Schema object"
            )));
        }
    };
    match (constraint, common.grammar.as_str()) {
        (constraint, "") => Ok(constraint),
        (OutputConstraint::None, text) => Ok(OutputConstraint::Grammar(text.to_string())),
        _ => Err(Error::usage("format and grammar cannot be used together")),
    }
}

fn overflow(common: &Common) -> Result<Overflow> {
    match common.overflow.as_str() {
        "" if common.truncate == Some(false) => Ok(Overflow::Error),
        "" if common.shift == Some(false) => Ok(Overflow::Whole),
        "" => Ok(Overflow::Truncate),
        "error" => Ok(Overflow::Error),
        word => match Part::parse(word) {
            Some(part) => Ok(Overflow::Keep(part)),
            None => Err(Error::usage(format!(
                "overflow must be error, head, tail or middle, not '{word}'"
            ))),
        },
    }
}
