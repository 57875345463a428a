//! Formats: bytes or text to the values of `core`, and back.
//!
//! Pure: no file, socket, thread, clock or environment. Readers take any `Read`, and each length and count
//! meets a limit before it meets memory.

pub mod compressed;
pub mod gguf;
pub mod lock_file;
pub mod manifest;
pub mod modelfile;
pub mod reply;
pub mod safetensors;
pub mod template;
pub mod tokenizer;
pub mod wire;
