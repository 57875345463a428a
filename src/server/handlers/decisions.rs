//! `/v1/systemone` and `/v1/decisions`: answers typed questions about a text.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::models::{not_found, to_run};
use crate::core::decision::Decision;
use crate::core::error::{Class, Error, Result};
use crate::core::json;
use crate::core::network::JSON_KIND;
use crate::format::wire::decisions::{Asked, Wrong, openai, systemone};
use crate::format::wire::openai::encode::error_body as openai_error;
use crate::ops::decide::{self, Decided, PROMPT_VERSION, Request};
use crate::server::http::{Exchange, Reply};
use crate::server::notices;
use crate::server::reply::error_reply;
use crate::server::shared::Server;
use crate::server::turn::{Errors, Headers, read};

/// The name that TypeSafe's library sends if its user names no model.
const ANY_MODEL: &str = "jev-latest";
/// A model that gives all labels together less than this has not understood how to answer.
const LABEL_MASS_MIN: f64 = 0.1;

/// An API's errors: their bodies, and the status of a request that is wrong.
struct Api {
    errors: Errors,
    wrong: u16,
}

const TYPESAFE: Api = Api {
    errors: systemone::error_body,
    // TypeSafe's clients tell a request that is wrong from one that cannot be met.
    wrong: 422,
};
const OPENAI: Api = Api {
    errors: openai_error,
    wrong: 400,
};

/// `POST /v1/systemone`.
pub fn systemone(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, body)) = read(exchange, &headers, TYPESAFE.errors) else {
        return;
    };
    match body {
        Ok(body) => typesafe(server, exchange, headers, &body),
        Err(error) => {
            let wrong = Wrong {
                place: Vec::new(),
                why: error.public_text(),
            };
            exchange.reply(invalid(&wrong), &headers);
        }
    }
}

/// `POST /v1/decisions`: OpenAI's body, or that of `/v1/systemone`.
pub fn decisions(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, body)) = read(exchange, &headers, OPENAI.errors) else {
        return;
    };
    let is_typesafe = |body: &Map<String, Json>| {
        body.contains_key("state") && body.get("questions").is_some_and(Json::is_object)
    };
    if let Ok(body) = &body
        && is_typesafe(body)
    {
        return typesafe(server, exchange, headers, body);
    }
    let decoded = body.and_then(|body| {
        let decoded = openai::decode(&body);
        decoded.map_err(|wrong| Error::usage(wrong.text()))
    });
    let decoded = match decoded {
        Ok(decoded) => decoded,
        Err(error) => return exchange.reply(OPENAI.failure(&error), &headers),
    };
    let answer = decided(server, &exchange, &decoded.asked);
    let answer = answer.map(|(model, decided)| {
        openai::encode(&model, &decoded, (&decided.decisions, decided.tokens))
    });
    OPENAI.send(server, exchange, (headers, &decoded.asked), answer);
}

/// Answers a body of TypeSafe's.
fn typesafe(server: &Arc<Server>, exchange: Exchange, headers: Headers, body: &Map<String, Json>) {
    let asked = match systemone::decode(body) {
        Ok(asked) => asked,
        Err(wrong) => return exchange.reply(invalid(&wrong), &headers),
    };
    let answer = decided(server, &exchange, &asked);
    let answer = answer.map(|(model, decided)| {
        let more = (decided.tokens, PROMPT_VERSION);
        systemone::encode(&model, &asked.questions, &decided.decisions, more)
    });
    TYPESAFE.send(server, exchange, (headers, &asked), answer);
}

/// A body that is wrong, in TypeSafe's format.
fn invalid(wrong: &Wrong) -> Reply {
    Reply {
        status: TYPESAFE.wrong,
        kind: JSON_KIND,
        body: json::line(&systemone::invalid(wrong)),
        ..Reply::default()
    }
}

impl Api {
    /// Sends the answer, with the names of fields that had no effect.
    fn send(
        &self,
        server: &Server,
        exchange: Exchange,
        (mut headers, asked): (Headers, &Asked),
        answer: Result<Json>,
    ) {
        let model = asked.model.as_deref().unwrap_or_default();
        headers.extend(notices::ignored(server, model, &asked.ignored));
        let reply = match answer {
            Ok(body) => Reply {
                status: 200,
                kind: JSON_KIND,
                body: json::line(&body),
                ..Reply::default()
            },
            Err(error) => self.failure(&error),
        };
        exchange.reply(reply, &headers);
    }

    /// An error in the format of the API.
    fn failure(&self, error: &Error) -> Reply {
        let native = error_reply(error);
        let status = match error.class() {
            Class::TooLong | Class::Usage => self.wrong,
            _ => native.status,
        };
        Reply {
            status,
            body: json::line(&(self.errors)(&error.public_text(), status)),
            ..native
        }
    }
}

/// The answers, and the name of the model that gave them.
fn decided(server: &Server, exchange: &Exchange, asked: &Asked) -> Result<(String, Decided)> {
    let label = model(server, asked)?;
    let name = to_run(&label)?;
    let found = server.model_cache.open(&server.store, &label, &name);
    let model = found.map_err(|error| match error.class() {
        Class::Damaged => error,
        _ => not_found(error, &label),
    })?;
    let request = Request {
        model: &model,
        system: None,
        state: &asked.state,
        questions: &asked.questions,
        both_orders: asked.both_orders,
        explains: false,
        options: asked.options.clone(),
        keep_alive: asked.keep_alive,
        cancel: exchange.watch().gone(),
    };
    let decided = decide::decide(&server.pool, &request, &mut |_| {})?;
    let is_low = |decision: &&Decision| decision.label_mass < LABEL_MASS_MIN;
    let low = decided.decisions.iter().filter(is_low).count();
    if low > 0 {
        let all = decided.decisions.len();
        let text = "the model gives the labels little probability";
        (server.log)(&format!("{name}: {text}, in {low} of {all} questions"));
    }
    Ok((name.to_string(), decided))
}

/// The model that is named, else that of the setting, else the only one that is loaded.
fn model(server: &Server, asked: &Asked) -> Result<String> {
    let named = asked.model.as_ref().filter(|model| *model != ANY_MODEL);
    if let Some(model) = named.or(server.decision_model.as_ref()) {
        return Ok(model.clone());
    }
    let loaded = server.pool.loaded();
    match loaded
        .iter()
        .filter_map(|loaded| loaded.name.as_ref())
        .collect::<Vec<_>>()[..]
    {
        [only] => Ok(only.to_string()),
        _ => Err(Error::plain(
            Class::NoModel,
            "which model decides? name one, or set PUNA_DECISION_MODEL",
        )),
    }
}
