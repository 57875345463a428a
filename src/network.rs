//! How the network is reached, and how we name ourselves there.

use std::path::PathBuf;
use std::time::Duration;

/// Our name in requests and answers.
pub const AGENT: &str = concat!("puna/", env!("CARGO_PKG_VERSION"));

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Proxy for https.
    pub https_proxy: Option<String>,
    /// Proxy for http.
    pub http_proxy: Option<String>,
    /// Where no proxy is used.
    pub no_proxy: Vec<String>,
    /// Certificates in PEM.
    pub certificates: Option<PathBuf>,
    /// Hosts in place of others.
    pub mirrors: Vec<(String, String)>,
    /// Token for Hugging Face.
    pub hf_token: Option<String>,
    /// Address in place of hf.co.
    pub hf_endpoint: Option<String>,
    /// File with credentials.
    pub netrc: Option<PathBuf>,
    /// The keys to sign with, the first that is there counts; the last is made on need.
    pub keys: Vec<PathBuf>,
    /// How long nothing may come.
    pub stall: Duration,
    /// Pause before the second try.
    pub pause: Duration,
    /// Size of a part.
    pub part_bytes: u64,
    /// Parts at once.
    pub streams: usize,
}
