//! `/api/pull` and `/api/push`: transfers models from and to registries.

use std::sync::Arc;

use super::models;
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::core::name::Name;
use crate::format::wire::native::create::Progress;
use crate::format::wire::native::transfer::TransferRequest;
use crate::ops::pull::{self, Request};
use crate::ops::push;
use crate::server::body::names;
use crate::server::http::{Exchange, Reply};
use crate::server::reply::{error_reply, reply};
use crate::server::shared::Server;
use crate::server::stream::{RECORD, Stream};

type Headers = Vec<(&'static str, String)>;

/// `POST /api/pull`.
pub fn pull(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, request)) = names::<TransferRequest>(exchange) else {
        return;
    };
    let target = request.and_then(|request| {
        let bare = models::local(request.text());
        let bare = bare.map_err(|_| Error::usage("invalid model name"))?;
        Ok((models::named(bare)?, request))
    });
    let gone = exchange.watch().gone();
    transfer(exchange, headers, target, |(name, asked), report| {
        let request = Request {
            name,
            insecure: asked.insecure,
            rate: None,
            locked: None,
            replace: asked.replace,
            cancel: &gone,
        };
        pull::pull(&server.store, server.registry()?, &request, &mut |step| {
            report(step.record());
        })
    });
}

/// `POST /api/push`.
pub fn push(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, request)) = names::<TransferRequest>(exchange) else {
        return;
    };
    let target = request.and_then(|request| Ok((models::named(request.text())?, request)));
    transfer(exchange, headers, target, |(name, asked), report| {
        let name = (name, asked.insecure);
        push::push(&server.store, server.registry()?, name, &mut |step| {
            report(step.record());
        })
    });
}

/// Runs a transfer and streams its records, or answers with the last one.
fn transfer(
    exchange: Exchange,
    headers: Headers,
    target: Result<(Name, TransferRequest)>,
    operation: impl FnOnce((&Name, &TransferRequest), &mut dyn FnMut(Progress)) -> Result<()>,
) {
    let (name, request) = match target {
        Ok(target) => target,
        Err(error) => return reply(exchange, Err(error), &headers),
    };
    let what = (&name, &request);
    let success = Progress::new("success");
    if !request.stream.unwrap_or(true) {
        let answer = match operation(what, &mut |_| {}) {
            Ok(()) => Reply {
                status: 200,
                body: json::line(&success),
                ..Reply::default()
            },
            // The reference answers every failure with status 500.
            Err(error) => Reply {
                status: 500,
                ..error_reply(&error)
            },
        };
        let kind = RECORD;
        return exchange.reply(Reply { kind, ..answer }, &headers);
    }
    let mut stream = Stream::new(exchange, headers);
    let done = operation(what, &mut |record| {
        // The connection's watch reports a disconnected client.
        let _ = stream.send(&record);
    });
    let done = done.and_then(|()| stream.send(&success));
    stream.end(done);
}
