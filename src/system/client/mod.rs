//! The client of a running puna or Ollama server: one request, answered by a value or by lines.

mod records;
mod socket;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use ureq::http::Response;
use ureq::typestate::{WithBody, WithoutBody};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::{Agent, Body, RequestBuilder, SendBody};

use crate::core::address::Address;
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};
use crate::core::network::{AGENT, ERROR_HEADER};
use crate::format::wire::failure::failure;
use records::{RECORD_BYTES_MAX, broken, is_timeout, one_line, timed_out};
use socket::SocketConnector;

pub use records::Records;

/// The header in which a puna server names its store, on its own socket only.
pub const STORE_HEADER: &str = "Puna-Store";
/// How long a server may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a server may take to answer what needs no model.
pub const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long a server may send nothing while it does work that reports its progress.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// llama-server's words for a route that it does not have.
const NO_ROUTE: &str = "File Not Found";
/// How long a server may take to answer `GET /`.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// A client of one server.
pub struct Client {
    agent: Agent,
    key: Option<String>,
    /// How long an answer may take.
    limit: Option<Duration>,
    base: String,
    what: String,
}

impl Client {
    /// The server at an address.
    pub fn at(address: &Address) -> Self {
        let agent = Agent::new_with_config(config());
        Client {
            agent,
            key: None,
            limit: None,
            base: address.url(""),
            what: address.to_string(),
        }
    }

    /// The same, with a key for a server that requires one.
    pub fn keyed(self, key: Option<String>) -> Self {
        Client { key, ..self }
    }

    /// The same, for answers of one record that take at most this long.
    pub fn within(self, limit: Option<Duration>) -> Self {
        Client { limit, ..self }
    }

    /// The server behind a Unix socket; `stall_timeout` limits each wait for its answer.
    pub fn on_socket(path: &Path, stall_timeout: Option<Duration>) -> Self {
        let connector = SocketConnector::new(path, stall_timeout);
        let agent = Agent::with_parts(config(), connector, DefaultResolver::default());
        Client {
            agent,
            key: None,
            limit: None,
            base: "http://localhost".into(),
            what: path.display().to_string(),
        }
    }

    /// The store that the server reports, if it answers and is puna.
    pub fn store(&self) -> Option<PathBuf> {
        let response = self.request("/api/version").call().ok()?;
        response
            .headers()
            .get(STORE_HEADER)?
            .to_str()
            .ok()
            .map(PathBuf::from)
    }

    /// Rejects a server that would ignore a feature that only puna has.
    ///
    /// # Errors
    /// `Usage` if it is another server; `Network` if no server answers.
    pub fn must_be_puna(&self, for_what: &str) -> Result<()> {
        let sent = self.request("/api/version").call();
        let response = self.checked(sent)?;
        let server = response.headers().get("Server");
        if server.is_some_and(|server| server.as_bytes().starts_with(b"puna/")) {
            Ok(())
        } else {
            Err(Error::usage(format!(
                "the server at {} is not puna and does not support {for_what}; use --local",
                self.what
            )))
        }
    }

    /// The answer to `GET /`: a line that identifies the server.
    pub fn greeting(&self) -> Option<String> {
        let request = self.request("/").config();
        let request = request.timeout_global(Some(GREETING_MAX)).build();
        let mut response = request.call().ok()?;
        response
            .body_mut()
            .with_config()
            .limit(1000)
            .read_to_string()
            .ok()
    }

    fn request(&self, route: &str) -> RequestBuilder<WithoutBody> {
        let request = self.with_key(self.agent.get(format!("{}{route}", self.base)));
        self.limited(request)
    }

