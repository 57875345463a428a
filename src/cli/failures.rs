//! The failures of a command with several operands: every one is told, in their order.

use super::out;
use crate::core::error::{Class, Error, Result};

/// The failures so far. The last one is the command's own error, with the class of the first.
#[derive(Default)]
pub struct Failures {
    class: Option<Class>,
    last: Option<String>,
}

impl Failures {
    /// Adds a failure, and tells of the one before it.
    pub fn add(&mut self, error: &Error) {
        self.class.get_or_insert(error.class());
        if let Some(earlier) = self.last.replace(error.to_string()) {
            out::complain(&earlier);
        }
    }

    /// The command's outcome.
    ///
    /// # Errors
    /// The last failure, if there was one.
    pub fn outcome(self) -> Result<()> {
        match (self.class, self.last) {
            (Some(class), Some(last)) => Err(Error::plain(class, last)),
            _ => Ok(()),
        }
    }
}
