//! `puna stop`: unloads a model from a server.

use super::context::Context;
use super::flag::{HOST, QUIET};
use super::out::Out;
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::error::Result;
use crate::format::wire::native::encode::GenerateRecord;
use crate::format::wire::native::{Common, GenerateRequest};

pub const COMMAND: Command = Command {
    name: "stop",
    summary: "unload a model from a server",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[HOST, QUIET],
    about: &[
        "Makes the server unload a model once its running answers are complete. Without a server there is nothing to \
         stop.",
    ],
    examples: &[("puna stop smol", "free the memory of a model")],
    run,
    section: Section::Machine,
    completes: (Completes::Loaded, Completes::Nothing),
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let Some(server) = context.some_server(parsed)? else {
        out.note("no server is running; nothing to stop");
        return Ok(());
    };
    let common = Common {
        model: parsed.operands[0].clone(),
        keep_alive: Some(0.into()),
        ..Common::default()
    };
    let request = GenerateRequest {
        common,
        ..GenerateRequest::default()
    };
    server
        .ask_soon::<GenerateRecord>("/api/generate", &request)
        .map(drop)
}
