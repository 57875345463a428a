//! Error formats of each API, and the llama.cpp routes that small tools use.

use serde_json::{Value as Json, json};

use crate::api::dialects::{hello, post, with_server};

#[test]
fn errors_have_the_shape_of_their_dialect() {
    let (_sandbox, server) = with_server();
    let missing = r#"{"model":"none","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#;
    let openai = server.ask("POST", "/v1/chat/completions", missing);
    assert_eq!(openai.status, 404);
    let body = openai.json();
    assert_eq!(body["error"]["type"], "not_found_error");
    assert_eq!(body["error"]["message"], "model 'none' not found");
    assert_eq!(
        (&body["error"]["param"], &body["error"]["code"]),
        (&Json::Null, &Json::Null)
    );
    let anthropic = server.ask("POST", "/v1/messages", missing);
    assert_eq!(
        (anthropic.status, anthropic.json()["type"].as_str()),
        (404, Some("error"))
    );
    assert_eq!(anthropic.json()["error"]["type"], "not_found_error");
    for (path, body, words) in [
        ("/v1/chat/completions", "{", "unexpected EOF"),
        ("/v1/chat/completions", "[]", "cannot unmarshal array"),
        (
            "/v1/chat/completions",
            r#"{"model":"smol","messages":[]}"#,
            "too short - 'messages'",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"smol","messages":[{"role":"user","content":7}]}"#,
            "float64",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"smol","n":0,"messages":[{"role":"user","content":"x"}]}"#,
            "n must be a number",
        ),
        (
            "/v1/messages",
            r#"{"model":"smol","messages":[]}"#,
            "max_tokens is required",
        ),
        (
            "/v1/responses",
            r#"{"model":"smol","input":[{"type":"x"}]}"#,
            "unknown input item type",
        ),
        (
            "/v1/chat/completions",
            r#"{"model":"smol","stream":"yes","messages":[{"role":"user","content":"x"}]}"#,
            "stream must be true or false",
        ),
        (
            "/v1/messages",
            r#"{"model":"smol","max_tokens":1,"stop_sequences":[1],"messages":[{"role":"user","content":"x"}]}"#,
            "list of strings",
        ),
        (
            "/v1/messages",
            r#"{"model":"smol","max_tokens":1,"messages":[{"role":"user","content":{"type":"text"}}]}"#,
            "content must be a string",
        ),
        ("/tokenize", r#"{"content":"x"}"#, "model is required"),
        (
            "/detokenize",
            r#"{"model":"smol","tokens":[999999999]}"#,
            "is not a token of this model",
        ),
    ] {
        let answer = server.ask("POST", path, body);
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        assert!(
            answer.body.contains(words),
            "{path} {body}: {}",
            answer.body
        );
    }
    assert_eq!(server.ask("GET", "/v1/chat/completions", "").status, 405);
    assert_eq!(
        server.ask("POST", "/v1/images/generations", "{}").status,
        404
    );
}

#[test]
fn llamacpp_routes_answer() {
    let (sandbox, server) = with_server();
    sandbox.puna(&["cp", "smol", "someone/smol:q4"], "").ok();
    let list = server.ask("GET", "/v1/models", "").json();
    assert_eq!(list["data"].as_array().unwrap().len(), 3);
    let owner = |id: &str| server.ask("GET", &format!("/v1/models/{id}"), "").json();
    assert_eq!(owner("smol")["owned_by"], "library");
    assert_eq!(owner("someone/smol:q4")["owned_by"], "someone");
    assert_eq!(owner("someone%2Fsmol%3Aq4")["id"], "someone/smol:q4");
    assert_eq!(server.ask("GET", "/v1/models/none", "").status, 404);
    assert_eq!(server.ask("GET", "/health", "").json()["status"], "ok");
    let tokens = post(
        &server,
        "/tokenize",
        &json!({ "model": "smol", "content": "hello world" }),
    );
    let text = post(
        &server,
        "/detokenize",
        &json!({ "model": "smol", "tokens": tokens["tokens"] }),
    );
    assert_eq!(text["content"], "hello world");
    let prompt = post(&server, "/apply-template", &hello(json!({})));
    let rendered = sandbox
        .puna(&["render", "smol", "Say hello to Anna."], "")
        .ok();
    assert_eq!(prompt["prompt"], rendered);
    post(&server, "/v1/chat/completions", &hello(json!({})));
    let metrics = server.ask("GET", "/metrics", "").body;
    for line in [
        "puna_answers_total{model=\"smol:latest\"} 1\n",
        "puna_answer_tokens_total{model=\"smol:latest\"} 6\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(
        metrics.contains("puna_model_bytes{model=\"smol:latest\"} "),
        "{metrics}"
    );
    // A prompt is put aside for a longer one that begins otherwise.
    let saved = |metrics: &str| -> u64 {
        let name = "puna_saved_prompts_bytes{model=\"smol:latest\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().parse().unwrap()
    };
    assert_eq!(saved(&metrics), 0);
    for word in ["whale", "car", "tree"] {
        let prompt = format!("{word} ").repeat(400);
        let body = json!({"model": "smol", "prompt": prompt, "raw": true, "stream": false,
            "options": {"num_predict": 1}});
        assert_eq!(post(&server, "/api/generate", &body)["done"], true);
    }
    let metrics = server.ask("GET", "/metrics", "").body;
    assert!(saved(&metrics) > 1 << 20, "{metrics}");
}
