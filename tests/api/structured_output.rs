//! Constrained output: JSON, schemas, grammars, tool calls.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use puna::core::message::Tool;
use puna::core::special_tokens::Specials;
use puna::format::reply::{Format, Thought, ToolGrammar};
use puna::system::engine::Compiler;
use serde_json::{Value as Json, json};

use crate::support::{Sandbox, Server, smol};

/// SmolLM2 has neither tools nor thinking: this template adds both, badly.
pub const TEMPLATE: &str = r#"{{- if .Tools }}<|im_start|>system
Functions: {{ range .Tools }}{{ .Function }}
{{ end }}<|im_end|>
{{ end }}
{{- range .Messages }}
{{- if eq .Role "tool" }}<|im_start|>user
<tool_response>{{ .Content }}</tool_response><|im_end|>
{{ else if ne .Role "system" }}<|im_start|>{{ .Role }}
{{ if .Thinking }}<think>
{{ .Thinking }}
</think>

{{ end }}{{ .Content }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}<|im_end|>
{{ end }}
{{- end }}<|im_start|>assistant
"#;

/// A schema with several types of fields.
pub const PERSON: &str = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":10},"age":{"type":"integer","minimum":0,"maximum":150},"mood":{"enum":["good","bad"]},"tags":{"type":"array","items":{"type":"string","maxLength":6},"maxItems":1}},"required":["name","age","mood","tags"],"additionalProperties":false}"#;

/// The tools of these tests.
pub fn tools() -> Json {
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer"}}, "required": ["city", "days"], "additionalProperties": false}}},
        {"type": "function", "function": {"name": "set_alarm", "parameters": {"type": "object", "properties": {"at": {"enum": ["noon", "midnight"]}}, "required": ["at"], "additionalProperties": false}}}
    ])
}

/// A sandbox with the models of these tests.
pub fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_smol();
    let modelfile = format!(
        "FROM {}\nTEMPLATE \"\"\"{TEMPLATE}\"\"\"\n",
        smol().display()
    );
    sandbox.create("tooly", &modelfile);
    sandbox
}

/// True if the tool grammar accepts calls as the template writes them, and accepts their end.
pub fn held_by_grammar(format: &Format, tools: &[Tool], text: &str) -> bool {
    let Some(shape) = format
        .calls
        .as_ref()
        .filter(|shape| !shape.trigger().is_empty())
    else {
        return true;
    };
    let none = Specials::new([]).unwrap();
    let tool_grammar = ToolGrammar {
        format,
        thought: Thought::None,
        specials: &none,
    };
    let tools: Vec<&Tool> = tools.iter().collect();
    let grammar = tool_grammar.calls_behind_trigger(shape, &tools);
    let (_, calls) = text.split_once(shape.trigger()).unwrap();
    let compiler = Compiler::for_bytes().unwrap();
    let calls = calls.trim_end();
    // Cohere's templates number the calls in a key that the grammar does not include.
    if calls.contains("\"tool_call_id\"") {
        return true;
    }
    // In one family the end token is part of the closing tag; \\u escapes are never needed.
    let endings = format.ends.iter().map(String::as_str).chain([""]);
    let mut held = endings.map(|end| compiler.accepts(&grammar, &format!("{calls}{end}")));
    held.any(Result::unwrap) || calls.contains("\\u00e9")
}

/// Sends `count` requests over eight connections, each with a different seed.
fn many(
    server: &Server,
    count: usize,
    body: impl Fn(usize) -> Json + Sync,
    check: impl Fn(&Json) + Sync,
) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    check(&server.post("/api/chat", &body(seed).to_string()));
                }
            });
        }
    });
}

fn is_person(text: &str) {
    let person: Json = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let fields: Vec<&String> = person.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["name", "age", "mood", "tags"], "{text}");
    assert!(
        person["name"].as_str().unwrap().chars().count() <= 10,
        "{text}"
    );
    assert!(
        (0..=150).contains(&person["age"].as_i64().unwrap()),
        "{text}"
    );
    assert!(
        ["good", "bad"].contains(&person["mood"].as_str().unwrap()),
        "{text}"
    );
    assert!(person["tags"].as_array().unwrap().len() <= 1, "{text}");
}

