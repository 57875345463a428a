//! The process that computes the first token of a model: puna starts it by itself, see [`crate::ops::trial`].

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::out;
use crate::core::error::{Error, Result};
use crate::core::options::Options;
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::ops::sandbox;
use crate::system::config::Config;
use crate::system::engine::{Event, Job, Level};
use crate::system::machine;

/// Tokens of the context: as few as the code paths of attention need.
const CONTEXT_TOKENS: &str = "64";
/// Processor time for each core, in seconds; the process that waits has a clock of its own.
const CPU_SECONDS: u64 = 3600;
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
    limit();
    sandbox::only_read([Some(&weights), adapter.as_ref()].into_iter().flatten());
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

/// Limits this process: memory to what is free, time, and no dump of it.
fn limit() {
    let limit = |resource, value: u64| {
        let limits = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        // A system that does not allow a limit has lower ones.
        let _ = setrlimit(resource, limits);
    };
    limit(Resource::Core, 0);
    limit(Resource::Data, machine::free_bytes());
    limit(Resource::Cpu, CPU_SECONDS * machine::cores() as u64);
    // With nobody waiting, nobody needs the verdict.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}
