//! A sandbox per test: a fresh home, the program, a server, a small HTTP client.

pub mod recorder;
pub mod scripted_model;
pub mod scripted_registry;
pub mod scripted_server;
pub mod tiny_models;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use puna::format::gguf::Writer;
use serde_json::Value as Json;

/// The program under test.
pub const PUNA: &str = env!("CARGO_BIN_EXE_puna");

/// The chat model that most tests use.
pub fn smol() -> PathBuf {
    model("SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A base model with a sliding window.
pub fn gemma() -> PathBuf {
    model("gemma-3-270m-Q4_K_M.gguf")
}

/// A file in the cache of test models.
pub fn model(file: &str) -> PathBuf {
    let cache = std::env::var_os("PUNA_TEST_CACHE").map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| {
        std::env::home_dir()
            .expect("a home")
            .join(".cache/puna-test")
    });
    let path = cache.join(file);
    assert!(
        path.exists(),
        "{} is missing: run 'make models clients'",
        path.display()
    );
    path
}

/// A well-formed GGUF that llama.cpp refuses: it does not know the architecture.
pub fn tiny_gguf() -> Vec<u8> {
    let mut writer = Writer::new("test");
    writer.unsigned("test.context_length", 64);
    writer.tensor_f32("x.weight", &[32], &[0.5; 32]);
    writer.bytes()
}

/// The result of a finished command.
#[derive(Debug)]
pub struct Done {
    /// Exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// Asserts success and returns standard output.
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.stdout
    }

    /// Asserts a failure: this status, nothing on standard output, and one line with `words` on standard
    /// error.
    pub fn fails(self, status: i32, words: &str) -> String {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:?}");
        assert!(self.stderr.starts_with("puna: "), "{self:?}");
        assert!(
            self.stderr.contains(words),
            "{words:?} is not in {:?}",
            self.stderr
        );
        self.stderr
    }
}

/// A fresh home with an empty store.
pub struct Sandbox {
    /// The folder, which is also `HOME`.
    pub home: PathBuf,
}

static COUNT: AtomicUsize = AtomicUsize::new(0);

impl Sandbox {
    /// An empty sandbox, removed on drop.
    pub fn new() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("puna-{}-{number}", std::process::id()));
        fs::create_dir_all(&home).expect("a fresh folder");
        Sandbox { home }
    }

    /// A sandbox whose store has SmolLM2 as `smol`, linked.
    pub fn with_smol() -> Self {
        let sandbox = Self::new();
        sandbox.create("smol", &format!("FROM {}\n", smol().display()));
        sandbox
    }

    /// The store's folder.
    pub fn models(&self) -> PathBuf {
        self.home.join(".local/share/puna/models")
    }

    /// Writes a file in the home.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.join(name);
        fs::create_dir_all(path.parent().expect("in the home")).expect("a folder");
        fs::write(&path, content).expect("a file");
        path
    }

    /// Creates a model from a Modelfile's text; weights are linked to keep tests fast.
    pub fn create(&self, name: &str, modelfile: &str) {
        self.puna(&["create", name, "--link", "-q", "-f", "-"], modelfile)
            .ok();
    }

    /// A command of the program, with an isolated environment.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PUNA);
        command.args(words).current_dir(&self.home).env_clear();
        command.env("HOME", &self.home).env(
            "PATH",
            format!(
                "{}:/usr/bin:/bin",
                Path::new(PUNA).parent().expect("a folder").display()
            ),
        );
        command
    }

    /// Runs the program with this standard input.
    pub fn puna(&self, words: &[&str], input: &str) -> Done {
        run(&mut self.command(words), input)
    }

    /// Runs a line of shell in the home.
    pub fn shell(&self, line: &str) -> Done {
        let mut command = Command::new("bash");
        command
            .args(["-c", line])
            .current_dir(&self.home)
            .env_clear()
            .env("HOME", &self.home);
        command.env(
            "PATH",
            format!(
                "{}:/usr/bin:/bin",
                Path::new(PUNA).parent().expect("a folder").display()
            ),
        );
        command.env("SMOL", smol()).env("GEMMA", gemma());
        run(&mut command, "")
    }

    /// Starts a server of this sandbox on a free port.
    pub fn serve(&self, variables: &[(&str, &str)]) -> Server {
        let mut command = self.command(&["serve", "--host", "127.0.0.1:0"]);
        command.envs(variables.iter().copied());
        Server::start(command)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.home); // A leftover in /tmp is harmless.
    }
}

