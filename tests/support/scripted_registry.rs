//! A scripted registry on loopback: it behaves like the real ones, and fails where a test says so.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use puna::core::digest::Digest;
use serde_json::json;

/// A request that the registry received.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `METHOD /path?query`.
    pub line: String,
    /// Headers, with names in lower case.
    pub headers: HashMap<String, String>,
    /// The request's body.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header's value; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The first and last byte of the header `Range`.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (start, end) = self
            .header("range")
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((start.parse().ok()?, end.parse().ok()?))
    }
}

/// A response.
#[derive(Debug, Clone, Default)]
pub struct Say {
    /// The status code.
    pub status: u16,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// The response's body.
    pub body: Vec<u8>,
    /// The `Content-Length` to send instead of the real one.
    pub length: Option<usize>,
    /// Close the connection after this many bytes of the body.
    pub cut: Option<usize>,
    /// Stall after this many bytes, with the connection open.
    pub stall: Option<usize>,
}

impl Say {
    /// A response without a body.
    pub fn status(status: u16) -> Self {
        Say {
            status,
            ..Say::default()
        }
    }

    /// A 200 with a body.
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Say {
            body: body.into(),
            ..Say::status(200)
        }
    }

    /// A redirect.
    pub fn on_to(status: u16, place: impl Into<String>) -> Self {
        Say {
            headers: vec![("Location", place.into())],
            ..Say::status(status)
        }
    }
}

type Script = dyn Fn(&Asked, &mut dyn FnMut() -> Say) -> Say + Send + Sync;

/// The registry's content.
#[derive(Default)]
pub struct Held {
    /// Manifests by `namespace/model:tag`.
    pub manifests: HashMap<String, Vec<u8>>,
    /// Blobs by digest.
    pub blobs: HashMap<String, Vec<u8>>,
    /// The bytes of incomplete uploads.
    pub uploads: HashMap<String, Vec<u8>>,
}

/// The registry. It runs until the test process exits.
pub struct Registry {
    /// The address it listens on.
    pub address: SocketAddr,
    /// Its content.
    pub held: Arc<Mutex<Held>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Registry {
    /// A registry that behaves correctly.
    pub fn new() -> Self {
        Self::scripted(|_, answer| answer())
    }

    /// A registry that answers with `script`, which can call for the correct response.
    pub fn scripted(
        script: impl Fn(&Asked, &mut dyn FnMut() -> Say) -> Say + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let held: Arc<Mutex<Held>> = Arc::default();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let script: Arc<Script> = Arc::new(script);
        let shared = (held.clone(), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, (held, log)) = (script.clone(), shared.clone());
                thread::spawn(move || serve(stream, &*script, &held, &log));
            }
        });
        Registry {
            address,
            held,
            asked,
        }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The number of requests whose request line starts like this.
    pub fn count(&self, start: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.line.starts_with(start))
            .count()
    }

    /// The full name of a model at this registry.
    pub fn name(&self, model: &str) -> String {
        format!("{}/{model}", self.address)
    }

    /// Adds a blob; returns its digest.
    pub fn put(&self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::compute(&bytes);
        self.held
            .lock()
            .unwrap()
            .blobs
            .insert(digest.to_string(), bytes);
        digest
    }

    /// Adds a model with these weights as `lib/NAME:latest`; returns the manifest's bytes, which differ
    /// from those that puna would write.
    pub fn model(&self, name: &str, weights: &[u8]) -> Vec<u8> {
        let config = json!({"model_format": "gguf", "model_family": "test", "model_families": ["test"],
            "model_type": "32", "file_type": "F32", "architecture": "amd64", "os": "linux"});
        let config = config.to_string().into_bytes();
        let system = b"You are pulled.".to_vec();
        let layer = |kind: &str, bytes: &[u8]| {
            json!({"size": bytes.len(), "digest": Digest::compute(bytes).to_string(), "x": 1,
                "mediaType": format!("application/vnd.ollama.image.{kind}")})
        };
        let manifest = json!({
            "layers": [layer("model", weights), layer("system", &system)],
            "config": {"size": config.len(), "digest": Digest::compute(&config).to_string(),
                "mediaType": "application/vnd.docker.container.image.v1+json"},
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "schemaVersion": 2,
        });
        let bytes = serde_json::to_vec_pretty(&manifest).unwrap();
        for blob in [weights.to_vec(), system, config] {
            self.put(blob);
        }
        let name = format!("lib/{name}:latest");
        self.held
            .lock()
            .unwrap()
            .manifests
            .insert(name, bytes.clone());
        bytes
    }
}