#[test]
fn two_hundred_answers_of_a_schema_are_valid() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let schema: Json = serde_json::from_str(PERSON).unwrap();
    let body = |seed: usize| {
        json!({"model": "smol", "stream": false, "format": schema, "options": {"temperature": 1, "seed": seed, "num_predict": 200},
               "messages": [{"role": "user", "content": format!("Invent person number {seed} as JSON.")}]})
    };
    let complete = AtomicUsize::new(0);
    many(&server, 200, body, |answer| {
        if answer["done_reason"] == "stop" {
            is_person(answer["message"]["content"].as_str().unwrap());
            complete.fetch_add(1, Ordering::Relaxed);
        } else {
            assert_eq!(answer["done_reason"], "length", "{answer}");
        }
    });
    // An answer that the limit cut proves nothing.
    let complete = complete.into_inner();
    assert!(complete >= 150, "only {complete} of 200 were complete");
}

#[test]
fn a_hundred_required_calls_are_valid() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let body = |seed: usize| {
        json!({"model": "tooly", "stream": false, "think": false, "tools": tools(), "tool_choice": "required",
               "options": {"temperature": 1, "seed": seed, "num_predict": 300},
               "messages": [{"role": "user", "content": format!("Weather in city {seed}?")}]})
    };
    many(&server, 100, body, |answer| {
        let calls = answer["message"]["tool_calls"]
            .as_array()
            .unwrap_or_else(|| panic!("{answer}"));
        assert!(
            !calls.is_empty() && answer["message"]["content"] == "",
            "{answer}"
        );
        for call in calls {
            let function = &call["function"];
            let arguments = function["arguments"].as_object().unwrap();
            match function["name"].as_str().unwrap() {
                "get_weather" => {
                    assert!(
                        arguments["city"].is_string() && arguments["days"].is_i64(),
                        "{answer}"
                    );
                    assert_eq!(arguments.len(), 2, "{answer}");
                }
                "set_alarm" => assert!(
                    ["noon", "midnight"].contains(&arguments["at"].as_str().unwrap()),
                    "{answer}"
                ),
                other => panic!("{other}: {answer}"),
            }
            let id = call["id"].as_str().unwrap();
            assert!(id.starts_with("call_") && id.len() == 13, "{id}");
        }
    });
}

/// A conversation with a pattern that even a small model continues.
fn pattern() -> Json {
    let mut messages = Vec::new();
    for city in ["Rome", "Paris", "London", "Berlin", "Madrid"] {
        let call =
            json!({"function": {"name": "get_weather", "arguments": {"city": city, "days": 1}}});
        messages.push(json!({"role": "user", "content": format!("Weather in {city}?")}));
        messages.push(json!({"role": "assistant", "content": "", "tool_calls": [call]}));
        messages.push(json!({"role": "tool", "content": "sunny"}));
        messages.push(json!({"role": "assistant", "content": "It is sunny."}));
    }
    messages.push(json!({"role": "user", "content": "Weather in Lisbon?"}));
    messages.into()
}

#[test]
fn an_optional_call_is_distinguished_from_text() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let mut body = json!({"model": "tooly", "stream": true, "tools": tools(), "options": {"temperature": 0, "num_predict": 80, "stop": ["</tool_call>"]}, "messages": pattern()});
    let lines = server.ask("POST", "/api/chat", &body.to_string()).lines();
    let calls: Vec<&Json> = lines
        .iter()
        .filter(|line| line["message"]["tool_calls"].is_array())
        .collect();
    assert!(!calls.is_empty(), "{lines:?}");
    let call = &calls[0]["message"]["tool_calls"][0]["function"];
    assert_eq!(
        (&call["index"], &call["name"]),
        (&json!(0), &json!("get_weather"))
    );
    assert!(call["arguments"]["city"].is_string() && call["arguments"]["days"].is_i64());
    assert_eq!(
        (&calls[0]["done"], &calls[0]["message"]["content"]),
        (&json!(false), &json!(""))
    );
    let answer_text: String = lines
        .iter()
        .filter_map(|line| line["message"]["content"].as_str())
        .collect();
    assert!(
        !answer_text.contains('<') && !answer_text.contains('{'),
        "{answer_text}"
    );
    // Without tools, the same output is plain text.
    body["tools"] = json!([]);
    let lines = server.ask("POST", "/api/chat", &body.to_string()).lines();
    let answer_text: String = lines
        .iter()
        .filter_map(|line| line["message"]["content"].as_str())
        .collect();
    assert!(answer_text.contains("<tool_call>"), "{answer_text}");
}