/// Runs a command with this standard input until it exits.
pub fn run(command: &mut Command, input: &str) -> Done {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_string();
    let feeder = std::thread::spawn(move || _ = stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    feeder.join().expect("the feeder ends");
    Done {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until `ready` or panics after `limit`.
pub fn eventually(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running server.
pub struct Server {
    /// The server's process.
    pub child: Child,
    /// The address it listens on: `127.0.0.1:PORT`.
    pub at: String,
}

impl Server {
    /// Starts a server and waits until it listens.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut at = None;
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(address) = line.strip_prefix("puna: listening on http://") {
                at = Some(address.to_string());
            }
            if line.starts_with("puna: computing on ") {
                break;
            }
        }
        // Keep reading, so that the server never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Server {
            child,
            at: at.expect("the server says where it listens"),
        }
    }

    /// Sends a request and reads the whole response.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask_with(method, path, body, "")
    }

    /// The same with additional header lines, each ending in `\r\n`.
    pub fn ask_with(&self, method: &str, path: &str, body: &str, headers: &str) -> Answer {
        let mut stream = self.send(method, path, body, headers);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("an answer");
        Answer::parse(&bytes, method == "HEAD")
    }

    /// Sends a request without reading the response.
    pub fn send(&self, method: &str, path: &str, body: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.at).expect("the server listens");
        stream
            .set_read_timeout(Some(Duration::from_secs(300)))
            .expect("a timeout");
        let host = if headers.contains("Host:") {
            String::new()
        } else {
            format!("Host: {}\r\n", self.at)
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // A server may respond and close the connection before it has read everything.
        let _ = stream.write_all(request.as_bytes());
        stream
    }

    /// Posts JSON and parses the response.
    pub fn post(&self, path: &str, body: &str) -> Json {
        let answer = self.ask("POST", path, body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The process id.
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Sends a signal; returns the signal that ended the process, and how long that took.
    pub fn end(mut self, signal: &str) -> (Option<i32>, Duration) {
        let started = Instant::now();
        let killed = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
        let status = self.child.wait().expect("it ends");
        (status.signal(), started.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have exited already.
        let _ = self.child.wait();
    }
}

/// An HTTP response.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers as name and value.
    pub headers: Vec<(String, String)>,
    /// The body, without transfer encoding.
    pub body: String,
}

impl Answer {
    fn parse(bytes: &[u8], head_only: bool) -> Self {
        let border = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let border = border.unwrap_or_else(|| panic!("no head in {bytes:?}"));
        let head = String::from_utf8_lossy(&bytes[..border]);
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let chunked = headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        let body = match (head_only, chunked) {
            (true, _) => Vec::new(),
            (_, true) => unchunked(&bytes[border + 4..]),
            (_, false) => bytes[border + 4..].to_vec(),
        };
        Answer {
            status: status.unwrap_or_else(|| panic!("no status in {head}")),
            headers,
            body: String::from_utf8(body).expect("the body is UTF-8"),
        }
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Json {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body as one JSON value per line.
    pub fn lines(&self) -> Vec<Json> {
        let parse =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.body.lines().map(parse).collect()
    }

    /// The text of an error response.
    pub fn error(&self) -> String {
        self.json()["error"]
            .as_str()
            .expect("an error text")
            .to_string()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n");
        let end = end.expect("the chunks have an end");
        let size = std::str::from_utf8(&rest[..end]).expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        if size == 0 {
            return body;
        }
        body.extend(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}
