//! The server under load: concurrent clients, disconnects, full queues, shutdown.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::support::{Answer, Sandbox, Server, eventually, gemma, smol};

const HI: &str = r#"{"model":"smol","messages":[{"role":"user","content":"Say hello"}],"options":{"temperature":0,"num_predict":6}}"#;
/// A request whose answer is longer than any test.
pub const ENDLESS: &str = r#"{"model":"smol","prompt":"Tell me a very long story","options":{"num_predict":4000,"num_ctx":8192,"stop":["\u0001"]},"grammar":"root ::= [a-z ] root"}"#;

pub fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

#[test]
fn eight_clients_each_get_their_own_complete_answer() {
    let (_sandbox, server) = started();
    let words = [
        "cats", "rivers", "bread", "stars", "music", "trees", "glass", "winter",
    ];
    // Batched decoding in llama.cpp is not bit-identical, so near ties between tokens may resolve
    // differently. After a word repeated twenty times there is never a near tie.
    let ask = |word: &str| {
        let body = format!(
            r#"{{"model":"smol","prompt":"{}","raw":true,"options":{{"temperature":0,"num_predict":32}}}}"#,
            format!("{word}, ").repeat(20).trim_end()
        );
        let records = server.ask("POST", "/api/generate", &body).lines();
        let (last, pieces) = records.split_last().unwrap();
        assert_eq!(
            (&last["done"], &last["eval_count"]),
            (&true.into(), &32.into())
        );
        let text = |piece: &Json| piece["response"].as_str().unwrap().to_string();
        pieces.iter().map(text).collect::<String>()
    };
    let alone: Vec<String> = words.iter().map(|word| ask(word)).collect();
    for round in 0..3 {
        let together: Vec<String> = std::thread::scope(|scope| {
            let ask = |word| scope.spawn(move || ask(word));
            let threads: Vec<_> = words.iter().map(|word| ask(*word)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(alone, together, "round {round}");
    }
    for (word, answer) in words.iter().zip(&alone) {
        assert!(answer.matches(word).count() > 5, "{word}: {answer:?}");
    }
}

#[test]
fn more_answers_than_the_cache_holds_are_all_complete() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[("PUNA_NUM_PARALLEL", "4"), ("OLLAMA_CONTEXT_LENGTH", "512")]);
    std::thread::scope(|scope| {
        for client in 0..10 {
            let server = &server;
            scope.spawn(move || {
                let body = format!(r#"{{"model":"smol","prompt":"{client} {}","raw":true,"stream":false,"options":{{"temperature":0,"num_predict":60,"stop":["\u0001"]}}}}"#, "la ".repeat(150));
                let json = server.post("/api/generate", &body);
                assert_eq!(json["done"], true);
                assert!(json["eval_count"].as_u64().unwrap() > 0, "{json}");
            });
        }
    });
}

#[test]
fn sigterm_lets_short_answers_finish_and_cuts_long_ones() {
    let (_sandbox, server) = started();
    server.post("/api/generate", r#"{"model":"smol"}"#);
    let mut short = BufReader::new(server.send("POST", "/api/chat", HI, ""));
    let mut line = String::new();
    short.read_line(&mut line).unwrap();
    let (signal, took) = server.end("-TERM");
    assert_eq!(signal, Some(15));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut rest = String::new();
    short.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"done\":true"), "{rest}");

    let (_sandbox, server) = started();
    let mut cut = BufReader::new(server.send("POST", "/api/generate", ENDLESS, ""));
    cut.read_line(&mut line).unwrap();
    let (signal, took) = server.end("-TERM");
    assert_eq!(signal, Some(15));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let mut rest = String::new();
    cut.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("{\"error\":\"request canceled\",") && rest.ends_with("0\r\n\r\n"),
        "{rest}"
    );
}

#[test]
fn a_load_that_stands_still_is_given_up() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[("OLLAMA_LOAD_TIMEOUT", "1ms")]);
    for _ in 0..2 {
        let failed = server.ask("POST", "/api/generate", r#"{"model":"smol"}"#);
        assert_eq!(failed.status, 500);
        assert_eq!(
            failed.error(),
            "timed out loading the model: no progress for 1ms"
        );
    }
    let loaded = server.ask("GET", "/api/ps", "").json();
    assert!(loaded["models"].as_array().unwrap().is_empty());
}

