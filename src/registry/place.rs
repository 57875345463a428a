//! Where things are in registries: origins, models' places, URLs.

use std::fmt;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// Where a URL leads, without its path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: String,
    /// The host's name or address.
    pub host: String,
    /// Its port.
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

    /// Host, and port unless it is the scheme's own.
    pub(super) fn authority(&self) -> String {
        match (self.scheme.as_str(), self.port) {
            ("https", 443) | ("http", 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

/// A model's place in a registry.
#[derive(Debug, Clone)]
pub struct Place {
    /// The registry.
    pub origin: Origin,
    /// `namespace/model`.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

impl Place {
    /// Where a plain URL leads: no registry, but a file.
    ///
    /// # Errors
    /// If it is no URL of http or https.
    pub fn of_url(url: &str) -> Result<Self> {
        let wrong = || Error::usage(format!("'{}' is no address of a file", shown(url)));
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

    /// The URL of something in this place.
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

/// A URL that may be told relative to another.
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

/// A URL without its query, which may be a secret.
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
