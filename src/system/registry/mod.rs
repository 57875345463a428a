//! Client for model registries: manifests, blobs and authentication over HTTP. It must not touch the
//! store.
//!
//! Redirects are followed here, so that a credential goes only to the origin it belongs to. Messages
//! show URLs without their query: the query of a signed address is a secret.

mod auth;
mod challenge;
mod fetch;
mod hub;
mod key;
mod place;
mod proxy;
mod upload;

use std::collections::HashMap;
use std::io::Read;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use ureq::http::{Request, Response};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body, Proxy};

use crate::core::error::{Class, Error, Result, cause};
use crate::core::lock::LockExt;
use crate::core::name::Name;
use crate::core::network::{AGENT, Network};
use crate::core::regular_file;
use crate::format::manifest::MANIFEST_BYTES_MAX;
use challenge::Challenge;
use place::{absolute, shown};

pub use fetch::Piece;
pub use hub::HubFile;
pub use place::{Origin, Place};
pub use upload::{Upload, Uploaded};

/// Redirect limit of one request.
const HOPS_MAX: usize = 10;
/// Connect timeout.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// Attempts of a request that fails for a temporary reason.
const TRIES_MAX: u32 = 6;
/// Longest `Retry-After` that is respected.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Size limit of an error response's body, in bytes.
const FAILURE_BYTES_MAX: u64 = 64 << 10;
/// The media type of a manifest.
const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A client for registries, with its proxies and cached tokens.
pub struct Registry {
    network: Network,
    direct: Agent,
    by_proxy: HashMap<&'static str, Agent>,
    tokens: Mutex<HashMap<(Origin, String), String>>,
}

impl Registry {
    /// A client with these settings. Opens no connection.
    ///
    /// # Errors
    /// An unusable proxy or certificate file.
    pub fn new(network: Network) -> Result<Self> {
        let certificates = certificates(&network)?;
        let agent = |proxy: Option<Proxy>| {
            let tls = TlsConfig::builder()
                .root_certs(certificates.clone())
                .build();
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .proxy(proxy)
                .tls_config(tls)
                .timeout_connect(Some(
                    CONNECT_MAX.min(network.stall.max(Duration::from_secs(1))),
                ))
                .timeout_recv_response(Some(network.stall))
                .timeout_per_read(Some(network.stall))
                .user_agent(AGENT)
                .build();
            Agent::new_with_config(config)
        };
        let mut by_proxy = HashMap::new();
        for (scheme, proxy) in [
            ("https", &network.https_proxy),
            ("http", &network.http_proxy),
        ] {
            if let Some(text) = proxy {
                let wrong = |_| Error::usage(format!("the proxy for {scheme} cannot be used"));
                by_proxy.insert(scheme, agent(Some(Proxy::new(text).map_err(wrong)?)));
            }
        }
        Ok(Registry {
            direct: agent(None),
            by_proxy,
            tokens: Mutex::default(),
            network,
        })
    }

    /// The network settings.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The place of a model, after mirrors and HF_ENDPOINT; over https unless `insecure`.
    ///
    /// # Errors
    /// `Usage` if the host or its mirror is not a valid address.
    pub fn place(&self, name: &Name, insecure: bool) -> Result<Place> {
        let (host, repository, tag) = name.remote();
        let mirror = self.network.mirrors.iter().find(|(from, _)| from == host);
        let endpoint = self.network.hf_endpoint.as_ref();
        let endpoint = endpoint.filter(|_| matches!(host, "hf.co" | "huggingface.co"));
        let host = mirror
            .map(|(_, to)| to)
            .or(endpoint)
            .map_or(host, String::as_str);
        let url = match (host.contains("://"), insecure) {
            (true, _) => host.trim_end_matches('/').to_string(),
            (false, true) => format!("http://{host}"),
            (false, false) => format!("https://{host}"),
        };
        let origin = Origin::parse(&url);
        let origin = origin.ok_or_else(|| Error::usage(format!("'{host}' is not a registry")))?;
        Ok(Place {
            origin,
            repository,
            tag,
        })
    }