#[test]
fn a_load_that_fails_leaves_nothing_and_a_busy_server_says_so() {
    let sandbox = Sandbox::with_smol();
    sandbox.file("tiny.gguf", crate::support::tiny_gguf());
    sandbox.create("odd", "FROM ./tiny.gguf\n");
    sandbox.create(
        "other",
        &format!("FROM {}\n", crate::support::gemma().display()),
    );
    let server = sandbox.serve(&[("PUNA_MAX_LOADED_MODELS", "1"), ("PUNA_MAX_QUEUE", "1")]);
    let failed = server.ask("POST", "/api/generate", r#"{"model":"odd"}"#);
    assert_eq!(failed.status, 500);
    assert!(
        failed
            .error()
            .contains("unknown model architecture: 'test'"),
        "{failed:?}"
    );
    assert!(
        server.ask("GET", "/api/ps", "").json()["models"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    let mut busy = server.send("POST", "/api/generate", ENDLESS, "");
    busy.read_exact(&mut [0; 200]).unwrap();
    // Three more with other batches: one is about to load, one waits in the queue, the third finds
    // it full.
    let (first, rest) = std::thread::scope(|scope| {
        let (sender, answers) = std::sync::mpsc::channel();
        for tokens in [64, 128, 256] {
            let (sender, server) = (sender.clone(), &server);
            scope.spawn(move || {
                let body = format!(r#"{{"model":"smol","options":{{"num_batch":{tokens}}}}}"#);
                sender.send(server.ask("POST", "/api/generate", &body))
            });
        }
        let next = || answers.recv_timeout(Duration::from_secs(20)).unwrap();
        let first: Answer = next();
        // The loaded model continues to answer.
        let body = r#"{"model":"smol","prompt":"a","options":{"num_ctx":8192,"num_predict":1}}"#;
        assert_eq!(server.ask("POST", "/api/generate", body).status, 200);
        drop(busy); // Now the waiting requests can continue.
        (first, [next().status, next().status])
    });
    assert_eq!((first.status, rest), (503, [200, 200]));
    assert_eq!(
        first.error(),
        "server busy, please try again.  maximum pending requests exceeded"
    );
    let started = Instant::now();
    assert_eq!(
        server.post("/api/generate", r#"{"model":"other"}"#)["done_reason"],
        "load"
    );
    assert!(started.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_busy_model_lets_another_request_have_its_turn() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("other", &format!("FROM {}\n", gemma().display()));
    let server = sandbox.serve(&[("OLLAMA_MAX_LOADED_MODELS", "1")]);
    let short = r#"{"model":"smol","prompt":"a","stream":false,"options":{"num_predict":4}}"#;
    server.post("/api/generate", short);
    let (answers, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    server.post("/api/generate", short);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("they are busy", Duration::from_secs(20), || {
            answers.load(Ordering::Relaxed) > 8
        });
        // Another model, another setting of the same one, and several answers to one request.
        for body in [
            r#"{"model":"other","prompt":"a","stream":false,"options":{"num_predict":2}}"#,
            r#"{"model":"smol","prompt":"a","stream":false,"options":{"num_predict":2,"num_ctx":300}}"#,
            r#"{"model":"other","prompt":"a","max_tokens":2,"n":3}"#,
        ] {
            let path = if body.contains("num_predict") {
                "/api/generate"
            } else {
                "/v1/completions"
            };
            let before = answers.load(Ordering::Relaxed);
            server.post(path, body);
            let meanwhile = answers.load(Ordering::Relaxed) - before;
            // Those that were under way, and those that came before it was first in the queue.
            assert!(meanwhile <= 24, "{body}: {meanwhile} answers before it");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_request_for_a_warm_model_opens_no_file() {
    let sandbox = Sandbox::new();
    // A copy of the weights: other tests link one shared file, and each new link changes its stamp.
    let weights = sandbox.home.join("weights.gguf");
    std::fs::copy(smol(), &weights).unwrap();
    let from = weights.display();
    let modelfile = format!("FROM {from}\nSYSTEM Be brief.\nPARAMETER temperature 0\n");
    sandbox.create("said", &modelfile);
    let server = sandbox.serve(&[]);
    let hi = HI.replace(r#""model":"smol""#, r#""model":"said","stream":false"#);
    let traced = sandbox.home.join("traced");
    for _ in 0..2 {
        server.post("/api/chat", &hi);
    }
    let words = [
        "-f",
        "-e",
        "trace=open,openat,openat2,creat",
        "-p",
        &server.pid(),
        "-o",
    ];
    let mut strace = std::process::Command::new("strace")
        .args(words)
        .arg(&traced)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("make test-deps installs strace");
    let mut said = BufReader::new(strace.stderr.take().unwrap()).lines();
    assert!(said.next().unwrap().unwrap().contains("attached"));
    server.post("/api/chat", &hi);
    let opened = || std::fs::read_to_string(&traced).unwrap_or_default();
    // Connection monitoring reads the process's own descriptors.
    let before: Vec<String> = opened()
        .lines()
        .filter(|line| line.contains("open") && !line.contains("\"/proc/self/fd\""))
        .map(str::to_string)
        .collect();
    assert!(before.is_empty(), "{before:?}");
    // Listing models does open files, so strace must report it.
    server.ask("GET", "/api/tags", "");
    eventually("strace reports it", Duration::from_secs(5), || {
        opened().contains("manifests")
    });
    strace.kill().unwrap();
    strace.wait().unwrap();
}

#[test]
fn a_model_that_changes_under_a_server_is_the_new_one_at_once() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    let prompt = || {
        let body = r#"{"model":"said","messages":[{"role":"user","content":"Hi"}]}"#;
        let answer = server.ask("POST", "/apply-template", body);
        answer.json()["prompt"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    };
    for word in ["brief", "kind", "quick", "plain"] {
        sandbox.create("said", &format!("FROM smol\nSYSTEM Be {word}.\n"));
        for _ in 0..2 {
            assert!(prompt().contains(&format!("Be {word}.")), "{}", prompt());
        }
    }
    sandbox.puna(&["rm", "said"], "").ok();
    let body = r#"{"model":"said","messages":[]}"#;
    assert_eq!(server.ask("POST", "/api/chat", body).status, 404);
}
