//! Resource limits of a server: memory, descriptors, connections, time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::engine::hostile_models;
use crate::support::{PUNA, Sandbox, Server, eventually, gemma};

/// A field of /proc/PID/status, in bytes.
fn memory(server: &Server, key: &str) -> u64 {
    let path = format!("/proc/{}/status", server.child.id());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[test]
fn memory_of_a_model_is_estimated_before_the_load() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("gemma", &format!("FROM {}\n", gemma().display()));
    for model in ["smol", "gemma"] {
        let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
        let before = memory(&server, "VmRSS:");
        let body = json!({"model": model, "prompt": "word ".repeat(600), "raw": true, "stream": false,
            "options": {"num_predict": 4}});
        server.post("/api/generate", &body.to_string());
        let reported = server.ask("GET", "/api/ps", "").json()["models"][0]["size"]
            .as_u64()
            .unwrap();
        let used = memory(&server, "VmRSS:") - before;
        let ratio = reported as f64 / used as f64;
        assert!(
            (0.85..1.15).contains(&ratio),
            "{model}: {reported} reported, {used} used"
        );
    }
}

/// A server under a `ulimit` of the shell.
fn serve_under(sandbox: &Sandbox, limit: &str, variables: &[(&str, &str)]) -> Server {
    let serve = format!("ulimit {limit}; exec \"$0\" serve --host 127.0.0.1:0 --no-socket");
    let mut command = std::process::Command::new("bash");
    command
        .args(["-c", &serve, crate::support::PUNA])
        .current_dir(&sandbox.home)
        .env_clear()
        .env("HOME", &sandbox.home)
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied());
    Server::start(command)
}

#[test]
fn a_model_that_does_not_fit_is_503_with_the_numbers() {
    let sandbox = Sandbox::with_smol();
    let variables = [
        ("OLLAMA_CONTEXT_LENGTH", "8192"),
        ("PUNA_NUM_PARALLEL", "16"),
    ];
    let server = serve_under(&sandbox, "-v 1500000", &variables);
    let answer = server.ask("POST", "/api/generate", r#"{"model":"smol"}"#);
    assert_eq!(answer.status, 503, "{answer:?}");
    let error = answer.error();
    assert!(
        error.starts_with("not enough memory: needs ") && error.contains(" GiB free: "),
        "{error}"
    );
    let small = r#"{"model":"smol","options":{"num_ctx":256}}"#;
    assert_eq!(server.ask("POST", "/api/generate", small).status, 200);
}

#[test]
fn loads_at_once_are_one_load() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    let one = |server: &Server| {
        server.post("/api/generate", r#"{"model":"smol"}"#);
        memory(server, "VmRSS:")
    };
    let together = std::thread::scope(|scope| {
        let threads = [0; 6].map(|_| scope.spawn(|| one(&server)));
        threads
            .map(|thread| thread.join().unwrap())
            .into_iter()
            .max()
            .unwrap()
    });
    let alone = one(&sandbox.serve(&[("PUNA_SOCKET", "")]));
    assert!(
        together < alone + alone / 2,
        "{together} for six, {alone} for one"
    );
}

#[test]
fn large_bodies_take_little_memory() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let before = memory(&server, "VmRSS:");
    let numbers = format!("{{\"model\":\"nope\",\"x\":[0{}]}}", ",0".repeat(29 << 20));
    let answer = server.ask("POST", "/api/chat", &numbers);
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "the request body contains too many values")
    );
    let text = format!(
        "{{\"model\":\"nope\",\"prompt\":\"{}\"}}",
        "x".repeat(60 << 20)
    );
    assert_eq!(server.ask("POST", "/api/generate", &text).status, 404);
    // Eight at once: those beyond the limit get 503.
    let statuses = std::thread::scope(|scope| {
        let threads =
            [0; 8].map(|_| scope.spawn(|| server.ask("POST", "/api/generate", &text).status));
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(
        statuses.iter().all(|status| [404, 503].contains(status)),
        "{statuses:?}"
    );
    assert!(statuses.contains(&404), "{statuses:?}");
    let peak = memory(&server, "VmHWM:") - before;
    assert!(peak < 200 << 20, "{} MiB", peak >> 20);
}

#[test]
fn memory_comes_back_after_large_bodies() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let ask = |body: &str| server.ask("POST", "/api/chat", body).status;
    let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(20_000_000));
    let many = format!(r#"{{"a":[{}1]}}"#, "1,".repeat(400_000));
    // The first ones start what stays: threads, tables.
    assert_eq!((ask(&long), ask(&many)), (400, 400));
    let before = memory(&server, "RssAnon:");
    for _ in 0..20 {
        assert_eq!((ask(&long), ask(&many)), (400, 400));
    }
    let after = || memory(&server, "RssAnon:");
    let limit = before.max(10 << 20) * 6 / 5;
    eventually("the memory is back", Duration::from_secs(10), || {
        after() <= limit
    });
}

#[test]
fn a_bomb_in_gzip_is_no_body() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    // Zeros: 100 MB compressed to 100 KB.
    let bomb = sandbox.shell("head -c 100000000 /dev/zero | gzip -9 > bomb.gz");
    assert_eq!(bomb.status, Some(0));
    let bytes = std::fs::read(sandbox.home.join("bomb.gz")).unwrap();
    let mut stream = TcpStream::connect(&server.at).unwrap();
    let head = format!(
        "POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(memory(&server, "VmHWM:") < 60 << 20);
}

