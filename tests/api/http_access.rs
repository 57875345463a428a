//! HTTP access: which origins and hosts may ask, body limits, and the permissions of the socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Sandbox, Server};

fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

#[test]
fn a_body_that_is_too_long_is_413_and_the_server_lives() {
    let (_sandbox, server) = started();
    for length in ["2000000", "2000000000000"] {
        let mut stream = std::net::TcpStream::connect(&server.at).unwrap();
        let head = format!(
            "POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text); // The server closes the connection during the upload.
        assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    }
    // Routes without a body must not allocate one either.
    for path in ["/nope", "/api/tags", "/api/show"] {
        let length = "Content-Length: 99999999999999\r\n";
        let mut stream = std::net::TcpStream::connect(&server.at).unwrap();
        let head = format!("DELETE {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n");
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 40"), "{path}: {text}");
    }
    assert_eq!(server.ask("GET", "/", "").status, 200);
}

#[test]
fn origins_and_hosts_of_others_are_refused() {
    let (_sandbox, server) = started();
    let ask = |method: &str, path: &str, headers: &str| server.ask_with(method, path, "", headers);
    let near = ask("GET", "/api/version", "Origin: http://localhost:3000\r\n");
    assert_eq!(
        (near.status, near.header("access-control-allow-origin")),
        (200, Some("http://localhost:3000"))
    );
    let far = ask("GET", "/api/version", "Origin: http://example.com\r\n");
    assert_eq!(far.status, 403);
    assert!(far.error().contains("PUNA_ORIGINS"), "{far:?}");
    assert_eq!(ask("GET", "/", "Origin: null\r\n").status, 403);
    assert_eq!(ask("GET", "/", "Host: evil.com\r\n").status, 403);
    assert_eq!(ask("GET", "/", "Host: foo.internal\r\n").status, 200);
    assert_eq!(ask("GET", "/", "Host: 8.8.8.8\r\n").status, 403);
    let preflight = ask("OPTIONS", "/api/chat", "Origin: http://localhost:3000\r\n");
    assert_eq!(
        (preflight.status, preflight.header("access-control-max-age")),
        (204, Some("43200"))
    );
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (sandbox, _server) = started();
    let socket = sandbox.home.join(".local/share/puna/run/puna.sock");
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode(&socket), mode(socket.parent().unwrap())),
        (0o600, 0o700)
    );
    let done = sandbox.shell(&format!(
        "curl -s --unix-socket {} http://x/api/version -D -",
        socket.display()
    ));
    assert!(
        done.stdout.to_lowercase().contains("puna-store: "),
        "{done:?}"
    );
}

/// Forty simultaneous requests on persistent connections: tiny_http would let some wait for others to close.
#[test]
fn connections_that_stay_keep_nobody_waiting() {
    let (_sandbox, server) = started();
    for round in 0..5 {
        let mut open: Vec<TcpStream> = (0..40)
            .map(|_| TcpStream::connect(&server.at).unwrap())
            .collect();
        for stream in &mut open {
            let request = format!("GET /api/version HTTP/1.1\r\nHost: {}\r\n\r\n", server.at);
            stream.write_all(request.as_bytes()).unwrap();
        }
        for (number, stream) in open.iter_mut().enumerate() {
            let timeout = Some(Duration::from_secs(5)); // Shorter than the timeout of a request head.
            stream.set_read_timeout(timeout).unwrap();
            let mut start = [0; 12];
            let read = stream.read_exact(&mut start);
            assert!(read.is_ok(), "round {round}, connection {number}: {read:?}");
            assert_eq!(&start, b"HTTP/1.1 200");
        }
    }
}
