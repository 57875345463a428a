//! Resolves a decoded turn on this server: opens its model, and checks what depends on it in the reference's
//! order and wording.

use std::sync::Arc;

use super::handlers::models::{not_found, to_run};
use super::shared::Server;
use crate::core::error::{Class, Error, Result};
use crate::core::message::Think;
use crate::core::turn::TurnRequest;
use crate::ops::backend::Local;
use crate::ops::list;
use crate::ops::model::Model;

/// A turn that can run.
pub struct Resolved {
    /// The model with this server's engines.
    pub local: Local,
    /// The turn; its thinking is decided.
    pub turn: TurnRequest,
}

/// Checks that the model of a request exists.
///
/// # Errors
/// `NoModel`; `Usage` for an invalid name.
pub fn known(server: &Server, model: &str) -> Result<()> {
    let name = to_run(model)?;
    match server.model_cache.open(&server.store, model, &name) {
        Err(error) if error.class() != Class::Damaged => Err(not_found(error, model)),
        _ => Ok(()),
    }
}

/// Opens the model of a turn and checks its abilities. `verb` is what the model must be able to do: `chat` or
/// `generate`.
///
/// # Errors
/// `NoModel`; `NoText` for a model without text; `Usage` for thinking or tools that it lacks.
pub fn resolve(server: &Server, mut turn: TurnRequest, verb: &str) -> Result<Resolved> {
    let name = to_run(&turn.model)?;
    let found = server.model_cache.open(&server.store, &turn.model, &name);
    let model = found.map_err(|error| match error.class() {
        // Like the reference: the capabilities of a damaged file are unknown.
        Class::Damaged => Error::usage(format!(
            "\"{}\" does not support {verb}: {}",
            turn.model,
            error.public_text()
        )),
        _ => not_found(error, &turn.model),
    })?;
    let abilities = list::model_capabilities(&model);
    let can = |word: &str| abilities.iter().any(|ability| ability == word);
    let only_unloads = turn.only_unloads();
    let think = turn
        .think
        .filter(|think| can("thinking") || !(think.is_on() && turn.think_if_able));
    if think.is_some_and(Think::is_on) && !can("thinking") && !only_unloads {
        let text = format!("\"{}\" does not support thinking", model.label);
        return Err(Error::usage(text));
    }
    if model.header.is_embedding() && !only_unloads {
        let text = format!("\"{}\" does not support {verb}", model.label);
        return Err(Error::plain(Class::NoText, text));
    }
    if !turn.tools.is_empty() && !can("tools") {
        return Err(lacks(&model, "tools"));
    }
    turn.check_tools()?;
    turn.think = think.or(can("thinking").then_some(Think::On));
    Ok(Resolved {
        local: Local::new(server.pool.clone(), model),
        turn,
    })
}

/// `<full name> does not support <what>`.
fn lacks(model: &Arc<Model>, what: &str) -> Error {
    let name = model.name.as_ref().map(|name| name.full());
    Error::usage(format!(
        "{} does not support {what}",
        name.unwrap_or_default()
    ))
}
