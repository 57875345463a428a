//! `puna rm`: removes models from the store.

use serde_json::json;

use super::context::Context;
use super::failures::Failures;
use super::flag::{Flag, HOST, switch};
use super::out::Out;
use super::parsed::Parsed;
use super::table::{Command, MODELS, PLAIN, Section};
use crate::core::error::Result;
use crate::core::name::Name;
use crate::system::client::Method;
use crate::system::store::Store;

pub const COMMAND: Command = Command {
    name: "rm",
    summary: "remove models from the store",
    operands: "MODEL...",
    arity: (1, usize::MAX),
    flags: &[FORCE, HOST],
    about: &[
        "Removes models and the blobs that no other model uses. If one cannot be removed, the others still are, and \
         the exit status is that of the first failure. Models of Ollama's store are never removed.",
        "With --host, or a server in PUNA_HOST, the models of that server are removed, and no others.",
    ],
    examples: &[("puna rm smol:backup", "remove a model")],
    run,
    section: Section::Models,
    completes: MODELS,
    ..PLAIN
};

const FORCE: Flag = switch("force", Some('f'), "ignore models that do not exist");

fn run(parsed: &Parsed, context: &Context, _: &mut Out) -> Result<()> {
    let server = context.named_server(parsed)?;
    let store = context.store();
    let mut failures = Failures::default();
    for operand in &parsed.operands {
        let removed = match &server {
            Some(server) => {
                server.tell(Method::Delete, "/api/delete", &json!({ "model": operand }))
            }
            None => remove(&store, operand),
        };
        match removed {
            Err(error) if error.is_not_found() && parsed.has(&FORCE) => {}
            Err(error) => failures.add(&error),
            Ok(()) => {}
        }
    }
    failures.outcome()
}

fn remove(store: &Store, operand: &str) -> Result<()> {
    store.remove(&Name::parse(operand)?)
}
