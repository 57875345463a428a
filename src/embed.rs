//! Texts to vectors, by a model that was made for it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::chat::options_in_force;
use crate::duration::KeepAlive;
use crate::engine::{Engine, normalised};
use crate::error::{Class, Error, Result};
use crate::model::Model;
use crate::options::Options;
use crate::pool::{Pool, Progress};

/// Texts to turn into vectors.
pub struct Request<'a> {
    /// The model.
    pub model: &'a Model,
    /// The texts; with none the model is only loaded.
    pub texts: Vec<String>,
    /// Cut a text that is longer than the model reads; else it is an error.
    pub truncate: bool,
    /// Keep so many numbers of each vector, if it has more.
    pub dimensions: Option<usize>,
    /// Options of this request, over the model's own.
    pub options: Options,
    /// How long the model stays loaded afterwards.
    pub keep_alive: Option<KeepAlive>,
    /// Set by whoever wants it to end early.
    pub cancel: Arc<AtomicBool>,
}

/// What became of them.
#[derive(Debug)]
pub struct Embedded {
    /// A vector of length 1 for each text, in order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub tokens: usize,
    /// Time until the model was loaded.
    pub load: Duration,
}

/// Turns texts into vectors.
///
/// # Errors
/// `NoVectors` if the model is none for that; `Usage` for a text that is too long or has no
/// tokens; what the load says.
pub fn embed(pool: &Pool, request: &Request, progress: Progress) -> Result<Embedded> {
    if !request.texts.is_empty() && request.model.header.is_ranker() {
        let text = "the model scores pairs of texts and makes no vectors: see rerank";
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

/// The tokens of one text, cut to `limit`; the mark that the model puts at its end stays there.
fn tokens(engine: &Engine, text: &str, limit: usize, truncate: bool) -> Result<Vec<i32>> {
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
