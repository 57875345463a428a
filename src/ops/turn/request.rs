//! What a turn is asked.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::template_choice::{Given, TemplateChoice};
use crate::core::duration::KeepAlive;
use crate::core::error::Result;
use crate::core::message::{Think, Tool};
use crate::core::options::Options;
use crate::core::turn::{Input, OutputConstraint, Overflow, ToolChoice};
use crate::ops::model::Model;
use crate::ops::pool::Pool;

/// The request for one turn.
pub struct Request<'a> {
    /// The model.
    pub model: &'a Model,
    /// The conversation or prompt to continue.
    pub input: Input,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Which of them it must call.
    pub tool_choice: ToolChoice,
    /// Whether to think; `None` leaves the model's default.
    pub think: Option<Think>,
    /// A TEMPLATE to use instead of the model's own.
    pub template: Option<Given>,
    /// The output constraint.
    pub constraint: OutputConstraint,
    /// Return logprobs, with this many of the likeliest alternatives per token.
    pub logprobs: Option<usize>,
    /// Token ids, and what is added to their logits.
    pub bias: Vec<(i32, f32)>,
    /// Tokens of an earlier answer, whose text is put before the rendered prompt.
    pub context: Vec<i32>,
    /// Options of this request, which override the model's own.
    pub options: Options,
    /// How long the model stays loaded afterwards.
    pub keep_alive: Option<KeepAlive>,
    /// How to handle an input that is too long.
    pub overflow: Overflow,
    /// When the context is full, drop older tokens and continue the answer.
    pub shift: bool,
    /// Set to cancel the turn.
    pub cancel: Arc<AtomicBool>,
    /// When the request arrived.
    pub started: Instant,
}

impl<'a> Request<'a> {
    /// A request with only a model and an input.
    pub fn new(model: &'a Model, input: Input) -> Self {
        Request {
            model,
            input,
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            think: None,
            template: None,
            constraint: OutputConstraint::None,
            logprobs: None,
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

    /// The template choice of this request.
    ///
    /// # Errors
    /// If the template is invalid.
    pub fn template_choice(&self, pool: &Pool) -> Result<Arc<TemplateChoice>> {
        match &self.template {
            Some(given) => TemplateChoice::of(given.choice()).map(Arc::new),
            None => pool.template_choice(self.model),
        }
    }
}
