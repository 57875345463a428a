//! Re-executes the program with a setting that OpenMP reads only when a process starts.
//!
//! libgomp's threads spin at every barrier before they sleep: 300 000 times by default, 14 ms here.
//! As soon as anything else computes on the machine, each of a thousand barriers per token waits that
//! long. Two concurrent runs (SmolLM2, 440 prompt tokens, 96 generated, two cores) take over 60 s by
//! default and 4.0 s each with 1 500 spins; a single run takes 1.1 s with either.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::out;
use crate::system::config;

/// Spins of an OpenMP thread at a barrier before it sleeps. Two raw loops at once on two cores (SmolLM2, 440
/// and 96 tokens; one alone takes 1.1 s; Xeon AMX), seconds each:
///
/// | spins | 300 000 (default) | 5 000 | 2 000 | 1 500 | 1 000 | ggml's own threads |
/// |---|---|---|---|---|---|---|
/// | s | > 60 | 8.5 | 4.6 | 4.0 | 3.3 | > 100 |
///
/// Alone, 1 500 cost nothing that could be measured and 1 000 cost 9 %.
const SPINS: &str = "1500";

/// Re-executes this process with `GOMP_SPINCOUNT` set, unless the user has set it. Returns in that
/// case, or if the system refuses (the default then stays in force). Costs 2 ms.
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
    out::complain(&format!(
        "cannot re-exec with short OpenMP spins, continuing without: {error}"
    ));
}
