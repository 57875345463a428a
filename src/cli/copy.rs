//! `puna cp`: a second name for a model.

use serde_json::json;

use super::context::Context;
use super::flag::HOST;
use super::out::Out;
use super::parsed::Parsed;
use super::table::{Command, Completes, PLAIN, Section};
use crate::core::error::{Error, Result};
use crate::core::name::Name;
use crate::ops::model::new_name;
use crate::system::client::Method;

pub const COMMAND: Command = Command {
    name: "cp",
    summary: "give a model a second name",
    operands: "SOURCE TARGET",
    arity: (2, 2),
    flags: &[HOST],
    about: &[
        "Copies a model to another name and replaces a model that had it. Names ignore case: smol and SMOL are one. The \
         weights are shared, not copied. A model of Ollama's store is copied into puna's own.",
    ],
    examples: &[("puna cp smol smol:backup", "give a model a second name")],
    run,
    section: Section::Models,
    completes: (Completes::Models, Completes::Models),
    ..PLAIN
};

fn run(parsed: &Parsed, context: &Context, _: &mut Out) -> Result<()> {
    let (source, target) = (
        Name::parse(&parsed.operands[0])?,
        new_name(&parsed.operands[1])?,
    );
    if source.folds_to(&target) {
        let text = format!("{target} is the same model: names ignore case");
        return Err(Error::usage(text));
    }
    if let Some(server) = context.named_server(parsed)? {
        let names = json!({ "source": parsed.operands[0], "destination": parsed.operands[1] });
        return server.tell(Method::Post, "/api/copy", &names);
    }
    context.store().copy(&source, &target)
}
