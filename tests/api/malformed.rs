//! Malformed bodies and names on every route: an immediate, clear 4xx, and the server continues.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::{Answer, Sandbox, Server};

/// Routes that read a request body.
const ROUTES: &[&str] = &[
    "/api/generate",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
    "/api/copy",
    "/api/create",
    "/api/pull",
    "/api/push",
    "/api/rerank",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/rerank",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/infill",
];

/// Names that would escape the store if they became paths.
const NAMES: &[&str] = &[
    "../../etc/passwd",
    "/etc/passwd",
    "a/../../b",
    "..",
    "m:../t",
    "m:..",
    "a/./b",
    "~/m",
    "C:\\m",
    "m\u{0}",
    "m\nx",
    "%2e%2e/m",
    "@",
    " ",
];

/// Asserts that an answer is an error in one of the API formats.
fn refuses(answer: &Answer, what: &str) {
    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    let json: Json = serde_json::from_str(&answer.body)
        .unwrap_or_else(|error| panic!("{what}: {error} {answer:?}"));
    let message = json["error"].as_str().or(json["error"]["message"].as_str());
    assert!(
        message.is_some_and(|text| !text.is_empty()),
        "{what}: {json}"
    );
}

fn post(server: &Server, route: &str, body: &str, what: &str) {
    let started = Instant::now();
    refuses(&server.ask("POST", route, body), &format!("{route} {what}"));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(10), "{route} {what}: {took:?}");
}

#[test]
fn bodies_that_are_wrong_are_refused_by_every_route() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    let deep = format!("{{\"model\":{}", "[".repeat(100_000));
    let long = format!("{{\"model\":[{}1]}}", "1,".repeat(1_000_000));
    let many = format!(
        r#"{{"model":"smol","messages":[{0}1],"input":[{0}1],"documents":[{0}1],"tokens":[{0}"x"]}}"#,
        "1,".repeat(1_000_000)
    );
    let bodies = [
        ("nothing", ""),
        ("half an object", "{\"model\":"),
        ("a list", "[]"),
        ("null", "null"),
        ("a text", "\"smol\""),
        ("an empty object", "{}"),
        ("a number for a name", r#"{"model":7,"prompt":"x"}"#),
        ("no number", r#"{"model":NaN}"#),
        ("half a character", r#"{"model":"\ud800","name":"/"}"#),
        ("no text at all", "{\"model\":\"\u{1}\"}"),
        ("two objects", r#"{"model":"../x"}{"model":"../x"}"#),
        ("deep lists", &deep),
        ("a long list for a name", &long),
        ("long lists of the wrong thing", &many),
    ];
    for route in ROUTES {
        for (what, body) in bodies {
            let names_only = [
                "/api/show",
                "/api/copy",
                "/api/pull",
                "/api/push",
                "/api/create",
            ];
            // These routes do not read the fields with wrong types.
            let unread = what.ends_with("wrong thing")
                && (names_only.contains(route) || *route == "/api/generate");
            // OpenAI's SDK sends a request without naming a model.
            let usual =
                route.starts_with("/v1/responses") && ["null", "an empty object"].contains(&what);
            if !unread && !usual {
                post(&server, route, body, what);
            }
        }
    }
    assert_eq!(server.ask("GET", "/", "").status, 200);
}

#[test]
fn names_that_look_like_paths_are_refused_by_every_route() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    for route in ROUTES {
        for name in NAMES {
            let messages = json!([{"role": "user", "content": "x"}]);
            let body = json!({
                "model": name, "name": name, "source": name, "destination": "m", "from": name,
                "prompt": "x", "input": "x", "messages": messages, "max_tokens": 1,
                "query": "x", "documents": ["x"], "content": "x", "tokens": [1],
                "input_prefix": "x", "input_suffix": "x", "stream": false,
            });
            post(&server, route, &body.to_string(), name);
        }
    }
    for name in NAMES {
        let body = json!({"model": name}).to_string();
        refuses(&server.ask("DELETE", "/api/delete", &body), name);
        let target = json!({"source": "m", "destination": name}).to_string();
        refuses(&server.ask("POST", "/api/copy", &target), name);
        let files = json!({"m.gguf": name});
        let body = json!({"model": "m", "files": files, "stream": false}).to_string();
        refuses(&server.ask("POST", "/api/create", &body), name);
    }
    let zeros = "0".repeat(64);
    for digest in [
        "../../x".to_string(),
        "sha256:../../../etc/passwd".into(),
        format!("sha256-{zeros}"),
        format!("sha256:{zeros}/../x"),
        format!("sha256:{}", &zeros[1..]),
        format!("SHA256:{zeros}"),
        "%2e%2e%2fx".into(),
        "sha256:".into(),
    ] {
        for method in ["HEAD", "POST"] {
            let answer = server.ask(method, &format!("/api/blobs/{digest}"), "x");
            assert!(
                (400..500).contains(&answer.status),
                "{method} {digest}: {answer:?}"
            );
        }
        let answer = server.ask("GET", &format!("/v1/models/{digest}"), "");
        assert!((400..500).contains(&answer.status), "{digest}: {answer:?}");
    }
    let outside: Vec<_> = std::fs::read_dir(sandbox.models().join("blobs"))
        .map(|entries| entries.flatten().collect())
        .unwrap_or_default();
    assert!(outside.is_empty(), "{outside:?}");
    assert_eq!(server.ask("GET", "/", "").status, 200);
}
