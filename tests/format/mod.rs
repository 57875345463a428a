//! Templates and prompts, compared with what other implementations make of them.

pub mod go_templates;
pub mod prompts;
pub mod templates;
