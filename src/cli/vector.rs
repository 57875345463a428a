//! `puna run` with a model that turns texts into vectors: the prompt's vector as a line of JSON.

use std::sync::Arc;

use super::ask::Ask;
use super::out::{self, Out, Unit};
use super::parse::Parsed;
use super::spec::{Flag, maybe, option};
use crate::api::native::EmbedRequest;
use crate::api::options::to_json;
use crate::api::records::{EmbedRecord, nanos};
use crate::client::Client;
use crate::config::Config;
use crate::embed::{self, Request};
use crate::error::{Class, Error, Result};
use crate::model;
use crate::pool::{Policy, Pool};

pub const DIMENSIONS: Flag = option(
    "dimensions",
    None,
    "N",
    "numbers of a vector to keep, with a model that makes vectors",
);
pub const TRUNCATE: Flag = maybe(
    "truncate",
    "BOOL",
    "with such a model, cut a text that is too long; false: refuse it",
);

/// Prints the vector of the prompt; with `--json` the API's record.
///
/// # Errors
/// `Usage` without a prompt or for a wrong flag; what is wrong with model, server or text.
pub fn print(
    server: Option<&Client>,
    ask: &Ask,
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    if ask.prompt.trim().is_empty() {
        let text = "the model turns text into vectors: give it a text";
        return Err(Error::usage(text));
    }
    let dimensions = parsed.number("dimensions", 1..=usize::MAX)?;
    let truncate = match parsed.value("truncate") {
        None | Some("true" | "") => true,
        Some("false") => false,
        Some(other) => {
            let text = format!("--truncate is true or false, not '{other}'");
            return Err(Error::usage(text));
        }
    };
    let record = match server {
        Some(client) => {
            let body = EmbedRequest {
                model: ask.model.clone(),
                input: ask.prompt.as_str().into(),
                truncate: Some(truncate),
                dimensions: dimensions.map_or(0, |count| count as i64),
                keep_alive: parsed.value("keepalive").map(Into::into),
                options: to_json(&ask.options),
            };
            let answer = client.post::<EmbedRecord>("/api/embed", &body)?.next();
            let none = || Error::plain(Class::Network, "the server answers nothing");
            answer.ok_or_else(none)??
        }
        None => here(ask, parsed, config, out, (dimensions, truncate))?,
    };
    if parsed.has("json") {
        return out.json(&[record]);
    }
    let vector = record.embeddings.first();
    let vector = vector.ok_or_else(|| Error::failed("no embeddings returned"))?;
    out.json(&[vector])
}

fn here(
    ask: &Ask,
    parsed: &Parsed,
    config: &Config,
    out: &Out,
    (dimensions, truncate): (Option<usize>, bool),
) -> Result<EmbedRecord> {
    let started = std::time::Instant::now();
    let model = model::open(&super::store(config), &ask.model)?;
    let request = Request {
        model: &model,
        texts: vec![ask.prompt.clone()],
        truncate,
        dimensions,
        options: ask.options.clone(),
        keep_alive: None,
        cancel: Arc::default(),
    };
    let pool = Pool::new(
        config.clone(),
        Policy::OneShot,
        out::log(parsed.value("log"))?,
    );
    let progress = out.progress("loading", Unit::Percent);
    let embedded = embed::embed(&pool, &request, &mut |fraction| {
        progress.show((fraction * 100.0) as u64, 100)
    })?;
    Ok(EmbedRecord {
        model: ask.model.clone(),
        embeddings: embedded.vectors,
        total_duration: nanos(started.elapsed()),
        load_duration: nanos(embedded.load),
        prompt_eval_count: embedded.tokens as u64,
    })
}