    /// Fetches a manifest, byte for byte.
    ///
    /// # Errors
    /// `NoModel` if it does not exist; `Denied`; `Network`.
    pub fn manifest(&self, place: &Place) -> Result<Vec<u8>> {
        let url = place.url(&format!("manifests/{}", place.tag));
        let accept = [("Accept", MANIFEST_TYPE.to_string())];
        self.with_retries(|| {
            let (response, _) = self.get(place, &url, &accept)?;
            match response.status().as_u16() {
                200 => {}
                404 => return Err(Error::plain(Class::NoModel, "file does not exist").into()),
                _ => return Err(failed(response)),
            }
            let mut bytes = Vec::new();
            let body = response.into_body().into_reader();
            body.take(MANIFEST_BYTES_MAX + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| passing(network(cause(&error))))?;
            if bytes.len() as u64 > MANIFEST_BYTES_MAX {
                Err(Error::failed("the manifest is too large").into())
            } else {
                Ok(bytes)
            }
        })
    }

    /// Gets a URL of a place, following redirects; returns the final URL too.
    fn get(
        &self,
        place: &Place,
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<(Response<Body>, String), Fault> {
        let mut url = url.to_string();
        for _ in 0..=HOPS_MAX {
            let response = self.authorized("GET", place, &url, headers)?;
            let status = response.status().as_u16();
            if !matches!(status, 301 | 302 | 303 | 307 | 308) {
                return Ok((response, url));
            }
            let next = location(&response, &url)?;
            let (from, to) = (Origin::parse(&url), Origin::parse(&next));
            let downgrade =
                from.is_some_and(|from| from.is_https()) && to.is_none_or(|to| !to.is_https());
            if downgrade {
                return Err(Fault::Final(Error::plain(
                    Class::Denied,
                    "a redirect from https to http is not followed",
                )));
            }
            url = next;
        }
        Err(Fault::Final(network(format!(
            "more than {HOPS_MAX} redirects"
        ))))
    }

    /// Sends a request, with credentials only to the place's own origin; requests a token at most once.
    fn authorized(
        &self,
        method: &str,
        place: &Place,
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<Response<Body>, Fault> {
        self.authorized_with(method, place, url, headers, &mut || {
            Ok(ureq::SendBody::none())
        })
    }

    fn authorized_with<'b>(
        &self,
        method: &str,
        place: &Place,
        url: &str,
        headers: &[(&str, String)],
        body: &mut dyn FnMut() -> Result<ureq::SendBody<'b>>,
    ) -> Result<Response<Body>, Fault> {
        let own = Origin::parse(url).is_some_and(|origin| origin == place.origin);
        if !own {
            return self.send(method, url, headers, body()?).map_err(passing);
        }
        let key = (place.origin.clone(), place.repository.clone());
        let known = self.tokens().get(&key).cloned();
        let known = known.or_else(|| self.known_authorization(&place.origin));
        let mut all = headers.to_vec();
        all.extend(known.map(|known| ("Authorization", known)));
        let response = self.send(method, url, &all, body()?).map_err(passing)?;
        if response.status().as_u16() != 401 {
            return Ok(response);
        }
        let challenge = header(&response, "WWW-Authenticate").and_then(Challenge::parse);
        let none = || Fault::Final(Error::plain(Class::Denied, "unauthorized: access denied"));
        let challenge = challenge.ok_or_else(none)?;
        let header = self.authorization(&place.origin, &challenge)?;
        self.tokens().insert(key, header.clone());
        let mut all = headers.to_vec();
        all.push(("Authorization", header));
        let answer = self.send(method, url, &all, body()?).map_err(passing)?;
        match answer.status().as_u16() {
            401 => Err(none()),
            _ => Ok(answer),
        }
    }

    fn send_without_body(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
    ) -> Result<Response<Body>> {
        self.send(method, url, headers, ureq::SendBody::none())
    }

    fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
        body: impl AsSendBody,
    ) -> Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(body);
        let request = request.map_err(|_| network(format!("{} is not a valid URL", shown(url))))?;
        self.agent(url).run(request).map_err(|error| {
            let why = match &error {
                ureq::Error::Io(error) => cause(error),
                error => error.to_string(),
            };
            let is_plain = url.starts_with("https:") && is_not_tls(&error);
            let failed = format!("{method} \"{}\": ", shown(url));
            match is_plain {
                true => Error::usage(failed + "it speaks plain http, which --insecure allows"),
                false => network(failed + &why),
            }
        })
    }

    fn agent(&self, url: &str) -> &Agent {
        let origin = Origin::parse(url).unwrap_or_default();
        match self.by_proxy.get(origin.scheme.as_str()) {
            Some(agent) if !proxy::is_direct(&self.network.no_proxy, &origin.host, origin.port) => {
                agent
            }
            _ => &self.direct,
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashMap<(Origin, String), String>> {
        self.tokens.locked()
    }

    /// Retries temporary failures with growing pauses.
    fn with_retries<T>(&self, mut attempt: impl FnMut() -> Result<T, Fault>) -> Result<T> {
        let mut tries = 0;
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Passing(error, _)) if tries + 1 == TRIES_MAX => return Err(error),
                Err(Fault::Passing(_, wanted)) => thread::sleep(self.pause(tries, wanted)),
            }
            tries += 1;
        }
    }

    /// The pause before the next attempt: at most a minute, whatever a registry asks for.
    pub fn pause(&self, tries: u32, wanted: Option<Duration>) -> Duration {
        let own = self.network.pause.saturating_mul(1 << tries.min(10));
        own.max(wanted.unwrap_or_default()).min(PAUSE_MAX)
    }
}

