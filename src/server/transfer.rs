//! `/api/pull` and `/api/push`: models from registries and to them.

use std::sync::Arc;

use super::body::names;
use super::http::{Exchange, Reply};
use super::route::{error_reply, reply};
use super::stream::{RECORD, Stream};
use super::{Server, models};
use crate::api::create::Progress;
use crate::api::transfer::TransferRequest;
use crate::error::{Error, Result};
use crate::json;
use crate::name::Name;
use crate::pull::{self, Request};
use crate::push;

type Headers = Vec<(&'static str, String)>;

/// `POST /api/pull`.
pub fn pull(server: &Arc<Server>, exchange: Exchange, headers: Headers) {
    let Some((exchange, request)) = names::<TransferRequest>(exchange) else {
        return;
    };
    let asked = request.and_then(|request| {
        let bare = models::local(request.text());
        let bare = bare.map_err(|_| Error::usage("invalid model name"))?;
        Ok((models::named(bare)?, request))
    });
    let gone = exchange.watch().gone();
    transfer(exchange, headers, asked, |(name, insecure), report| {
        let request = Request {
            name,
            insecure,
            rate: None,
            locked: None,
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
    let asked = request.and_then(|request| Ok((models::named(request.text())?, request)));
    transfer(exchange, headers, asked, |name, report| {
        push::push(&server.store, server.registry()?, name, &mut |step| {
            report(step.record());
        })
    });
}

/// Answers with the records of a transfer as they come, or with the last one.
fn transfer(
    exchange: Exchange,
    headers: Headers,
    asked: Result<(Name, TransferRequest)>,
    deed: impl FnOnce((&Name, bool), &mut dyn FnMut(Progress)) -> Result<()>,
) {
    let (name, request) = match asked {
        Ok(asked) => asked,
        Err(error) => return reply(exchange, Err(error), &headers),
    };
    let what = (&name, request.insecure);
    let success = Progress::of("success");
    if !request.stream.unwrap_or(true) {
        let answer = match deed(what, &mut |_| {}) {
            Ok(()) => Reply {
                status: 200,
                body: json::line(&success),
                ..Reply::default()
            },
            // The reference answers every failure so.
            Err(error) => Reply {
                status: 500,
                ..error_reply(&error)
            },
        };
        let kind = RECORD;
        return exchange.reply(Reply { kind, ..answer }, &headers);
    }
    let mut stream = Stream::new(exchange, headers);
    let done = deed(what, &mut |record| {
        // A client that has left is told by its watch.
        let _ = stream.send(&record);
    });
    let done = done.and_then(|()| stream.send(&success));
    stream.end(done);
}
