//! Weights in a smaller type: llama.cpp's own quantiser, its progress read from its log.

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Backend, ffi};
use crate::error::{Class, Error, Result};

/// How often the progress is told.
const LOOK: Duration = Duration::from_millis(100);

/// What to quantise.
pub struct Quantize<'a> {
    /// The GGUF file.
    pub source: &'a Path,
    /// Where the new one goes; what is there is overwritten.
    pub target: &'a Path,
    /// llama.cpp's number of the file type.
    pub file_type: u32,
    /// Take weights that are quantised already.
    pub again: bool,
    /// Threads to compute with.
    pub threads: usize,
}

/// Writes the new file. `progress` gets tensors done, of how many.
///
/// # Errors
/// What llama.cpp says, in one line.
pub fn quantize(
    backend: &Backend,
    job: &Quantize,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    backend.log.take_error();
    let done = thread::scope(|scope| {
        let running = scope.spawn(|| ffi::quantize(job));
        while !running.is_finished() {
            thread::sleep(LOOK);
            let (done, all) = backend.log.counted();
            progress(done, all);
        }
        running.join().expect("the quantiser does not unwind")
    });
    if done {
        return Ok(());
    }
    let why = match backend.log.take_error() {
        Some(text) if text.contains("importance matrix") => {
            "this type needs an importance matrix, which puna does not make".into()
        }
        Some(text) => text,
        None => "it does not say why".into(),
    };
    let text = format!("llama.cpp cannot quantise {}: {why}", job.source.display());
    Err(Error::plain(Class::Failed, text))
}
