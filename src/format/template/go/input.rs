//! The conversation that a Go template is run over.

use crate::core::clock::Local;
use crate::core::message::{Message, Think, Tool};

/// The data that a template is rendered over.
pub struct Input<'a> {
    /// The conversation.
    pub messages: &'a [Message],
    /// Functions that the model may call.
    pub tools: &'a [Tool],
    /// Whether to think; `None` if the caller did not say.
    pub think: Option<Think>,
    /// The local time that `currentDate` prints.
    pub now: Local,
}
