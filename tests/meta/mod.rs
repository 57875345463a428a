//! House rules that a program can check.

pub mod imports_graph;
pub mod tidy;
