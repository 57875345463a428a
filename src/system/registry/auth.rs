//! Authentication at registries: challenges, tokens, and which host gets which credential.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::challenge::Challenge;
use super::key::Key;
use super::{Origin, Registry, one_line};
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::regular_file;

/// Size limit of a token server's answer, in bytes.
const TOKEN_BYTES_MAX: u64 = 1 << 20;
/// Size limit of a netrc file, in bytes.
const NETRC_BYTES_MAX: u64 = 1 << 20;
/// Hosts whose tokens come from another host, over https only; no other foreign realm gets a credential.
const REALMS: &[(&str, &str)] = &[("hf.co", "huggingface.co")];

#[derive(Deserialize)]
struct TokenBody {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Registry {
    /// The `Authorization` header that answers a challenge from `origin`.
    ///
    /// # Errors
    /// `Denied` if the realm belongs to another host or returns no token.
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
            return Err(denied("the token server's URL has a different scheme"));
        }
        let url = token_url(challenge)?;
        let header = match basic {
            Some(basic) => basic,
            None => {
                let key = Key::load(&self.network.keys)?;
                let empty = BASE64_STANDARD.encode(Digest::compute(b"").hex());
                let message = format!("GET,{url},{empty}");
                format!("{}:{}", key.public_text(), key.sign(&message))
            }
        };
        let response = self.send_without_body("GET", &url, &[("Authorization", header)])?;
        let status = response.status().as_u16();
        let mut text = Vec::new();
        let body = response.into_body().into_reader().take(TOKEN_BYTES_MAX);
        { body }
            .read_to_end(&mut text)
            .map_err(|_| denied("the token server's answer was cut off"))?;
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
            None => Err(denied("the token server returned no token")),
        }
    }

    /// The `Authorization` header sent without a challenge: the Hugging Face token, to its hosts only.
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

/// The URL that requests a token: the realm, then the query sorted by key.
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

/// Bytes that a query keeps as they are: RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Percent-encodes text for a query.
pub fn percent(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// `user:password` for a host, from a netrc file.
fn login(path: &Path, host: &str) -> Option<String> {
    if fs::metadata(path).ok()?.len() > NETRC_BYTES_MAX {
        return None;
    }
    login_of(&regular_file::text(path).ok()?, host)
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