/// A failed request, by whether a retry may help.
#[derive(Debug)]
pub enum Fault {
    /// A temporary failure, with the delay that the registry asked for.
    Passing(Error, Option<Duration>),
    /// A permanent failure.
    Final(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Final(error)
    }
}

/// A failure of the network may pass; a wrong scheme does not.
fn passing(error: Error) -> Fault {
    match error.class() {
        Class::Network => Fault::Passing(error, None),
        _ => Fault::Final(error),
    }
}

/// True if what was read as TLS is none: the first bytes of an answer in plain HTTP, for example.
fn is_not_tls(error: &ureq::Error) -> bool {
    let ureq::Error::Io(error) = error else {
        return false;
    };
    let source = error.get_ref().and_then(|source| source.downcast_ref());
    matches!(
        source,
        Some(rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
        ))
    )
}

fn network(why: impl Into<String>) -> Error {
    Error::plain(Class::Network, why)
}

/// Maps an error response to a fault.
fn failed(response: Response<Body>) -> Fault {
    let status = response.status().as_u16();
    let retry = header(&response, "Retry-After").and_then(|text| text.trim().parse().ok());
    let mut body = Vec::new();
    let reader = response.into_body().into_reader();
    // The body may be cut off: the status is what counts.
    let _ = reader.take(FAILURE_BYTES_MAX).read_to_end(&mut body);
    let text = format!("{status}: {}", one_line(&body));
    let class = match status {
        401 | 403 => Class::Denied,
        _ => Class::Network,
    };
    let error = Error::plain(class, text.trim_end_matches(": "));
    match status {
        429 | 500.. => Fault::Passing(error, retry.map(Duration::from_secs)),
        _ => Fault::Final(error),
    }
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// The absolute target of a redirect.
fn location(response: &Response<Body>, from: &str) -> Result<String, Fault> {
    let target = header(response, "Location").unwrap_or_default();
    absolute(target, from)
        .ok_or_else(|| Fault::Final(network("a redirect without a valid Location")))
}

/// The start of a response body as one short line, for messages.
fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(1000)]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn certificates(network: &Network) -> Result<RootCerts> {
    let Some(path) = &network.certificates else {
        return Ok(RootCerts::WebPki);
    };
    let mut pem = Vec::new();
    let read = regular_file::named(path)?.read_to_end(&mut pem);
    read.map_err(|error| Error::io("read", path, error))?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() {
        Err(Error::damaged(path, "it contains no PEM certificates"))
    } else {
        Ok(RootCerts::new_with_certs(&found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_become_one_short_line() {
        assert_eq!(one_line(b"<html>\n \x1b[31mno\n"), "<html> [31mno");
    }
}
