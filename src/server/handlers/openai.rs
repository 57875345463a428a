//! `/v1`: OpenAI's chat completions, completions, embeddings, models and responses.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value as Json, json};

use super::embed;
use super::models::{named, not_found};
use crate::core::clock;
use crate::core::error::Result;
use crate::core::name::Name;
use crate::core::turn::TurnRequest;
use crate::format::wire::openai::encode::{ChatEncoder, CompletionEncoder, Head, error_body};
use crate::format::wire::responses::encode::ResponseEncoder;
use crate::format::wire::{openai, responses};
use crate::ops::model;
use crate::server::http::Exchange;
use crate::server::ids::{now, random_id};
use crate::server::notices;
use crate::server::shared::Server;
use crate::server::turn::{self, Headers, Question, read};
use crate::system::store::Entry;

/// The fields that the records of an answer share.
fn head(kind: &str, turn: &TurnRequest, body: &Map<String, Json>) -> Head {
    Head {
        id: format!("{kind}-{}", random_id()),
        created: now(),
        model: turn.model.clone(),
        include_usage: openai::includes_usage(body),
        streams: turn.stream,
    }
}

/// `POST /v1/chat/completions`.
pub fn chat(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let question = body.and_then(|body| {
        let turn = openai::chat(&body)?;
        Ok(Question {
            encoder: ChatEncoder::new(head("chatcmpl", &turn, &body), turn.choices),
            verb: "chat",
            turn,
        })
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}

/// `POST /v1/completions`.
pub fn completions(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let question = body.and_then(|body| {
        let turn = openai::completion(&body)?;
        let head = head("cmpl", &turn, &body);
        Ok(Question {
            encoder: CompletionEncoder::new(head, turn.choices, turn.input.is_none()),
            verb: "generate",
            turn,
        })
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}

/// `POST /v1/responses`.
pub fn responses(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let question = body.and_then(|body| {
        let body = with_model(server, body)?;
        Ok(Question {
            turn: responses::request(&body)?,
            verb: "chat",
            encoder: ResponseEncoder::new(random_id(), body, now),
        })
    });
    turn::answer(server, exchange, headers, question, error_body, started);
}

/// `POST /v1/responses/input_tokens`.
pub fn input_tokens(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let started = Instant::now();
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let counted = body.and_then(|body| {
        let turn = responses::conversation(&with_model(server, body)?)?;
        let tokens = turn::count(server, &exchange, turn, started)?;
        Ok(json!({ "object": "response.input_tokens", "input_tokens": tokens }))
    });
    turn::reply(exchange, counted, &headers, error_body);
}

/// A request for responses may leave the model out: it is then the one that is loaded, else the
/// newest of the store that answers.
fn with_model(server: &Server, mut body: Map<String, Json>) -> Result<Map<String, Json>> {
    if body.get("model").is_some_and(|model| !model.is_null()) {
        return Ok(body);
    }
    let loaded = server.pool.loaded();
    let loaded = loaded.iter().filter_map(|loaded| loaded.name.as_ref());
    let listing = server.store.list()?;
    let answers = |name: &&Name| {
        let model = model::open_name(&server.store, &name.to_string(), name);
        model.is_ok_and(|model| !model.header.is_embedding())
    };
    let mut names = loaded.chain(listing.entries.iter().map(|entry| &entry.name));
    if let Some(name) = names.find(answers) {
        body.insert("model".into(), name.to_string().into());
    }
    Ok(body)
}

/// `POST /v1/embeddings`.
pub fn embeddings(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, body)) = read(exchange, &headers, error_body) else {
        return;
    };
    let mut headers = headers;
    let answer = body.and_then(|body| {
        let (request, packed) = openai::embedding(&body)?;
        let embedded = embed::embed_texts(server, &exchange, &request)?;
        let names = embed::not_obeyed_fields(&request, &embedded);
        headers.extend(notices::ignored(server, &request.model, &names));
        let item = |(index, vector): (usize, Vec<f32>)| {
            let embedding = if packed {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                BASE64.encode(bytes).into()
            } else {
                // The shortest digits that give the number again.
                let shortest = |x: &f32| x.to_string().parse::<f64>().unwrap_or_default();
                json!(vector.iter().map(shortest).collect::<Vec<_>>())
            };
            json!({ "object": "embedding", "embedding": embedding, "index": index })
        };
        let items = embedded.vectors.into_iter().enumerate().map(item);
        Ok(json!({
            "object": "list",
            "data": items.collect::<Vec<_>>(),
            "model": request.model,
            "usage": { "prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens },
        }))
    });
    turn::reply(exchange, answer, &headers, error_body);
}

/// `GET /v1/models`: the keys of OpenAI, Anthropic and TypeSafe, so that all their libraries read it.
pub fn models(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let answer = server.store.list().map(|listing| {
        let data: Vec<Json> = listing.entries.iter().map(entry_json).collect();
        let id = |model: Option<&Json>| model.map(|model| model["id"].clone());
        let models = data.iter().map(|model| {
            let date = model["created_at"].as_str().unwrap_or_default();
            let date = date.get(..10).unwrap_or_default();
            json!({ "name": model["id"], "description": "", "release_date": date })
        });
        let models: Vec<Json> = models.collect();
        json!({
            "object": "list",
            "first_id": id(data.first()),
            "last_id": id(data.last()),
            "has_more": false,
            "data": data,
            "models": models,
        })
    });
    turn::reply(exchange, answer, &headers, error_body);
}

/// `GET /v1/models/NAME`; a name may hold slashes.
pub fn model(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let model_name = exchange
        .path()
        .trim_start_matches("/v1/models/")
        .to_string();
    let model_name = model_name
        .replace("%2F", "/")
        .replace("%2f", "/")
        .replace("%3A", ":")
        .replace("%3a", ":");
    let answer = named(&model_name).and_then(|name| {
        let found = server.store.find(&name);
        let entry = found.map_err(|error| not_found(error, &model_name))?;
        let mut answer = entry_json(&entry);
        answer["id"] = model_name.as_str().into();
        Ok(answer)
    });
    let errors = match exchange.header("anthropic-version") {
        Some(_) => super::anthropic::error_body,
        None => error_body,
    };
    turn::reply(exchange, answer, &headers, errors);
}

fn entry_json(entry: &Entry) -> Json {
    let created = entry.modified.duration_since(std::time::UNIX_EPOCH);
    let name = entry.name.to_string();
    let owner = name.rsplit_once('/').map_or("library", |(owner, _)| owner);
    json!({
        "id": name,
        "object": "model",
        "created": created.map_or(0, |since| since.as_secs()),
        "owned_by": owner,
        "type": "model",
        "display_name": name,
        "created_at": clock::rfc3339_seconds(entry.modified),
        "lifecycle": "active",
    })
}
