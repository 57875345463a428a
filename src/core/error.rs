//! The one error type of the crate: what was attempted, on what, and why it failed.
//!
//! [`Error`] is opaque; callers that must decide ask for its [`Class`]. The classes become exit
//! statuses in `cli/table.rs` and HTTP statuses in `server/reply.rs`, and nowhere else.

use std::path::{Path, PathBuf};
use std::{fmt, io};

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of failure of an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Any other failure.
    Failed,
    /// The request itself is wrong: arguments, options, an invalid name.
    Usage,
    /// No such model.
    NoModel,
    /// The prompt does not fit the context.
    TooLong,
    /// The model cannot embed text.
    NoVectors,
    /// The model can only embed text.
    NoText,
    /// A schema or grammar was rejected.
    Schema,
    /// An answer was cut where a complete one is required.
    Cut,
    /// No server, or the network or registry failed.
    Network,
    /// Damaged data: digest mismatch, not a GGUF, broken manifest.
    Damaged,
    /// Queue full or lock held.
    Busy,
    /// A time limit passed.
    TimedOut,
    /// Not enough memory.
    Memory,
    /// Not allowed.
    Denied,
    /// The requester has gone, or cancelled the request.
    Cancelled,
    /// The reader of our output closed the pipe.
    Closed,
}

/// An error of puna. Displays as one line: the operation, the thing, the cause.
#[derive(Debug)]
pub struct Error(Box<Kind>);

#[derive(Debug)]
enum Kind {
    Io {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    NoModel {
        name: String,
        near: Vec<String>,
    },
    TooLong {
        prompt_tokens: usize,
        context_tokens: usize,
        is_estimate: bool,
        is_maximum: bool,
    },
    Memory {
        needed_bytes: u64,
        free_bytes: u64,
        hint: &'static str,
    },
    Damaged {
        path: PathBuf,
        why: String,
    },
    Plain {
        class: Class,
        message: String,
    },
}

impl Error {
    /// The message for a client on another machine: files without their folders.
    pub fn public_text(&self) -> String {
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        match &*self.0 {
            Kind::Io {
                operation,
                path,
                source,
            } => format!("cannot {operation} {}: {}", name(path), cause(source)),
            Kind::Damaged { path, why } => format!("{} is damaged: {why}", name(path)),
            _ => self.to_string(),
        }
    }

    /// An operation on a file failed: `cannot <operation> <path>: <cause>`.
    pub fn io(operation: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Kind::Io {
            operation,
            path: path.as_ref().to_path_buf(),
            source,
        }
        .into()
    }

    /// A model that is not in any store, with the nearest names.
    pub fn no_model(name: impl Into<String>, near: Vec<String>) -> Self {
        Kind::NoModel {
            name: name.into(),
            near,
        }
        .into()
    }

    /// A prompt of `prompt_tokens` for a context of `context_tokens`.
    pub fn too_long(prompt_tokens: usize, context_tokens: usize) -> Self {
        Kind::TooLong {
            prompt_tokens,
            context_tokens,
            is_estimate: false,
            is_maximum: false,
        }
        .into()
    }

    /// The same for a context that is as long as the model was trained for: a longer one does not help.
    pub fn at_maximum(mut self) -> Self {
        if let Kind::TooLong { is_maximum, .. } = &mut *self.0 {
            *is_maximum = true;
        }
        self
    }

    /// A prompt of about `prompt_tokens`, far more than a context of `context_tokens`.
    pub fn far_too_long(prompt_tokens: usize, context_tokens: usize) -> Self {
        Kind::TooLong {
            prompt_tokens,
            context_tokens,
            is_estimate: true,
            is_maximum: false,
        }
        .into()
    }

    /// Weights and cache need more memory than is free.
    pub fn memory(needed_bytes: u64, free_bytes: u64, hint: &'static str) -> Self {
        Kind::Memory {
            needed_bytes,
            free_bytes,
            hint,
        }
        .into()
    }

    /// A file with invalid content.
    pub fn damaged(path: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Kind::Damaged {
            path: path.as_ref().to_path_buf(),
            why: why.into(),
        }
        .into()
    }

    /// An error of the given class with its whole message.
    pub fn plain(class: Class, message: impl Into<String>) -> Self {
        Kind::Plain {
            class,
            message: message.into(),
        }
        .into()
    }

    /// The request is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::plain(Class::Usage, message)
    }

