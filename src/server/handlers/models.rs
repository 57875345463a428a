//! Routes for managing models: tags, ps, show, copy, delete.

use std::sync::Arc;

use crate::core::error::{Class, Error, Result};
use crate::core::name::{self, Name};
use crate::core::{clock, json};
use crate::format::wire::native::listing::{Details, Process, Processes, Tags};
use crate::format::wire::native::{CopyRequest, NameRequest};
use crate::ops::pool::Loaded;
use crate::ops::{list, model, show};
use crate::server::body::names;
use crate::server::http::{Exchange, Reply};
use crate::server::reply::reply;
use crate::server::shared::Server;

type Headers = Vec<(&'static str, String)>;

/// `GET /api/tags`.
pub fn tags(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let listed = list::tags(&server.store).map(|(models, broken)| {
        broken.iter().for_each(|line| (server.log)(line));
        json::line(&Tags { models })
    });
    reply(exchange, listed, &headers);
}

/// `GET /api/ps`.
pub fn ps(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let models = server.pool.loaded().iter().map(process).collect();
    reply(exchange, Ok(json::line(&Processes { models })), &headers);
}

fn process(loaded: &Loaded) -> Process {
    let name = loaded
        .name
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    Process {
        model: name.clone(),
        name,
        size: loaded.size_bytes,
        digest: loaded.digest.map(|digest| digest.hex()).unwrap_or_default(),
        details: Details {
            parent_model: String::new(),
            ..list::details(&loaded.config, String::new())
        },
        expires_at: clock::rfc3339(loaded.expires),
        size_vram: loaded.gpu_bytes,
        context_length: loaded.context_tokens,
        device: loaded.device.clone(),
    }
}

/// `POST /api/show`.
pub fn show(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, request)) = names::<NameRequest>(exchange) else {
        return;
    };
    let shown = request.and_then(|request| {
        let name = to_show(request.text())?;
        let found = model::open_name(&server.store, request.text(), &name);
        let model = found.map_err(|error| not_found(error, &name.to_string()))?;
        show::show(&model, request.verbose).map(|show| json::line(&show))
    });
    reply(exchange, shown, &headers);
}

/// `POST /api/copy`.
pub fn copy(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, request)) = names::<CopyRequest>(exchange) else {
        return;
    };
    let copied = request.and_then(|request| {
        let part = |what: &str, text: &str| {
            Name::parse(text).map_err(|_| Error::usage(format!("{what} \"{text}\" is invalid")))
        };
        let (source, target) = (
            part("source", &request.source)?,
            part("destination", &request.destination)?,
        );
        let missing = |error: Error| {
            if error.is_not_found() {
                Error::plain(
                    Class::NoModel,
                    format!("model \"{}\" not found", request.source),
                )
            } else {
                error
            }
        };
        server.store.copy(&source, &target).map_err(missing)
    });
    empty(exchange, copied, &headers);
}

/// `DELETE /api/delete`.
pub fn delete(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, request)) = names::<NameRequest>(exchange) else {
        return;
    };
    let deleted = request.and_then(|request| {
        let text = request.text();
        if text.is_empty() {
            return Err(Error::usage("model is required"));
        }
        let bare = match split_place(text.trim()) {
            (rest, Some(Place::Local)) => rest,
            _ => text,
        };
        let name =
            Name::parse(bare).map_err(|_| Error::usage(format!("name \"{text}\" is invalid")))?;
        server
            .store
            .remove(&name)
            .map_err(|error| not_found(error, text))
    });
    empty(exchange, deleted, &headers);
}

fn empty(exchange: Exchange, result: Result<()>, headers: &Headers) {
    match result {
        Ok(()) => exchange.reply(
            Reply {
                status: 200,
                ..Reply::default()
            },
            headers,
        ),
        Err(error) => reply(exchange, Err(error), headers),
    }
}

/// The reference's reasons for refusing a cloud model.
const TO_RUN: &str = "remote model is unavailable";
const TO_SHOW: &str = "remote model details are unavailable";

/// The name of a model to run.
///
/// # Errors
/// `Usage` for an invalid name, `Denied` for a cloud model.
pub fn to_run(text: &str) -> Result<Name> {
    named(without_local_suffix(text, TO_RUN)?)
}

/// The name of a model to show.
fn to_show(text: &str) -> Result<Name> {
    named(without_local_suffix(text, TO_SHOW)?)
}

/// Parses the name in a request.
///
/// # Errors
/// `Usage` with the reference's wording for a missing or an invalid name.
pub fn named(text: &str) -> Result<Name> {
    match text {
        "" => Err(Error::usage("model is required")),
        text => Name::parse(text).map_err(|_| Error::usage("invalid model name")),
    }
}

/// A name to pull, without the suffix `:local`.
///
/// # Errors
/// As for [`to_run`].
pub fn local(text: &str) -> Result<&str> {
    without_local_suffix(text, TO_RUN)
}

/// The name without the suffix `:local`.
///
/// # Errors
/// `Denied` for a cloud suffix, `Usage` for two suffixes.
fn without_local_suffix<'a>(text: &'a str, operation: &str) -> Result<&'a str> {
    if text.len() > name::TEXT_BYTES_MAX {
        return Err(Error::usage("invalid model name"));
    }
    let (rest, place) = split_place(text.trim());
    let Some(place) = place else {
        return Ok(rest);
    };
    if split_place(rest).1.is_some() {
        let text = format!("use either :local or :cloud, not both: \"{text}\"");
        return Err(Error::usage(text));
    }
    match place {
        Place::Local => Ok(rest),
        Place::Cloud => {
            let text = format!("ollama cloud is disabled: {operation}");
            Err(Error::plain(Class::Denied, text))
        }
    }
}

enum Place {
    Local,
    Cloud,
}

/// Splits off a name's last part if it is `local`, `cloud` or ends with `-cloud`.
fn split_place(text: &str) -> (&str, Option<Place>) {
    let Some((rest, end)) = text.rsplit_once(':') else {
        return (text, None);
    };
    let end = end.to_ascii_lowercase();
    match end.as_str() {
        "local" => (rest, Some(Place::Local)),
        "cloud" => (rest, Some(Place::Cloud)),
        end if end.ends_with("-cloud") => (rest, Some(Place::Cloud)),
        _ => (text, None),
    }
}

/// Replaces a not-found error with the reference's message for a missing model.
pub fn not_found(error: Error, name: &str) -> Error {
    if error.is_not_found() {
        Error::plain(Class::NoModel, format!("model '{name}' not found"))
    } else {
        error
    }
}
