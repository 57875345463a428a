//! `puna push`: a model to a registry.

use super::out::Out;
use super::parse::Parsed;
use super::pull::{Display, INSECURE};
use super::spec::{Command, Completes, HOST, JSON, QUIET};
use crate::api::create::Progress as Record;
use crate::api::transfer::TransferRequest;
use crate::config::Config;
use crate::error::Result;
use crate::name::Name;
use crate::push;
use crate::registry::Registry;

pub const COMMAND: Command = Command {
    name: "push",
    alias: None,
    summary: "send a model to a registry",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[INSECURE, HOST, JSON, QUIET],
    about: &[
        "Sends a model of the store to the registry in its name: 'puna cp' gives it such a name. What the registry \
         has already is not sent again, and the manifest goes as it is stored, so that the model keeps its digest. \
         Who you are is told as by pull.",
    ],
    examples: &[(
        "puna cp smol registry.example.org/me/smol && puna push registry.example.org/me/smol",
        "send a model to a registry of your own",
    )],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let name = Name::parse(&parsed.operands[0])?;
    let insecure = parsed.has("insecure");
    let server = super::named_server(parsed, config)?;
    let mut display = Display::new(parsed, out);
    if let Some(server) = server {
        let body = TransferRequest::new(&name, insecure);
        for record in server.post::<Record>("/api/push", &body)? {
            display.show(record?)?;
        }
        return Ok(());
    }
    let registry = Registry::new(config.network.clone())?;
    let store = super::store(config);
    let mut failed = None;
    push::push(&store, &registry, (&name, insecure), &mut |step| {
        if let Err(error) = display.show(step.record()) {
            failed.get_or_insert(error);
        }
    })?;
    display.show(Record::of("success"))?;
    failed.map_or(Ok(()), Err)
}
