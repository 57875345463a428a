//! The binary: arguments in, exit status out.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(puna::cli::main(std::env::args_os().skip(1)))
}
