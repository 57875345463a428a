//! llama.cpp's log: silent unless requested; its first error becomes part of our own message.

use std::sync::Mutex;

use llama_cpp_sys_2 as sys;

use crate::core::lock::LockExt;

/// How much of llama.cpp's log is passed to the sink.
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

/// Longest error text stored.
const ERROR_BYTES_MAX: usize = 1000;

/// The one log of the process.
pub struct Log {
    level: Level,
    sink: Sink,
    error: Mutex<String>,
    /// The counts of the last line such as `[  3/ 272]`.
    counted: Mutex<(u64, u64)>,
}

impl Log {
    /// A log that passes lines up to `level` to `sink`.
    pub fn new(level: Level, sink: Sink) -> Self {
        Log {
            level,
            sink,
            error: Mutex::new(String::new()),
            counted: Mutex::default(),
        }
    }

    /// Records one piece of text from llama.cpp.
    pub fn record(&self, level: u32, text: &str) {
        let text = text.trim_end_matches('\n');
        if level == sys::GGML_LOG_LEVEL_ERROR && !text.is_empty() {
            let mut error = self.error.locked();
            if error.is_empty() {
                error.extend(text.chars().take(ERROR_BYTES_MAX));
            }
        }
        if let Some(count) = count(text) {
            *self.counted.locked() = count;
        }
        let wanted = match level {
            sys::GGML_LOG_LEVEL_ERROR | sys::GGML_LOG_LEVEL_WARN => Level::Warn,
            _ => Level::Debug,
        };
        if wanted <= self.level && !text.is_empty() {
            (self.sink)(text);
        }
    }

    /// Records llama.cpp's last message when it aborts the process; it is always passed on.
    pub fn last(&self, text: &str) {
        let text = text.replace('\n', " ");
        (self.sink)(&format!("llama.cpp aborts: {text}"));
    }

    /// The progress of a long operation, done and total, by llama.cpp's own count.
    pub fn counted(&self) -> (u64, u64) {
        *self.counted.locked()
    }

    /// The first error since the last call, without llama.cpp's function name in front.
    pub fn take_error(&self) -> Option<String> {
        let mut error = self.error.locked();
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

/// The count at the beginning of a line: `[   3/ 272] blk.0...` is 3 of 272.
fn count(line: &str) -> Option<(u64, u64)> {
    let (inner, _) = line.strip_prefix('[')?.split_once(']')?;
    let (done, all) = inner.split_once('/')?;
    Some((done.trim().parse().ok()?, all.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_and_the_first_error_is_recorded() {
        let log = Log::new(Level::Off, |_| {});
        log.record(sys::GGML_LOG_LEVEL_INFO, "[   3/ 272] blk.0.x - [64, 2]\n");
        log.record(sys::GGML_LOG_LEVEL_INFO, "[x] no count");
        assert_eq!(log.counted(), (3, 272));
        log.record(sys::GGML_LOG_LEVEL_ERROR, "some_function: it broke\n");
        log.record(sys::GGML_LOG_LEVEL_ERROR, "later");
        assert_eq!(log.take_error().as_deref(), Some("it broke"));
        assert_eq!(log.take_error(), None);
    }
}
