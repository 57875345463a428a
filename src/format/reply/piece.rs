//! The pieces that an answer is taken apart into.

use crate::core::message::ToolCall;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Thinking.
    Thinking(String),
    /// Text for the user.
    Text(String),
    /// A complete tool call.
    Call(ToolCall),
}
