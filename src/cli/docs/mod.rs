//! The program's own documentation: help, manual pages and completions, printed from the tables.

pub mod completions;
pub mod help;
pub mod man;
pub mod pages;
mod roff;
