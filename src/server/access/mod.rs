//! The access policy: the rules for `Origin` and `Host` that keep foreign web pages out.

pub mod keys;

use std::net::IpAddr;

use super::http::{Exchange, Reply};

const METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";
const HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,\
                       X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,\
                       X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,\
                       X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout,X-Api-Key,\
                       Anthropic-Version,Anthropic-Beta,Anthropic-Dangerous-Direct-Browser-Access";
const MAX_AGE_S: &str = "43200";
const HOSTS: [&str; 4] = ["localhost", "127.0.0.1", "0.0.0.0", "[::1]"];
const SCHEMES: [&str; 5] = [
    "app://",
    "file://",
    "tauri://",
    "vscode-webview://",
    "vscode-file://",
];

/// The rules for `Origin` and `Host` in force.
pub struct Access {
    origins: Vec<String>,
    loopback: bool,
    hostname: String,
}

/// The decision about a request.
pub enum Verdict {
    /// Handle it, and add these headers to the answer.
    Pass(Vec<(&'static str, String)>),
    /// Send this answer instead.
    Answer(Reply),
    /// Refuse it with status 403, for this reason.
    Refuse(&'static str),
}

const FOREIGN_HOST: &str =
    "the Host of the request is not this machine: name it in PUNA_ORIGINS, or send an API key";
const FOREIGN_ORIGIN: &str = "the Origin of the request is not allowed: name it in PUNA_ORIGINS";

impl Access {
    /// Rules for a server that also allows these origins; `loopback` says that it is bound to a
    /// loopback address.
    pub fn new(origins: Vec<String>, loopback: bool) -> Self {
        let hostname = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .to_lowercase();
        Access {
            origins,
            loopback,
            hostname,
        }
    }

    /// Checks a request. `Host` is not checked on the Unix socket, which has file permissions, nor for one that has a
    /// known API key, which no foreign page knows.
    pub fn judge(&self, exchange: &Exchange, has_key: &dyn Fn() -> bool) -> Verdict {
        let host = exchange.header("Host").unwrap_or_default();
        let origin = exchange
            .header("Origin")
            .filter(|origin| !origin.is_empty());
        if !exchange.is_local() && !self.allows_host(host) && !has_key() {
            return Verdict::Refuse(FOREIGN_HOST);
        }
        let Some(origin) = origin else {
            return Verdict::Pass(Vec::new());
        };
        let same = [format!("http://{host}"), format!("https://{host}")]
            .iter()
            .any(|own| own == origin);
        if same {
            return Verdict::Pass(Vec::new());
        }
        if !self.allows_origin(origin) {
            return Verdict::Refuse(FOREIGN_ORIGIN);
        }
        let headers = self.cors_headers(origin);
        if exchange.method() == "OPTIONS" {
            Verdict::Answer(preflight(headers))
        } else {
            Verdict::Pass(headers)
        }
    }

    fn cors_headers(&self, origin: &str) -> Vec<(&'static str, String)> {
        if self.origins.iter().any(|allowed| allowed == "*") {
            return vec![("Access-Control-Allow-Origin", "*".into())];
        }
        vec![
            ("Access-Control-Allow-Origin", origin.to_string()),
            ("Vary", "Origin".into()),
        ]
    }

    fn allows_origin(&self, origin: &str) -> bool {
        let by_user = self.origins.iter().any(|allowed| matches(allowed, origin));
        let by_host = HOSTS.iter().any(|host| {
            ["http://", "https://"].iter().any(|scheme| {
                let rest = origin
                    .strip_prefix(scheme)
                    .and_then(|rest| rest.strip_prefix(host));
                rest.is_some_and(|rest| rest.is_empty() || is_port(rest))
            })
        });
        by_user || by_host || SCHEMES.iter().any(|scheme| origin.starts_with(scheme))
    }

    /// A server that is bound to a loopback address allows host names that are this machine's or among the configured
    /// origins, and IP literals that are private or loopback. One that others reach, with keys or open on purpose, has any
    /// name that they have for it.
    fn allows_host(&self, host: &str) -> bool {
        if !self.loopback {
            return true;
        }
        let name = without_port(host).to_lowercase();
        if let Ok(ip) = name.parse::<IpAddr>() {
            return is_near(ip);
        }
        let set = self.origins.iter().any(|origin| {
            let host = origin
                .split_once("://")
                .map_or(origin.as_str(), |(_, host)| host);
            without_port(host) == name
        });
        let inside = [".localhost", ".local", ".internal"]
            .iter()
            .any(|end| name.len() > end.len() && name.ends_with(end));
        name.is_empty() || name == "localhost" || name == self.hostname || inside || set
    }
}

fn preflight(mut headers: Vec<(&'static str, String)>) -> Reply {
    headers.extend([
        ("Access-Control-Allow-Methods", METHODS.to_string()),
        ("Access-Control-Allow-Headers", HEADERS.to_string()),
        ("Access-Control-Max-Age", MAX_AGE_S.to_string()),
        ("Vary", "Access-Control-Request-Method".to_string()),
        ("Vary", "Access-Control-Request-Headers".to_string()),
    ]);
    Reply {
        status: 204,
        headers,
        ..Reply::default()
    }
}

/// An allowed origin may contain one `*`; after a colon it matches only digits.
fn matches(allowed: &str, origin: &str) -> bool {
    match allowed.split_once('*') {
        None => allowed == origin,
        Some((front, back)) => {
            let middle = origin
                .strip_prefix(front)
                .and_then(|rest| rest.strip_suffix(back));
            middle.is_some_and(|middle| {
                !front.ends_with(':') || middle.bytes().all(|byte| byte.is_ascii_digit())
            })
        }
    }
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|digits| {
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The name of a host without its port, and an IPv6 address without its brackets. What has no port of digits, or no closing
/// bracket, is returned as it is: no name is equal to it.
fn without_port(host: &str) -> &str {
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (name, port) = match (bracketed, host.find(':')) {
        (Some(parts), _) => parts,
        (None, Some(colon)) => host.split_at(colon),
        (None, None) => return host,
    };
    if port.is_empty() || is_port(port) {
        name
    } else {
        host
    }
}

fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_others_are_refused_on_loopback() {
        let access = Access {
            origins: vec![],
            loopback: true,
            hostname: "box".into(),
        };
        for good in [
            "",
            "localhost:11434",
            "127.0.0.1",
            "[::1]:11434",
            "[fd00::1]",
            "10.0.0.5",
            "foo.local",
            "host.docker.internal",
            "BOX:1",
        ] {
            assert!(access.allows_host(good), "{good}");
        }
        for bad in [
            "evil.com",
            "8.8.8.8",
            "169.254.1.1",
            "ollama",
            "local",
            "foo.local.",
            "localhost.evil.com",
            "127.0.0.1:28080@evil.com",
            "127.0.0.1:evil",
            "127.0.0.1:",
            "[::1",
            "[::1]x",
            "[::1]:x",
            "localhost:1:2",
        ] {
            assert!(!access.allows_host(bad), "{bad}");
        }
        let open = Access {
            loopback: false,
            origins: vec!["http://my.name".into()],
            ..access
        };
        assert!(open.allows_host("8.8.8.8:11434") && open.allows_host("ollama:11434"));
        let near = Access {
            loopback: true,
            ..open
        };
        assert!(near.allows_host("my.name:80") && !near.allows_host("evil.com"));
    }

    #[test]
    fn origins_of_others_are_refused() {
        let access = Access {
            origins: vec!["https://my.site".into(), "http://dev:*".into()],
            loopback: true,
            hostname: "box".into(),
        };
        for good in [
            "http://localhost:3000",
            "https://127.0.0.1",
            "app://obsidian.md",
            "file://",
            "https://my.site",
            "http://dev:5173",
        ] {
            assert!(access.allows_origin(good), "{good}");
        }
        for bad in [
            "http://example.com",
            "null",
            "chrome-extension://abc",
            "http://localhost:3000.evil.com",
            "http://LOCALHOST",
            "http://dev:1.evil.com",
        ] {
            assert!(!access.allows_origin(bad), "{bad}");
        }
    }
}
