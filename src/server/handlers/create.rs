//! `/api/create` and `/api/blobs`: creates models from uploaded files or other models.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::core::digest::Digest;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::message::Message;
use crate::core::name::Name;
use crate::format::gguf::Shard;
use crate::format::manifest::Config;
use crate::format::template::GoTemplate;
use crate::format::wire::native::create::{CreateRequest, Progress};
use crate::format::wire::options::{from_json, not_obeyed};
use crate::ops::create::{self, Changes, Quantizing, Source, Step, is_projector};
use crate::ops::import::Folder;
use crate::ops::model;
use crate::ops::pool::Pool;
use crate::server::body::content;
use crate::server::http::{Exchange, Reply};
use crate::server::notices;
use crate::server::reply::{error_reply, reply};
use crate::server::shared::Server;
use crate::server::stream::{RECORD, Stream};
use crate::system::store::Store;

/// Paths of files, and the digests of their blobs.
type Files = Vec<(String, Digest)>;
type Headers = Vec<(&'static str, String)>;

/// Types that the route quantises to: those in the reference's error text, and BF16, which it omits.
const QUANTS: [&str; 6] = ["F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0", "BF16"];
/// The digest that the reference reports for weights being quantised.
const NO_DIGEST: &str = "0000000000000000000";

/// `POST /api/create`.
pub fn create(server: &Arc<Server>, exchange: Exchange, mut headers: Headers) {
    let Some((exchange, request)) = content::<CreateRequest>(exchange) else {
        return;
    };
    let checked = request.and_then(|request| Ok((target(&request)?, request)));
    let ((name, files, adapters), request) = match checked {
        Ok(checked) => checked,
        Err(error) => return reply(exchange, Err(error), &headers),
    };
    let streams = request.stream.unwrap_or(true);
    let ignored: Vec<String> = not_obeyed("parameters.", &request.parameters).collect();
    headers.extend(notices::ignored(server, &name.to_string(), &ignored));
    let recipe = recipe(request, &name, (files, adapters), server);
    let success = Progress::new("success");
    if !streams {
        let made = recipe.and_then(|(source, changes)| {
            create::create(&server.store, &name, &source, &changes, &mut |_| {})
        });
        let reply = match made {
            Ok(()) => Reply {
                status: 200,
                body: json::line(&success),
                ..Reply::default()
            },
            Err(error) => error_reply(&error),
        };
        let kind = RECORD;
        return exchange.reply(Reply { kind, ..reply }, &headers);
    }
    let mut stream = Stream::new(exchange, headers);
    let made = recipe.and_then(|(source, changes)| {
        let mut report = |step| {
            if let Some(record) = progress(&step) {
                // The model is created even if the client disconnects.
                let _ = stream.send(&record);
            }
        };
        create::create(&server.store, &name, &source, &changes, &mut report)
    });
    let made = made.and_then(|()| stream.send(&success));
    stream.end(made);
}

/// `HEAD /api/blobs/DIGEST` checks for a blob, `POST` uploads it.
pub fn blob(server: &Arc<Server>, mut exchange: Exchange, headers: Headers) {
    let text = exchange.path().rsplit('/').next().unwrap_or_default();
    let text = text.to_string();
    let done = Digest::parse(&text).and_then(|digest| {
        let known = server.store.blob(&digest).is_ok();
        match exchange.method().as_str() {
            _ if known => Ok(200),
            "HEAD" => Ok(404),
            _ => server
                .store
                .put_upload(&digest, &mut exchange.reader())
                .map(|()| 201),
        }
    });
    match done {
        Ok(status) => exchange.reply(
            Reply {
                status,
                ..Reply::default()
            },
            &headers,
        ),
        Err(error) => reply(exchange, Err(error), &headers),
    }
}

/// The progress record of a step; `None` for steps that the reference does not report.
fn progress(step: &Step) -> Option<Progress> {
    if let Step::Quantizing(from, to, done, total) = step {
        return Some(Progress {
            digest: NO_DIGEST.into(),
            total: *total,
            completed: *done,
            ..Progress::new(format!("quantizing {from} model to {to}"))
        });
    }
    Some(Progress::new(match step {
        Step::Parsing => "parsing GGUF".to_string(),
        Step::Converted(0, 0) => "converting model".to_string(),
        Step::Template(name) => format!("using autodetected template {name}"),
        Step::Layer(digest, true) => format!("using existing layer {digest}"),
        Step::Layer(digest, false) => format!("creating new layer {digest}"),
        Step::Naming => "writing manifest".to_string(),
        Step::Copied(..) | Step::Converted(..) | Step::Note(_) | Step::Quantizing(..) => {
            return None;
        }
    }))
}

/// The new model's name, its files, and those of its adapter.
///
/// # Errors
/// `Usage` for an invalid request, before anything is written.
fn target(request: &CreateRequest) -> Result<(Name, Files, Files)> {
    let invalid = || Error::usage("invalid model name");
    let text = if request.model.is_empty() {
        &request.name
    } else {
        &request.model
    };
    let files = files_of(&request.files)?;
    let adapters = files_of(&request.adapters)?;
    if adapters.len() > 1 && !is_folder(&adapters) {
        return Err(Error::usage("only one adapter is currently supported"));
    }
    if !files_of(&request.draft_files)?.is_empty() {
        return Err(Error::usage("draft models cannot be created"));
    }
    if !request.draft_quantize.is_empty() && request.draft_files.is_none() {
        return Err(Error::usage("--draft-quantize requires a DRAFT model"));
    }
    let name = Name::parse(text.trim()).map_err(|_| invalid())?;
    Ok((name, files, adapters))
}

/// The source of the model's weights, and the changes to apply.
///
/// # Errors
/// `Usage` for an invalid request.
fn recipe(
    request: CreateRequest,
    name: &Name,
    (files, adapters): (Files, Files),
    server: &Server,
) -> Result<(Source, Changes)> {
    if !request.remote_host.is_empty() {
        return Err(Error::usage("bad remote"));
    }
    let quantize = [request.quantize.as_str(), &request.quantization].concat();
    let (source, projector) = match request.files {
        _ if !request.from.is_empty() => {
            let from = Name::parse(&request.from);
            let from = from.map_err(|_| Error::usage("invalid model name"))?;
            (Source::Model(from), None)
        }
        None => return Err(Error::usage("neither 'from' or 'files' was specified")),
        Some(_) => made_of(&server.store, name, files)?,
    };
    if !request.template.is_empty() {
        GoTemplate::compile(&request.template)
            .map_err(|error| Error::usage(format!("template error: {error}")))?;
    }
    let quantize = quantizing(&quantize, &server.pool)?;
    let messages = request.messages.into_iter().map(|wire| {
        let message: Message = wire.into();
        (message.role, message.content)
    });
    let adapter = if adapters.is_empty() {
        None
    } else {
        Some(made_of(&server.store, name, adapters)?.0)
    };
    let changes = Changes {
        adapter,
        projector,
        template: request.template,
        system: request.system,
        licenses: licenses(&request.license)?,
        options: from_json(&request.parameters)?,
        messages: messages.collect(),
        quantize,
        config: Config {
            renderer: request.renderer,
            parser: request.parser,
            requires: request.requires,
            ..info(&request.info)?
        },
    };
    Ok((source, changes))
}

/// True if the files are a folder of safetensors.
fn is_folder(files: &[(String, Digest)]) -> bool {
    files.iter().any(|(path, _)| path.ends_with(".safetensors"))
}

/// The weights in uploaded files, and the projector among them.
fn made_of(store: &Store, name: &Name, mut files: Files) -> Result<(Source, Option<Source>)> {
    if is_folder(&files) {
        let at = |(path, digest): (String, Digest)| Ok((path, store.blob(&digest)?));
        let files: Vec<(String, PathBuf)> = files.into_iter().map(at).collect::<Result<_>>()?;
        return Ok((Source::Folder(Folder::new(name.model(), files)), None));
    }
    files.sort();
    let several = files.len() > 1;
    let (mut weights, mut projector) = (Vec::new(), None);
    for (path, digest) in files {
        let blob = store.blob(&digest);
        let is_projector = |at: &PathBuf| model::header(at).is_ok_and(|it| is_projector(&it));
        match blob {
            Ok(at) if several && is_projector(&at) => projector = Some(Source::Blob(digest, path)),
            _ => weights.push((path, digest)),
        }
    }
    match &weights[..] {
        [] => Err(Error::usage("unknown type")),
        [(path, digest)] => Ok((Source::Blob(*digest, path.clone()), projector)),
        shards => Ok((Source::Shards(shard_paths(store, shards)?), projector)),
    }
}

/// The paths of the shards of one model, in the order of their names.
fn shard_paths(store: &Store, files: &[(String, Digest)]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (index, (path, digest)) in files.iter().enumerate() {
        let name = path.rsplit('/').next().unwrap_or(path);
        let shard = Shard::parse(name).ok_or_else(|| {
            Error::usage(format!("{path} must use llama.cpp split filename pattern"))
        })?;
        if shard.count as usize != files.len() || shard.number as usize != index + 1 {
            return Err(Error::usage(format!(
                "{path} has {} shards, expected {}",
                files.len(),
                shard.count
            )));
        }
        paths.push(store.blob(digest)?);
    }
    Ok(paths)
}

/// Validated paths and digests.
fn files_of(map: &Option<Map<String, Json>>) -> Result<Files> {
    let mut files = Vec::new();
    for (path, digest) in map.iter().flatten() {
        let leaves = path.split(['/', '\\']).any(|part| part == "..");
        if path.starts_with(['/', '\\']) || leaves {
            return Err(Error::usage("file path must be relative"));
        }
        files.push((path.clone(), Digest::parse(digest.as_str().unwrap_or(""))?));
    }
    Ok(files)
}

/// Parses the type to quantise to; errors have the reference's wording.
fn quantizing(requested: &str, pool: &Pool) -> Result<Option<Quantizing>> {
    if requested.is_empty() {
        return Ok(None);
    }
    let already =
        |_: &str| Error::failed("quantization is only supported for F16, BF16 and F32 models");
    let parsed = Quantizing::parse(requested, Some(already), pool).ok();
    match parsed.filter(|to| QUANTS.contains(&to.name)) {
        Some(to) => Ok(Some(to)),
        None => Err(Error::failed(format!(
            "unsupported quantization type {} - supported types are {}",
            requested.to_uppercase(),
            QUANTS[..5].join(", ")
        ))),
    }
}

fn licenses(json: &Json) -> Result<Vec<String>> {
    let wrong = || {
        Error::failed(format!(
            "license must be a string or a list of strings, not {json}"
        ))
    };
    match json {
        Json::Null => Ok(Vec::new()),
        Json::String(text) if text.is_empty() => Ok(Vec::new()),
        Json::String(text) => Ok(vec![text.clone()]),
        Json::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_string).ok_or_else(wrong))
            .collect(),
        _ => Err(wrong()),
    }
}