fn serve(mut stream: TcpStream, script: &Script, held: &Mutex<Held>, log: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(asked) = request(&mut reader) {
        log.lock().unwrap().push(asked.clone());
        let say = script(&asked, &mut || behave(&asked, &mut held.lock().unwrap()));
        let length = say.length.unwrap_or(say.body.len());
        let mut head = format!("HTTP/1.1 {} -\r\nContent-Length: {length}\r\n", say.status);
        for (name, value) in &say.headers {
            head += &format!("{name}: {value}\r\n");
        }
        // A client may disconnect early; its test checks that.
        let _ = stream.write_all((head + "\r\n").as_bytes());
        let body = if asked.line.starts_with("HEAD ") {
            &[]
        } else {
            &say.body[..]
        };
        let sent = say
            .cut
            .or(say.stall)
            .map_or(body.len(), |count| count.min(body.len()));
        if stream.write_all(&body[..sent]).is_err() || say.cut.is_some() {
            return;
        }
        if say.stall.is_some() {
            let _ = stream.read(&mut [0]); // Wait until the client closes the connection.
            return;
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_string()),
        }
    }
    let headers: HashMap<String, String> = lines[1..]
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_string()))
        .collect();
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        line: lines[0].trim_end_matches(" HTTP/1.1").to_string(),
        headers,
        body,
    })
}

/// The correct response to a request.
fn behave(asked: &Asked, held: &mut Held) -> Say {
    let (method, url) = asked.line.split_once(' ').unwrap();
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let Some(rest) = path.strip_prefix("/v2/") else {
        return Say::status(404);
    };
    let parameter = |key: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let found = pairs.find(|(name, _)| *name == key);
        found.map(|(_, value)| value.replace("%3A", ":").replace("%2F", "/"))
    };
    if let Some((repository, tag)) = rest.split_once("/manifests/") {
        let name = format!("{repository}:{tag}");
        if method == "PUT" {
            held.manifests.insert(name, asked.body.clone());
            return Say::status(201);
        }
        return held
            .manifests
            .get(&name)
            .map_or(Say::status(404), |bytes| Say::body(bytes.clone()));
    }
    if let Some((_, session)) = rest.split_once("/blobs/uploads/") {
        return upload(method, session, (path, &parameter), asked, held);
    }
    let Some((_, digest)) = rest.split_once("/blobs/") else {
        return Say::status(404);
    };
    match held.blobs.get(digest) {
        None => Say::status(404),
        Some(bytes) => blob(bytes, asked),
    }
}

/// A blob, or the range of it that was requested.
pub fn blob(bytes: &[u8], asked: &Asked) -> Say {
    match asked.range() {
        Some((start, end)) if start <= end && end < bytes.len() => Say {
            status: 206,
            headers: vec![(
                "Content-Range",
                format!("bytes {start}-{end}/{}", bytes.len()),
            )],
            body: bytes[start..=end].to_vec(),
            ..Say::default()
        },
        Some(_) => Say::status(416),
        None => Say::body(bytes),
    }
}

/// Looks up a query parameter by name.
type Parameter<'a> = &'a dyn Fn(&str) -> Option<String>;

fn upload(
    method: &str,
    session: &str,
    (path, parameter): (&str, Parameter),
    asked: &Asked,
    held: &mut Held,
) -> Say {
    match method {
        "POST" => {
            if parameter("mount").is_some_and(|digest| held.blobs.contains_key(&digest)) {
                return Say::status(201);
            }
            let session = format!("s{}", held.uploads.len());
            held.uploads.insert(session.clone(), Vec::new());
            Say::on_to(202, format!("{path}{session}?state=1"))
        }
        "PATCH" => {
            let bytes = held.uploads.get_mut(session).expect("a session");
            let (start, end) = asked
                .header("content-range")
                .split_once('-')
                .expect("a range");
            let numbers: (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
            if numbers != (bytes.len(), bytes.len() + asked.body.len() - 1) {
                return Say::status(416);
            }
            bytes.extend(&asked.body);
            Say::on_to(202, format!("{path}?state=2"))
        }
        "GET" => match held.uploads.get(session) {
            None => Say::status(404),
            Some(bytes) => {
                let mut say = Say::on_to(204, format!("{path}?state=3"));
                let last = bytes.len().saturating_sub(1);
                say.headers.push(("Range", format!("0-{last}")));
                say
            }
        },
        _ => {
            let bytes = held.uploads.remove(session).expect("a session");
            let digest = parameter("digest").expect("a digest");
            if Digest::compute(&bytes).to_string() != digest {
                return Say::status(400);
            }
            held.blobs.insert(digest, bytes);
            Say::status(201)
        }
    }
}
