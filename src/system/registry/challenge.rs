//! The challenge of a registry: the WWW-Authenticate header.

/// A registry's demand for authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    pub(super) basic: bool,
    pub(super) realm: String,
    pub(super) service: String,
    pub(super) scope: String,
}

impl Challenge {
    /// Parses the header `WWW-Authenticate`; `None` for schemes other than Basic and Bearer.
    pub fn parse(header: &str) -> Option<Self> {
        let (kind, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        let value = |key: &str| {
            let found = rest.split_once(&format!("{key}=\""));
            let value = found.and_then(|(_, rest)| rest.split('"').next());
            value.unwrap_or_default().to_string()
        };
        let basic = kind.eq_ignore_ascii_case("basic");
        (basic || kind.eq_ignore_ascii_case("bearer")).then(|| Challenge {
            basic,
            realm: value("realm"),
            service: value("service"),
            scope: value("scope"),
        })
    }
}
