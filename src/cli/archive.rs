//! `puna export` and `puna import`: an archive of models, for machines without a network.

use super::context::Context;
use super::flag::QUIET;
use super::out::Out;
use super::parsed::Parsed;
use super::pull::REPLACE;
use super::store_commands::entries;
use super::table::{Command, MODELS, PLAIN, Section};
use crate::core::error::{Error, Result};
use crate::ops::archive;

pub const EXPORT: Command = Command {
    name: "export",
    summary: "write models to a tar file on standard output",
    operands: "MODEL...",
    arity: (1, usize::MAX),
    about: &[
        "Writes models with all their blobs to standard output, as a tar file in the OCI image layout. Blobs that \
         several models share are written once.",
    ],
    examples: &[(
        "puna export smol | ssh far puna import",
        "copy a model to another machine",
    )],
    run: export,
    section: Section::Store,
    completes: MODELS,
    ..PLAIN
};

pub const IMPORT: Command = Command {
    name: "import",
    summary: "add the models of a tar file from standard input to the store",
    operands: "",
    arity: (0, 0),
    flags: &[REPLACE, QUIET],
    about: &[
        "Reads a tar file that export wrote from standard input. Every blob is checked against its digest; unexpected \
         files, links, and two members of the same name are refused. A model gets its name only after the whole file \
         was read. If a model that was made here has one of the names, nothing is added, unless --replace is given; what \
         that replaced stays for a day, as with pull.",
    ],
    examples: &[(
        "puna import < models.tar",
        "add the models of a file to the store",
    )],
    run: import,
    section: Section::Store,
    ..PLAIN
};

fn export(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    if out.output_is_terminal {
        return Err(Error::usage(
            "export writes a tar file: redirect it to a file or a pipe",
        ));
    }
    let store = context.store();
    let entries = entries(&parsed.operands, &store)?;
    archive::export(&store, &entries, &mut out.bytes())
}

fn import(parsed: &Parsed, context: &Context, _: &mut Out) -> Result<()> {
    let store = context.store();
    let replace = parsed.has(&REPLACE);
    archive::import(&store, &mut std::io::stdin().lock(), replace).map(drop)
}
