//! The address of a server, to listen on or to connect to: the forms that OLLAMA_HOST accepts.

use std::fmt;

use super::error::{Error, Result};

/// The default port of the API.
const PORT: u16 = 11434;

/// Scheme, host, port and path of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `http` or `https`.
    pub scheme: String,
    /// A name or an IP literal without brackets; empty means every interface.
    pub host: String,
    /// The port.
    pub port: u16,
    /// A path put before every route, without a slash at its end.
    pub path: String,
}

impl Default for Address {
    fn default() -> Self {
        Address {
            scheme: "http".into(),
            host: "127.0.0.1".into(),
            port: PORT,
            path: String::new(),
        }
    }
}

impl Address {
    /// Parses `host`, `:port`, `host:port`, `[v6]:port` and `scheme://host[:port][/path]`.
    ///
    /// # Errors
    /// An unknown scheme, an invalid port, an unclosed bracket.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::usage(format!("cannot use the address '{text}': {why}"));
        let text = text.trim();
        let (scheme, rest, port) = match text.split_once("://") {
            None => ("http", text, PORT),
            Some(("http", rest)) => ("http", rest, 80),
            Some(("https", rest)) => ("https", rest, 443),
            Some(_) => return Err(wrong("only http and https are supported")),
        };
        let (authority, path) = rest
            .split_once('/')
            .map_or((rest, ""), |(authority, path)| (authority, path));
        let (host, given) =
            split_port(authority).ok_or_else(|| wrong("a bracket is not closed"))?;
        let is_name = !host.contains(|c: char| c.is_whitespace() || c.is_control());
        if !is_name || (host.contains(':') && !is_v6(host)) {
            return Err(wrong("the host is neither a name nor an address"));
        }
        let port = match given {
            None => port,
            Some(digits) => digits
                .parse()
                .map_err(|_| wrong("the port is not a number up to 65535"))?,
        };
        let path = match path.trim_matches('/') {
            "" => String::new(),
            path => format!("/{path}"),
        };
        Ok(Address {
            scheme: scheme.into(),
            host: host.into(),
            port,
            path,
        })
    }

    /// The address to bind; an empty host means every interface.
    pub fn bind_text(&self) -> String {
        let host = if self.host.is_empty() {
            "0.0.0.0"
        } else {
            &self.host
        };
        format!("{}:{}", bracketed(host), self.port)
    }

    /// The URL of a route on this server, for a client.
    pub fn url(&self, route: &str) -> String {
        let host = if self.host.is_empty() {
            "127.0.0.1"
        } else {
            &self.host
        };
        format!(
            "{}://{}:{}{}{route}",
            self.scheme,
            bracketed(host),
            self.port,
            self.path
        )
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.url(""))
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_string()
    }
}

/// True for an IPv6 address, with or without a zone.
fn is_v6(host: &str) -> bool {
    let address = host.split('%').next().unwrap_or_default();
    address.parse::<std::net::Ipv6Addr>().is_ok()
}

fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return Some((host, after.strip_prefix(':')));
    }
    match authority.split_once(':') {
        Some((_, rest)) if rest.contains(':') => Some((authority, None)), // A bare IPv6 literal.
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, url) in [
            ("1.2.3.4", "http://1.2.3.4:11434"),
            (":1234", "http://127.0.0.1:1234"),
            ("box:80", "http://box:80"),
            ("[::1]", "http://[::1]:11434"),
            ("::1", "http://[::1]:11434"),
            ("http://h", "http://h:80"),
            ("https://h/p/", "https://h:443/p"),
            ("[::1]:99", "http://[::1]:99"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), url);
        }
        assert_eq!(Address::parse(":1234").unwrap().bind_text(), "0.0.0.0:1234");
        for bad in ["h:99999", "h:x", "ftp://h", "[::1"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
