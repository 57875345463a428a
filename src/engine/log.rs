//! llama.cpp's log: silent unless asked for, its last error kept for our own message.

use std::sync::Mutex;

use llama_cpp_sys_2 as sys;

/// How much of llama.cpp's log goes on to the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Off,
    /// Errors and warnings.
    Warn,
    /// Everything.
    Debug,
}

/// Where log lines go.
pub type Sink = fn(&str);

/// Longest error text kept.
const ERROR_BYTES_MAX: usize = 1000;

/// The one log of the process.
pub struct Log {
    level: Level,
    sink: Sink,
    error: Mutex<String>,
}

impl Log {
    /// A log that hands lines up to `level` to `sink`.
    pub fn new(level: Level, sink: Sink) -> Self {
        Log {
            level,
            sink,
            error: Mutex::new(String::new()),
        }
    }

    /// Takes one piece of text from llama.cpp.
    pub fn record(&self, level: u32, text: &str) {
        let text = text.trim_end_matches('\n');
        if level == sys::GGML_LOG_LEVEL_ERROR && !text.is_empty() {
            let mut error = self
                .error
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner());
            if error.is_empty() {
                error.extend(text.chars().take(ERROR_BYTES_MAX));
            }
        }
        let wanted = match level {
            sys::GGML_LOG_LEVEL_ERROR | sys::GGML_LOG_LEVEL_WARN => Level::Warn,
            _ => Level::Debug,
        };
        if wanted <= self.level && !text.is_empty() {
            (self.sink)(text);
        }
    }

    /// The first error since the last call, without llama.cpp's function name in front.
    pub fn take_error(&self) -> Option<String> {
        let mut error = self
            .error
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let text = std::mem::take(&mut *error);
        let text = text
            .split_once(": ")
            .map_or(text.as_str(), |(front, rest)| {
                if front.contains(' ') {
                    text.as_str()
                } else {
                    rest
                }
            });
        (!text.is_empty()).then(|| text.replace('\n', " "))
    }
}