    /// Limits the time of a request that needs no model.
    fn limited<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        let limit = Some(self.soon());
        request.config().timeout_global(limit).build()
    }

    /// How long an answer that needs no model may take.
    fn soon(&self) -> Duration {
        self.limit.unwrap_or(ANSWER_MAX).min(ANSWER_MAX)
    }

    /// Gets a value.
    ///
    /// # Errors
    /// `Network` if there is no server; the server's own error, classed by its status.
    pub fn get<T: DeserializeOwned>(&self, route: &str) -> Result<T> {
        let sent = self.request(route).call();
        self.value(self.checked(sent)?)
    }

    /// Posts a value and reads the answer's lines as records, for as long as they come.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &impl Serialize,
    ) -> Result<Records<T>> {
        self.posted(self.to_post(route), body)
    }

    /// Posts a value and reads the records of work that reports its progress: the first comes within
    /// [`ANSWER_MAX`], and no pause is longer than ten minutes.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn follow<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &impl Serialize,
    ) -> Result<Records<T>> {
        let request = self.to_post(route).config();
        let request = request.timeout_recv_response(Some(ANSWER_MAX));
        self.posted(request.timeout_per_read(Some(SILENCE_MAX)).build(), body)
    }

    fn to_post(&self, route: &str) -> RequestBuilder<WithBody> {
        let request = self.agent.post(format!("{}{route}", self.base));
        self.with_key(request)
            .header("Content-Type", "application/json")
    }

    fn posted<T: DeserializeOwned>(
        &self,
        request: RequestBuilder<WithBody>,
        body: &impl Serialize,
    ) -> Result<Records<T>> {
        let text = crate::core::json::line(body);
        let response = self.checked(request.send(text))?;
        Ok(Records::new(response.into_body().into_reader(), &self.what))
    }

    /// Sends a value with a method and reads an answer without a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn tell(&self, method: Method, route: &str, body: &impl Serialize) -> Result<()> {
        let text = crate::core::json::line(body);
        let url = format!("{}{route}", self.base);
        let request = match method {
            Method::Post => self.agent.post(url),
            Method::Delete => self.agent.delete(url).force_send_body(),
        };
        let request = self
            .with_key(request)
            .header("Content-Type", "application/json");
        self.checked(self.limited(request).send(text)).map(drop)
    }

    /// Posts a value and reads the answer's only record, which may take as long as [`Client::within`] says.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn ask<T: DeserializeOwned>(&self, route: &str, body: &impl Serialize) -> Result<T> {
        self.only(route, body, self.limit)
    }

    /// The same for an answer that needs no model: it takes no longer than [`ANSWER_MAX`].
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn ask_soon<T: DeserializeOwned>(&self, route: &str, body: &impl Serialize) -> Result<T> {
        self.only(route, body, Some(self.soon()))
    }

    fn only<T: DeserializeOwned>(
        &self,
        route: &str,
        body: &impl Serialize,
        limit: Option<Duration>,
    ) -> Result<T> {
        let request = self.to_post(route).config().timeout_global(limit).build();
        let record = self.posted::<T>(request, body)?.next();
        record.unwrap_or_else(|| {
            let text = format!("the server at {} sent an empty answer", self.what);
            Err(Error::plain(Class::Network, text))
        })
    }

    /// The address, as messages name it.
    pub fn address(&self) -> &str {
        &self.what
    }

    /// The server's description of a model, as `/api/show` gives it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn details(&self, model: &str) -> Result<Json> {
        let body = serde_json::json!({ "model": model });
        self.ask_soon("/api/show", &body)
    }

    /// True if the server says that this model can embed and not complete.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn only_embeds(&self, model: &str) -> Result<bool> {
        let shown = self.details(model)?;
        let can = |word: &str| {
            let list = shown["capabilities"].as_array();
            list.is_some_and(|list| list.iter().any(|ability| ability == word))
        };
        Ok(can("embedding") && !can("completion"))
    }

    /// True if the server has this blob.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let request = self.agent.head(format!("{}/api/blobs/{digest}", self.base));
        let sent = self.limited(self.with_key(request)).call();
        match sent {
            Ok(response) if response.status() == 404 => Ok(false),
            sent => self.checked(sent).map(|_| true),
        }
    }

    /// Sends a blob; `progress` gets the bytes done.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn put_blob(
        &self,
        digest: &Digest,
        file: File,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let request = self.agent.post(format!("{}/api/blobs/{digest}", self.base));
        let length = file.metadata().map(|meta| meta.len());
        let length = length.map_err(|error| Error::io("read", digest.to_string(), error))?;
        let request = self.with_key(request).header("Content-Length", length);
        let request = request.config().timeout_recv_response(Some(SILENCE_MAX));
        let mut body = Counted {
            file,
            done: 0,
            progress,
        };
        let sent = request.build().send(SendBody::from_reader(&mut body));
        self.checked(sent).map(drop)
    }

    fn with_key<B>(&self, request: RequestBuilder<B>) -> RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("Authorization", format!("Bearer {key}")),
            None => request,
        }
    }

    fn value<T: DeserializeOwned>(&self, response: Response<Body>) -> Result<T> {
        let reader = response.into_body().into_reader().take(RECORD_BYTES_MAX);
        serde_json::from_reader(reader).map_err(|error| broken(&self.what, &error))
    }

    fn checked(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        let mut response = sent.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        if status < 300 {
            return Ok(response);
        }
        if let Some(target) = response.headers().get("Location") {
            let target = target.to_str().unwrap_or("another address");
            let text = format!(
                "the server at {} redirects to {target}: name that address",
                self.what
            );
            return Err(Error::plain(Class::Network, text));
        }
        let header = response.headers().get(ERROR_HEADER);
        let word = header.and_then(|value| value.to_str().ok());
        let class = word.and_then(Class::from_word);
        let text = response
            .body_mut()
            .with_config()
            .limit(1 << 20)
            .read_to_string()
            .unwrap_or_default();
        let what = &self.what;
        let message = failure(text.as_bytes()).map(|failure| failure.message);
        let is_unknown = matches!(status, 404 | 405 | 501) && class.is_none();
        if is_unknown && message.as_deref().is_none_or(|message| message == NO_ROUTE) {
            let text = format!("the server at {what} cannot do this: it has no such route");
            return Err(Error::usage(text));
        }
        Err(match message {
            Some(message) => {
                let class = class.unwrap_or(class_of(status));
                Error::plain(class, one_line(&message, status))
            }
            // A page of a proxy, or of a server that is none of ours.
            None => {
                let class = class.unwrap_or(match class_of(status) {
                    Class::Failed => Class::Network,
                    class => class,
                });
                let text = format!("the server at {what} answered with status {status}");
                Error::plain(class, text)
            }
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> Error {
        let what = &self.what;
        if is_timeout(error) {
            return timed_out(what);
        }
        Error::plain(
            Class::Network,
            match error {
                ureq::Error::HostNotFound => {
                    format!("there is no host by the name in {what}")
                }
                ureq::Error::Io(error) if is_absent(error) => {
                    format!("no server at {what}: start one with 'puna serve'; run needs none")
                }
                ureq::Error::Io(error) => {
                    let cause = crate::core::error::cause(error);
                    format!("no connection to {what}: {cause}")
                }
                error => format!("the server at {what} does not answer: {error}"),
            },
        )
    }
}

/// How [`Client::tell`] sends a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `POST`.
    Post,
    /// `DELETE`.
    Delete,
}

/// True if nothing listens there.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// The class of an error from a server that does not name it, by the HTTP status alone.
fn class_of(status: u16) -> Class {
    match status {
        404 => Class::NoModel,
        401 | 403 => Class::Denied,
        429 | 503 => Class::Busy,
        400 => Class::Usage,
        _ => Class::Failed,
    }
}

/// A file that reports the bytes read so far.
struct Counted<'a> {
    file: File,
    done: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.done += count as u64;
        (self.progress)(self.done);
        Ok(count)
    }
}

fn config() -> ureq::config::Config {
    Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(CONNECT_MAX))
        .timeout_per_write(Some(ANSWER_MAX))
        .max_idle_connections(0)
        .user_agent(AGENT)
        .build()
}
