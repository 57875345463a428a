//! What a model generates, byte by byte, back into text: whole characters, no stop strings.

mod stop;
mod utf8;

pub use stop::Stops;
pub use utf8::Utf8;
