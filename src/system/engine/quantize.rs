//! Quantises weights with llama.cpp's own quantiser, and reads its progress from its log.

pub use super::ffi::Quantize;

use std::thread;
use std::time::Duration;

use super::{Backend, ffi};
use crate::core::error::{Class, Error, Result};
use crate::core::threads::spawn_in;

/// How often the progress is reported.
const LOOK: Duration = Duration::from_millis(100);

/// Writes the new file. `progress` gets the tensors done and their total.
///
/// # Errors
/// llama.cpp's error, in one line.
pub fn quantize(
    backend: &Backend,
    job: &Quantize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    backend.log.take_error();
    let done = thread::scope(|scope| -> Result<bool> {
        let running = spawn_in(scope, || ffi::quantize(job))?;
        while !running.is_finished() {
            thread::sleep(LOOK);
            let (done, all) = backend.log.counted();
            progress(done, all);
        }
        Ok(running.join().expect("the quantiser does not unwind"))
    })?;
    if done {
        return Ok(());
    }
    let why = match backend.log.take_error() {
        Some(text) if text.contains("importance matrix") => {
            "this type needs an importance matrix, which puna does not make".into()
        }
        Some(text) => text,
        None => "it gave no reason".into(),
    };
    let text = format!("llama.cpp cannot quantise {}: {why}", job.source.display());
    Err(Error::plain(Class::Failed, text))
}
