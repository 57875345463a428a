//! A server on a network: API keys and their rights, the access log, sockets from a service manager,
//! and the idle exit.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{self, Answer, Sandbox, Server};

const BOT: &str = "bot-key-0123456789";
const ROOT: &str = "root-key-0123456789";

fn eventually(ready: impl FnMut() -> bool) {
    support::eventually("it does not happen", Duration::from_secs(20), ready);
}

fn keyed(sandbox: &Sandbox) -> PathBuf {
    let text = format!("# who may\nbot use {BOT} per-minute=600 at-once=2\nroot manage {ROOT}\n");
    private(&sandbox.file("keys", text))
}

fn private(path: &Path) -> PathBuf {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    path.to_path_buf()
}

fn started(sandbox: &Sandbox, flags: &[&str]) -> Server {
    let words = [&["serve", "--host", "127.0.0.1:0"], flags].concat();
    Server::start(sandbox.command(&words))
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

#[test]
fn keys_are_asked_for_and_have_rights() {
    let sandbox = Sandbox::with_smol();
    let keys = keyed(&sandbox);
    let server = started(&sandbox, &["--api-key-file", keys.to_str().unwrap()]);
    let ask = |method: &str, path: &str, headers: &str| -> Answer {
        server.ask_with(
            method,
            path,
            r#"{"source":"smol","destination":"other"}"#,
            headers,
        )
    };
    // Liveness checks need no key; everything else does, with each API's own error.
    for open in ["/", "/health"] {
        assert_eq!(ask("GET", open, "").status, 200, "{open}");
    }
    for (path, part) in [
        ("/api/tags", r#"{"error":"an API key is needed"}"#),
        ("/v1/models", r#""type":"authentication_error""#),
        (
            "/v1/messages",
            r#"{"type":"error","error":{"type":"authentication_error""#,
        ),
        ("/metrics", r#""message":"an API key is needed""#),
        ("/nope", "an API key is needed"),
    ] {
        let method = if path == "/v1/messages" {
            "POST"
        } else {
            "GET"
        };
        let refused = ask(method, path, "");
        assert_eq!(refused.status, 401, "{path}");
        assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
        assert!(refused.body.contains(part), "{path}: {}", refused.body);
    }
    for wrong in [
        &BOT[..17],
        &format!("{BOT}x"),
        "bot",
        "",
        &BOT.to_uppercase(),
    ] {
        assert_eq!(
            ask("GET", "/api/tags", &bearer(wrong)).status,
            401,
            "{wrong}"
        );
    }
    assert_eq!(
        ask(
            "GET",
            "/api/tags",
            &format!("Authorization: Basic {BOT}\r\n")
        )
        .status,
        401
    );
    for right in [bearer(BOT), format!("x-api-key: {BOT}\r\n"), bearer(ROOT)] {
        assert_eq!(ask("GET", "/api/tags", &right).status, 200, "{right}");
    }
    // Managing models needs the `manage` right.
    for (method, path) in [
        ("POST", "/api/copy"),
        ("POST", "/api/create"),
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("DELETE", "/api/delete"),
        ("HEAD", "/api/blobs/sha256-00"),
    ] {
        assert_eq!(ask(method, path, &bearer(BOT)).status, 403, "{path}");
    }
    assert_eq!(ask("POST", "/api/copy", &bearer(ROOT)).status, 200);
    // The owner of the Unix socket needs no key; our own client sends one.
    assert!(sandbox.puna(&["ps"], "").ok().is_empty());
    let output = sandbox.puna(&["ps", "--host", &server.at], "");
    assert_eq!(output.status, Some(12), "{output:?}");
    let mut command = sandbox.command(&["ps", "--host", &server.at]);
    support::run(command.env("PUNA_API_KEY", BOT), "").ok();
}

#[test]
fn keys_have_limits_and_are_read_again() {
    let sandbox = Sandbox::with_smol();
    let keys = sandbox.file("keys", format!("bot use {BOT} per-minute=3\n"));
    private(&keys);
    // A name without a folder, and a link to another one, are read again behind the sandbox, too.
    let link = sandbox.home.join("link");
    fs::create_dir(sandbox.home.join("secret")).unwrap();
    fs::rename(&keys, sandbox.home.join("secret/keys")).unwrap();
    std::os::unix::fs::symlink("secret/keys", &link).unwrap();
    let server = started(&sandbox, &["--api-key-file", "link"]);
    let keys = link;
    let ask = |key: &str| server.ask_with("GET", "/api/version", "", &bearer(key));
    let statuses: Vec<u16> = (0..5).map(|_| ask(BOT).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    let limited = ask(BOT);
    let after: u64 = limited.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=20).contains(&after), "{after}");
    // A reload replaces the keys; an invalid file changes nothing.
    for (text, works) in [
        (format!("root manage {ROOT}\n"), ROOT),
        ("nonsense\n".into(), ROOT),
    ] {
        fs::write(&keys, text).unwrap();
        server.signal("-HUP");
        eventually(|| ask(works).status == 200);
        assert_eq!(ask(BOT).status, 401);
    }
    fs::write(&keys, format!("bot use {BOT}\n")).unwrap();
    server.signal("-HUP");
    eventually(|| ask(BOT).status == 200);
    assert_eq!(ask(ROOT).status, 401);
}

#[test]
fn nobody_is_let_in_by_mistake() {
    let sandbox = Sandbox::with_smol();
    let keys = keyed(&sandbox);
    let serve = |flags: &[&str]| {
        let words = [&["serve", "--host", "0.0.0.0:0", "--no-socket"], flags].concat();
        sandbox.puna(&words, "")
    };
    serve(&[]).fails(
        12,
        "is not a loopback address: give --api-key-file, or --open",
    );
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o640)).unwrap();
    let path = keys.to_str().unwrap();
    serve(&["--api-key-file", path]).fails(12, "other users may read the keys");
    serve(&["--api-key-file", "nowhere"]).fails(1, "cannot read nowhere");
    private(&sandbox.file("bad", "a use short\n"));
    let output = serve(&["--api-key-file", "bad"]).fails(2, "line 1: a key must have at least 16");
    assert!(!output.contains("short"), "{output}");
    serve(&["--no-tcp"]).fails(2, "--no-tcp and --host cannot be used together");
    let nowhere = sandbox.puna(&["serve", "--no-socket", "--no-tcp"], "");
    nowhere.fails(2, "leave nothing to listen on");
    sandbox
        .puna(&["serve", "--no-tcp", "--socket", "new/dir/x"], "")
        .fails(2, "the folder of new/dir/x does not exist");
    serve(&["--socket", "x"]).fails(2, "cannot be used together");
    assert!(!sandbox.home.join("new").exists());
    serve(&["--linger", "soon"]).fails(2, "must be a duration");
}

#[test]
fn each_request_is_a_line_without_its_text() {
    let sandbox = Sandbox::with_smol();
    let keys = keyed(&sandbox);
    assert!(keys.is_file());
    let log = sandbox.home.join("access.log");
    // Names without a folder work behind the sandbox, too.
    let flags = ["--api-key-file", "keys", "--access-log", "access.log"];
    let server = started(&sandbox, &flags);
    let body = r#"{"model":"smol","prompt":"a secret","options":{"num_predict":2}}"#;
    let answer = server.ask_with("POST", "/api/generate?x=secret", body, &bearer(BOT));
    assert_eq!(answer.status, 200);
    let id = answer.header("x-request-id").unwrap().to_string();
    // A line is written behind its answer, so that each is waited for.
    let lines = || fs::read_to_string(&log).unwrap();
    eventually(|| lines().lines().count() == 1);
    let own = format!("{}X-Request-Id: mine-1\r\n", bearer(BOT));
    let echoed = server.ask_with("GET", "/api/tags", "", &own);
    assert_eq!(echoed.header("x-request-id"), Some("mine-1"));
    eventually(|| lines().lines().count() == 2);
    server.ask_with("GET", "/a%09b", "", "X-Request-Id: a b\r\n");
    eventually(|| lines().lines().count() == 3);
    let text = lines();
    let fields: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert!(fields.iter().all(|fields| fields.len() == 8), "{text}");
    assert_eq!(fields[0][1], id);
    assert_eq!(fields[0][3..7], ["bot", "POST", "/api/generate", "200"]);
    assert_eq!(fields[1][3..7], ["bot", "GET", "/api/tags", "200"]);
    assert_eq!(fields[2][3..7], ["-", "GET", "/a%09b", "401"]);
    assert!(!text.contains("secret") && !text.contains(BOT), "{text}");
    // After a rename and SIGHUP, a new log file is opened.
    fs::rename(&log, sandbox.home.join("old.log")).unwrap();
    server.signal("-HUP");
    eventually(|| log.exists());
    server.ask("GET", "/", "");
    eventually(|| lines().lines().count() == 1);
    // A log that was removed is made anew.
    fs::remove_file(&log).unwrap();
    server.signal("-HUP");
    eventually(|| log.exists());
}

#[test]
fn sockets_that_are_handed_over_are_served() {
    let sandbox = Sandbox::with_smol();
    // As systemd does: sockets bound by the parent, descriptors from 3 on, LISTEN_PID is the child's.
    let script = r#"
import os, socket, sys
tcp = socket.socket(); tcp.bind(("127.0.0.1", 0)); tcp.listen()
unix = socket.socket(socket.AF_UNIX); unix.bind(sys.argv[2]); unix.listen()
print(tcp.getsockname()[1], flush=True)
spare = [os.dup(sock.fileno()) for sock in (tcp, unix)]
for number, fd in enumerate(spare, 3):
    if fd != number: os.dup2(fd, number)
    os.set_inheritable(number, True)
env = dict(os.environ, LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execve(sys.argv[1], ["puna", "serve", "--host", "127.0.0.1:1", "--linger", "1s"], env)
"#;
    let path = sandbox.home.join("handed.sock");
    let mut command = Command::new("python3");
    let program = env!("CARGO_BIN_EXE_puna");
    command.args(["-c", script, program, path.to_str().unwrap()]);
    command
        .env("HOME", &sandbox.home)
        .current_dir(&sandbox.home);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut port)
        .unwrap();
    let request = "GET /api/tags HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut tcp = std::net::TcpStream::connect(format!("127.0.0.1:{}", port.trim())).unwrap();
    let mut unix = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let ask = |stream: &mut dyn ReadWrite| {
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("smol:latest"), "{text}");
    };
    ask(&mut tcp);
    ask(&mut unix);
    // Without requests the server exits by itself and leaves the socket file to its creator.
    let started = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20) && path.exists());
}

