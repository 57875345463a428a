//! `puna stop`: a model out of a server's memory.

use super::out::Out;
use super::parse::Parsed;
use super::spec::{Command, Completes, HOST, QUIET};
use crate::api::native::{Common, GenerateRequest};
use crate::api::records::GenerateRecord;
use crate::config::Config;
use crate::error::Result;

pub const COMMAND: Command = Command {
    name: "stop",
    alias: None,
    summary: "unload a model from a server",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[HOST, QUIET],
    about: &[
        "Tells the server to unload a model once its running answers are done. Without a server there is nothing to stop.",
    ],
    examples: &[("puna stop smol", "free the memory of a model")],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let Some(server) = super::some_server(parsed, config)? else {
        out.note("no server is running: there is nothing to stop");
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
        .post::<GenerateRecord>("/api/generate", &request)?
        .try_for_each(|record| record.map(|_| ()))
}
