//! Malicious and broken clients: the server's memory stays small and it continues to answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Sandbox, Server, eventually};

/// Memory limit of the server; none of these tests loads a model.
const RESIDENT_KIB_MAX: u64 = 200 << 10;

fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(&server.at).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream
}

fn resident_kib(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.child.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Sends bytes and returns the whole response, until the server closes the connection.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server);
    let _ = stream.write_all(bytes); // The server may close it before everything is sent.
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_head_without_end_is_cut_and_others_are_served() {
    let (_sandbox, server) = started();
    let mut bomb = connect(&server);
    bomb.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    // Once the server has closed its side, writes only fill the socket's buffer.
    bomb.set_write_timeout(Some(Duration::from_secs(3)))
        .unwrap();
    let letters = [b'a'; 1 << 16];
    let mut sent = 0;
    while bomb.write_all(&letters).is_ok() {
        sent += letters.len();
        assert!(sent < 2 << 30, "the server reads on");
        if sent % (64 << 20) == 0 {
            assert_eq!(server.ask("GET", "/", "").status, 200);
        }
    }
    assert_eq!(server.ask("GET", "/", "").status, 200);
    assert!(resident_kib(&server) < RESIDENT_KIB_MAX, "{sent}");
}

#[test]
fn slow_heads_are_cut_and_quiet_connections_stay() {
    let (_sandbox, server) = started();
    let mut quiet = connect(&server);
    let request = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut answer = [0; 4096];
    quiet.write_all(request).unwrap();
    assert!(quiet.read(&mut answer).unwrap() > 0);
    let begun = Instant::now();
    let slow = exchange(&server, b"GET /api/ver");
    assert_eq!(slow, "");
    let took = begun.elapsed().as_secs();
    assert!((9..20).contains(&took), "{took} s");
    quiet.write_all(request).unwrap();
    let count = quiet.read(&mut answer).unwrap();
    assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
}

#[test]
fn duplicate_lengths_and_packed_bodies_are_refused() {
    let (_sandbox, server) = started();
    let post = |headers: &str, body: &str| {
        let head = format!(
            "POST /api/show HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n"
        );
        exchange(&server, (head + body).as_bytes())
    };
    for headers in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let answer = post(headers, "0\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    let packed = post(
        "Content-Encoding: gzip\r\nContent-Length: 4\r\n",
        "\u{1f}\u{b}ab",
    );
    assert!(packed.starts_with("HTTP/1.1 400 "), "{packed}");
    let chunks = post(
        "Transfer-Encoding: chunked\r\n",
        "10\r\n{\"model\":\"smol\"}\r\n0\r\n\r\n",
    );
    assert!(chunks.starts_with("HTTP/1.1 200 "), "{chunks}");
    let broken = post("Transfer-Encoding: chunked\r\n", "zz\r\n{}\r\n0\r\n\r\n");
    assert!(broken.starts_with("HTTP/1.1 400 "), "{broken}");
    for line in ["Content-Length: x\r\n", "Content-Length: -1\r\n"] {
        let answer = post(line, "{}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{line} {answer}");
    }
    assert_eq!(server.ask("GET", "/", "").status, 200);
}

#[test]
fn a_client_that_waits_for_leave_to_send_gets_it() {
    let (_sandbox, server) = started();
    let mut stream = connect(&server);
    let body = r#"{"model":"smol"}"#;
    let head = format!(
        "POST /api/show HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("HTTP/1.1 100"), "{line}");
    stream.write_all(body.as_bytes()).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
}

#[test]
fn an_upload_that_is_cut_leaves_nothing() {
    let (sandbox, server) = started();
    let path = format!("/api/blobs/sha256:{}", "0".repeat(64));
    let mut stream = connect(&server);
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 42949672960\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[7; 1 << 20]).unwrap();
    let unfinished = || {
        let files = std::fs::read_dir(sandbox.models().join("blobs")).unwrap();
        files
            .filter(|file| {
                file.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with('.')
            })
            .count()
    };
    eventually("the upload begins", Duration::from_secs(10), || {
        unfinished() == 1
    });
    drop(stream);
    eventually("the upload ends", Duration::from_secs(10), || {
        unfinished() == 0
    });
    assert_eq!(server.ask("HEAD", &path, "").status, 404);
    assert!(resident_kib(&server) < RESIDENT_KIB_MAX);
}
