//! The command line with a server that is not puna.

use serde_json::json;

use crate::support::Sandbox;
use crate::support::scripted_server::{Say, Scripted};

/// A server that answers every chat with this text.
fn says(text: &'static str) -> Scripted {
    Scripted::new(move |asked| {
        let record = json!({"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": true,
            "message": {"role": "assistant", "content": text}, "done_reason": "stop"});
        match asked.line.as_str() {
            "POST /api/chat" => Say(200, vec![], format!("{record}\n").into_bytes()),
            "GET /api/version" => Say(200, vec![], br#"{"version":"0.0.0"}"#.to_vec()),
            _ => Say(404, vec![], Vec::new()),
        }
    })
}

#[test]
fn puna_features_are_not_requested_from_other_servers() {
    let (sandbox, server) = (Sandbox::new(), says("hello"));
    let host = server.address.to_string();
    let grammar = sandbox.file("g.gbnf", "root ::= \"a\"");
    let grammar = grammar.to_str().unwrap();
    for (flag, value) in [("--grammar", grammar), ("--overflow", "head")] {
        let words = ["run", "--host", &host, "m", "hi", flag, value];
        let done = sandbox.puna(&words, "");
        done.fails(2, &format!("is not puna and does not support {flag}"));
    }
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.line != "POST /api/chat")
    );
    let done = sandbox.puna(&["run", "--host", &host, "m", "hi"], "");
    assert_eq!(done.ok(), "hello\n");
}

#[test]
fn a_constraint_that_a_server_ignores_is_an_error() {
    let sandbox = Sandbox::new();
    for (text, status) in [("{\"a\": 1}", 0), ("[1]", 1), ("Sure! {\"a\": 1}", 1)] {
        let server = says(text);
        let host = server.address.to_string();
        let words = ["run", "--host", &host, "m", "hi", "--format", "json"];
        let done = sandbox.puna(&words, "");
        assert_eq!(done.status, Some(status), "{text}: {done:?}");
        assert_eq!(
            done.stderr.contains("does not match the requested format"),
            status == 1
        );
    }
}
