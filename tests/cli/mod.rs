//! The command line: what each command prints, and its exit status.

mod at_a_server;
pub mod chat;
pub mod decides;
mod env;
pub mod examples;
mod fourth_trial;
pub mod long_inputs;
pub mod manual;
pub mod map;
pub mod pipes;
pub mod remote;
pub mod run_limits;
mod second_look;
pub mod session;
mod session_losses;
pub mod settings;
pub mod shape;
pub mod tables;

pub mod usage_errors;
pub mod wrong_usages;
