//! The server: routes, streams, errors, model loading and keep-alive.

use std::time::Duration;

use serde_json::Value as Json;

use crate::support::{Sandbox, Server, eventually, smol};

const HI: &str = r#"{"model":"smol","messages":[{"role":"user","content":"Count from 1 to 10."}],"options":{"temperature":0,"num_predict":6}"#;

fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

#[test]
fn small_routes_answer_as_the_reference_does() {
    let (_sandbox, server) = started();
    let root = server.ask("GET", "/", "");
    assert_eq!(
        (root.status, root.body.as_str()),
        (200, "Ollama is running")
    );
    assert_eq!(
        root.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    let head = server.ask("HEAD", "/", "");
    assert_eq!(
        (head.status, head.header("content-length")),
        (200, Some("17"))
    );
    let version = server.ask("GET", "/api/version", "");
    assert_eq!(
        version.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    assert!(version.json()["version"].as_str() >= Some("0.30"));
    assert_eq!(server.ask("GET", "/nope", "").body, "404 page not found");
    let wrong = server.ask("GET", "/api/show", "");
    assert_eq!(
        (wrong.status, wrong.header("allow"), wrong.body.as_str()),
        (405, Some("POST"), "405 method not allowed")
    );
    let slash = server.ask("GET", "/api/tags/", "");
    assert_eq!(
        (slash.status, slash.header("location")),
        (301, Some("/api/tags"))
    );
    assert_eq!(server.ask("POST", "/api/generate/", "").status, 307);
}

#[test]
fn bodies_that_are_wrong_get_the_references_words() {
    let (_sandbox, server) = started();
    let error = |path: &str, body: &str| {
        let answer = server.ask("POST", path, body);
        (answer.status, answer.error())
    };
    for (path, body, status, words) in [
        ("/api/chat", "", 400, "missing request body"),
        ("/api/chat", "{\"model\":", 400, "unexpected EOF"),
        (
            "/api/generate",
            "[]",
            400,
            "json: cannot unmarshal array into Go value",
        ),
        (
            "/api/generate",
            "{\"model\":\"nope\"} trailing",
            404,
            "model 'nope' not found",
        ),
        ("/api/generate", "{}", 404, "model '' not found"),
        ("/api/chat", "{}", 400, "model is required"),
        (
            "/api/chat",
            r#"{"model":"nope"}"#,
            404,
            "model 'nope' not found",
        ),
        ("/api/chat", r#"{"model":"a b"}"#, 400, "invalid model name"),
        (
            "/api/show",
            r#"{"model":"hf.co/x/y"}"#,
            404,
            "model 'hf.co/x/y:latest' not found",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","prompt":"x","options":{"num_predict":"x"}}"#,
            500,
            "option \"num_predict\" must be of type integer",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","keep_alive":"5"}"#,
            400,
            "time: missing unit in duration \"5\"",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","think":true}"#,
            400,
            "\"smol\" does not support thinking",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","think":"banana"}"#,
            400,
            "invalid think value: \"banana\" (must be",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","prompt":"x","raw":true,"system":"y"}"#,
            400,
            "raw mode does not support",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","prompt":"x","suffix":"y"}"#,
            400,
            "registry.ollama.ai/library/smol:latest does not support insert",
        ),
        (
            "/api/chat",
            r#"{"model":"smol","messages":[],"tools":[{}]}"#,
            400,
            "registry.ollama.ai/library/smol:latest does not support tools",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","prompt":"x","images":["eA=="]}"#,
            400,
            "Multimodal data provided",
        ),
        (
            "/api/generate",
            r#"{"model":"smol","prompt":"x","format":"xml"}"#,
            500,
            "invalid format: \"\\\"xml\\\"\"; expected \"json\" or a valid JSON Schema object",
        ),
        (
            "/api/copy",
            r#"{"source":"a b","destination":"c"}"#,
            400,
            "source \"a b\" is invalid",
        ),
        (
            "/api/copy",
            r#"{"source":"nope","destination":"c"}"#,
            404,
            "model \"nope\" not found",
        ),
    ] {
        let (got, text) = error(path, body);
        assert!(
            got == status && text.starts_with(words),
            "{path} {body}: {got} {text}"
        );
    }
}

#[test]
fn chat_streams_records_and_a_last_one_with_everything() {
    let (_sandbox, server) = started();
    let answer = server.ask("POST", "/api/chat", &format!("{HI}}}"));
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    let records = answer.lines();
    let (last, pieces) = records.split_last().unwrap();
    assert!(!pieces.is_empty());
    for piece in pieces {
        assert_eq!(piece["done"], false);
        assert_eq!(piece["message"]["role"], "assistant");
        assert!(!piece["message"]["content"].as_str().unwrap().is_empty());
        assert_eq!(piece.as_object().unwrap().len(), 4);
    }
    let keys: Vec<&String> = last.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "model",
            "created_at",
            "message",
            "done",
            "done_reason",
            "total_duration",
            "load_duration",
            "prompt_eval_count",
            "prompt_eval_duration",
            "eval_count",
            "eval_duration"
        ]
    );
    assert_eq!(last["message"]["content"], "");
    let whole: String = pieces
        .iter()
        .map(|piece| piece["message"]["content"].as_str().unwrap())
        .collect();
    let at_once = server.post("/api/chat", &format!("{HI},\"stream\":false}}"));
    assert_eq!(at_once["message"]["content"], whole);
    assert_eq!(at_once["done_reason"], last["done_reason"]);
}

#[test]
fn generate_returns_a_context_that_goes_on() {
    let (_sandbox, server) = started();
    let first = server.post("/api/generate", r#"{"model":"smol","prompt":"My name is Ada.","stream":false,"options":{"temperature":0,"num_predict":8}}"#);
    let context = first["context"].as_array().unwrap();
    let expected =
        first["prompt_eval_count"].as_u64().unwrap() + first["eval_count"].as_u64().unwrap();
    assert_eq!(context.len() as u64, expected);
    let body = format!(
        r#"{{"model":"smol","prompt":"Hi","context":{},"_debug_render_only":true}}"#,
        first["context"]
    );
    let rendered = server.post("/api/generate", &body);
    let text = rendered["_debug_info"]["rendered_template"]
        .as_str()
        .unwrap();
    assert!(
        text.contains("My name is Ada.")
            && text.ends_with("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        "{text}"
    );
    let raw = server.post(
        "/api/generate",
        r#"{"model":"smol","prompt":"The","raw":true,"stream":false,"options":{"num_predict":2}}"#,
    );
    assert!(raw.get("context").is_none());
    assert_eq!(raw["prompt_eval_count"], 1);
    let keys = server.post(
        "/api/generate",
        r#"{"MODEL":"smol","Prompt":"Hi","STREAM":false,"options":{"num_predict":1}}"#,
    );
    assert_eq!(keys["eval_count"], 1);
}

#[test]
fn stop_strings_never_show_however_tokens_fall() {
    let (_sandbox, server) = started();
    let ask = |stop: &str| {
        let body = format!(
            r#"{{"model":"smol","prompt":"Count: one two three four five","stream":false,"options":{{"temperature":0,"num_predict":30{stop}}}}}"#
        );
        let json = server.post("/api/generate", &body);
        (
            json["response"].as_str().unwrap().to_string(),
            json["done_reason"].as_str().unwrap().to_string(),
        )
    };
    let (plain, _) = ask("");
    let middle = &plain[plain.len() / 3..plain.len() / 3 + 4];
    let (cut, reason) = ask(&format!(",\"stop\":[{}]", Json::from(middle)));
    assert_eq!(cut, plain[..plain.find(middle).unwrap()]);
    assert_eq!(reason, "stop");
}

#[test]
fn a_prompt_that_is_too_long_is_cut_and_counted_or_refused() {
    let (_sandbox, server) = started();
    let long = "word ".repeat(1500);
    let ask = |more: &str| {
        let body = format!(
            r#"{{"model":"smol","prompt":"{long}","raw":true,"stream":false{more},"options":{{"num_ctx":64,"num_predict":2}}}}"#
        );
        server.ask("POST", "/api/generate", &body)
    };
    let cut = ask("").json();
    assert_eq!(cut["prompt_eval_count"], 34);
    assert!(
        cut["prompt_truncated_count"].as_u64().unwrap() > 1400,
        "{cut}"
    );
    let refused = ask(",\"truncate\":false");
    assert_eq!(refused.status, 400);
    assert!(
        refused
            .error()
            .contains("exceeds the available context size"),
        "{refused:?}"
    );
}

#[test]
fn load_unload_and_keep_alive_show_in_ps() {
    let (sandbox, server) = started();
    let loaded = server.ask("POST", "/api/generate", r#"{"model":"smol"}"#);
    assert_eq!(
        loaded.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let mut json = loaded.json();
    json["created_at"] = "T".into();
    assert_eq!(
        json.to_string(),
        r#"{"model":"smol","created_at":"T","response":"","done":true,"done_reason":"load"}"#
    );
    let ps = server.ask("GET", "/api/ps", "").json();
    let entry = ps["models"][0].as_object().unwrap();
    let keys: Vec<&String> = entry.keys().collect();
    assert_eq!(
        keys,
        [
            "name",
            "model",
            "size",
            "digest",
            "details",
            "expires_at",
            "size_vram",
            "context_length",
            "device"
        ]
    );
    assert_eq!(entry["context_length"], 4096);
    let line = sandbox.puna(&["ps"], "").ok();
    let fields: Vec<&str> = line.trim_end().split('\t').collect();
    assert_eq!(
        (fields[0], fields[3], fields[4]),
        ("smol:latest", "CPU", "4096")
    );
    server.post("/api/generate", r#"{"model":"smol","keep_alive":1e19}"#);
    assert_eq!(server.ask("GET", "/api/ps", "").status, 200);
    server.post("/api/generate", r#"{"model":"smol","keep_alive":-1}"#);
    let forever = server.ask("GET", "/api/ps", "").json()["models"][0]["expires_at"].to_string();
    assert!(forever.starts_with("\"23"), "{forever}");
    sandbox.puna(&["stop", "smol"], "").ok();
    eventually("the model goes", Duration::from_secs(5), || {
        sandbox.puna(&["ps"], "").ok().is_empty()
    });
    let chat = server.post(
        "/api/chat",
        r#"{"model":"smol","messages":[],"keep_alive":0}"#,
    );
    assert_eq!(chat["done_reason"], "unload");
    server.post(
        "/api/generate",
        r#"{"model":"smol","options":{"num_ctx":1}}"#,
    );
    assert_eq!(
        server.ask("GET", "/api/ps", "").json()["models"][0]["context_length"],
        4
    );
    server.post(
        "/api/generate",
        r#"{"model":"smol","keep_alive":0.2,"options":{"num_ctx":100000}}"#,
    );
    assert_eq!(
        server.ask("GET", "/api/ps", "").json()["models"][0]["context_length"],
        8192
    );
    eventually("it expires", Duration::from_secs(5), || {
        server.ask("GET", "/api/ps", "").json()["models"]
            .as_array()
            .unwrap()
            .is_empty()
    });
}

#[test]
fn tags_show_copy_and_delete_work_over_the_api() {
    let (_sandbox, server) = started();
    let tag = server.ask("GET", "/api/tags", "").json()["models"][0].clone();
    let keys: Vec<&String> = tag.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "name",
            "model",
            "modified_at",
            "size",
            "digest",
            "details",
            "capabilities"
        ]
    );
    assert_eq!(tag["details"]["context_length"], 8192);
    assert_eq!(tag["details"]["parameter_size"], "134.52M");
    for name in [
        "SMOL",
        "library/smol",
        "registry.ollama.ai/library/smol:latest",
        "  smol  ",
        "smol:local",
    ] {
        let show = server.post("/api/show", &format!("{{\"model\":\"{name}\"}}"));
        assert_eq!(show["model_info"]["general.architecture"], "llama");
        assert_eq!(show["model_info"]["tokenizer.ggml.tokens"], Json::Null);
        assert_eq!(show["capabilities"][0], "completion");
    }
    let verbose = server.post("/api/show", r#"{"name":"smol","verbose":true}"#);
    assert_eq!(
        verbose["model_info"]["tokenizer.ggml.tokens"]
            .as_array()
            .unwrap()
            .len(),
        49152
    );
    assert!(
        verbose["model_info"]
            .get("tokenizer.chat_template")
            .is_none()
    );
    let copied = server.ask(
        "POST",
        "/api/copy",
        r#"{"source":"smol","destination":"x"}"#,
    );
    assert_eq!((copied.status, copied.body.as_str()), (200, ""));
    assert_eq!(
        server
            .ask("DELETE", "/api/delete", r#"{"name":"x"}"#)
            .status,
        200
    );
    let again = server.ask("DELETE", "/api/delete", r#"{"model":"x"}"#);
    assert_eq!(
        (again.status, again.error().as_str()),
        (404, "model 'x' not found")
    );
    assert_eq!(
        server.ask("DELETE", "/api/delete", "{}").error(),
        "model is required"
    );
    assert_eq!(
        server
            .ask("DELETE", "/api/delete", r#"{"model":"a b"}"#)
            .error(),
        "name \"a b\" is invalid"
    );
}

#[test]
fn run_uses_our_own_server_of_the_same_store_only() {
    let (sandbox, server) = started();
    let loaded = || {
        !server.ask("GET", "/api/ps", "").json()["models"]
            .as_array()
            .unwrap()
            .is_empty()
    };
    let words = [
        "run",
        "smol",
        "Count from 1 to 10.",
        "--temperature",
        "0",
        "-n",
        "6",
    ];
    let local = sandbox.puna(&[&words[..], &["--local"]].concat(), "").ok();
    sandbox
        .puna(&["run", smol().to_str().unwrap(), "hi", "-n", "1"], "")
        .ok();
    let mut other = sandbox.command(&["run", smol().to_str().unwrap(), "hi", "-n", "1"]);
    other.env("PUNA_MODELS", sandbox.home.join("other"));
    crate::support::run(&mut other, "").ok();
    assert!(
        !loaded(),
        "a path, --local and another store run in their own process"
    );
    let served = sandbox.puna(&words, "").ok();
    assert!(loaded(), "the server answered");
    assert_eq!(served, local);
    let raw = sandbox
        .puna(
            &["run", "smol", "The sky is", "--raw", "-n", "3", "--json"],
            "",
        )
        .ok();
    let json: Json = serde_json::from_str(&raw).unwrap();
    assert_eq!(
        (&json["prompt_eval_count"], &json["eval_count"]),
        (&3.into(), &3.into())
    );
    let host = server.at.clone();
    assert_eq!(
        sandbox
            .puna(&[&words[..], &["--host", &host]].concat(), "")
            .ok(),
        local
    );
    sandbox
        .puna(&["run", "nope", "hi", "--host", &host], "")
        .fails(3, "model 'nope' not found");
}
