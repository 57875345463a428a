//! With whom a session talks: a model in this process, or a server.

use std::sync::Arc;

use crate::cli::run::answer::Here;
use crate::system::client::Client;

/// The backend that answers.
pub enum Backend {
    /// A model in this process.
    Here(Box<Here>),
    /// A server, and the keep-alive time that it is sent.
    There(Arc<Client>, Option<String>),
}
