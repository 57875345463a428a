//! The tests: through the real program, real sockets and a real model, a fresh directory each.
//!
//! - `cli`: what each command prints, and its exit status.
//! - `api`: native routes, dialects, official clients, keys, limits and abuse.
//! - `store`: creating, importing, archives, interruptions.
//! - `registry`: pulling and pushing against a scripted registry, and its faults.
//! - `engine`: architectures, caches, scheduling; `engine::timing` measures time and runs by itself.
//! - `format`: templates and prompts, compared with what other implementations make of them.
//! - `meta`: house rules that a program can check.
//! - `support`: sandboxes, scripted servers, registries and models.

mod api;
mod cli;
mod engine;
mod format;
mod meta;
mod registry;
mod store;
mod support;
