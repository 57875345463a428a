//! The defaults of the settings.

use std::time::Duration;

/// The store's folder for a user without a home.
pub const MODELS_WITHOUT_HOME: &str = "/var/lib/puna/models";
/// How long a model stays loaded after its last request.
pub const KEEP_ALIVE: Duration = Duration::from_secs(300);
/// How long a load may stall.
pub const LOAD_STALL: Duration = Duration::from_secs(300);
/// A stream is not silent for longer, since proxies close one that is: nginx after 60 seconds, HAProxy after 50.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// Requests that may wait for a model.
pub const QUEUE_MAX: usize = 512;
/// A server's context where nothing names one: the reference's on a machine without a large GPU.
pub const CONTEXT_TOKENS: u32 = 4096;
/// Answers that one model computes at once.
pub const PARALLEL: u32 = 8;
/// Models loaded at once on a CPU.
pub const LOADED_MAX: usize = 3;
/// A connection that receives nothing for this long is dropped and opened again.
pub const STALL: Duration = Duration::from_secs(30);
/// Pause before the second try; each further one is twice as long.
pub const PAUSE: Duration = Duration::from_millis(500);
/// A blob is fetched in parts of this size.
pub const PART_BYTES: u64 = 32 << 20;
/// Parts fetched at once.
pub const STREAMS: usize = 8;
/// The bundle of certificates of most Linux systems.
pub const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
