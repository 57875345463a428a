//! `puna push`: sends a model to a registry.

use super::context::Context;
use super::flag::{HOST, JSON, QUIET};
use super::out::Out;
use super::parsed::Parsed;
use super::pull::{INSECURE, Transfer, by_server};
use super::table::{Command, Completes, PLAIN, Section};
use super::transfer_display::Display;
use crate::core::error::Result;
use crate::core::name::Name;
use crate::ops::push;
use crate::system::registry::Registry;

pub const COMMAND: Command = Command {
    name: "push",
    summary: "send a model to a registry",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[INSECURE, HOST, JSON, QUIET],
    about: &[
        "Sends a model of the store to the registry in its name; 'puna cp' gives it such a name. Blobs that the \
         registry has already are not sent again, and the manifest is sent as stored, so that the model keeps its \
         digest. Authentication works as in pull.",
    ],
    examples: &[(
        "puna cp smol registry.example.org/me/smol && puna push registry.example.org/me/smol",
        "send a model to a registry of your own",
    )],
    run,
    section: Section::Models,
    completes: (Completes::Models, Completes::Nothing),
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let name = Name::parse(&parsed.operands[0])?;
    let transfer = Transfer {
        json: parsed.has(&JSON),
        ..Transfer::new(parsed)
    };
    if let Some(server) = context.named_server(parsed)? {
        return by_server(&server, "/api/push", &name, &transfer, out);
    }
    let registry = Registry::new(config.network.clone())?;
    let (store, what) = (context.store(), (&name, transfer.insecure));
    let mut display = Display::new(&name, transfer.json, out);
    push::push(&store, &registry, what, &mut |step| {
        display.add(step.record());
    })?;
    display.success()
}
