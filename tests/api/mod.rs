//! The HTTP API: native routes, dialects, official clients, keys, limits and abuse.

pub mod abuse;
mod agents;
pub mod clients;
pub mod conformance;
pub mod conversations;
pub mod create_remote;
pub mod decisions;
pub mod dialects;
pub mod embed;
pub mod habits;
pub mod http_access;
pub mod keys;
pub mod limits;
pub mod llamacpp_routes;
pub mod load;
pub mod malformed;
pub mod proxy;
pub mod rerank;
pub mod serve;
pub mod structured_output;
pub mod thinking;
