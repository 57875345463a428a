//! `POST /api/rerank` and `/v1/rerank`: sorts texts by relevance to a query, in the format of Jina's
//! and Cohere's clients.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::llamacpp::named;
use crate::core::error::{Error, Result};
use crate::core::options::Options;
use crate::format::wire::openai::encode::error_body;
use crate::format::wire::openai::text;
use crate::ops::rerank::{self, Request};
use crate::server::http::Exchange;
use crate::server::shared::Server;
use crate::server::turn::{self, Headers, read};

/// Most texts in one request.
const TEXTS_MAX: usize = 10_000;

/// Answers with the texts' indexes and scores, the best first.
pub fn rerank(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let answer = body.and_then(|body| ranked(server, &exchange, &body));
    turn::reply(exchange, answer, &headers, error_body);
}

fn ranked(server: &Server, exchange: &Exchange, body: &Map<String, Json>) -> Result<Json> {
    let model = named(server, body)?;
    let texts = documents(body)?;
    let top = match body.get("top_n") {
        None | Some(Json::Null) => usize::MAX,
        Some(number) => number
            .as_u64()
            .map(|number| number as usize)
            .ok_or_else(|| Error::usage("top_n must be a whole number"))?,
    };
    let request = Request {
        model: &model,
        query: text(body, "query")?.to_string(),
        texts,
        options: Options::default(),
        cancel: exchange.watch().gone(),
    };
    let ranked = rerank::rerank(&server.pool, &request, &mut |_| {})?;
    let mut order: Vec<usize> = (0..ranked.scores.len()).collect();
    order.sort_by(|a, b| ranked.scores[*b].total_cmp(&ranked.scores[*a]));
    order.truncate(top);
    // Clients of the native route expect the text itself in each result.
    let is_native = exchange.path() == "/api/rerank";
    let returns = body.get("return_documents") == Some(&Json::Bool(true));
    let results = order.into_iter().map(|index| {
        let mut result = json!({ "index": index, "relevance_score": ranked.scores[index] });
        if is_native {
            result["document"] = request.texts[index].as_str().into();
        } else if returns {
            result["document"] = json!({ "text": request.texts[index] });
        }
        result
    });
    Ok(json!({
        "model": body.get("model"),
        "object": "list",
        "results": results.collect::<Vec<_>>(),
        "usage": { "prompt_tokens": ranked.tokens, "total_tokens": ranked.tokens },
    }))
}

/// The texts, given as strings or as objects with a `text`.
fn documents(body: &Map<String, Json>) -> Result<Vec<String>> {
    let wrong = || Error::usage("documents must be a list of texts");
    let list = body.get("documents").or_else(|| body.get("texts"));
    let list = list.and_then(Json::as_array).ok_or_else(wrong)?;
    if list.len() > TEXTS_MAX {
        return Err(Error::usage(format!("more than {TEXTS_MAX} documents")));
    }
    let one = |json: &Json| {
        let text = json.as_str().or_else(|| json.get("text")?.as_str());
        text.map(str::to_string).ok_or_else(wrong)
    };
    list.iter().map(one).collect()
}
