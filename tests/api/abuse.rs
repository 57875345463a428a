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

/// Threads and open descriptors of the server.
fn held(server: &Server) -> (usize, usize) {
    let count = |what: &str| {
        let folder = std::fs::read_dir(format!("/proc/{}/{what}", server.child.id()));
        folder.unwrap().count()
    };
    (count("task"), count("fd"))
}

fn resident_now_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let mut lines = status.lines();
    let line = lines.find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn requests_that_nobody_reads_wait_for_their_answers() {
    let (_sandbox, server) = started();
    assert_eq!(server.ask("GET", "/api/version", "").status, 200);
    let (threads, _) = held(&server);
    let resident_kib = resident_now_kib(&server);
    let request = b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut flood = connect(&server);
    let many = request.repeat(200_000);
    // The server stops reading, so that not everything can be sent.
    flood
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    assert!(flood.write_all(&many).is_err(), "all was read");
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(server.ask("GET", "/api/version", "").status, 200);
        let took_ms = begun.elapsed().as_millis();
        assert!(took_ms <= 100, "{took_ms} ms");
    }
    let (threads_now, _) = held(&server);
    assert!(threads_now <= threads + 32, "{threads}, then {threads_now}");
    let grown_kib = resident_now_kib(&server).saturating_sub(resident_kib);
    assert!(grown_kib <= 10 << 10, "{grown_kib} KiB");
    // Those that are read are all answered, in order.
    let mut reader = connect(&server);
    let count = 2000;
    let sender = {
        let mut writer = reader.try_clone().unwrap();
        let last = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let all = [request.repeat(count).as_slice(), last].concat();
        std::thread::spawn(move || writer.write_all(&all).unwrap())
    };
    let mut answers = String::new();
    reader.read_to_string(&mut answers).unwrap();
    sender.join().unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), count + 1);
    assert!(answers.ends_with("Ollama is running"), "{answers:?}");
}

#[test]
fn prefaces_of_other_protocols_leave_nothing() {
    let (_sandbox, server) = started();
    assert_eq!(server.ask("GET", "/api/version", "").status, 200);
    let before = held(&server);
    let resident_kib = resident_now_kib(&server);
    for number in 0..10_000 {
        let mut stream = TcpStream::connect(&server.at).unwrap();
        // Closed at once, so that this machine does not run out of ports.
        let zero = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&stream, zero).unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        if number % 1000 == 0 {
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 505");
        }
    }
    eventually("nothing is held", Duration::from_secs(10), || {
        let now = held(&server);
        now.0 <= before.0 && now.1 <= before.1
    });
    let grown_kib = resident_now_kib(&server).saturating_sub(resident_kib);
    assert!(grown_kib <= 10 << 10, "{grown_kib} KiB");
    assert_eq!(server.ask("GET", "/api/version", "").status, 200);
}

