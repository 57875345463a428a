//! One turn: takes a conversation or a raw prompt and yields the deltas of an answer. Every command
//! and every route generates answers through this module.

mod cut;
mod events;
pub mod far_too_long;
mod output_constraint;
mod prompt;
mod request;
pub mod template_choice;

pub use cut::cut;
pub use output_constraint::check;
pub use request::Request;

use std::sync::Arc;

use super::model::Model;
use super::pool::{Lease, Pool, Progress};
use crate::core::error::{Error, Result};
use crate::core::message::Think;
use crate::core::options::Options;
use crate::core::turn::Input;
use crate::format::reply::Format;
use crate::system::engine::{Alternatives, Event, Job, Sampling};
use template_choice::TemplateChoice;

pub use events::{PromptProgress, Turn};
pub use prompt::{Prompt, Prompter, Token};

/// Most tokens of an answer when neither a limit nor a context length is set.
const ANSWER_TOKENS: usize = 2048;

/// An answer without a limit stops after this many context lengths, as in the reference.
const SHIFTED_CONTEXTS_MAX: usize = 10;

/// Most tokens of an answer that nobody watches, unless its request or its model has a limit.
pub const BOUNDED_TOKENS: usize = 4096;

/// The options in force: the model's own, overridden by the request's.
pub fn options_in_force(model: &Model, options: &Options) -> Options {
    let mut merged = model.options.clone();
    merged.overlay(options);
    merged
}

/// Starts a turn; returns once the engine has accepted its prompt.
///
/// # Errors
/// Every error of the request is reported here and not in the middle of the answer.
pub fn start(pool: &Pool, request: Request, progress: Progress) -> Result<Turn> {
    let options = options_in_force(request.model, &request.turn.options);
    request.model.must_generate()?;
    let template_choice = request.template_choice(pool)?;
    refuse_unsupported(&request, &template_choice)?;
    let lease = pool.acquire(
        request.model,
        &options,
        request.turn.keep_alive,
        &request.cancel,
        progress,
    )?;
    let load = request.started.elapsed();
    let engine = lease.engine();
    let prompter = Prompter::new(&request, &template_choice, engine, &options);
    let prompt = prompter.prompt(lease.context_tokens)?;
    let chats = matches!(request.input, Input::Chat(_));
    let format = chats.then(|| template_choice.format());
    let job = job(&request, &prompt, &options, format.as_deref(), &lease)?;
    let computed = job.computed.clone();
    let answer = engine.submit(job)?;
    let cached_tokens = match answer.next()? {
        Event::Admitted { cached_tokens } => cached_tokens,
        Event::Failed(error) => return Err(error),
        event => {
            return Err(Error::failed(format!(
                "unexpected first event of the engine: {event:?}"
            )));
        }
    };
    let begun = events::Begun {
        answer,
        lease,
        load,
        cached_tokens,
        computed,
    };
    Ok(Turn::new(&request, prompt, &options, format, begun))
}

/// The engine's job for a prompt.
fn job(
    request: &Request,
    prompt: &Prompt,
    options: &Options,
    format: Option<&Format>,
    lease: &Lease,
) -> Result<Job> {
    let (engine, turn) = (lease.engine(), &request.turn);
    let answer_tokens = match (options.int("num_predict"), lease.context_tokens) {
        (Some(limit @ 0..), _) => usize::try_from(limit).unwrap_or(usize::MAX),
        (None, _) if turn.bounded => BOUNDED_TOKENS,
        (_, Some(tokens)) => tokens as usize * SHIFTED_CONTEXTS_MAX,
        (_, None) => ANSWER_TOKENS,
    };
    let shift = turn.shift.then(|| prompt::front_tokens(options, engine));
    Ok(Job {
        prompt: prompt.tokens.clone(),
        answer_tokens,
        sampling: Sampling {
            bias: known(&turn.bias, engine.facts().vocabulary),
            ..Sampling::from_options(options)
        },
        visible: match format {
            Some(format) => engine.specials()?.within(&format.tags()),
            None => Vec::new(),
        },
        logprobs: turn.logprobs.map(Alternatives::Likeliest),
        guide: output_constraint::guide(request, format, &prompt.text, engine)?,
        thinking_budget: output_constraint::thinking_budget(
            request,
            options,
            format,
            &prompt.text,
            engine,
        ),
        context_tokens: lease.context_tokens.map(|tokens| tokens as usize),
        shift: shift.flatten(),
        endless: false,
        ends_loops: turn.bounded && turn.options.int("num_predict").is_none(),
        stall_timeout: lease.stall_timeout(),
        cancel: request.cancel.clone(),
        computed: Arc::default(),
    })
}

/// Refuses tools and thinking if the model's template does not support them. A template given in the
/// request handles thinking itself.
///
/// # Errors
/// `Usage` with what the model does not support.
pub fn refuse_unsupported(request: &Request, template_choice: &TemplateChoice) -> Result<()> {
    let thinks = request.turn.template.is_none() && request.turn.think.is_some_and(Think::is_on);
    let lacking = if !request.turn.tools.is_empty() && !template_choice.can("tools") {
        "tools"
    } else if thinks && !template_choice.can("thinking") {
        "thinking"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!(
        "\"{}\" does not support {lacking}",
        request.model.label
    )))
}

/// The biases of tokens in the vocabulary; others are ignored.
fn known(bias: &[(i32, f32)], vocabulary: i32) -> Vec<(i32, f32)> {
    let known = bias.iter().filter(|(id, _)| (0..vocabulary).contains(id));
    known.copied().collect()
}
