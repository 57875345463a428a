//! `puna export` and `puna import`: models in a file, for machines without a network.

use super::keep::entries;
use super::out::Out;
use super::parse::Parsed;
use super::spec::{Command, Completes, QUIET};
use crate::bundle;
use crate::config::Config;
use crate::error::{Error, Result};

pub const EXPORT: Command = Command {
    name: "export",
    alias: None,
    summary: "write models to a tar file on standard output",
    operands: "MODEL...",
    arity: (1, usize::MAX),
    flags: &[],
    about: &[
        "Writes models with all their blobs to standard output, as a tar file in the layout of OCI images. Blobs that \
         several of them share are written once.",
    ],
    examples: &[(
        "puna export smol | ssh far puna import",
        "bring a model to another machine",
    )],
    completes: Completes::Models,
    run: export,
};

pub const IMPORT: Command = Command {
    name: "import",
    alias: None,
    summary: "take the models of a tar file from standard input",
    operands: "",
    arity: (0, 0),
    flags: &[QUIET],
    about: &[
        "Reads a file that export wrote from standard input. Every blob is compared with its digest; files that do \
         not belong there, links, and members of one name are refused. A model gets its name only when all of the \
         file was read.",
    ],
    examples: &[("puna import < models.tar", "take in the models of a file")],
    completes: Completes::Nothing,
    run: import,
};

fn export(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    if out.output_is_terminal {
        return Err(Error::usage(
            "export writes a tar file: send it to a file or a pipe",
        ));
    }
    let store = super::store(config);
    let entries = entries(parsed, &store)?;
    bundle::export(&store, &entries, &mut out.bytes())
}

fn import(_: &Parsed, config: &Config, _: &mut Out) -> Result<()> {
    let store = super::store(config);
    bundle::import(&store, &mut std::io::stdin().lock()).map(drop)
}
