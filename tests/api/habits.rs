//! The habits of agents, editors and libraries: each field is obeyed, refused with the field's name, or named in a header, and
//! never passed over in silence.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value as Json, json};

use super::dialects::{hello, post, with_server};
use crate::engine::minilm::minilm;
use crate::support::{Answer, Sandbox, Server};

pub const CHAT: &str = "/v1/chat/completions";
pub const MESSAGES: &str = "/v1/messages";
pub const RESPONSES: &str = "/v1/responses";

pub fn ask(server: &Server, path: &str, body: &Json) -> Answer {
    server.ask("POST", path, &body.to_string())
}

/// A request of each dialect for a few tokens, with further fields.
pub fn short(path: &str, more: &Json) -> Json {
    let user = json!([{ "role": "user", "content": "Say hello." }]);
    let mut body = match path {
        RESPONSES => {
            json!({ "model": "smol", "input": "Say hello.", "max_output_tokens": 4, "temperature": 0 })
        }
        "/v1/completions" => json!({ "model": "smol", "prompt": "Say hello.", "max_tokens": 4 }),
        "/api/chat" => {
            json!({ "model": "smol", "messages": user, "stream": false, "options": { "num_predict": 4 } })
        }
        _ => json!({ "model": "smol", "messages": user, "max_tokens": 4, "temperature": 0 }),
    };
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn the_version_is_the_one_whose_api_is_served() {
    let (_sandbox, server) = with_server();
    let answer = server.ask("GET", "/api/version", "");
    let version = answer.json()["version"].as_str().unwrap().to_string();
    let numbers: Vec<u32> = version
        .split('.')
        .map(|number| number.parse().unwrap())
        .collect();
    assert!(
        numbers > vec![0, 6, 4],
        "editors refuse older ones: {version}"
    );
    let own = format!("puna/{}", env!("CARGO_PKG_VERSION"));
    assert!(
        answer.header("Server").unwrap().contains(&own),
        "{answer:?}"
    );
}

#[test]
fn what_has_no_place_in_a_message_and_what_is_out_of_range_is_named() {
    let (_sandbox, server) = with_server();
    let odd = json!({ "role": "user", "content": "hi", "oddity": 1 });
    for (path, key) in [
        (CHAT, "messages"),
        (RESPONSES, "input"),
        (MESSAGES, "messages"),
        ("/api/chat", "messages"),
    ] {
        let body = short(
            path,
            &json!({ key: [odd], "top_p": 7, "options": { "min_p": 7 } }),
        );
        let answer = ask(&server, path, &body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let named = answer.header("Puna-Ignored").unwrap_or_default();
        let names = [&format!("{key}.0.oddity"), "top_p", "options.min_p"];
        assert!(
            names.iter().all(|name| named.contains(name)),
            "{path}: {named}"
        );
    }
    let alien = json!({ "role": "alien", "content": "klaatu" });
    let template =
        "{{ range .Messages }}{{ if eq .Role \"user\" }}{{ .Content }}{{ end }}{{ end }}";
    let made = json!({ "model": "users", "from": "smol", "template": template, "stream": false });
    assert_eq!(ask(&server, "/api/create", &made).status, 200);
    for (model, status) in [("users", 400), ("smol", 200)] {
        let messages = json!([alien, { "role": "user", "content": "hi" }]);
        let body = json!({ "model": model, "messages": messages, "_debug_render_only": true });
        let answer = ask(&server, "/api/chat", &body);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(
            answer
                .body
                .contains(if status == 400 { "'alien'" } else { "klaatu" })
        );
    }
}

#[test]
fn fields_are_obeyed_refused_or_named() {
    let (_sandbox, server) = with_server();
    let routes = [CHAT, "/v1/completions", RESPONSES, MESSAGES, "/api/chat"];
    for path in routes {
        let odd = ask(
            &server,
            path,
            &short(
                path,
                &json!({ "oddity": 1, "options": { "temprature": 1 } }),
            ),
        );
        assert_eq!(odd.status, 200, "{path}: {}", odd.body);
        let named = odd.header("Puna-Ignored").unwrap_or_default();
        assert!(
            named.contains("oddity") && named.contains("options.temprature"),
            "{path}: {named}"
        );
        let plain = ask(&server, path, &short(path, &json!({ "keep_alive": "24h" })));
        assert_eq!(
            (plain.status, plain.header("Puna-Ignored")),
            (200, None),
            "{path}: {}",
            plain.body
        );
        let until = server.ask("GET", "/api/ps", "").json()["models"][0]["expires_at"].to_string();
        let now = server.ask("GET", "/api/tags", "").json()["models"][0]["modified_at"].to_string();
        assert_ne!(until[..11], now[..11], "{path}: kept a day: {until}");
    }
    // The engine's samplers are obeyed in every dialect: with one choice a high temperature changes nothing.
    let greedy = |path: &str| {
        let options = json!({ "top_k": 1, "temperature": 2.0 });
        let answer = ask(&server, path, &short(path, &options)).json();
        match path {
            CHAT => answer["choices"][0]["message"]["content"].to_string(),
            RESPONSES => answer["output"][0]["content"][0]["text"].to_string(),
            _ => answer["content"][0]["text"].to_string(),
        }
    };
    assert_eq!(greedy(CHAT), greedy(MESSAGES));
    assert_eq!(greedy(CHAT), greedy(RESPONSES));
    for (path, field, value) in [
        (CHAT, "keep_alive", json!(true)),
        (CHAT, "response_format", json!({ "type": "xml" })),
        (CHAT, "response_format", json!("json")),
        (CHAT, "response_format", json!({ "type": "json_schema" })),
        (CHAT, "top_k", json!("x")),
        (
            RESPONSES,
            "text",
            json!({ "format": { "type": "grammar" } }),
        ),
        (RESPONSES, "background", json!(true)),
        (MESSAGES, "output_format", json!({ "type": "json" })),
        (MESSAGES, "tool_choice", json!({ "type": "loud" })),
        ("/v1/completions", "prompt", json!([1, 2])),
    ] {
        let answer = ask(
            &server,
            path,
            &short(path, &json!({ field: value.clone() })),
        );
        assert_eq!(
            answer.status, 400,
            "{path} {field} {value}: {}",
            answer.body
        );
        assert!(
            answer.body.contains(field),
            "{path} {field} {value}: {}",
            answer.body
        );
    }
}

#[test]
fn a_schema_is_found_in_every_place_where_it_is_sent() {
    let (_sandbox, server) = with_server();
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"] });
    for (path, field, value) in [
        (
            CHAT,
            "response_format",
            json!({ "type": "json_schema", "schema": schema }),
        ),
        (
            CHAT,
            "response_format",
            json!({ "type": "json_schema", "json_schema": { "name": "n", "schema": schema } }),
        ),
        (
            MESSAGES,
            "output_format",
            json!({ "type": "json_schema", "schema": schema }),
        ),
        (
            MESSAGES,
            "output_config",
            json!({ "format": { "type": "json_schema", "schema": schema } }),
        ),
        (
            RESPONSES,
            "text",
            json!({ "format": { "type": "json_schema", "name": "n", "schema": schema } }),
        ),
        (
            RESPONSES,
            "text",
            json!({ "format": { "type": "json_schema", "json_schema": { "schema": schema } } }),
        ),
    ] {
        let limit = if path == RESPONSES {
            "max_output_tokens"
        } else {
            "max_tokens"
        };
        let answer = ask(
            &server,
            path,
            &short(path, &json!({ field: value.clone(), limit: 30 })),
        )
        .json();
        let text = match path {
            CHAT => &answer["choices"][0]["message"]["content"],
            RESPONSES => &answer["output"][0]["content"][0]["text"],
            _ => &answer["content"][0]["text"],
        };
        let object: Json =
            serde_json::from_str(text.as_str().unwrap_or_default()).unwrap_or_default();
        assert!(object["ok"].is_boolean(), "{field} {value}: {answer}");
    }
}

#[test]
fn a_changing_billing_header_never_reaches_the_model() {
    let (_sandbox, server) = with_server();
    let words = "The sea is wide and deep. ".repeat(60);
    let with = |count: &str| {
        let header = format!("x-anthropic-billing-header: cc_version=2.1; cch={count};");
        let system = json!([{ "type": "text", "text": header }, { "type": "text", "text": words }]);
        let answer = post(
            &server,
            MESSAGES,
            &short(MESSAGES, &json!({ "system": system })),
        );
        let usage = &answer["usage"];
        let read = usage["cache_read_input_tokens"].as_u64().unwrap();
        (read, usage["input_tokens"].as_u64().unwrap() + read)
    };
    with("aaaaa");
    let (read, all) = with("bbbbb");
    assert!(read * 100 >= all * 95, "{read} of {all}");
    let count = |system: Json| {
        let body = json!({ "model": "smol", "messages": [{ "role": "user", "content": "x" }], "system": system });
        post(&server, "/v1/messages/count_tokens", &body)["input_tokens"]
            .as_u64()
            .unwrap()
    };
    let blocks =
        |texts: [&str; 2]| json!(texts.map(|text| json!({ "type": "text", "text": text })));
    assert_eq!(count(blocks(["AAA", "BBB"])), count(json!("AAA\nBBB")));
}

#[test]
fn a_prompt_that_was_cut_is_told() {
    let (_sandbox, server) = with_server();
    let long = "word ".repeat(600);
    let small = json!({ "num_ctx": 256 });
    let message = json!([{ "role": "user", "content": long }]);
    for (path, field, value) in [
        (CHAT, "messages", &message),
        (MESSAGES, "messages", &message),
        (RESPONSES, "input", &json!(long)),
    ] {
        let answer = ask(
            &server,
            path,
            &short(path, &json!({ field: value, "options": small })),
        );
        let dropped = answer
            .header("Puna-Truncated-Tokens")
            .map(|count| count.parse::<usize>().unwrap());
        assert!(
            answer.status == 200 && dropped > Some(300),
            "{path}: {answer:?}"
        );
    }
    let refused = ask(
        &server,
        RESPONSES,
        &short(
            RESPONSES,
            &json!({ "input": long, "options": small, "truncation": "disabled" }),
        ),
    );
    assert!(
        refused.status == 400 && refused.body.contains("exceeds"),
        "{refused:?}"
    );
    let whole = post(
        &server,
        RESPONSES,
        &short(RESPONSES, &json!({ "max_output_tokens": 2 })),
    );
    let states = (&whole["status"], &whole["output"][0]["status"]);
    assert_eq!(
        states,
        (&json!("incomplete"), &json!("incomplete")),
        "{whole}"
    );
}

#[test]
fn thinking_is_switched_in_every_way() {
    let (_sandbox, server) = with_server();
    let prompt = |more: Json| {
        let mut body = json!({ "model": "smol", "messages": [{ "role": "user", "content": "x" }] });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        ask(&server, "/apply-template", &body)
    };
    // A template of Ollama's kind takes no variables, one of a GGUF does.
    let kwargs = json!({ "mood": "bright" });
    let taken = prompt(json!({ "chat_template_kwargs": kwargs }));
    assert_eq!(taken.status, 200, "{taken:?}");
    let refused = prompt(json!({ "model": "tools", "chat_template_kwargs": kwargs }));
    assert!(
        refused.status == 400 && refused.body.contains("takes no 'mood'"),
        "{refused:?}"
    );
    for effort in [
        json!({ "reasoning_effort": "low" }),
        json!({ "think": true }),
        json!({ "enable_thinking": true }),
    ] {
        let answer = ask(&server, CHAT, &hello(effort.clone()));
        assert_eq!(
            answer.status, 200,
            "a model that cannot think answers without: {effort}: {}",
            answer.body
        );
    }
    let effort = json!({ "reasoning": { "effort": "medium" } });
    assert_eq!(
        ask(&server, RESPONSES, &short(RESPONSES, &effort)).status,
        200
    );
}

#[test]
fn a_stream_is_never_silent_for_long() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[("PUNA_HEARTBEAT", "20ms")]);
    let long = |path: &str, number: usize| {
        let text = format!("{number} {}", "The sea is wide. ".repeat(250));
        let message = json!([{ "role": "user", "content": text }]);
        let field = if path == RESPONSES {
            "input"
        } else {
            "messages"
        };
        let value = if path == RESPONSES {
            json!(text)
        } else {
            message
        };
        short(path, &json!({ field: value, "stream": true }))
    };
    for (number, path) in [CHAT, RESPONSES].into_iter().enumerate() {
        let answer = ask(&server, path, &long(path, number));
        let comments = answer.body.matches(": still computing\n\n").count();
        assert!(comments > 1, "{path}: {}", answer.body);
    }
    let pings = ask(&server, MESSAGES, &long(MESSAGES, 7))
        .body
        .matches("event: ping")
        .count();
    assert!(pings > 2, "{pings}");
    let records = ask(&server, "/api/chat", &long("/api/chat", 8)).lines();
    let empty = records
        .iter()
        .filter(|record| record["message"]["content"] == "" && record["done"] == false);
    assert!(empty.count() > 1, "{records:?}");
}

