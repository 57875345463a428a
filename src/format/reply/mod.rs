//! Parses generated text, byte by byte: whole characters, stop sequences, and thinking and tool calls
//! separated from the answer.

mod channels;
mod delimiters;
mod discover;
mod format;
mod literal;
mod piece;
mod reader;
pub mod schema;
mod stop;
mod thinking;
mod tool_grammar;
mod tool_syntax;
mod utf8;

pub use channels::channel_thought;
pub use format::Format;
pub use reader::{Piece, Reader};
pub use stop::Stops;
pub use thinking::Thought;
pub use tool_grammar::ToolGrammar;
pub use utf8::Utf8;
