//! Decodes the bodies of `/api/generate` and `/api/chat`, with errors in the reference's order and wording; and
//! encodes turns as such bodies, for servers.

use std::time::Duration;

use base64::DecodeError;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Map, Value as Json, json};

use super::{ChatRequest, Common, GenerateRequest, Message, think, tool};
use crate::core::duration::KeepAlive;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{self, Think, Tool};
use crate::core::options::Options;
use crate::core::turn::{
    GivenTemplate, Input, OutputConstraint, Overflow, Part, ToolChoice, TurnRequest,
};
use crate::format::template::GoTemplate;
use crate::format::wire::options::{from_json, keep_alive, keep_alive_json, not_obeyed, to_json};

const NO_MEDIA: &str = "Multimodal data provided, but model does not support multimodal requests.";
/// Most alternatives to a token that are reported, as in the reference.
const LOGPROBS_MAX: i64 = 20;

/// Decodes the body of `/api/chat`.
///
/// # Errors
/// The first invalid field, in the reference's order.
pub fn chat(request: ChatRequest) -> Result<TurnRequest> {
    let tool_choice = ToolChoice::from_json(request.common.tool_choice.as_ref())?;
    let turn = common(request.common, request.messages.is_empty(), &request.rest)?;
    let tools = request.tools.iter().map(tool).collect::<Result<Vec<_>>>()?;
    let of_messages = request.messages.iter().enumerate();
    let of_messages = of_messages.flat_map(|(index, message)| {
        let names = message.unknown_fields();
        names.map(move |name| format!("messages.{index}.{name}"))
    });
    Ok(TurnRequest {
        ignored: turn.ignored.into_iter().chain(of_messages).collect(),
        input: conversation(request.messages)?,
        tools,
        tool_choice,
        ..turn
    })
}

/// Decodes the body of `/api/generate`.
///
/// # Errors
/// The first invalid field, in the reference's order; `NoModel` if none is named.
pub fn generate(request: GenerateRequest) -> Result<TurnRequest> {
    named(&request.common.model)?;
    let turn = common(request.common, request.prompt.is_empty(), &request.rest)?;
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
        // The reference reports it when it renders.
        GoTemplate::compile(&request.template).map_err(|error| Error::failed(error.to_string()))?;
    }
    let input = match (request.prompt.is_empty(), request.raw) {
        (true, _) => None,
        (false, true) => Some(Input::Raw(request.prompt)),
        (false, false) if !request.suffix.is_empty() => {
            Some(Input::Insert(request.prompt, request.suffix))
        }
        (false, false) => {
            let system = (!request.system.is_empty()).then_some(request.system);
            let system = system.map(|text| message::Message::new("system", text));
            let user = message::Message::new("user", request.prompt);
            Some(Input::Chat(system.into_iter().chain([user]).collect()))
        }
    };
    Ok(TurnRequest {
        input,
        template: (!request.template.is_empty()).then_some(GivenTemplate::Go(request.template)),
        context: request.context,
        ..turn
    })
}

/// Checks that a generate request names a model.
///
/// # Errors
/// `NoModel` with the reference's wording.
pub fn named(model: &str) -> Result<()> {
    if model.trim().is_empty() {
        let text = format!("model '{model}' not found");
        return Err(Error::plain(Class::NoModel, text));
    }
    Ok(())
}

/// The input of a conversation; `None` if it is empty.
///
/// # Errors
/// `Usage` for images, which are refused, and first for invalid base64.
pub fn conversation(messages: Vec<Message>) -> Result<Option<Input>> {
    for message in &messages {
        no_media(message.images())?;
    }
    let messages: Vec<message::Message> = messages.into_iter().map(Into::into).collect();
    Ok((!messages.is_empty()).then_some(Input::Chat(messages)))
}

/// The number of alternatives to report for each token.
///
/// # Errors
/// `Usage` with the reference's wording for a number out of range.
pub fn logprobs(wanted: bool, top: i64) -> Result<Option<usize>> {
    if !(0..=LOGPROBS_MAX).contains(&top) {
        return Err(Error::usage("top_logprobs must be between 0 and 20"));
    }
    Ok(wanted.then(|| usize::try_from(top).unwrap_or(0)))
}