    /// Failed for a reason that has no class of its own.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::plain(Class::Failed, message)
    }

    /// The requester has gone, or cancelled the request.
    pub fn cancelled() -> Self {
        Self::plain(Class::Cancelled, "cancelled")
    }

    /// The tokens of a prompt that is too long, and those of its context.
    pub fn lengths(&self) -> Option<(usize, usize)> {
        match &*self.0 {
            Kind::TooLong {
                prompt_tokens,
                context_tokens,
                ..
            } => Some((*prompt_tokens, *context_tokens)),
            _ => None,
        }
    }

    /// The class of this failure.
    pub fn class(&self) -> Class {
        match &*self.0 {
            Kind::Io { source, .. } => match source.kind() {
                io::ErrorKind::BrokenPipe => Class::Closed,
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    Class::Denied
                }
                _ => Class::Failed,
            },
            Kind::NoModel { .. } => Class::NoModel,
            Kind::TooLong { .. } => Class::TooLong,
            Kind::Memory { .. } => Class::Memory,
            Kind::Damaged { .. } => Class::Damaged,
            Kind::Plain { class, .. } => *class,
        }
    }

    /// True if a model was not found.
    pub fn is_not_found(&self) -> bool {
        self.class() == Class::NoModel
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Self {
        Error(Box::new(kind))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Kind::Io {
                operation,
                path,
                source,
            } => {
                write!(
                    out,
                    "cannot {operation} {}: {}",
                    path.display(),
                    cause(source)
                )
            }
            Kind::NoModel { name, near } if near.is_empty() => {
                write!(out, "model '{name}' not found: 'puna ls' lists the models")
            }
            Kind::NoModel { name, near } => {
                write!(
                    out,
                    "model '{name}' not found: is it {}?",
                    near.join(" or ")
                )
            }
            Kind::TooLong {
                prompt_tokens,
                context_tokens,
                is_estimate,
                is_maximum,
            } => {
                let about = if *is_estimate { "about " } else { "" };
                let (what, hint) = match (is_maximum, is_estimate) {
                    (true, _) => ("model's maximum", ": shorten it, or let it be cut"),
                    (false, true) => ("available context size", ""),
                    (false, false) => {
                        ("available context size", ", try increasing it with num_ctx")
                    }
                };
                write!(
                    out,
                    "the prompt of {about}{prompt_tokens} tokens exceeds the {what} of {context_tokens} tokens{hint}"
                )
            }
            Kind::Memory {
                needed_bytes,
                free_bytes,
                hint,
            } => write!(
                out,
                "not enough memory: needs {}, {} free: {hint}",
                gibibytes(*needed_bytes),
                gibibytes(*free_bytes)
            ),
            Kind::Damaged { path, why } => write!(out, "{} is damaged: {why}", path.display()),
            Kind::Plain { message, .. } => out.write_str(message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0 {
            Kind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Classes that cross the network in a header, and their words there.
const WORDS: &[(Class, &str)] = &[
    (Class::Failed, "failed"),
    (Class::Usage, "usage"),
    (Class::NoModel, "model"),
    (Class::TooLong, "context"),
    (Class::NoVectors, "no-vectors"),
    (Class::NoText, "no-text"),
    (Class::Schema, "schema"),
    (Class::Cut, "cut"),
    (Class::Network, "network"),
    (Class::Damaged, "damaged"),
    (Class::Busy, "busy"),
    (Class::TimedOut, "timeout"),
    (Class::Memory, "memory"),
    (Class::Denied, "denied"),
    (Class::Cancelled, "cancelled"),
];

impl Class {
    /// The class as one word, for the `Puna-Error` header.
    pub fn word(self) -> &'static str {
        let known = WORDS.iter().find(|(class, _)| *class == self);
        known.map_or("failed", |(_, word)| word)
    }

    /// The class for such a word.
    pub fn from_word(word: &str) -> Option<Self> {
        let known = WORDS.iter().find(|(_, known)| *known == word);
        known.map(|(class, _)| *class)
    }
}

/// The system's words for an I/O error, without Rust's "(os error N)".
pub fn cause(source: &io::Error) -> String {
    let text = source.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_string(),
        None => text,
    }
}

/// Bytes in GiB or, below a tenth of one, in MiB.
fn gibibytes(bytes: u64) -> String {
    if bytes < (1 << 30) / 10 {
        return format!("{} MiB", bytes >> 20);
    }
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_learns_no_folder() {
        let error = Error::damaged("/secret/blobs/sha256-12", "it is cut");
        assert_eq!(error.public_text(), "sha256-12 is damaged: it is cut");
        let denied = io::ErrorKind::PermissionDenied.into();
        let error = Error::io("read", "/secret/file", denied);
        assert!(error.public_text().starts_with("cannot read file: "));
        assert_eq!(Error::usage("a/b").public_text(), "a/b");
    }

    #[test]
    fn an_io_error_names_operation_path_and_cause() {
        let error = Error::io("write", "/m/x", io::Error::from_raw_os_error(28));
        assert_eq!(
            error.to_string(),
            "cannot write /m/x: No space left on device"
        );
        assert_eq!(error.class(), Class::Failed);
    }

    #[test]
    fn an_io_error_is_its_source() {
        use std::error::Error as _;
        let error = Error::io("read", "/m/x", io::Error::from_raw_os_error(2));
        assert!(
            error
                .source()
                .is_some_and(|source| source.is::<io::Error>())
        );
        assert!(Error::usage("no").source().is_none());
    }

    #[test]
    fn classes_survive_the_way_over_a_header() {
        for (class, word) in WORDS {
            assert_eq!(
                (class.word(), Class::from_word(word)),
                (*word, Some(*class))
            );
        }
        assert_eq!(Class::from_word("?"), None);
    }

    #[test]
    fn a_missing_model_names_the_nearest() {
        let error = Error::no_model("smol", vec!["smol2".into(), "small".into()]);
        assert_eq!(
            error.to_string(),
            "model 'smol' not found: is it smol2 or small?"
        );
        assert!(error.is_not_found());
    }
}
