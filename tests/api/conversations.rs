//! The messages, calls and tools of every dialect, in all the forms in which clients send them.

use serde_json::{Value as Json, json};

use super::dialects::{hello, post, with_server};
use super::habits::{CHAT, MESSAGES, RESPONSES, ask, short};
use crate::support::Sandbox;
use crate::support::scripted_model::{modelfile, scripted_gguf};

#[test]
fn contents_and_arguments_come_in_every_form() {
    let (_sandbox, server) = with_server();
    let chat = |messages: Json| ask(&server, CHAT, &hello(json!({ "messages": messages })));
    let call = |arguments: Json| json!([{ "id": "1", "type": "function", "function": { "name": "f", "arguments": arguments } }]);
    for messages in [
        json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": null }, { "role": "user", "content": "again" }]),
        json!([{ "role": "user", "content": "hi" }, { "role": "assistant" }, { "role": "user", "content": "again" }]),
        json!([{ "role": "system", "content": null }, { "role": "user", "content": ["plain", { "type": "text", "text": "x" }, { "text": "y" }] }]),
        json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "refusal": "no" }, { "role": "user", "content": "why" }]),
        json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": null, "function_call": { "name": "f", "arguments": "{}" } },
            { "role": "function", "name": "f", "content": "ok" }]),
    ] {
        let answer = chat(messages.clone());
        assert_eq!(answer.status, 200, "{messages}: {}", answer.body);
    }
    for arguments in [
        json!(""),
        json!(" "),
        json!(null),
        json!("null"),
        json!({}),
        json!("{\"x\":1}"),
    ] {
        for path in [CHAT, "/api/chat"] {
            let messages = json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "", "tool_calls": call(arguments.clone()) },
                { "role": "tool", "tool_call_id": "1", "content": null }]);
            let answer = ask(
                &server,
                path,
                &short(path, &json!({ "model": "tools", "messages": messages })),
            );
            assert_eq!(answer.status, 200, "{path} {arguments}: {}", answer.body);
        }
    }
    for messages in [
        json!([{ "role": "robot", "content": "hi" }]),
        json!([{ "role": "user", "content": [{ "type": "odd" }] }]),
        json!([{ "role": "user", "content": [{ "type": "text", "text": 5 }] }]),
        json!([{ "role": "assistant", "content": "", "tool_calls": call(json!("[1]")) }]),
    ] {
        assert_eq!(chat(messages.clone()).status, 400, "{messages}");
    }
    // Half a character, as programs send that cut a text between its 16-bit units.
    for path in [CHAT, MESSAGES, RESPONSES, "/api/chat", "/v1/completions"] {
        let body = short(path, &json!({}))
            .to_string()
            .replace("Say hello.", "a \\ud83d b");
        let answer = server.ask("POST", path, &body);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    }
    let body =
        r#"{"model":"smol","messages":[{"role":"user","content":"a \ud83d b \ud83d\ude00"}]}"#;
    let rendered = server.ask("POST", "/apply-template", body).body;
    assert!(rendered.contains("a \u{fffd} b 😀"), "{rendered}");
}

