//! `puna ps`: lists the models that a server has loaded.

use std::time::Duration;

use super::context::Context;
use super::flag::{HOST, JSON};
use super::out::{Out, human_bytes};
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::clock;
use crate::core::error::Result;
use crate::core::name::begins;
use crate::format::wire::native::listing::{Process, Processes};

/// A server writes a time further away than this for a model that stays.
const FOREVER: Duration = Duration::from_secs(50 * 365 * 86_400);

pub const COMMAND: Command = Command {
    name: "ps",
    summary: "list the models that a server has loaded",
    operands: "[PREFIX]",
    arity: (0, 1),
    flags: &[JSON, HOST],
    about: &[
        "Lists the models that the server has loaded, those that stay longest first. In a pipe each line is name, \
         digest, bytes, device, context length and the time at which the model is unloaded, separated by tabs. Without \
         a server nothing is printed.",
    ],
    examples: &[(
        "puna ps | cut -f1,4",
        "list the loaded models and their devices",
    )],
    run,
    section: Section::Machine,
    completes: (Completes::Loaded, Completes::Nothing),
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let Some(server) = context.some_server(parsed)? else {
        return Ok(());
    };
    let prefix = parsed.operands.first().map_or("", String::as_str);
    let mut models = server.get::<Processes>("/api/ps")?.models;
    models.retain(|process| begins(&process.name, prefix));
    if parsed.has(&JSON) {
        return out.json(&models);
    }
    if out.output_is_terminal {
        let rows: Vec<Vec<String>> = models.iter().map(row).collect();
        return out.table(
            &["NAME", "ID", ">SIZE", "DEVICE", ">CONTEXT", "UNTIL"],
            &rows,
        );
    }
    let records: Vec<Vec<String>> = models.iter().map(record).collect();
    out.records(&records)
}

fn device(process: &Process) -> String {
    match (process.device.is_empty(), process.size_vram) {
        (false, _) => process.device.clone(),
        (true, 0) => "CPU".into(),
        (true, _) => "GPU".into(),
    }
}

fn record(process: &Process) -> Vec<String> {
    vec![
        process.name.clone(),
        format!("sha256:{}", process.digest),
        process.size.to_string(),
        device(process),
        process.context_length.to_string(),
        process.expires_at.clone(),
    ]
}

fn row(process: &Process) -> Vec<String> {
    let mut row = record(process);
    row[1] = process.digest.chars().take(12).collect();
    row[2] = human_bytes(process.size);
    row[5] = until(&process.expires_at);
    row
}

/// When a model is unloaded, as people say it.
fn until(time: &str) -> String {
    match clock::left(time) {
        Some(left) if left > FOREVER => "forever".to_string(),
        Some(left) => format!("in {}", clock::words(left)),
        None => time.to_string(),
    }
}
