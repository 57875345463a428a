//! The tests: through the real program, real sockets and a real model, a fresh directory each.
//!
//! `alone` holds what measures time; `make test` runs it by itself.

mod abuse;
mod alone;
mod bad;
mod broken;
mod bundle;
mod chat;
mod clients;
mod compat;
mod conformance;
mod contract;
mod create;
mod derived;
mod door;
mod embed;
mod gotemplates;
mod kept;
mod keys;
mod kinds;
mod limits;
mod load;
mod manual;
mod map;
mod minilm;
mod pipes;
mod promised;
mod prompts;
mod pull;
mod push;
mod quantize;
mod registry;
mod remote;
mod reuse;
mod scheduling;
mod scripted;
mod serve;
mod session;
mod settings;
mod shape;
mod shards;
mod small;
mod store;
mod support;
mod templates;
mod tidy;