/// The config fields set by `info`; unknown keys are ignored.
fn info(map: &Map<String, Json>) -> Result<Config> {
    let mut config = Config::default();
    for (key, value) in map {
        let must = |what: &str| Err(Error::usage(format!("info field \"{key}\" must be {what}")));
        let text = match key.as_str() {
            "model_family" => &mut config.model_family,
            "base_name" => &mut config.base_name,
            "quantization_level" => &mut config.file_type,
            "parameter_size" => &mut config.model_type,
            "context_length" | "embedding_length" => {
                let number = match value {
                    Json::Number(number) => number.as_u64(),
                    _ => return must("a number"),
                };
                match (number, key.as_str()) {
                    (None, _) => return must("a non-negative integer"),
                    (Some(number), "context_length") => config.context_length = number,
                    (Some(number), _) => config.embedding_length = number,
                }
                continue;
            }
            "capabilities" => {
                let items = value.as_array().map(|items| items.iter().map(Json::as_str));
                match items.and_then(Iterator::collect::<Option<Vec<&str>>>) {
                    Some(words) => {
                        config.capabilities = words.iter().map(|word| (*word).into()).collect()
                    }
                    None => return must("a list of strings"),
                }
                continue;
            }
            _ => continue,
        };
        match value {
            Json::String(value) => *text = value.clone(),
            _ => return must("a string"),
        }
    }
    Ok(config)
}