/// The output constraint of `format` and `grammar`.
///
/// # Errors
/// `Failed` with the reference's wording for an invalid format; `Usage` for both together.
pub fn constraint(format: Option<&Json>, grammar: &str) -> Result<OutputConstraint> {
    let constraint = match format {
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
    match (constraint, grammar) {
        (constraint, "") => Ok(constraint),
        (OutputConstraint::None, text) => Ok(OutputConstraint::Grammar(text.to_string())),
        _ => Err(Error::usage("format and grammar cannot be used together")),
    }
}

/// A turn with the defaults of a server: an input that does not fit is truncated, and a full context shifts.
pub fn truncating(model: &str, input: Option<Input>) -> TurnRequest {
    TurnRequest {
        overflow: Overflow::Truncate,
        shift: true,
        ..TurnRequest::new(model, input)
    }
}

/// The fields of both routes. `is_empty`: the request has no input.
fn common(common: Common, is_empty: bool, rest: &Map<String, Json>) -> Result<TurnRequest> {
    let logprobs = logprobs(common.logprobs, common.top_logprobs)?;
    let keep_alive = keep_alive(common.keep_alive.as_ref())?;
    let overflow = overflow(&common)?;
    let ignored = not_obeyed("options.", &common.options).chain(unknown_fields(rest));
    Ok(TurnRequest {
        ignored: ignored.collect(),
        think: think(common.think.as_ref())?,
        constraint: constraint(common.format.as_ref(), &common.grammar)?,
        logprobs,
        // Unloading a model needs no options, so a wrong one is no reason to keep it.
        options: match from_json(&common.options) {
            Err(_) if is_empty && keep_alive == Some(KeepAlive::For(Duration::ZERO)) => {
                Options::default()
            }
            options => options?,
        },
        keep_alive,
        shift: common.shift.unwrap_or(true) && overflow != Overflow::Error,
        overflow,
        bounded: common.bounded,
        stream: common.stream.unwrap_or(true),
        render_only: common.render_only,
        ..TurnRequest::new(common.model, None)
    })
}

/// The fields that the API does not have, except those of the routes beside this one.
fn unknown_fields(rest: &Map<String, Json>) -> impl Iterator<Item = String> {
    const OF_OTHER_ROUTES: [&str; 11] = [
        "prompt", "messages", "tools", "system", "template", "images", "suffix", "context", "raw",
        "name", "user",
    ];
    let given = rest.iter().filter(|(_, value)| !value.is_null());
    let unknown = given.filter(|(key, _)| !OF_OTHER_ROUTES.contains(&key.as_str()));
    unknown.map(|(key, _)| key.clone())
}

fn overflow(common: &Common) -> Result<Overflow> {
    match common.overflow.as_str() {
        "" if common.truncate == Some(false) => Ok(Overflow::Error),
        "" if common.shift == Some(false) => Ok(Overflow::WholeMessages),
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

/// Refuses images and audio; first reports data that is not base64.
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
    if images.is_empty() {
        Ok(())
    } else {
        Err(Error::usage(NO_MEDIA))
    }
}

/// A turn as the body of a request to a server.
#[derive(Debug, Clone)]
pub enum Body {
    /// For `/api/generate`.
    Generate(Box<GenerateRequest>),
    /// For `/api/chat`.
    Chat(Box<ChatRequest>),
}

/// Encodes a turn for a server. The fields that are ours are left out where they have their defaults.
pub fn body(turn: &TurnRequest) -> Body {
    let (format, grammar) = constraint_json(&turn.constraint);
    let common = Common {
        model: turn.model.clone(),
        stream: Some(true),
        options: to_json(&turn.options),
        keep_alive: turn.keep_alive.map(keep_alive_json),
        truncate: Some(matches!(
            turn.overflow,
            Overflow::Truncate | Overflow::WholeMessages
        )),
        shift: Some(false),
        think: turn.think.map(think_json),
        format,
        grammar,
        tool_choice: tool_choice_json(&turn.tool_choice),
        overflow: match turn.overflow {
            Overflow::Keep(part) => part.word().to_string(),
            _ => String::new(),
        },
        bounded: turn.bounded,
        ..Common::default()
    };
    match &turn.input {
        Some(Input::Raw(prompt)) => Body::Generate(Box::new(GenerateRequest {
            common,
            prompt: prompt.clone(),
            raw: true,
            ..GenerateRequest::default()
        })),
        Some(Input::Insert(before, after)) => Body::Generate(Box::new(GenerateRequest {
            common,
            prompt: before.clone(),
            suffix: after.clone(),
            ..GenerateRequest::default()
        })),
        Some(Input::Chat(messages)) => Body::Chat(Box::new(ChatRequest {
            common,
            messages: messages.iter().map(Message::from).collect(),
            tools: turn.tools.iter().map(tool_json).collect(),
            ..ChatRequest::default()
        })),
        None => Body::Chat(Box::new(ChatRequest {
            common,
            ..ChatRequest::default()
        })),
    }
}

/// `format` and `grammar` for an output constraint.
pub fn constraint_json(constraint: &OutputConstraint) -> (Option<Json>, String) {
    match constraint {
        OutputConstraint::None => (None, String::new()),
        OutputConstraint::Json => (Some("json".into()), String::new()),
        OutputConstraint::Schema(schema) => (Some(schema.clone()), String::new()),
        OutputConstraint::Grammar(text) => (None, text.clone()),
    }
}

/// `think`: true, false or a level.
pub fn think_json(think: Think) -> Json {
    match think {
        Think::On | Think::Off => think.is_on().into(),
        Think::Level(_) => think.level().into(),
    }
}

/// `tool_choice`; `None` for the default.
pub fn tool_choice_json(choice: &ToolChoice) -> Option<Json> {
    match choice {
        ToolChoice::Auto => None,
        ToolChoice::None => Some("none".into()),
        ToolChoice::Required => Some("required".into()),
        ToolChoice::Named(name) => {
            Some(json!({ "type": "function", "function": { "name": name } }))
        }
    }
}

/// A tool as the API's function.
pub fn tool_json(tool: &Tool) -> Json {
    json!({ "type": "function", "function": {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }})
}
