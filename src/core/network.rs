//! Network settings, and the name that puna uses in requests and answers.

use std::path::PathBuf;
use std::time::Duration;

/// Our name in requests and answers.
pub const AGENT: &str = concat!("puna/", env!("CARGO_PKG_VERSION"));

/// Content type of a JSON answer that is not streamed.
pub const JSON_KIND: &str = "application/json; charset=utf-8";

/// Settings for connections to registries.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Proxy for https.
    pub https_proxy: Option<String>,
    /// Proxy for http.
    pub http_proxy: Option<String>,
    /// Hosts, domains and networks without a proxy.
    pub no_proxy: Vec<String>,
    /// Certificates in PEM.
    pub certificates: Option<PathBuf>,
    /// Replaced registries: name and host.
    pub mirrors: Vec<(String, String)>,
    /// Token for Hugging Face.
    pub hf_token: Option<String>,
    /// Address in place of hf.co.
    pub hf_endpoint: Option<String>,
    /// File with credentials.
    pub netrc: Option<PathBuf>,
    /// The keys to sign with: the first that exists is used; the last is created if necessary.
    pub keys: Vec<PathBuf>,
    /// How long a registry may send nothing.
    pub stall: Duration,
    /// Pause before the second try.
    pub pause: Duration,
    /// Size of a blob's part, in bytes.
    pub part_bytes: u64,
    /// Parts fetched at once.
    pub streams: usize,
}

/// The header that carries the class of an error from one puna to another, as a word of
/// [`Class::word`](super::error::Class::word).
pub const ERROR_HEADER: &str = "Puna-Error";
