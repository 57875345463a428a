//! Embeds texts: turns them into vectors with an embedding model.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::model::Model;
use super::pool::{Pool, Progress};
use super::turn::{far_too_long, options_in_force};
use crate::core::duration::KeepAlive;
use crate::core::error::{Class, Error, Result};
use crate::core::options::Options;
use crate::core::turn::Part;
use crate::system::engine::{Engine, normalised};

/// Texts to embed.
pub struct Request<'a> {
    /// The model.
    pub model: &'a Model,
    /// The texts; with none the model is only loaded.
    pub texts: Vec<String>,
    /// Cut a text that is longer than the context; otherwise it is an error.
    pub truncate: bool,
    /// Keep this many numbers of each vector, if it has more.
    pub dimensions: Option<usize>,
    /// Options of this request, over the model's own.
    pub options: Options,
    /// How long the model stays loaded afterwards.
    pub keep_alive: Option<KeepAlive>,
    /// The cancel flag.
    pub cancel: Arc<AtomicBool>,
}

/// The embeddings of a request's texts.
#[derive(Debug)]
pub struct Embedded {
    /// A vector of length 1 for each text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub tokens: usize,
    /// Time until the model was loaded.
    pub load: Duration,
}

/// Embeds texts.
///
/// # Errors
/// `NoVectors` if the model is not an embedding model; `TooLong`; `Usage` for a text without tokens; the
/// error of the load.
pub fn embed(pool: &Pool, request: &Request, progress: Progress) -> Result<Embedded> {
    if !request.texts.is_empty() && request.model.header.is_ranker() {
        let text = "the model is a reranking model and makes no embeddings; use 'puna rerank'";
        return Err(Error::plain(Class::NoVectors, text));
    }
    if !request.texts.is_empty() && !request.model.header.is_embedding() {
        // The reference's words, which clients look for.
        let text = "This server does not support embeddings. Start it with `--embeddings`";
        return Err(Error::plain(Class::NoVectors, text));
    }
    let started = Instant::now();
    let options = options_in_force(request.model, &request.options);
    let lease = pool.acquire(
        request.model,
        &options,
        request.keep_alive,
        &request.cancel,
        progress,
    )?;
    let load = started.elapsed();
    let limit = lease.context_tokens.unwrap_or(u32::MAX) as usize;
    let texts = request.texts.iter();
    let tokens = texts.map(|text| tokens(lease.engine(), text, limit, request.truncate));
    let tokens = tokens.collect::<Result<Vec<_>>>()?;
    let count = tokens.iter().map(Vec::len).sum();
    if tokens.is_empty() {
        return Ok(Embedded {
            vectors: Vec::new(),
            tokens: count,
            load,
        });
    }
    let vectors = lease.engine().embed(tokens, request.cancel.clone())?;
    let mut vectors: Vec<Vec<f32>> = vectors.iter().map(|vector| normalised(vector)).collect();
    if vectors.iter().flatten().any(|x| !x.is_finite()) {
        return Err(Error::usage("embedding contains NaN or Inf values"));
    }
    if let Some(count) = request.dimensions {
        for vector in vectors.iter_mut().filter(|vector| count < vector.len()) {
            *vector = normalised(&vector[..count]);
        }
    }
    Ok(Embedded {
        vectors,
        tokens: count,
        load,
    })
}

/// The tokens of one text, cut to `limit`; the model's end token stays at the end.
fn tokens(engine: &Engine, text: &str, limit: usize, truncate: bool) -> Result<Vec<i32>> {
    let head = far_too_long::cut(engine, text, Part::Head, limit);
    let text = head.as_ref().map_or(text, |(text, _)| text);
    let mut tokens = engine.tokens(text, true, false);
    if tokens.is_empty() {
        let text = "input exceeds maximum context length and cannot be truncated further";
        return Err(Error::usage(text));
    }
    if tokens.len() <= limit {
        return Ok(tokens);
    }
    if !truncate {
        let text = "the input length exceeds the context length";
        return Err(Error::plain(Class::TooLong, text));
    }
    let end = tokens.last().filter(|id| engine.is_special(**id)).copied();
    tokens.truncate(limit - usize::from(end.is_some()));
    tokens.extend(end);
    Ok(tokens)
}