#[test]
fn slow_bodies_do_not_keep_others_out() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let slow: Vec<TcpStream> = (0..600)
        .map(|_| {
            let mut stream = TcpStream::connect(&server.at).unwrap();
            let head =
                "POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{";
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert_eq!(server.ask("GET", "/api/version", "").status, 200);
    assert_eq!(
        server.ask("POST", "/api/show", r#"{"model":"x"}"#).status,
        404
    );
    // Slow connections time out, the oldest first.
    let mut first = &slow[0];
    first
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[test]
fn ten_thousand_connections_leave_room_for_others() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let mut open = std::collections::VecDeque::new();
    for number in 0..10_000 {
        // A limited number at a time, so that this process does not run out of descriptors.
        if open.len() == 3000 {
            open.pop_front();
        }
        if let Ok(stream) = TcpStream::connect(&server.at) {
            open.push_back(stream);
        }
        if number % 2500 == 2499 {
            assert_eq!(
                server.ask("GET", "/api/version", "").status,
                200,
                "after {number}"
            );
        }
    }
    eventually(
        "those over the cap are closed",
        Duration::from_secs(20),
        || {
            let descriptors = std::fs::read_dir(format!("/proc/{}/fd", server.child.id()));
            descriptors.unwrap().count() < 2200
        },
    );
    assert_eq!(server.ask("GET", "/api/version", "").status, 200);
    assert!(memory(&server, "VmRSS:") < 200 << 20);
}

#[test]
fn few_descriptors_do_not_end_the_server() {
    let sandbox = Sandbox::new();
    let server = serve_under(&sandbox, "-n 40", &[]);
    let many: Vec<_> = (0..200).map(|_| TcpStream::connect(&server.at)).collect();
    drop(many);
    eventually("it answers again", Duration::from_secs(20), || {
        TcpStream::connect(&server.at).is_ok_and(|mut stream| {
            let request =
                b"GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let mut answer = String::new();
            stream
                .set_read_timeout(Some(Duration::from_secs(2)))
                .unwrap();
            stream.write_all(request).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.starts_with("HTTP/1.1 200")
        })
    });
}

#[test]
fn a_request_without_a_thread_is_not_counted_for_ever() {
    let sandbox = Sandbox::new();
    let own = sandbox.file("puna", std::fs::read(PUNA).unwrap());
    sandbox.shell("chmod 755 puna . && chown -R 54321 .").ok();
    // As a user of its own, whose threads are counted apart from everyone's.
    let start = |threads_max: usize| {
        let mut command = Command::new("setpriv");
        let limit = format!("--nproc={threads_max}:{threads_max}");
        command
            .args(["--reuid=54321", "--clear-groups", "prlimit", &limit])
            .arg(&own)
            .args(["serve", "--host", "127.0.0.1:0", "--no-socket"])
            .args(["--sandbox=off", "--linger", "2s"])
            .env_clear()
            .env("HOME", &sandbox.home)
            .env("PATH", "/usr/bin:/bin");
        Server::start(command)
    };
    let unlimited = start(4096);
    unlimited.ask("GET", "/api/version", "");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", unlimited.pid()));
    let threads = tasks.unwrap().count();
    unlimited.end("-KILL");
    // The most threads with which a request gets none of its own: a server alone has that many. With fewer, the
    // connection gets none either, and ends without an answer.
    let is_starved = |server: &Server| {
        let mut stream = TcpStream::connect(&server.at).unwrap();
        let head = "GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut answer = String::new();
        let sent = stream.write_all(head.as_bytes());
        let read = sent.and_then(|()| stream.read_to_string(&mut answer));
        read.is_ok() && answer.starts_with("HTTP/1.1 500 ")
    };
    let starved = (threads.saturating_sub(4)..=threads + 2)
        .rev()
        .map(start)
        .find(is_starved);
    let mut server = starved.expect("a limit leaves a request without a thread");
    eventually("the idle server ends", Duration::from_secs(20), || {
        server.child.try_wait().unwrap().is_some()
    });
}

#[test]
fn models_that_do_not_fit_together_take_turns() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("gemma", &format!("FROM {}\n", gemma().display()));
    // Room for either of them.
    let server = serve_under(&sandbox, "-v 1800000", &[("OLLAMA_MAX_LOADED_MODELS", "3")]);
    let ask = |model: &str| {
        let options = r#"{"num_ctx": 2048, "num_predict": 20}"#;
        let body = format!(
            r#"{{"model": "{model}", "prompt": "Count", "stream": false, "options": {options}}}"#
        );
        for _ in 0..4 {
            let answer = server.ask("POST", "/api/generate", &body);
            assert_eq!(answer.status, 200, "{model}: {answer:?}");
        }
    };
    std::thread::scope(|scope| {
        for model in ["smol", "gemma", "smol", "gemma"] {
            scope.spawn(move || ask(model));
        }
    });
    let loaded = || {
        let listed = server.ask("GET", "/api/ps", "").json();
        let models = listed["models"].as_array().unwrap().iter();
        models
            .map(|model| model["name"].to_string())
            .collect::<Vec<_>>()
    };
    let before = loaded();
    assert_eq!(before.len(), 1, "{before:?}");
    // What fits no machine is refused, and evicts nothing.
    let tokens: u32 = 1 << 30;
    let greedy = hostile_models::key("llama.context_length", tokens.to_le_bytes());
    sandbox.file("greedy.gguf", greedy);
    sandbox.create("greedy", "FROM ./greedy.gguf\n");
    let body = format!(r#"{{"model": "greedy", "options": {{"num_ctx": {tokens}}}}}"#);
    let answer = server.ask("POST", "/api/generate", &body);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(
        answer.error().starts_with("not enough memory"),
        "{answer:?}"
    );
    assert_eq!(loaded(), before);
}
