//! Who we are to a registry: challenges, tokens, and which credential may go where.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use serde::Deserialize;

use super::key::Key;
use super::{Origin, Registry, one_line};
use crate::digest::Digest;
use crate::error::{Class, Error, Result};

/// Longest answer of a token's server.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// Longest file of credentials.
const NETRC_BYTES_MAX: u64 = 1 << 20;
/// Hosts whose tokens another host gives out, always by https: nothing is sent anywhere else.
const REALMS: &[(&str, &str)] = &[("hf.co", "huggingface.co")];

/// What a registry asks for before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    basic: bool,
    realm: String,
    service: String,
    scope: String,
}

impl Challenge {
    /// Reads the header `WWW-Authenticate`.
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

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Registry {
    /// The header `Authorization` that answers a challenge of `origin`.
    ///
    /// # Errors
    /// `Denied` if the realm is elsewhere or gives no token.
    pub(super) fn authorization(&self, origin: &Origin, challenge: &Challenge) -> Result<String> {
        let netrc = self.network.netrc.as_deref();
        let login = netrc.and_then(|path| login(path, &origin.host));
        let basic = login.map(|login| format!("Basic {}", BASE64_STANDARD.encode(login)));
        if challenge.basic {
            return basic.ok_or_else(|| denied("unauthorized: access denied"));
        }
        let realm = Origin::parse(&challenge.realm).unwrap_or_default();
        let elsewhere = REALMS
            .iter()
            .any(|(host, other)| origin.host == *host && realm.host == *other && realm.is_https());
        if realm.authority() != origin.authority() && !elsewhere {
            return Err(denied(&format!(
                "realm host \"{}\" does not match original host \"{}\"",
                realm.authority(),
                origin.authority()
            )));
        }
        if realm.scheme != origin.scheme {
            return Err(denied("the token's server is asked for by another scheme"));
        }
        let url = token_url(challenge)?;
        let header = match basic {
            Some(basic) => basic,
            None => {
                let key = Key::of(&self.network.keys)?;
                let empty = BASE64_STANDARD.encode(Digest::of(b"").hex());
                let message = format!("GET,{url},{empty}");
                format!("{}:{}", key.public_text(), key.sign(&message))
            }
        };
        let response = self.once("GET", &url, &[("Authorization", header)])?;
        let status = response.status().as_u16();
        let mut text = Vec::new();
        let body = response.into_body().into_reader().take(TOKEN_BYTES_MAX);
        { body }
            .read_to_end(&mut text)
            .map_err(|_| denied("the token's server was cut off"))?;
        if status >= 400 {
            let text = one_line(&text);
            return Err(denied(format!("{status}: {text}").trim_end_matches(": ")));
        }
        let body: Option<TokenBody> = serde_json::from_slice(&text).ok();
        let tokens = body
            .into_iter()
            .flat_map(|body| [body.token, body.access_token]);
        match { tokens }.find(|token| !token.is_empty()) {
            Some(token) => Ok(format!("Bearer {token}")),
            None => Err(denied("the token's server gives no token")),
        }
    }

    /// What goes with the first request already.
    pub(super) fn known_authorization(&self, origin: &Origin) -> Option<String> {
        let endpoint = self.network.hf_endpoint.as_deref().and_then(Origin::parse);
        let ours = ["hf.co", "huggingface.co"].contains(&origin.host.as_str()) && origin.is_https();
        let is_hf = ours || endpoint.is_some_and(|endpoint| endpoint == *origin);
        let token = self.network.hf_token.as_ref().filter(|_| is_hf);
        token.map(|token| format!("Bearer {token}"))
    }
}

fn denied(why: &str) -> Error {
    Error::plain(Class::Denied, why)
}

/// The URL of a token: realm, then the query in the order of its keys.
fn token_url(challenge: &Challenge) -> Result<String> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)
        .map_err(|error| Error::failed(format!("no random numbers: {error}")))?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut pairs = vec![("nonce", BASE64_URL_SAFE_NO_PAD.encode(nonce))];
    pairs.extend(
        challenge
            .scope
            .split_whitespace()
            .map(|scope| ("scope", scope.to_string())),
    );
    pairs.push(("service", challenge.service.clone()));
    pairs.push(("ts", now.as_secs().to_string()));
    let query: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={}", percent(value)))
        .collect();
    let sign = if challenge.realm.contains('?') {
        '&'
    } else {
        '?'
    };
    Ok(format!("{}{sign}{}", challenge.realm, query.join("&")))
}

/// Text as it stands in a query.
pub fn percent(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(byte.into());
            }
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// `user:password` for a host, of a file in netrc's format.
fn login(path: &Path, host: &str) -> Option<String> {
    if fs::metadata(path).ok()?.len() > NETRC_BYTES_MAX {
        return None;
    }
    login_of(&fs::read_to_string(path).ok()?, host)
}

fn login_of(text: &str, host: &str) -> Option<String> {
    let mut words = text.split_whitespace();
    let (mut ours, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word {
            "machine" | "default" if ours && user.is_some() => break,
            "machine" => ours = words.next() == Some(host),
            "default" => ours = true,
            "login" if ours => user = words.next(),
            "password" if ours => password = words.next(),
            _ => {}
        }
    }
    Some(format!("{}:{}", user?, password.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://a.b/token",service="s",scope="x:y:pull x:z:pull""#;
        let challenge = Challenge::parse(header).unwrap();
        assert_eq!(challenge.realm, "https://a.b/token");
        let url = token_url(&challenge).unwrap();
        assert!(
            url.contains("&scope=x%3Ay%3Apull&scope=x%3Az%3Apull&service=s&ts="),
            "{url}"
        );
        assert!(Challenge::parse("Basic realm=x").unwrap().basic);
        assert_eq!(Challenge::parse("Bearer").unwrap().realm, "");
        assert_eq!(Challenge::parse("Digest x"), None);
    }

    #[test]
    fn credentials_belong_to_their_machine() {
        let text = "machine a login u password p\nmachine b\n login v\n password q\n";
        assert_eq!(login_of(text, "a").as_deref(), Some("u:p"));
        assert_eq!(login_of(text, "b").as_deref(), Some("v:q"));
        assert_eq!(login_of(text, "c"), None);
    }
}
