//! `puna cp`: a second name for a model.

use super::out::Out;
use super::parse::Parsed;
use super::spec::{Command, Completes};
use crate::config::Config;
use crate::error::Result;
use crate::name::Name;

pub const COMMAND: Command = Command {
    name: "cp",
    alias: None,
    summary: "give a model a second name",
    operands: "SOURCE TARGET",
    arity: (2, 2),
    flags: &[],
    about: &[
        "Copies a model to another name; what was under that name is replaced. The weights are shared, not copied. A \
         model of Ollama's store is brought into puna's own.",
    ],
    examples: &[(
        "puna cp smol smol:backup",
        "keep a model under a second name",
    )],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, _: &mut Out) -> Result<()> {
    let (source, target) = (
        Name::parse(&parsed.operands[0])?,
        Name::parse(&parsed.operands[1])?,
    );
    super::store(config).copy(&source, &target)
}
