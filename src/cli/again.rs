//! Starts the program again with a setting that OpenMP reads only at a process's start.
//!
//! libgomp's threads spin at every barrier before they sleep: 300 000 times by default, 14 ms here.
//! As soon as anything else computes on the machine, each of a thousand barriers a token waits that
//! long. Two runs at once (SmolLM2, 440 prompt and 96 generated, two cores): over 60 s by default,
//! 4.0 s each with 1 500 spins; one run alone takes 1.1 s with either.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::out;
use crate::config;

/// How often a thread spins before it sleeps; the table above, and 1 000 costs 9 % alone.
const SPINS: &str = "1500";

/// Replaces this process by the same with `GOMP_SPINCOUNT` set, unless the user chose already.
/// Returns if that was so, or if the system will not (then the default stays). Costs 2 ms.
pub fn with_short_spins() {
    if !cfg!(target_os = "linux") || config::openmp_is_set() {
        return;
    }
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_else(|| OsString::from("puna"));
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut command = Command::new(program);
    command.arg0(name).args(words);
    let error = command.env(config::OPENMP_SPINS, SPINS).exec();
    out::complain(&format!("cannot start again, goes on as it is: {error}"));
}
