//! Settings for connections to registries: proxies, credentials, limits.

use std::path::PathBuf;
use std::time::Duration;

use super::defaults;
use super::folders::{Folders, split_list};
use super::form::Form;
use crate::core::duration::KeepAlive;
use crate::core::network::Network;

/// Variables, each with its line in the manual and the form of its value.
pub const VARIABLES: &[(&str, &str, Form)] = &[
    (
        "PUNA_REGISTRY",
        "other hosts for registries: HOST, or NAME=HOST, comma-separated (default: as named)",
        Form::Text,
    ),
    (
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
        "proxies for registries; hosts, domains and networks without one",
        Form::Text,
    ),
    (
        "PUNA_CA_FILE, SSL_CERT_FILE",
        "certificates to trust, in PEM (default: the system's)",
        Form::Path,
    ),
    ("HF_TOKEN", "token for hf.co", Form::Text),
    ("HF_ENDPOINT", "address used in place of hf.co", Form::Text),
    (
        "NETRC",
        "credentials for registries (default ~/.netrc)",
        Form::Text,
    ),
    (
        "PUNA_STALL_TIME",
        "how long a registry may send nothing (default 30s)",
        Form::Span,
    ),
    (
        "PUNA_RETRY_PAUSE",
        "pause before a second try, twice as long before each further one (default 500ms)",
        Form::Time,
    ),
    (
        "PUNA_PART_BYTES",
        "size of the parts in which a blob is fetched (default 32 MiB)",
        Form::Count(1),
    ),
    (
        "PUNA_PULL_STREAMS",
        "parts fetched at once (default 8)",
        Form::Count(1),
    ),
];

/// Reads the settings.
pub(super) fn read(plain: &dyn Fn(&str) -> Option<String>, folders: &Folders) -> Network {
    let either = |upper: &str| plain(upper).or_else(|| plain(&upper.to_lowercase()));
    let all = either("ALL_PROXY");
    let duration = |name: &str, default: Duration| {
        let given = plain(name).and_then(|text| KeepAlive::parse_lenient(&text).ok());
        match given {
            Some(KeepAlive::For(duration)) => duration,
            _ => default,
        }
    };
    let number = |name: &str| plain(name).and_then(|text| text.parse::<u64>().ok());
    let system = || Some(PathBuf::from(defaults::SYSTEM_CERTIFICATES)).filter(|path| path.exists());
    let certificates = plain("PUNA_CA_FILE").or_else(|| plain("SSL_CERT_FILE"));
    let own = folders
        .data
        .as_ref()
        .map(|data| data.join("puna/id_ed25519"));
    let theirs = folders
        .home
        .as_ref()
        .map(|home| home.join(".ollama/id_ed25519"));
    Network {
        https_proxy: either("HTTPS_PROXY").or_else(|| all.clone()),
        http_proxy: either("HTTP_PROXY").or(all),
        no_proxy: either("NO_PROXY")
            .map(|list| split_list(&list))
            .unwrap_or_default(),
        certificates: certificates.map(PathBuf::from).or_else(system),
        mirrors: plain("PUNA_REGISTRY")
            .map(|list| mirrors(&list))
            .unwrap_or_default(),
        hf_token: plain("HF_TOKEN"),
        hf_endpoint: plain("HF_ENDPOINT"),
        netrc: plain("NETRC")
            .map(PathBuf::from)
            .or_else(|| folders.home.as_ref().map(|home| home.join(".netrc"))),
        keys: theirs.into_iter().chain(own).collect(),
        stall: duration("PUNA_STALL_TIME", defaults::STALL),
        pause: duration("PUNA_RETRY_PAUSE", defaults::PAUSE),
        part_bytes: number("PUNA_PART_BYTES")
            .unwrap_or(defaults::PART_BYTES)
            .max(1),
        streams: number("PUNA_PULL_STREAMS")
            .map_or(defaults::STREAMS, |count| count.clamp(1, 64) as usize),
    }
}

/// `HOST` replaces the default registry; `NAME=HOST` replaces any.
fn mirrors(list: &str) -> Vec<(String, String)> {
    let pairs = split_list(list)
        .into_iter()
        .map(|item| match item.split_once('=') {
            Some((name, host)) => (name.trim().to_string(), host.trim().to_string()),
            None => ("registry.ollama.ai".to_string(), item),
        });
    pairs.collect()
}
