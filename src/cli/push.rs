//! `puna push`: a model to a registry.

use super::out::Out;
use super::parse::Parsed;
use super::pull::{Display, INSECURE, by_server};
use super::spec::{Command, Completes, HOST, JSON, QUIET};
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
    if let Some(server) = super::named_server(parsed, config)? {
        return by_server(&server, "/api/push", &name, parsed, out);
    }
    let registry = Registry::new(config.network.clone())?;
    let (store, what) = (super::store(config), (&name, parsed.has("insecure")));
    let mut display = Display::new(parsed, out);
    push::push(&store, &registry, what, &mut |step| {
        display.take(step.record());
    })?;
    display.success()
}
