//! `puna completions`: completion scripts for shells, printed from the tables.
//!
//! Words that are fixed stand in the scripts; names of models, settings and saved prompts come from puna when a
//! completion is asked for.

mod bash;
mod fish;
mod suggestions;
mod zsh;

use crate::cli::out::Out;
use crate::cli::parsed::Parsed;
use crate::cli::table::Commands;
use crate::core::error::{Error, Result};

/// Prints what the operand names.
///
/// # Errors
/// `Usage` for an unknown name.
pub fn run(commands: Commands, parsed: &Parsed, out: &mut Out) -> Result<()> {
    match parsed.operands[0].as_str() {
        "bash" => out.write(&bash::script(commands)),
        "zsh" => out.write(&zsh::script(commands)),
        "fish" => out.write(&fish::script(commands)),
        other => Err(Error::usage(format!(
            "no completions for '{other}': the shell must be bash, zsh or fish"
        ))),
    }
}
