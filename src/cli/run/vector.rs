//! `puna run` with an embedding model: prints the prompt's vector as a line of JSON.

use std::sync::Arc;

use super::turn_args::Ask;
use super::turn_flags::KEEPALIVE;
use crate::cli::context;
use crate::cli::flag::{Flag, JSON, maybe, option};
use crate::cli::out::{self, Out, Unit};
use crate::cli::parsed::Parsed;
use crate::cli::serve::LOG;
use crate::core::error::{Class, Error, Result};
use crate::format::wire::native::EmbedRequest;
use crate::format::wire::native::encode::{EmbedRecord, nanos};
use crate::format::wire::options::to_json;
use crate::ops::embed::{self, Request};
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::system::client::Client;
use crate::system::config::Config;

pub const DIMENSIONS: Flag = option(
    "dimensions",
    None,
    "N",
    "keep N numbers of a vector (embedding models)",
);
pub const TRUNCATE: Flag = maybe(
    "truncate",
    "BOOL",
    "cut too long a text to embed; false: refuse it",
);

/// Prints the vector of the prompt; with `--json` the API's record.
///
/// # Errors
/// `Usage` without a prompt or for a wrong flag; any error of the model, the server or the text.
pub fn print(
    server: Option<&Client>,
    ask: &Ask,
    parsed: &Parsed,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    if ask.prompt.trim().is_empty() {
        let text = "the model is an embedding model: give it a text";
        return Err(Error::usage(text));
    }
    let dimensions = parsed.number(&DIMENSIONS, 1..=usize::MAX)?;
    let truncate = match parsed.value(&TRUNCATE) {
        None | Some("true" | "") => true,
        Some("false") => false,
        Some(other) => {
            let text = format!("--truncate must be true or false, not '{other}'");
            return Err(Error::usage(text));
        }
    };
    let record = match server {
        Some(client) => {
            let body = EmbedRequest {
                model: ask.turn.model.clone(),
                input: ask.prompt.as_str().into(),
                truncate: Some(truncate),
                dimensions: dimensions.map_or(0, |count| count as i64),
                keep_alive: parsed.value(&KEEPALIVE).map(Into::into),
                options: to_json(&ask.turn.options),
            };
            let answer = client.post::<EmbedRecord>("/api/embed", &body)?.next();
            let none = || Error::plain(Class::Network, "the server sent an empty answer");
            answer.ok_or_else(none)??
        }
        None => embed_locally(ask, parsed, config, out, (dimensions, truncate))?,
    };
    if parsed.has(&JSON) {
        return out.json(&[record]);
    }
    let vector = record.embeddings.first();
    let vector = vector.ok_or_else(|| Error::failed("no embeddings returned"))?;
    out.json(&[vector])
}

fn embed_locally(
    ask: &Ask,
    parsed: &Parsed,
    config: &Config,
    out: &Out,
    (dimensions, truncate): (Option<usize>, bool),
) -> Result<EmbedRecord> {
    let started = std::time::Instant::now();
    let model = model::open(&context::store(config), &ask.turn.model)?;
    let request = Request {
        model: &model,
        texts: vec![ask.prompt.clone()],
        truncate,
        dimensions,
        options: ask.turn.options.clone(),
        keep_alive: None,
        cancel: Arc::default(),
    };
    let pool = Pool::new(
        config.clone(),
        Policy::OneShot,
        out::log(parsed.value(&LOG))?,
    );
    let progress = out.progress("loading", Unit::Percent);
    let embedded = embed::embed(&pool, &request, &mut |fraction| {
        progress.show((fraction * 100.0) as u64, 100)
    })?;
    Ok(EmbedRecord {
        model: ask.turn.model.clone(),
        embeddings: embedded.vectors,
        total_duration: nanos(started.elapsed()),
        load_duration: nanos(embedded.load),
        prompt_eval_count: embedded.tokens as u64,
    })
}
