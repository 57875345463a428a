//! Addresses at registries: origins, places of models, URLs.

use std::fmt;

use crate::core::digest::Digest;
use crate::core::error::{Error, Result};

/// The scheme, host and port of a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: String,
    /// Host name or IP address, in lower case.
    pub host: String,
    /// The port, explicit or the scheme's default.
    pub port: u16,
}

impl Origin {
    /// The origin of an absolute URL.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: ureq::http::Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_string();
        let port = uri.port_u16().or(match scheme.as_str() {
            "https" => Some(443),
            "http" => Some(80),
            _ => None,
        })?;
        Some(Origin {
            host: uri.host()?.to_lowercase(),
            scheme,
            port,
        })
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// The host, with the port unless it is the scheme's default.
    pub(super) fn authority(&self) -> String {
        match (self.scheme.as_str(), self.port) {
            ("https", 443) | ("http", 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

/// The address of a model at a registry.
#[derive(Debug, Clone)]
pub struct Place {
    /// The registry's origin.
    pub origin: Origin,
    /// `namespace/model`.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

impl Place {
    /// The place of a plain file's URL, which has no repository.
    ///
    /// # Errors
    /// `Usage` if it is not an http or https URL.
    pub fn from_url(url: &str) -> Result<Self> {
        let wrong = || Error::usage(format!("'{}' is not the URL of a file", shown(url)));
        Ok(Place {
            origin: Origin::parse(url).ok_or_else(wrong)?,
            repository: String::new(),
            tag: String::new(),
        })
    }

    /// The URL of a blob.
    pub fn blob_url(&self, digest: &Digest) -> String {
        self.url(&format!("blobs/{digest}"))
    }

    /// The URL of a path below this repository.
    pub(super) fn url(&self, path: &str) -> String {
        let origin = &self.origin;
        let (scheme, authority) = (&origin.scheme, origin.authority());
        format!("{scheme}://{authority}/v2/{}/{path}", self.repository)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(
            out,
            "{}/{}:{}",
            self.origin.authority(),
            self.repository,
            self.tag
        )
    }
}

/// Resolves a URL that may be relative to another; `None` for a relative path without `/`.
pub(super) fn absolute(target: &str, from: &str) -> Option<String> {
    if Origin::parse(target).is_some() {
        return Some(target.to_string());
    }
    let origin = Origin::parse(from)?;
    match target.strip_prefix("//") {
        Some(rest) => Some(format!("{}://{rest}", origin.scheme)),
        None if target.starts_with('/') => Some(format!(
            "{}://{}{target}",
            origin.scheme,
            origin.authority()
        )),
        None => None,
    }
}

/// A URL without its query, which may contain a secret.
pub(super) fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_on_from_where_they_are() {
        let from = "https://a.b:8443/v2/x?secret=1";
        for (target, url) in [
            ("https://c.d/e", Some("https://c.d/e")),
            ("/e?f", Some("https://a.b:8443/e?f")),
            ("//c.d/e", Some("https://c.d/e")),
            ("", None),
            ("e", None),
        ] {
            assert_eq!(absolute(target, from).as_deref(), url, "{target}");
        }
        assert_eq!(shown(from), "https://a.b:8443/v2/x");
    }
}
