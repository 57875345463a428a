//! The command line: what each command prints, and its exit status.

mod at_a_server;
pub mod chat;
pub mod decides;
mod env;
pub mod examples;
pub mod long_inputs;
pub mod manual;
pub mod map;
pub mod pipes;
pub mod remote;
pub mod run_limits;
mod second_look;
pub mod session;
pub mod settings;
pub mod shape;
pub mod tables;
pub mod usage_errors;
pub mod wrong_usages;
