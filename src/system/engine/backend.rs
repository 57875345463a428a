//! llama.cpp in this process: started once, with its log and its devices.

use std::sync::Arc;

use llama_cpp_2::llama_backend::LlamaBackend;

use super::log::{Level, Log, Sink};
use crate::core::error::{Error, Result};

/// llama.cpp itself, started once in a process.
pub struct Backend {
    pub(super) inner: LlamaBackend,
    pub(super) log: &'static Log,
}

impl Backend {
    /// Starts llama.cpp; its log goes to `sink` up to `level`.
    ///
    /// # Errors
    /// If it was started before.
    pub fn start(level: Level, sink: Sink) -> Result<Arc<Self>> {
        let log: &'static Log = Box::leak(Box::new(Log::new(level, sink)));
        super::ffi::set_log(log);
        #[cfg(feature = "portable")]
        load_variants();
        let inner = LlamaBackend::init()
            .map_err(|error| Error::failed(format!("cannot start llama.cpp: {error}")))?;
        Ok(Arc::new(Backend { inner, log }))
    }
}

/// Loads ggml's CPU variants from beside the binary, or from where the build left them.
#[cfg(feature = "portable")]
fn load_variants() {
    let program = std::env::current_exe().ok();
    let beside = program.and_then(|path| path.parent().map(std::path::PathBuf::from));
    match beside.filter(|folder| folder.join("libggml-cpu-x64.so").exists()) {
        Some(folder) => llama_cpp_2::llama_backend::load_backends_from_path(&folder),
        None => llama_cpp_2::llama_backend::load_backends(),
    }
}
