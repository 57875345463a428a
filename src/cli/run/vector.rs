//! `puna run` with an embedding model: prints the prompt's vector as a line of JSON.

use std::sync::Arc;

use super::args::{RunArgs, VectorArgs};
use super::turn_args::Ask;
use crate::cli::context;
use crate::cli::out::Out;
use crate::cli::shape::Shape;
use crate::cli::vectors::has_dimensions;
use crate::core::error::{Error, Result};
use crate::core::turn::OutputConstraint;
use crate::format::wire::native::EmbedRequest;
use crate::format::wire::native::encode::{EmbedRecord, nanos};
use crate::format::wire::options::{keep_alive_json, of_sampling, to_json};
use crate::ops::embed::{self, Request};
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::system::client::Client;
use crate::system::config::Config;

/// Prints the vector of the prompt; with `--json` the API's record.
///
/// # Errors
/// `Usage` without a prompt; any error of the model, the server or the text.
pub fn print(
    server: Option<&Client>,
    ask: &Ask,
    args: &RunArgs,
    config: &Config,
    out: &mut Out,
) -> Result<()> {
    if ask.prompt.trim().is_empty() {
        let text = "the model is an embedding model: give it a text";
        return Err(Error::usage(text));
    }
    let turn = &ask.turn;
    let chats = ask.system.is_some() || !ask.messages.is_empty() || !turn.tools.is_empty();
    if chats || turn.constraint != OutputConstraint::None {
        let text = "the model is an embedding model: it makes a vector of a text, without --system, --messages, --tools, \
                    --format, --schema and --grammar";
        return Err(Error::usage(text));
    }
    if args.whole || args.transcript.is_some() || args.shape != Shape::default() {
        let text = "the model is an embedding model: it makes a vector, without --whole, --transcript, --continue, --extract, \
                    --fields, --one-line and --strip";
        return Err(Error::usage(text));
    }
    let idle = { of_sampling(&turn.options) }.chain(ask.raw.then_some("raw"));
    let idle: Vec<&str> = idle.collect();
    if !idle.is_empty() {
        let idle = idle.join(", ");
        out.note(&format!(
            "the model is an embedding model: {idle} have no effect"
        ));
    }
    let VectorArgs {
        dimensions,
        truncate,
        ..
    } = args.vector;
    let record = match server {
        Some(client) => {
            let body = EmbedRequest {
                model: ask.turn.model.clone(),
                input: ask.prompt.as_str().into(),
                truncate: Some(truncate),
                dimensions: dimensions.map_or(0, |count| count as i64),
                keep_alive: args.keep_alive.map(keep_alive_json),
                options: to_json(&ask.turn.options),
                ..EmbedRequest::default()
            };
            client.ask::<EmbedRecord>("/api/embed", &body)?
        }
        None => embed_locally(ask, args, config, out)?,
    };
    has_dimensions(&record.embeddings, dimensions)?;
    if args.json {
        return out.json(&[record]);
    }
    let vector = record.embeddings.first();
    let vector = vector.ok_or_else(|| Error::failed("no embeddings returned"))?;
    out.json(&[vector])
}

fn embed_locally(ask: &Ask, args: &RunArgs, config: &Config, out: &Out) -> Result<EmbedRecord> {
    let started = std::time::Instant::now();
    let model = model::open(&context::store(config), &ask.turn.model)?;
    let request = Request {
        model: &model,
        texts: vec![ask.prompt.clone()],
        truncate: args.vector.truncate,
        dimensions: args.vector.dimensions,
        options: ask.turn.options.clone(),
        keep_alive: None,
        cancel: Arc::default(),
    };
    let pool = Pool::new(config.clone(), Policy::OneShot, args.log);
    let embedded = embed::embed(&pool, &request, &mut out.loading())?;
    Ok(EmbedRecord {
        model: ask.turn.model.clone(),
        embeddings: embedded.vectors,
        total_duration: nanos(started.elapsed()),
        load_duration: nanos(embedded.load),
        prompt_eval_count: embedded.tokens as u64,
    })
}