#[test]
fn one_request_is_one_request_to_every_parser() {
    let (_sandbox, server) = started();
    // What follows a request that is refused is never read as the next one.
    let hidden = "GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for head in [
        "POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        "POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 18446744073709551616\r\n\r\n",
        "POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: \r\n\r\n",
        "POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: +2\r\n\r\n{}",
        "POST /api/show HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n",
        "GET /api/version HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n",
        "GET /api/version HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.com\r\n\r\n",
        "GET /api/version HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: \u{e9}\r\n\r\n",
        "GET /api/version HTTP/1.1\nHost: localhost\n\n",
    ] {
        let answer = exchange(&server, format!("{head}{hidden}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
        assert!(answer.contains(r#"{"error":""#), "{head}: {answer}");
    }
    for (head, status) in [
        (
            "GET http://localhost/api/version HTTP/1.1\r\nHost: evil.com\r\n",
            200,
        ),
        (
            "GET http://evil.com/api/version HTTP/1.1\r\nHost: localhost\r\n",
            403,
        ),
        (
            "GET /api/version HTTP/1.1\r\nHost: 127.0.0.1:1@evil.com\r\n",
            403,
        ),
        ("GET /api/version HTTP/1.1\r\nHost: [::1\r\n", 403),
        ("GET /api/version HTTP/1.0\r\n", 200),
        ("\r\nGET /api/version HTTP/1.1\r\nHost: localhost\r\n", 200),
    ] {
        let answer = exchange(
            &server,
            format!("{head}Connection: close\r\n\r\n").as_bytes(),
        );
        assert!(
            answer.starts_with("HTTP/1.") && answer[8..].starts_with(&format!(" {status} ")),
            "{head}: {answer}"
        );
    }
    // Trailers are read and dropped; an extension may be a kilobyte.
    let body = r#"{"model":"smol"}"#;
    let chunked = |extension: &str, trailer: &str| {
        let head =
            "POST /api/show HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!(
            "{:x}{extension}\r\n{body}\r\n0\r\n{trailer}\r\n",
            body.len()
        );
        exchange(&server, format!("{head}{chunk}{hidden}").as_bytes())
    };
    let answer = chunked(";a=b", "X-T: a\r\nX-U: b\r\n");
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    let answer = chunked(&format!(";{}", "x".repeat(3 << 20)), "");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:.200}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer:.200}");
}

#[test]
fn one_model_is_one_series_however_it_is_spelt() {
    let (_sandbox, server) = started();
    let ask = |name: &str| {
        let body = serde_json::json!({"model": name, "prompt": "a", "stream": false,
            "options": {"num_predict": 1}});
        server.ask("POST", "/api/generate", &body.to_string())
    };
    let spellings = [
        "smol",
        "smol:latest",
        "library/smol",
        "registry.ollama.ai/library/smol",
        " smol\n",
        "sMOL",
    ];
    for name in spellings {
        assert_eq!(ask(name).status, 200, "{name:?}");
    }
    for name in [
        "smol".to_string() + &" ".repeat(900_000),
        "x".repeat(900_000),
    ] {
        let answer = ask(&name);
        assert_eq!(
            (answer.status, answer.error().as_str()),
            (400, "invalid model name")
        );
    }
    let metrics = server.ask("GET", "/metrics", "").body;
    let series = "puna_answers_total{model=";
    let all: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with(series))
        .collect();
    assert_eq!(
        all,
        [format!("{series}\"smol:latest\"}} {}", spellings.len())]
    );
}

#[test]
fn an_answer_leaves_its_connection_open_for_the_next_request() {
    let (_sandbox, server) = started();
    let mut kept = connect(&server);
    for stream in [true, false, true] {
        let body = serde_json::json!({"model": "smol", "prompt": "a", "stream": stream, "options": {"num_predict": 1}});
        let body = body.to_string();
        let head = format!(
            "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        kept.write_all((head + &body).as_bytes()).unwrap();
        let end: &[u8] = if stream { b"0\r\n\r\n" } else { b"}" };
        let mut answer = Vec::new();
        while !answer.ends_with(end) {
            let mut piece = [0; 4096];
            let count = kept.read(&mut piece).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn a_refused_head_has_a_line_in_the_access_log() {
    let sandbox = Sandbox::with_smol();
    let log = sandbox.home.join("access.log");
    let words = ["serve", "--host", "127.0.0.1:0", "--access-log"];
    let server = Server::start(sandbox.command(&[&words[..], &[log.to_str().unwrap()]].concat()));
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(70 << 10));
    for (head, status) in [
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET /secret HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (&long, 431),
    ] {
        let answer = exchange(&server, head.as_bytes());
        let begin = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&begin), "{answer}");
        let text = std::fs::read_to_string(&log).unwrap();
        let fields: Vec<&str> = text.lines().last().unwrap().split('\t').collect();
        assert!(fields[2].starts_with("127.0.0.1:"), "{text}");
        assert_eq!(fields[3..7], ["-", "-", "-", &status.to_string()], "{text}");
    }
}
