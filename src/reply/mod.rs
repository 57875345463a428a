//! What a model generates, byte by byte, back into text: whole characters, no stop strings,
//! thinking and calls of functions told from the answer.

mod channels;
mod discover;
mod format;
mod lark;
mod literal;
mod mark;
mod reader;
pub mod schema;
mod shape;
mod stop;
mod think;
mod utf8;

pub use channels::channel_thought;
pub use format::Format;
pub use lark::Lark;
pub use reader::{Piece, Reader};
pub use stop::Stops;
pub use think::Thought;
pub use utf8::Utf8;
