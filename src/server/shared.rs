//! The state that all requests of a server share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::access::Access;
use super::access::keys::Keys;
use super::context::AccessLog;
use super::counters::Counters;
use crate::core::error::Result;
use crate::core::network::Network;
use crate::ops::model_cache::ModelCache;
use crate::ops::pool::Pool;
use crate::system::registry::Registry;
use crate::system::store::Store;

/// The state shared by all requests.
pub struct Server {
    pub(super) store: Store,
    /// The model cache.
    pub(super) model_cache: ModelCache,
    pub(super) pool: Pool,
    pub(super) network: Network,
    /// How long a stream may be silent.
    pub(super) heartbeat: Duration,
    /// The model of decisions for which none is named.
    pub(super) decision_model: Option<String>,
    /// Built on first use, since most servers never need it.
    pub(super) registry: OnceLock<Registry>,
    pub(super) access: Access,
    pub(super) keys: Option<Keys>,
    pub(super) access_log: Option<Arc<AccessLog>>,
    pub(super) store_path: Option<String>,
    pub(super) log: fn(&str),
    pub(super) requests: AtomicUsize,
    pub(super) counters: Counters,
}

impl Server {
    /// The registry client, built on first use.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub(super) fn registry(&self) -> Result<&Registry> {
        if let Some(registry) = self.registry.get() {
            return Ok(registry);
        }
        let registry = Registry::new(self.network.clone())?;
        Ok(self.registry.get_or_init(|| registry))
    }
}

/// A request in progress: it counts down when it is dropped, also if its handler panics or never runs.
pub struct Count {
    /// The server that counts.
    pub server: Arc<Server>,
    /// Requests that were in progress before this one.
    pub before: usize,
}

impl Count {
    /// Counts a request.
    pub fn up(server: &Arc<Server>) -> Self {
        Count {
            before: server.requests.fetch_add(1, Ordering::Relaxed),
            server: server.clone(),
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.server.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
