//! The OpenAI and Anthropic APIs, over real sockets with a real model. `make test-sdk` runs the SDKs'
//! own suites.

use serde_json::{Value as Json, json};

use crate::engine::minilm;
use crate::support::{Answer, Sandbox, Server};

/// A template with tools; SmolLM2's own has none.
const TOOLS: &str = r#"TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ if and (eq .Role "user") $.Tools }}{{ range $.Tools }}{{ . }}
{{ end }}Answer with <tool_call>{"name": "x", "arguments": {}}</tool_call>
{{ end }}{{ .Content }}{{ range .ToolCalls }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
""""#;

pub fn with_server() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    sandbox.create("tools", &format!("FROM smol\n{TOOLS}\n"));
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

pub fn post(server: &Server, path: &str, body: &Json) -> Json {
    let answer = server.ask("POST", path, &body.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// The events of a stream: names, if any, and data.
fn events(answer: &Answer) -> Vec<(String, Json)> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("Content-Type"), Some("text/event-stream"));
    let frames = answer.body.split("\n\n").filter(|frame| !frame.is_empty());
    let read = |frame: &str| {
        let mut name = String::new();
        let mut data = Json::Null;
        for line in frame.lines() {
            match line.split_once(": ").unwrap() {
                ("event", value) => name = value.into(),
                ("data", "[DONE]") => name = "[DONE]".into(),
                ("data", value) => data = serde_json::from_str(value).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        (name, data)
    };
    frames.map(read).collect()
}

pub fn hello(more: Json) -> Json {
    let mut body = json!({
        "model": "smol",
        "messages": [{ "role": "user", "content": "Say hello to Anna." }],
        "temperature": 0,
        "max_tokens": 6, // Later tokens have near ties, which batching may resolve differently.
    });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn a_chat_completion_is_the_same_with_and_without_streaming() {
    let (_sandbox, server) = with_server();
    let path = "/v1/chat/completions";
    let whole = post(&server, path, &hello(json!({})));
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(whole["usage"]["completion_tokens"], 6);
    let native = server.post(
        "/api/chat",
        &json!({ "model": "smol", "stream": false, "messages": hello(json!({}))["messages"],
            "options": { "temperature": 0, "num_predict": 6 } })
        .to_string(),
    );
    let said = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(native["message"]["content"], said);
    let body = hello(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let events = events(&server.ask("POST", path, &body.to_string()));
    let chunks: Vec<&Json> = events.iter().map(|(_, data)| data).collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, said);
    let last = &events[events.len() - 3..];
    assert_eq!(last[0].1["choices"][0]["finish_reason"], "length");
    assert_eq!(
        (
            &last[1].1["choices"],
            &last[1].1["usage"]["completion_tokens"]
        ),
        (&json!([]), &json!(6))
    );
    assert!(
        last[1].1["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert_eq!(last[2].0, "[DONE]");
    let ids: Vec<&Json> = chunks[..chunks.len() - 1]
        .iter()
        .map(|chunk| &chunk["id"])
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]) && ids[0] != &whole["id"]);
}

#[test]
fn several_choices_share_their_prompt_and_differ() {
    let (sandbox, server) = with_server();
    let body = hello(json!({ "n": 4, "temperature": 1.5, "seed": 5 }));
    let computed = || {
        let text = server.ask("GET", "/metrics", "").body;
        let value = |key: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(key));
            line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
        };
        value("puna_prompt_tokens_total ") - value("puna_cached_tokens_total ")
    };
    let before = computed();
    let whole = post(&server, "/v1/chat/completions", &body);
    let prompt = whole["usage"]["prompt_tokens"].as_u64().unwrap();
    // One answer computes the prompt, the others at most its last token.
    let computed = computed() - before;
    assert!(computed <= prompt + 3, "{computed} of {prompt} tokens");
    let choices = whole["choices"].as_array().unwrap();
    let mut texts: Vec<&str> = choices
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(texts.len(), 4);
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 1, "{texts:?}");
    assert!(whole["usage"]["completion_tokens"].as_u64().unwrap() > 6);
    let streamed = hello(json!({ "n": 3, "stream": true, "temperature": 1.5 }));
    let answer = server.ask("POST", "/v1/chat/completions", &streamed.to_string());
    let ends = events(&answer)
        .iter()
        .filter(|(_, data)| data["choices"][0]["finish_reason"].is_string())
        .map(|(_, data)| data["choices"][0]["index"].as_u64().unwrap())
        .collect::<std::collections::BTreeSet<_>>();
    assert_eq!(ends, [0, 1, 2].into());
    // The model's own seed makes the answers repeatable, not equal.
    sandbox.create("seeded", "FROM smol\nPARAMETER seed 7\n");
    let seeded = hello(json!({ "model": "seeded", "n": 3, "temperature": 1.5 }));
    let texts = || -> Vec<String> {
        let whole = post(&server, "/v1/chat/completions", &seeded);
        let choices = whole["choices"].as_array().unwrap().iter();
        let text = |choice: &Json| choice["message"]["content"].as_str().unwrap().to_string();
        choices.map(text).collect()
    };
    let first = texts();
    assert!(first[1] != first[0] && first[2] != first[0], "{first:?}");
}

#[test]
fn calls_schemas_and_logprobs_have_openais_format() {
    let (_sandbox, server) = with_server();
    let path = "/v1/chat/completions";
    let tool = json!({ "type": "function", "function": { "name": "weather", "description": "Tells the weather.",
        "parameters": { "type": "object", "properties": { "city": { "type": "string", "maxLength": 12 } },
            "required": ["city"], "additionalProperties": false } } });
    for choice in [
        json!("required"),
        json!({ "type": "function", "function": { "name": "weather" } }),
    ] {
        let body = hello(
            json!({ "model": "tools", "tools": [tool], "tool_choice": choice, "max_tokens": 200 }),
        );
        let whole = post(&server, path, &body);
        let call = &whole["choices"][0]["message"]["tool_calls"][0];
        assert_eq!(
            whole["choices"][0]["finish_reason"], "tool_calls",
            "{whole}"
        );
        assert_eq!(
            (&call["type"], &call["function"]["name"]),
            (&json!("function"), &json!("weather"))
        );
        let arguments: Json =
            serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["city"].is_string(), "{arguments}");
        // The tool's result is accepted too, in either form.
        let more = json!({ "model": "tools", "tools": [tool], "messages": [
            { "role": "user", "content": "How is it in Oslo?" },
            { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "tool_call_id": call["id"], "content": [{ "type": "text", "text": "rain" }] },
        ], "tool_choice": "none" });
        let next = post(&server, path, &hello(more));
        assert!(next["choices"][0]["message"]["tool_calls"].is_null());
    }
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } },
        "required": ["ok"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let whole = post(
        &server,
        path,
        &hello(json!({ "response_format": format, "max_tokens": 60 })),
    );
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        serde_json::from_str::<Json>(text).unwrap()["ok"].is_boolean(),
        "{text}"
    );
    let whole = post(
        &server,
        path,
        &hello(json!({ "logprobs": true, "top_logprobs": 2, "max_tokens": 3 })),
    );
    let logprobs = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(
        (
            logprobs.len(),
            logprobs[0]["top_logprobs"].as_array().unwrap().len()
        ),
        (3, 2)
    );
    assert!(logprobs[0]["bytes"].is_array());
    // A token with a bias of -100 is not generated.
    let first = logprobs[0]["token"].as_str().unwrap();
    let id = post(
        &server,
        "/tokenize",
        &json!({ "model": "smol", "content": first }),
    );
    let bias = json!({ id["tokens"][0].to_string(): -100 });
    let whole = post(
        &server,
        path,
        &hello(json!({ "logit_bias": bias, "max_tokens": 1 })),
    );
    assert_ne!(whole["choices"][0]["message"]["content"], first);
}

#[test]
fn a_stream_that_breaks_says_so_in_every_dialect() {
    let (_sandbox, server) = with_server();
    // A stop string that truncates constrained output is an error after the first tokens.
    let schema = json!({ "type": "object", "properties": { "a": { "const": "xyzzy" } },
        "required": ["a"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let body = hello(
        json!({ "stream": true, "stop": "zzy", "response_format": format, "max_tokens": 60 }),
    );
    let streamed_events = events(&server.ask("POST", "/v1/chat/completions", &body.to_string()));
    let broken = &streamed_events[streamed_events.len() - 2].1["error"];
    assert!(
        broken["message"].as_str().unwrap().contains("stop string"),
        "{streamed_events:?}"
    );
    assert_eq!(streamed_events.last().unwrap().0, "[DONE]");
    let body = json!({ "model": "smol", "max_tokens": 60, "stream": true, "stop_sequences": ["zzy"],
        "output_config": { "format": { "type": "json_schema", "schema": schema } },
        "messages": [{ "role": "user", "content": "go" }] });
    let streamed_events = events(&server.ask("POST", "/v1/messages", &body.to_string()));
    assert_eq!(streamed_events[0].0, "message_start");
    let (name, data) = streamed_events.last().unwrap();
    assert_eq!(
        (name.as_str(), &data["error"]["type"]),
        ("error", &json!("api_error"))
    );
}

#[test]
fn completions_and_embeddings_are_openais() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("mini", &format!("FROM {}\n", minilm::minilm().display()));
    let server = sandbox.serve(&[]);
    let body = json!({ "model": "smol", "prompt": "Say hello.", "max_tokens": 5, "temperature": 0, "logprobs": 2 });
    let whole = post(&server, "/v1/completions", &body);
    assert_eq!(
        (&whole["object"], &whole["usage"]["completion_tokens"]),
        (&json!("text_completion"), &json!(5))
    );
    let logprobs = &whole["choices"][0]["logprobs"];
    let tokens: String = logprobs["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Json::as_str)
        .collect();
    assert_eq!(whole["choices"][0]["text"], tokens);
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let events = events(&server.ask("POST", "/v1/completions", &streamed.to_string()));
    let text: String = events
        .iter()
        .filter_map(|(_, data)| data["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(text, tokens);
    let loaded = post(
        &server,
        "/v1/completions",
        &json!({ "model": "smol", "prompt": "" }),
    );
    assert_eq!(loaded["choices"][0]["finish_reason"], "load");

    let embed = |more: Json| {
        let mut body = json!({ "model": "mini", "input": ["one", "two"] });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        server.ask("POST", "/v1/embeddings", &body.to_string())
    };
    let floats: Json = serde_json::from_str(&embed(json!({})).body).unwrap();
    let packed: Json =
        serde_json::from_str(&embed(json!({ "encoding_format": "base64" })).body).unwrap();
    assert_eq!(floats["data"].as_array().unwrap().len(), 2);
    let first = floats["data"][0]["embedding"][0].as_f64().unwrap() as f32;
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed["data"][0]["embedding"].as_str().unwrap())
        .unwrap();
    assert_eq!(bytes.len(), 384 * 4);
    assert_eq!(f32::from_le_bytes(bytes[..4].try_into().unwrap()), first);
    for (more, words) in [
        (json!({ "input": [] }), "invalid input"),
        (json!({ "input": [1, 2] }), "send the text itself"),
        (json!({ "encoding_format": "hex" }), "Supported values"),
    ] {
        let answer = embed(more);
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains(words), "{}", answer.body);
    }
}

#[test]
fn responses_are_streamed_item_by_item() {
    let (_sandbox, server) = with_server();
    let body = json!({ "model": "smol", "input": "Say hello to Anna.", "temperature": 0, "max_output_tokens": 6 });
    let whole = post(&server, "/v1/responses", &body);
    assert_eq!(whole["status"], "incomplete");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let text = &whole["output"][0]["content"][0]["text"];
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let streamed_events = events(&server.ask("POST", "/v1/responses", &streamed.to_string()));
    let numbers = streamed_events
        .iter()
        .map(|(_, data)| data["sequence_number"].as_u64().unwrap());
    assert!(numbers.eq(0..streamed_events.len() as u64));
    assert_eq!(streamed_events[0].0, "response.created");
    let deltas: String = streamed_events
        .iter()
        .filter(|(name, _)| name == "response.output_text.delta")
        .filter_map(|(_, data)| data["delta"].as_str())
        .collect();
    assert_eq!(*text, deltas);
    let (name, last) = streamed_events.last().unwrap();
    assert_eq!(name, "response.incomplete");
    assert_eq!(&last["response"]["output"][0]["content"][0]["text"], text);
    let count = post(&server, "/v1/responses/input_tokens", &body);
    assert_eq!(count["input_tokens"], whole["usage"]["input_tokens"]);
    // All tokens are counted, even if they exceed the context.
    let long = json!({ "model": "smol", "input": "word ".repeat(9000) });
    let count = post(&server, "/v1/responses/input_tokens", &long);
    assert!(count["input_tokens"].as_u64().unwrap() > 8000, "{count}");
    let chained = json!({ "model": "smol", "input": "x", "previous_response_id": "resp_1" });
    let answer = server.ask("POST", "/v1/responses", &chained.to_string());
    assert_eq!(answer.status, 400);
    assert!(
        answer.body.contains("nothing is stored here"),
        "{}",
        answer.body
    );
}

#[test]
fn messages_are_anthropics() {
    let (_sandbox, server) = with_server();
    let body = json!({ "model": "smol", "max_tokens": 6, "temperature": 0,
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "Say hello to Anna." }] }] });
    let whole = post(&server, "/v1/messages", &body);
    assert_eq!(
        (&whole["type"], &whole["stop_reason"]),
        (&json!("message"), &json!("max_tokens"))
    );
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let streamed_events = events(&server.ask("POST", "/v1/messages", &streamed.to_string()));
    let names: Vec<&str> = streamed_events
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names[..3], ["message_start", "ping", "content_block_start"]);
    assert_eq!(
        names[names.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    assert!(
        streamed_events
            .iter()
            .all(|(name, data)| data["type"] == *name)
    );
    let text: String = streamed_events
        .iter()
        .filter_map(|(_, data)| data["delta"]["text"].as_str())
        .collect();
    assert_eq!(whole["content"][0]["text"], text);
    let count = post(&server, "/v1/messages/count_tokens", &body);
    let usage = &whole["usage"];
    let sum = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(count["input_tokens"], sum);
    // The answer names the stop sequence that matched.
    let word = text.split_whitespace().nth(1).unwrap();
    let mut stopped = body.clone();
    stopped["stop_sequences"] = json!([word]);
    let whole = post(&server, "/v1/messages", &stopped);
    assert_eq!(
        (&whole["stop_reason"], &whole["stop_sequence"]),
        (&json!("stop_sequence"), &json!(word))
    );
    let tool = json!({ "name": "f", "input_schema": { "type": "object", "properties": {}, "additionalProperties": false } });
    let mut called = body.clone();
    called["model"] = "tools".into();
    called["tools"] = json!([tool]);
    called["tool_choice"] = json!({ "type": "any" });
    called["max_tokens"] = 100.into();
    let whole = post(&server, "/v1/messages", &called);
    assert_eq!(whole["stop_reason"], "tool_use", "{whole}");
    let block = whole["content"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&block["type"], &block["name"]),
        (&json!("tool_use"), &json!("f"))
    );
    // A model without thinking ignores the request for it.
    let mut thinking = body.clone();
    thinking["thinking"] = json!({ "type": "enabled", "budget_tokens": 1024 });
    post(&server, "/v1/messages", &thinking);
}