#[test]
fn tools_of_other_servers_are_left_out_and_those_with_text_are_called() {
    let sandbox = Sandbox::new();
    let call = |name: &str, arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    let one = call("sh", "{\"input\": \"ls -l\"}");
    let two = call("one", "{\"a\": 1}") + &call("two", "{\"b\": 2}");
    let file = sandbox.file("scripted.gguf", scripted_gguf(&[&one, &two]));
    for (index, name) in ["sh", "two"].into_iter().enumerate() {
        sandbox.create(name, &modelfile(&file.display().to_string(), index));
    }
    let server = sandbox.serve(&[]);
    let tools = json!([{ "type": "web_search" }, { "type": "local_shell" }, { "type": "custom", "name": "sh" }]);
    let body = json!({ "model": "sh", "input": "list the files", "tools": tools });
    let answer = ask(&server, RESPONSES, &body);
    assert_eq!(
        answer.header("Puna-Ignored"),
        Some("tools.web_search, tools.local_shell"),
        "{answer:?}"
    );
    let item = answer.json()["output"][0].clone();
    assert_eq!(
        (&item["type"], &item["input"]),
        (&json!("custom_tool_call"), &json!("ls -l")),
        "{item}"
    );
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let events = ask(&server, RESPONSES, &streamed).body;
    assert!(
        events.contains("event: response.custom_tool_call_input.done"),
        "{events}"
    );
    let later = json!([{ "role": "user", "content": "list" }, item, { "type": "custom_tool_call_output", "call_id": item["call_id"], "output": "a" }]);
    let again = json!({ "model": "sh", "input": later, "tools": tools });
    assert_eq!(ask(&server, RESPONSES, &again).status, 200);
    let reference = json!({ "model": "sh", "input": [{ "type": "item_reference", "id": "rs_1" }] });
    let refused = ask(&server, RESPONSES, &reference);
    assert!(
        refused.status == 400 && refused.body.contains("not stored here"),
        "{refused:?}"
    );

    // One call where one is asked for.
    let functions: Vec<Json> = ["one", "two"]
        .iter()
        .map(|name| json!({ "type": "function", "function": { "name": name, "parameters": { "type": "object" } } }))
        .collect();
    let calls = |more: Json| {
        let mut body = json!({ "model": "two", "messages": [{ "role": "user", "content": "go" }], "tools": functions });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let answer = post(&server, CHAT, &body);
        let calls = answer["choices"][0]["message"]["tool_calls"]
            .as_array()
            .cloned();
        let names = calls
            .into_iter()
            .flatten()
            .map(|call| call["function"]["name"].as_str().unwrap().to_string());
        names.collect::<Vec<_>>()
    };
    assert_eq!(calls(json!({})), ["one", "two"]);
    assert_eq!(calls(json!({ "parallel_tool_calls": false })), ["one"]);
    let anthropic = json!({ "model": "two", "max_tokens": 200, "messages": [{ "role": "user", "content": "go" }],
        "tools": [{ "name": "one", "input_schema": { "type": "object" } }, { "name": "two", "input_schema": { "type": "object" } }],
        "tool_choice": { "type": "auto", "disable_parallel_tool_use": true } });
    let content = post(&server, MESSAGES, &anthropic)["content"].clone();
    let uses = content
        .as_array()
        .unwrap()
        .iter()
        .filter(|block| block["type"] == "tool_use");
    assert_eq!(uses.count(), 1, "{content}");
    let wrong = json!({ "type": "allowed_tools", "allowed_tools": { "mode": "auto", "tools": [{ "type": "function", "function": { "name": "three" } }] } });
    let body = json!({ "model": "two", "messages": [{ "role": "user", "content": "go" }], "tools": functions, "tool_choice": wrong });
    assert_eq!(ask(&server, CHAT, &body).status, 400);
}

#[test]
fn tools_and_a_schema_give_a_call_or_an_answer() {
    let sandbox = Sandbox::with_smol();
    let call = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"a\": 1}}\n</tool_call>";
    let file = sandbox.file("scripted.gguf", scripted_gguf(&[call, "{\"ok\": true}"]));
    for (index, name) in ["calls", "answers"].into_iter().enumerate() {
        sandbox.create(name, &modelfile(&file.display().to_string(), index));
    }
    let server = sandbox.serve(&[]);
    let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"] });
    let tool = json!({ "type": "function", "function": { "name": "look", "parameters": { "type": "object", "properties": { "a": { "type": "integer" } } } } });
    let message = |model: &str, more: Json| {
        let mut body = json!({ "model": model, "messages": [{ "role": "user", "content": "go" }], "tools": [tool],
            "response_format": { "type": "json_schema", "json_schema": { "schema": schema } } });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        post(&server, CHAT, &body)["choices"][0]["message"].clone()
    };
    let called = message("calls", json!({}));
    assert_eq!(
        called["tool_calls"][0]["function"]["name"], "look",
        "{called}"
    );
    let answered = message("answers", json!({}));
    assert_eq!(answered["content"], "{\"ok\": true}", "{answered}");
    assert!(answered.get("tool_calls").is_none(), "{answered}");
    let required = message("calls", json!({ "tool_choice": "required" }));
    assert_eq!(
        required["tool_calls"][0]["function"]["name"], "look",
        "{required}"
    );
    let native = json!({ "model": "calls", "messages": [{ "role": "user", "content": "go" }], "tools": [tool], "format": schema, "stream": false });
    let native = post(&server, "/api/chat", &native)["message"].clone();
    assert_eq!(
        native["tool_calls"][0]["function"]["name"], "look",
        "{native}"
    );
}