#[test]
fn a_longer_context_serves_a_shorter_one() {
    let (_sandbox, server) = with_server();
    let load = |options: Json| {
        let body = json!({ "model": "smol", "prompt": "hi", "stream": false, "options": options });
        let answer = post(&server, "/api/generate", &body);
        answer["load_duration"].as_u64().unwrap()
    };
    let context = || server.ask("GET", "/api/ps", "").json()["models"][0]["context_length"].clone();
    load(json!({ "num_predict": 1, "num_ctx": 2048 }));
    load(json!({ "num_predict": 1 }));
    assert_eq!(
        context(),
        4096,
        "the absent one is the default, which is longer"
    );
    for options in [
        json!({ "num_predict": 1, "num_ctx": 2048 }),
        json!({ "num_predict": 1 }),
        json!({ "num_predict": 1, "num_gpu": 99, "main_gpu": 0, "use_mmap": true }),
    ] {
        let time = load(options.clone());
        assert!(time < 100_000_000, "{options} loads again: {time} ns");
        assert_eq!(context(), 4096);
    }
    // What does not fit the shorter one is still cut to it.
    let long = json!({ "model": "smol", "prompt": "word ".repeat(3000), "stream": false,
        "options": { "num_predict": 1, "num_ctx": 2048 } });
    let answer = post(&server, "/api/generate", &long);
    assert!(
        answer["prompt_truncated_count"].as_u64() > Some(900),
        "{answer}"
    );
    assert_eq!(context(), 4096);
}

