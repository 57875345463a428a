//! Scores how well texts answer a question: with a reranking model, which reads both at once, or by the
//! angle between their embeddings.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::embed;
use super::model::Model;
use super::pool::{Pool, Progress};
use super::turn::options_in_force;
use crate::core::error::{Class, Error, Result};
use crate::core::options::Options;
use crate::system::engine::Engine;

/// A question and the texts to score.
pub struct Request<'a> {
    /// A reranking model or an embedding model.
    pub model: &'a Model,
    /// The question.
    pub query: String,
    /// The texts.
    pub texts: Vec<String>,
    /// Options of this request, over the model's own.
    pub options: Options,
    /// The cancel flag.
    pub cancel: Arc<AtomicBool>,
}

/// The scores of a request's texts.
#[derive(Debug)]
pub struct Ranked {
    /// A score for each text, in their order: the higher, the better it answers.
    pub scores: Vec<f32>,
    /// Tokens that were read.
    pub tokens: usize,
}

/// Scores texts.
///
/// # Errors
/// `NoVectors` if the model can do neither; `Usage` for an empty question; the error of the load.
pub fn rerank(pool: &Pool, request: &Request, progress: Progress) -> Result<Ranked> {
    if request.query.trim().is_empty() {
        return Err(Error::usage("the query is empty"));
    }
    match &request.model.header {
        header if header.is_ranker() => by_reading(pool, request, progress),
        header if header.is_embedding() => by_angle(pool, request, progress),
        _ => {
            let text = format!(
                "{} is a text model; ranking needs a reranking or embedding model",
                request.model.label
            );
            Err(Error::plain(Class::NoVectors, text))
        }
    }
}

fn by_angle(pool: &Pool, request: &Request, progress: Progress) -> Result<Ranked> {
    // An empty text may have no embedding; its score is 0.
    let texts = request.texts.iter().filter(|text| !text.trim().is_empty());
    let embedding = embed::Request {
        model: request.model,
        texts: [&request.query].into_iter().chain(texts).cloned().collect(),
        truncate: true,
        dimensions: None,
        options: request.options.clone(),
        keep_alive: None,
        cancel: request.cancel.clone(),
    };
    let made = embed::embed(pool, &embedding, progress)?;
    let mut vectors = made.vectors.iter();
    let query = vectors.next().cloned().unwrap_or_default();
    let dot = |vector: &Vec<f32>| vector.iter().zip(&query).map(|(a, b)| a * b).sum::<f32>();
    let scores = request.texts.iter().map(|text| {
        if text.trim().is_empty() {
            0.0
        } else {
            vectors.next().map_or(0.0, dot)
        }
    });
    Ok(Ranked {
        scores: scores.collect(),
        tokens: made.tokens,
    })
}

fn by_reading(pool: &Pool, request: &Request, progress: Progress) -> Result<Ranked> {
    let options = options_in_force(request.model, &request.options);
    let lease = pool.acquire(request.model, &options, None, &request.cancel, progress)?;
    let limit = lease.context_tokens.unwrap_or(u32::MAX) as usize;
    let engine = lease.engine();
    let query = engine.tokens(&request.query, false, false);
    let pairs = request
        .texts
        .iter()
        .map(|text| pair(engine, &query, text, limit));
    let pairs = pairs.collect::<Result<Vec<_>>>()?;
    let tokens = pairs.iter().map(Vec::len).sum();
    if pairs.is_empty() {
        return Ok(Ranked {
            scores: Vec::new(),
            tokens,
        });
    }
    let scores = engine.embed(pairs, request.cancel.clone())?;
    Ok(Ranked {
        scores: scores
            .iter()
            .map(|score| score.first().copied().unwrap_or(0.0))
            .collect(),
        tokens,
    })
}

/// Question and text in the form that reranking models were trained on; the text is cut to fit.
fn pair(engine: &Engine, query: &[i32], text: &str, limit: usize) -> Result<Vec<i32>> {
    let (begin, middle, end) = engine.pair_separators();
    let separators = begin.len() + middle.len() + end.len();
    let Some(room) = limit.checked_sub(query.len() + separators) else {
        let text = "the query is longer than the model's context";
        return Err(Error::plain(Class::TooLong, text));
    };
    let mut text = engine.tokens(text, false, false);
    text.truncate(room);
    Ok([&begin, query, &middle, &text, &end].concat())
}
