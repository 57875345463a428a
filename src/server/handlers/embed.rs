//! `/api/embed` and `/api/embeddings`: embeds texts.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value as Json};

use super::models::to_run;
use crate::core::error::{Class, Error, Result};
use crate::core::json;
use crate::format::wire::native::encode::{EmbedRecord, EmbeddingRecord, nanos};
use crate::format::wire::native::{EmbedRequest, EmbeddingRequest};
use crate::format::wire::options::{from_json, keep_alive, not_obeyed};
use crate::ops::embed::{self, Embedded, Request};
use crate::ops::model::Model;
use crate::server::body::content;
use crate::server::http::Exchange;
use crate::server::notices;
use crate::server::reply::reply;
use crate::server::shared::Server;

type Headers = Vec<(&'static str, String)>;

/// `POST /api/embed`.
pub fn embed(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, request)) = content::<EmbedRequest>(exchange) else {
        return;
    };
    let mut headers = headers;
    let answer = request.and_then(|request| {
        let embedded = embed_texts(server, &exchange, &request)?;
        let names = not_obeyed_fields(&request, &embedded);
        headers.extend(notices::ignored(server, &request.model, &names));
        let mut record = EmbedRecord {
            model: request.model.clone(),
            embeddings: embedded.vectors,
            ..EmbedRecord::default()
        };
        if !record.embeddings.is_empty() {
            record.total_duration = nanos(started.elapsed());
            record.load_duration = nanos(embedded.load);
            record.prompt_eval_count = embedded.tokens as u64;
        }
        Ok(json::line(&record))
    });
    reply(exchange, answer, &headers);
}

/// Computes the vectors for a request.
///
/// # Errors
/// `Usage` or `TooLong` for an invalid request; `NoModel`; what the engine reports.
pub fn embed_texts(
    server: &Server,
    exchange: &Exchange,
    request: &EmbedRequest,
) -> Result<Embedded> {
    let texts = request.texts()?;
    if request.model.trim().is_empty() {
        let text = format!("model '{}' not found", request.model);
        return Err(Error::plain(Class::NoModel, text));
    }
    let model = find(server, &request.model)?;
    let input = Texts {
        texts,
        truncate: request.truncate.unwrap_or(true),
        dimensions: usize::try_from(request.dimensions).ok(),
        options: &request.options,
        keep_alive: request.keep_alive.as_ref(),
    };
    vectors(server, exchange, &model, input)
}

/// The fields of a request that are neither obeyed nor refused. The reference, too, passes over dimensions that a
/// model's vectors do not have.
pub fn not_obeyed_fields(request: &EmbedRequest, embedded: &Embedded) -> Vec<String> {
    let length = embedded.vectors.first().map_or(usize::MAX, Vec::len);
    let has = usize::try_from(request.dimensions).is_ok_and(|count| count <= length);
    let dimensions = (!has).then(|| "dimensions".to_string());
    let names = without_effect(&request.rest, &request.options);
    names.chain(dimensions).collect()
}

/// The unknown fields, and the options that are not obeyed as given.
fn without_effect(
    rest: &Map<String, Json>,
    options: &Map<String, Json>,
) -> impl Iterator<Item = String> {
    let fields = rest.iter().filter(|(_, value)| !value.is_null());
    let fields = fields.map(|(name, _)| name.clone());
    fields.chain(not_obeyed("options.", options))
}

/// `POST /api/embeddings`.
pub fn embeddings(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, request)) = content::<EmbeddingRequest>(exchange) else {
        return;
    };
    let mut headers = headers;
    let answer = request.and_then(|request| {
        let names: Vec<String> = without_effect(&request.rest, &request.options).collect();
        headers.extend(notices::ignored(server, &request.model, &names));
        let model = find(server, &request.model)?;
        let texts = if request.prompt.is_empty() {
            Vec::new()
        } else {
            vec![request.prompt]
        };
        let input = Texts {
            texts,
            truncate: false,
            dimensions: None,
            options: &request.options,
            keep_alive: request.keep_alive.as_ref(),
        };
        let embedded = vectors(server, &exchange, &model, input).map_err(older)?;
        let vector = embedded.vectors.into_iter().next().unwrap_or_default();
        Ok(json::line(&EmbeddingRecord {
            embedding: vector.into_iter().map(f64::from).collect(),
        }))
    });
    reply(exchange, answer, &headers);
}

/// The request of either route.
struct Texts<'a> {
    texts: Vec<String>,
    truncate: bool,
    dimensions: Option<usize>,
    options: &'a Map<String, Json>,
    keep_alive: Option<&'a Json>,
}

fn vectors(server: &Server, exchange: &Exchange, model: &Model, input: Texts) -> Result<Embedded> {
    let request = Request {
        model,
        texts: input.texts,
        truncate: input.truncate,
        dimensions: input.dimensions.filter(|count| *count > 0),
        options: from_json(input.options)?,
        keep_alive: keep_alive(input.keep_alive)?,
        cancel: exchange.watch().gone(),
    };
    embed::embed(&server.pool, &request, &mut |_| {})
}

fn find(server: &Server, text: &str) -> Result<Arc<Model>> {
    let name = to_run(text)?;
    let found = server.model_cache.open(&server.store, text, &name);
    found.map_err(|error| {
        if error.is_not_found() || error.class() == Class::Damaged {
            Error::plain(
                Class::NoModel,
                format!("model \"{text}\" not found, try pulling it first"),
            )
        } else {
            error
        }
    })
}

/// The older route answers an invalid text with status 500, like the reference.
fn older(error: Error) -> Error {
    match error.class() {
        Class::TooLong | Class::Usage => Error::failed(error.public_text()),
        _ => error,
    }
}
