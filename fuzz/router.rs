//! Fuzz target for the router: bytes that may be requests, sent to a separate server without a model.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::{Dice, requests};

/// A request of each kind; a POST is followed by bodies of every API.
const HEADS: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HEAD /api/tags HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "GET /v1/models/a%2Fb:c?x=1&y=%00 HTTP/1.1\r\nHost: 127.0.0.1:11434\r\nX-Request-Id: one\r\n\r\n",
    "GET /api/ps HTTP/1.1\r\nHost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "OPTIONS /api/chat HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:3000\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n",
    "DELETE /api/delete HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{\"model\":\"m\"}",
    "POST /api/copy HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n{\"source\":\"a\",\"destination\":\"b\r\n2\r\n\"}\r\n0\r\n\r\n",
    "HEAD /api/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST /api/blobs/sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
    "GET //api//tags/ HTTP/1.0\r\nAuthorization: Bearer x\r\nx-api-key: y\r\nOrigin: null\r\n\r\n",
];
/// Routes that read a body.
const POSTS: &[&str] = &[
    "/api/show",
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/create",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/infill",
    "/api/rerank",
];
/// Time limit of a response.
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// Requests to every route.
pub fn seeds() -> Vec<Vec<u8>> {
    let heads = HEADS.iter().map(|head| head.as_bytes().to_vec());
    let posts = POSTS.iter().enumerate().map(|(number, path)| {
        let body = requests::SEEDS[number % requests::SEEDS.len()];
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    });
    heads.chain(posts).collect()
}

/// A server that exits when the fuzzer exits.
struct Served {
    at: String,
    panicked: Arc<AtomicBool>,
}

fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let home = std::env::temp_dir().join("puna-fuzz");
        fs::create_dir_all(&home).expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_puna"))
            .args(["serve", "--host", "127.0.0.1:0", "--no-socket"])
            .args(["--linger", "30s"])
            .env_clear()
            .env("HOME", &home)
            .env("HTTPS_PROXY", "http://127.0.0.1:9") // Prevents any download.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("puna starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let listens = |line: String| Some(line.split_once("listening on http://")?.1.to_string());
        let at = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(listens)
            .expect("it listens");
        let panicked = Arc::new(AtomicBool::new(false));
        let seen = panicked.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if line.contains("panicked") {
                    eprintln!("{line}");
                    seen.store(true, Ordering::Relaxed);
                }
            }
            let _ = child.wait(); // It has closed its standard error.
        });
        Served { at, panicked }
    })
}

/// Sends bytes: the response consists of HTTP answers, no more than there were requests.
pub fn router(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b" ",
        b":",
        b"%00",
        b"%2e%2e/",
        b"../",
        b"//",
        b"?",
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"Expect: 100-continue\r\n",
        b"Upgrade: h2c\r\nConnection: upgrade\r\n",
        b"Host: evil.example\r\n",
        b"Origin: http://evil.example\r\n",
        b"\xff\xfe",
        b"HTTP/9.9",
    ];
    let bytes = dice.mutated_bytes(seeds, WORDS);
    let is_newer = |nine: &[u8]| nine == b" HTTP/2.0" || nine == b" HTTP/3.0";
    if bytes.windows(9).any(is_newer) {
        return; // tiny_http waits for itself: see docs/ARCHITECTURE.md.
    }
    let server = served();
    let mut stream = TcpStream::connect(&server.at).expect("the server listens");
    stream
        .set_read_timeout(Some(ANSWER_MAX))
        .expect("a timeout");
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let waits = matches!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert!(!waits, "no end: {}", bytes.escape_ascii());
    }
    let shown = || format!("{}\n{}", bytes.escape_ascii(), answer.escape_ascii());
    assert!(!server.panicked.load(Ordering::Relaxed), "{}", shown());
    if answer.is_empty() {
        return;
    }
    // An answer repeats the HTTP version of its request.
    assert!(answer.starts_with(b"HTTP/"), "{}", shown());
    assert!(answer.get(8..12) != Some(b" 500"), "{}", shown());
    // Bytes after a body may not be a request and get a 400; a 100 is not yet an answer.
    let request_count = bytes.windows(5).filter(|five| five == b"HTTP/").count();
    let answers = answer
        .windows(12)
        .filter(|head| head.starts_with(b"HTTP/1.1 "));
    let answered = answers
        .filter(|head| !head.ends_with(b" 400") && !head.ends_with(b" 100"))
        .count();
    assert!(answered <= request_count, "{}", shown());
}
