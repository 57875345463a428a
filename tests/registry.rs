//! A scripted registry on loopback: it behaves as the real ones do, and misbehaves as told.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use puna::digest::Digest;
use serde_json::json;

/// What was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `METHOD /path?query`.
    pub line: String,
    /// Header lines, names in lower case.
    pub headers: HashMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// First and last byte of `Range`.
    pub fn range(&self) -> Option<(usize, usize)> {
        let (start, end) = self
            .header("range")
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((start.parse().ok()?, end.parse().ok()?))
    }
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub struct Say {
    /// The status.
    pub status: u16,
    /// Header lines.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Say that the body is so long, whatever it is.
    pub length: Option<usize>,
    /// Send only so many bytes of the body, then end the connection.
    pub cut: Option<usize>,
    /// Send only so many, then nothing, with the connection open.
    pub stall: Option<usize>,
}

impl Say {
    /// A status and nothing more.
    pub fn status(status: u16) -> Self {
        Say {
            status,
            ..Say::default()
        }
    }

    /// A body.
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Say {
            body: body.into(),
            ..Say::status(200)
        }
    }

    /// On to another place.
    pub fn on_to(status: u16, place: impl Into<String>) -> Self {
        Say {
            headers: vec![("Location", place.into())],
            ..Say::status(status)
        }
    }
}

type Script = dyn Fn(&Asked, &mut dyn FnMut() -> Say) -> Say + Send + Sync;

/// What the registry holds.
#[derive(Default)]
pub struct Held {
    /// Manifests by `namespace/model:tag`.
    pub manifests: HashMap<String, Vec<u8>>,
    /// Blobs by their digests' text.
    pub blobs: HashMap<String, Vec<u8>>,
    /// What came of the uploads that are not whole.
    pub uploads: HashMap<String, Vec<u8>>,
}

/// The registry. It lives as long as the test's process.
pub struct Registry {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it holds.
    pub held: Arc<Mutex<Held>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Registry {
    /// One that behaves.
    pub fn new() -> Self {
        Self::scripted(|_, answer| answer())
    }

    /// One that asks `script` first, which may call for the well-behaved answer.
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

    /// All that was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many of the requests began so.
    pub fn count(&self, start: &str) -> usize {
        let asked = self.asked();
        asked
            .iter()
            .filter(|asked| asked.line.starts_with(start))
            .count()
    }

    /// A model's name in it.
    pub fn name(&self, model: &str) -> String {
        format!("{}/{model}", self.address)
    }

    /// Puts a blob in; its digest.
    pub fn put(&self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.held
            .lock()
            .unwrap()
            .blobs
            .insert(digest.to_string(), bytes);
        digest
    }

    /// Puts a model of these weights in, as `lib/NAME:latest`; the manifest's bytes. They are not
    /// those that we would write.
    pub fn model(&self, name: &str, weights: &[u8]) -> Vec<u8> {
        let config = json!({"model_format": "gguf", "model_family": "test", "model_families": ["test"],
            "model_type": "32", "file_type": "F32", "architecture": "amd64", "os": "linux"});
        let config = config.to_string().into_bytes();
        let system = b"You are pulled.".to_vec();
        let layer = |kind: &str, bytes: &[u8]| {
            json!({"size": bytes.len(), "digest": Digest::of(bytes).to_string(), "x": 1,
                "mediaType": format!("application/vnd.ollama.image.{kind}")})
        };
        let manifest = json!({
            "layers": [layer("model", weights), layer("system", &system)],
            "config": {"size": config.len(), "digest": Digest::of(&config).to_string(),
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
        // A client may leave early; that is its test's business.
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
            let _ = stream.read(&mut [0]); // Until the client gives up.
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

/// What a registry answers that does as it should.
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

/// A blob, or the part of it that was asked for.
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

/// A parameter of the query by its name.
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
            if Digest::of(&bytes).to_string() != digest {
                return Say::status(400);
            }
            held.blobs.insert(digest, bytes);
            Say::status(201)
        }
    }
}