#[test]
fn a_server_opens_nothing_outside() {
    let sandbox = Sandbox::with_smol();
    // A blob that is a symbolic link to a file outside of the store.
    let outside = sandbox.file("outside.gguf", fs::read(support::smol()).unwrap());
    let modelfile = format!("FROM {}\n", outside.display());
    sandbox
        .puna(&["create", "copy", "-q", "-f", "-"], &modelfile)
        .ok();
    let path = PathBuf::from(sandbox.puna(&["path", "copy"], "").ok().trim_end());
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&outside, &path).unwrap();
    let body = r#"{"model":"copy","prompt":"Hi","options":{"num_predict":1},"stream":false}"#;
    for (flag, works) in [("on", false), ("off", true)] {
        let server = started(&sandbox, &["--sandbox", flag]);
        let answer = server.ask("POST", "/api/generate", body);
        assert_eq!(answer.status == 200, works, "{flag}: {answer:?}");
        assert!(
            works || answer.error().contains("cannot read"),
            "{answer:?}"
        );
    }
    let words = ["serve", "--host", "127.0.0.1:0", "--sandbox", "perhaps"];
    sandbox
        .puna(&words, "")
        .fails(2, "--sandbox must be auto, on or off");
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[test]
fn a_run_may_leave_a_server_behind() {
    let sandbox = Sandbox::with_smol();
    let run =
        |flags: &[&str]| sandbox.puna(&[&["run", "smol", "Hi", "-n", "2"], flags].concat(), "");
    let socket = sandbox.home.join(".local/share/puna/run/puna.sock");
    assert!(!run(&["--linger=2s"]).ok().is_empty());
    assert!(socket.exists());
    assert!(
        sandbox.puna(&["ps"], "").ok().starts_with("smol:latest\t"),
        "it is loaded"
    );
    assert!(!run(&[]).ok().is_empty());
    eventually(|| !socket.exists());
    run(&["--linger=soon"]).fails(2, "must be a duration");
    run(&["--linger", "--local"]).fails(2, "--linger uses a server");
}