#[test]
fn the_command_line_enforces_constraints_too() {
    let sandbox = sandbox();
    let schema = sandbox.file("person.json", PERSON);
    let schema = schema.to_str().unwrap();
    let grammar = sandbox.file("g.gbnf", "root ::= (\"yes\" | \"no\") \"!\"\n");
    let tools = sandbox.file("tools.json", tools().to_string());
    let tools = tools.to_str().unwrap();
    let answer = sandbox
        .puna(
            &[
                "run",
                "smol",
                "A person as JSON",
                "--schema",
                schema,
                "--seed",
                "1",
            ],
            "",
        )
        .ok();
    is_person(&answer);
    let at = format!("@{schema}");
    is_person(
        &sandbox
            .puna(
                &[
                    "run",
                    "smol",
                    "A person as JSON",
                    "--format",
                    &at,
                    "--seed",
                    "2",
                ],
                "",
            )
            .ok(),
    );
    let answer = sandbox
        .puna(
            &[
                "run",
                "smol",
                "Is it?",
                "--grammar",
                grammar.to_str().unwrap(),
            ],
            "",
        )
        .ok();
    assert!(["yes!\n", "no!\n"].contains(&answer.as_str()), "{answer}");
    let answer = sandbox
        .puna(
            &[
                "run",
                "tooly",
                "Weather in Rome?",
                "--tools",
                tools,
                "--tool-choice",
                "set_alarm",
                "--seed",
                "1",
            ],
            "",
        )
        .ok();
    let call: Json = serde_json::from_str(answer.lines().next().unwrap()).unwrap();
    assert_eq!(call["function"]["name"], "set_alarm");
    let cut = sandbox.puna(
        &["run", "smol", "A person", "--schema", schema, "-n", "3"],
        "",
    );
    assert!(cut.stdout.starts_with('{'), "{}", cut.stdout);
    assert_eq!(cut.status, Some(6), "{cut:?}");
    assert!(
        cut.stderr.contains("the token limit cut the answer"),
        "{cut:?}"
    );
}

#[test]
fn unsupported_constraints_fail_before_the_first_token() {
    let sandbox = sandbox();
    let server = sandbox.serve(&[]);
    let deep = format!(
        "root ::= {}\"a\"{}",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    let wide = format!("root ::= {}\"a\"", "\"a\" | ".repeat(60_000));
    let nested = format!(
        "{}{{}}{}",
        "{\"items\":".repeat(100_000),
        "}".repeat(100_000)
    );
    for (flag, content, words) in [
        (
            "--schema",
            r#"{"type":"bogus"}"#,
            "the schema is not accepted: Invalid type: bogus",
        ),
        (
            "--schema",
            r#"{"type":"object","properties":{"a":{"unevaluatedItems":false,"not":{}}}}"#,
            "the schema is not accepted",
        ),
        (
            "--schema",
            r#"{"type":"string","pattern":"^+a"}"#,
            "repeats nothing",
        ),
        (
            "--schema",
            r#"[1]"#,
            "is not a JSON Schema: it is not an object",
        ),
        ("--schema", "{", "is not a JSON Schema"),
        ("--schema", nested.as_str(), "is not a JSON Schema"),
        ("--grammar", "nonsense", "the grammar is not accepted"),
        ("--grammar", deep.as_str(), "nested too deeply"),
        ("--grammar", wide.as_str(), "too many alternatives"),
    ] {
        let file = sandbox.file("constraint", content);
        let done = sandbox.puna(
            &[
                "run",
                "smol",
                "x",
                flag,
                file.to_str().unwrap(),
                "-n",
                "5",
                "--local",
            ],
            "",
        );
        assert_eq!(
            done.stdout,
            "",
            "{flag} {}",
            &content[..content.len().min(60)]
        );
        done.fails(5, words);
    }
    let body = json!({"model": "smol", "prompt": "x", "format": {"type": "bogus"}});
    let refused = server.ask("POST", "/api/generate", &body.to_string());
    assert_eq!(refused.status, 400);
    let body = json!({"model": "smol", "prompt": "x", "format": {"enum": (0..60_000).collect::<Vec<i32>>()}});
    let refused = server.ask("POST", "/api/generate", &body.to_string());
    assert_eq!(refused.status, 400, "{}", refused.error());
    for (words, error) in [
        (vec!["--format", "xml"], "--format must be json or @FILE"),
        (
            vec!["--format", "json", "--schema", "x"],
            "cannot be used together",
        ),
        (vec!["--tool-choice", "required"], "there are no tools"),
        (
            vec!["--overflow", "left"],
            "--overflow must be error, head, tail, middle or reduce",
        ),
    ] {
        let words = [vec!["run", "smol", "x"], words].concat();
        sandbox.puna(&words, "").fails(2, error);
    }
}