#[test]
fn small_shapes_are_those_that_clients_expect() {
    let sandbox = Sandbox::new();
    sandbox.create("mini", &format!("FROM {}\n", minilm().display()));
    let server = sandbox.serve(&[]);
    let ids = ask(
        &server,
        "/v1/embeddings",
        &json!({ "model": "mini", "input": [[9906, 1917]] }),
    );
    assert!(
        ids.status == 400 && ids.body.contains("check_embedding_ctx_length=False"),
        "{ids:?}"
    );
    let one = ask(
        &server,
        "/v1/embeddings",
        &json!({ "model": "mini", "input": "hello" }),
    )
    .body;
    let native = ask(
        &server,
        "/api/embed",
        &json!({ "model": "mini", "input": "hello" }),
    )
    .body;
    assert!(
        one.len() < native.len() + 200,
        "short numbers: {} and {} bytes",
        one.len(),
        native.len()
    );
    let rerank = json!({ "model": "mini", "query": "a", "documents": ["b", "c"] });
    let results = post(&server, "/api/rerank", &rerank)["results"].clone();
    assert!(results[0]["document"].is_string(), "{results}");
    let nope = server.ask_with(
        "GET",
        "/v1/models/nope",
        "",
        "anthropic-version: 2023-06-01\r\n",
    );
    assert_eq!(
        (nope.status, &nope.json()["type"]),
        (404, &json!("error")),
        "{nope:?}"
    );
}

#[test]
fn a_foreign_host_is_told_why_and_a_key_is_enough() {
    let sandbox = Sandbox::with_smol();
    let path = sandbox.file("keys", "bot use secret-key-0123456789\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let server = sandbox.serve(&[(
        "PUNA_API_KEY_FILE",
        sandbox.home.join("keys").to_str().unwrap(),
    )]);
    let ask = |headers: &str| server.ask_with("GET", "/api/tags", "", headers);
    let refused = ask("Host: llm.example.org\r\n");
    assert_eq!(refused.status, 403);
    assert!(
        refused.error().contains("PUNA_ORIGINS") && refused.header("X-Request-Id").is_some(),
        "{refused:?}"
    );
    assert_eq!(
        ask("Host: llm.example.org\r\nAuthorization: Bearer secret-key-0123456789\r\n").status,
        200
    );
    assert_eq!(
        ask("Host: llm.example.org\r\nAuthorization: Bearer wrong\r\n").status,
        403
    );
}
