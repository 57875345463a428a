//! A turn with the model that runs it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::template_choice::{Choice, TemplateChoice};
use crate::core::error::{Error, Result};
use crate::core::message::Message;
use crate::core::turn::{GivenTemplate, Input, TurnRequest};
use crate::ops::model::Model;
use crate::ops::pool::Pool;

/// A turn that is about to run in this process.
pub struct Request<'a> {
    /// The model.
    pub model: &'a Model,
    /// The input; a conversation contains the model's own SYSTEM and MESSAGEs.
    pub input: Input,
    /// The turn, without its input.
    pub turn: TurnRequest,
    /// Set to end the answer early.
    pub cancel: Arc<AtomicBool>,
    /// When it was requested, for the times in its usage.
    pub started: Instant,
}

impl<'a> Request<'a> {
    /// A request for this turn.
    ///
    /// # Errors
    /// `Usage` if the turn has no input.
    pub fn new(
        model: &'a Model,
        mut turn: TurnRequest,
        cancel: Arc<AtomicBool>,
        started: Instant,
    ) -> Result<Self> {
        let input = match turn.input.take() {
            Some(Input::Chat(messages)) => Input::Chat(conversation(model, messages, &turn)),
            Some(input) => input,
            None => return Err(Error::usage("the prompt is empty")),
        };
        Ok(Request {
            model,
            input,
            turn,
            cancel,
            started,
        })
    }

    /// The template choice of this request.
    ///
    /// # Errors
    /// The mistake in the template.
    pub fn template_choice(&self, pool: &Pool) -> Result<Arc<TemplateChoice>> {
        let choice = match &self.turn.template {
            Some(GivenTemplate::Go(source)) => Choice::Go(source),
            Some(GivenTemplate::Jinja(source)) => Choice::Gguf(source, None),
            None => return pool.template_choice(self.model),
        };
        TemplateChoice::compile(choice).map(Arc::new)
    }
}

/// The whole conversation: the model's SYSTEM unless the request has a system message, the model's
/// MESSAGEs unless the request continues an earlier answer's tokens, then the request's messages.
fn conversation(model: &Model, messages: Vec<Message>, turn: &TurnRequest) -> Vec<Message> {
    let brings_system = messages
        .first()
        .is_some_and(|message| message.role == "system");
    let system = model
        .system
        .iter()
        .filter(|text| !brings_system && !text.is_empty());
    let system = system.map(|text| Message::new("system", text));
    let own = model.messages.iter().filter(|_| turn.context.is_empty());
    system.chain(own.cloned()).chain(messages).collect()
}
