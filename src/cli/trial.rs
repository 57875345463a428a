//! The process that computes the first token of a model: puna starts it by itself, see [`trial`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::out;
use crate::core::error::{Error, Result};
use crate::core::options::Options;
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::ops::{sandbox, trial};
use crate::system::config::Config;
use crate::system::engine::{Event, Job, Level};

/// Tokens of the context: as few as the code paths of attention need.
const CONTEXT_TOKENS: &str = "64";
/// The prompt; every vocabulary has tokens for it.
const PROMPT: &str = "a";

/// Loads the weights, with an adapter if one is named, and computes one token.
///
/// # Errors
/// The report of llama.cpp on the model.
pub fn run(operands: &[OsString]) -> Result<()> {
    let mut paths = operands.iter().map(PathBuf::from);
    let weights = paths.next().ok_or_else(|| Error::usage("which model?"))?;
    let adapter = paths.next();
    let config = Config::from_environment()?;
    trial::limit_this_process(config.load_stall.or(Some(Duration::from_secs(3600))));
    let named = [Some(weights.as_path()), adapter.as_deref()];
    sandbox::only_read(
        &named
            .into_iter()
            .flatten()
            .map(Path::to_path_buf)
            .collect::<Vec<_>>(),
    );
    let mut model = model::open_file(&weights)?;
    model.adapter = adapter;
    let mut options = Options::default();
    options.set_text("num_ctx", CONTEXT_TOKENS)?;
    options.set_text("num_gpu", "0")?;
    let pool = Pool::new(config, Policy::Trial, (Level::Warn, out::complain));
    let cancel = Arc::default();
    let lease = pool.acquire(&model, &options, None, &cancel, &mut |_| {})?;
    let engine = lease.engine();
    let mut prompt = engine.tokens(PROMPT, true, true);
    if prompt.is_empty() {
        prompt.push(0);
    }
    if model.header.is_embedding() {
        return engine.embed(vec![prompt], cancel).map(drop);
    }
    let answer = engine.submit(Job {
        prompt,
        answer_tokens: 1,
        cancel,
        ..Job::default()
    })?;
    loop {
        match answer.next()? {
            Event::End { .. } => return Ok(()),
            Event::Failed(error) => return Err(error),
            Event::Admitted { .. } | Event::Token { .. } => {}
        }
    }
}
