//! Conformance cases about timing: uploads, loads, keep-alive, parallel answers.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::api::conformance::sandbox;
use crate::support::{Sandbox, eventually};

#[test]
fn uploaded_files_become_a_model() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let bytes = crate::support::tiny_gguf();
    let digest = puna::core::digest::Digest::compute(&bytes).to_string();
    let path = format!("/api/blobs/{digest}");
    let mut stream = std::net::TcpStream::connect(&server.at).unwrap();
    // Chunked, as clients send bodies of unknown length.
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    );
    let mut request = head.into_bytes();
    for chunk in bytes.chunks(100) {
        request.extend(format!("{:x}\r\n", chunk.len()).bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    std::io::Write::write_all(&mut stream, &request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let create = |files: Json| {
        let body = json!({"model": "up", "files": files, "parameters": {"seed": 7, "stop": ["x"]},
            "messages": [{"role": "user", "content": "hi"}], "license": ["L"]});
        server.ask("POST", "/api/create", &body.to_string())
    };
    let lines = create(json!({"weights.gguf": digest})).lines();
    assert_eq!(lines[0], json!({"status": "parsing GGUF"}));
    assert_eq!(lines.last().unwrap(), &json!({"status": "success"}));
    let shown = server.post("/api/show", r#"{"model":"up"}"#);
    assert_eq!(shown["license"], "L");
    assert!(
        shown["modelfile"]
            .as_str()
            .unwrap()
            .contains("MESSAGE user hi\n")
    );
    // A blob that is not a model, and one that does not exist.
    let junk = puna::core::digest::Digest::compute(b"junk").to_string();
    assert_eq!(
        server
            .ask("POST", &format!("/api/blobs/{junk}"), "junk")
            .status,
        201
    );
    let none = create(json!({"weights.gguf": junk})).lines();
    assert_eq!(
        none.last().unwrap()["error"],
        "supplied file was not in GGUF format"
    );
    assert_eq!(create(json!({"weights.bin": junk})).error(), "unknown type");
    let missing = puna::core::digest::Digest::compute(b"missing").to_string();
    assert_eq!(
        create(json!({"weights.gguf": missing})).error(),
        "unknown type"
    );
}

#[test]
fn loads_follow_the_options() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[
        ("OLLAMA_CONTEXT_LENGTH", "1024"),
        ("OLLAMA_KEEP_ALIVE", "30"),
    ]);
    let load = |body: Json| server.post("/api/generate", &body.to_string());
    let loaded = || server.ask("GET", "/api/ps", "").json()["models"].clone();
    // 96, 92.
    load(json!({"model": "smol"}));
    assert_eq!(loaded()[0]["context_length"], 1024);
    let expires = loaded()[0]["expires_at"].as_str().unwrap().to_string();
    assert!(
        expires
            > puna::core::clock::rfc3339(std::time::SystemTime::now() + Duration::from_secs(20))
    );
    assert!(
        expires
            < puna::core::clock::rfc3339(std::time::SystemTime::now() + Duration::from_secs(40))
    );
    // 89: another context size reloads the model, the same size does not.
    load(json!({"model": "smol-sys"}));
    assert_eq!(loaded().as_array().unwrap().len(), 1);
    assert_eq!(
        (&loaded()[0]["name"], &loaded()[0]["context_length"]),
        (&json!("smol-sys:latest"), &json!(2048))
    );
    load(json!({"model": "smol", "options": {"num_ctx": 2048}}));
    assert_eq!(loaded()[0]["name"], "smol-sys:latest");
    // 90: sampling options do not reload the model; engine options do.
    load(
        json!({"model": "smol", "options": {"num_ctx": 2048, "temperature": 1, "seed": 3, "stop": ["x"]}}),
    );
    assert_eq!(loaded()[0]["name"], "smol-sys:latest");
    for (option, value) in [("num_thread", 1), ("num_batch", 33)] {
        load(json!({"model": "smol-sys"}));
        load(json!({"model": "smol", "options": {"num_ctx": 2048, option: value}}));
        assert_eq!(loaded()[0]["name"], "smol:latest", "{option}");
    }
    // More threads than cores are clamped to the cores: otherwise threads wait for a core at every step.
    for count in [1_262_i64, i64::MAX] {
        load(
            json!({"model": "smol", "prompt": "hi", "stream": false, "options": {"num_thread": count, "num_predict": 8}}),
        );
    }
    // 91: the minimum and the maximum.
    for (asked, got) in [(0, 4), (1, 4), (100_000, 8192)] {
        // A longer context would serve a shorter one.
        load(json!({"model": "smol", "keep_alive": 0}));
        load(json!({"model": "smol", "options": {"num_ctx": asked}}));
        assert_eq!(loaded()[0]["context_length"], got);
    }
    // 44: keep_alive stays in force for later requests.
    let year = || {
        loaded()[0]["expires_at"].as_str().unwrap()[..4]
            .parse::<i32>()
            .unwrap()
    };
    load(json!({"model": "smol", "keep_alive": -1}));
    assert!(year() > 2200);
    load(json!({"model": "smol", "keep_alive": 3600}));
    load(json!({"model": "smol"}));
    let hour = puna::core::clock::rfc3339(std::time::SystemTime::now() + Duration::from_secs(3500));
    assert!(year() < 2100 && *loaded()[0]["expires_at"].as_str().unwrap() > *hour);
}

#[test]
fn answers_under_way_outlive_an_unload() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[("OLLAMA_NUM_PARALLEL", "2")]);
    let body = r#"{"model":"smol","prompt":"a","raw":true,"grammar":"root ::= [a-z ] root","options":{"num_predict":60}}"#;
    let mut busy = BufReader::new(server.send("POST", "/api/generate", body, ""));
    let mut text = String::new();
    busy.read_line(&mut text).unwrap();
    // 93.
    let unload = server.post("/api/generate", r#"{"model":"smol","keep_alive":0}"#);
    assert_eq!(unload["done_reason"], "unload");
    busy.read_to_string(&mut text).unwrap();
    assert!(text.contains("\"eval_count\":60"), "{text}");
    eventually("unloaded", Duration::from_secs(5), || {
        server.ask("GET", "/api/ps", "").json()["models"] == json!([])
    });
    // 94: a disconnect frees the engine at once.
    let endless = body.replace("60", "4000");
    let mut leaver = BufReader::new(server.send("POST", "/api/generate", &endless, ""));
    leaver.read_line(&mut text).unwrap();
    drop(leaver);
    server.post("/api/generate", &body.replace("60}", "2},\"stream\":false"));
    eventually("cancelled", Duration::from_secs(5), || {
        let metrics = server.ask("GET", "/metrics", "").body;
        metrics.contains("\npuna_cancelled_total 1\n")
    });
}
