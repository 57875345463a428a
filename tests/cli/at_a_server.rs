//! Commands at a server that redirects, stops, fails, or has other words for it.

use std::process::Stdio;

use crate::support::scripted_server::{Say, Scripted};
use crate::support::{Done, Sandbox, tiny_models};

#[test]
fn a_redirection_is_named_and_not_followed() {
    let sandbox = Sandbox::new();
    let target = Scripted::new(|_| Say(200, vec![], b"{}".to_vec()));
    let to = format!("http://{}/", target.address);
    let redirecting = Scripted::new(move |_| Say(301, vec![("Location", to.clone())], vec![]));
    let host = redirecting.address.to_string();
    for words in [
        &["ls"][..],
        &["run", "m", "hi"],
        &["rm", "m"],
        &["pull", "m"],
    ] {
        let done = sandbox.puna(&[words, &["--host", &host]].concat(), "");
        done.fails(7, &format!("redirects to http://{}/", target.address));
    }
    assert!(target.asked().is_empty());
}

#[test]
fn a_failure_in_the_middle_keeps_its_class() {
    let (here, there) = (Sandbox::new(), Sandbox::with_smol());
    let server = there.serve(&[("PUNA_SOCKET", "")]);
    // No registry listens there: it is the server that finds out.
    for words in [
        &["pull", "127.0.0.1:1/a/b", "--insecure", "-q"][..],
        &["push", "127.0.0.1:1/a/b", "--insecure", "-q"],
    ] {
        there.puna(&["cp", "smol", "127.0.0.1:1/a/b"], "").ok();
        let done = here.puna(&[words, &["--host", &server.at]].concat(), "");
        done.fails(7, "127.0.0.1:1");
    }
    let answer = server.ask(
        "POST",
        "/api/pull",
        r#"{"model": "127.0.0.1:1/c/d", "insecure": true}"#,
    );
    let last = answer.lines().pop().unwrap();
    assert_eq!(last["puna_error"], "network", "{answer:?}");
}

#[test]
fn a_server_that_stops_is_told_as_one() {
    let (here, there) = (Sandbox::new(), Sandbox::with_smol());
    let server = there.serve(&[("PUNA_SOCKET", "")]);
    here.file("endless.gbnf", "root ::= [a-z ] root\n");
    let words = [
        "run",
        "smol",
        "hi",
        "--host",
        &server.at,
        "-n",
        "4000",
        "--grammar",
        "endless.gbnf",
        "-o",
        "num_ctx=8192",
    ];
    let mut command = here.command(&words);
    let client = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .stdin(Stdio::null());
    let mut client = client.spawn().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(client.stdout.as_mut().unwrap(), &mut first).unwrap();
    server.end("-TERM");
    let done = client.wait_with_output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(7), "{told}");
    assert!(
        told.contains("stopped before the answer was complete"),
        "{told}"
    );
    assert!(done.stdout.ends_with(b"\n"), "a cut answer ends its line");
}

#[test]
fn what_fails_every_record_is_told_once() {
    let sandbox = Sandbox::new();
    let page = Scripted::new(|_| Say(200, vec![], b"<html>hello</html>".to_vec()));
    let other =
        Scripted::new(|_| Say(404, vec![], br#"{"error": "model 'm' not found"}"#.to_vec()));
    for (server, status, text) in [
        (&page, 7, "invalid answer"),
        (&other, 3, "model 'm' not found"),
    ] {
        let words = [
            "map",
            "m",
            "-p",
            "{}",
            "--host",
            &server.address.to_string(),
        ];
        sandbox.puna(&words, "a\nb\nc\n").fails(status, text);
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_or_noted() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    let long = "word ".repeat(300);
    let render = |more: &[&str]| {
        let words = ["render", "smol", "--num-ctx", "64", "--overflow"];
        sandbox.puna(&[&words[..], more].concat(), &long)
    };
    render(&["error"]).fails(4, "64");
    let note = |done: &Done| {
        done.stderr
            .contains("tokens were dropped to make the prompt fit")
    };
    let (here, there) = (render(&["tail"]), render(&["tail", "--host", &server.at]));
    assert!(note(&here) && note(&there), "{here:?} {there:?}");
    assert_eq!(here.ok(), there.ok());
    render(&["error", "--host", &server.at]).fails(2, "--overflow error");
}

#[test]
fn what_stands_twice_in_a_file_is_refused() {
    let sandbox = Sandbox::with_smol();
    let question = r#"{"type": "noul", "instructions": "?"}"#;
    sandbox.file(
        "ids.json",
        format!(r#"{{"a": {question}, "a": {question}}}"#),
    );
    let named = r#"{"type": "predicate", "instructions": "?", "name": "a"}"#;
    sandbox.file("names.json", format!("[{named}, {named}]"));
    sandbox.file(
        "chat.json",
        r#"[{"role": "user", "content": "a", "content": "b"}]"#,
    );
    sandbox.file("schema.json", r#"{"type": "object", "type": "array"}"#);
    for (words, status, text) in [
        (
            &["choose", "smol", "--questions", "ids.json"][..],
            2,
            "'a' stands twice",
        ),
        (
            &["choose", "smol", "--questions", "names.json"],
            2,
            "two questions have the id 'a'",
        ),
        (
            &["run", "smol", "--messages", "chat.json"],
            2,
            "'content' stands twice",
        ),
        (
            &["run", "smol", "hi", "--schema", "schema.json"],
            5,
            "'type' stands twice",
        ),
    ] {
        sandbox.puna(words, "text").fails(status, text);
    }
}

#[test]
fn notes_tell_what_a_modelfile_did_not_get() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_models::llama());
    let create = |name: &str, text: &str, more: &[&str]| {
        let done = sandbox.puna(&[&["create", name, "-f", "-"], more].concat(), text);
        assert_eq!(done.status, Some(0), "{done:?}");
        done.stderr
    };
    let newer = create("one", "FROM ./tiny.gguf\nREQUIRES 99.1\n", &[]);
    assert!(newer.contains("is for Ollama 99.1 or later"), "{newer}");
    assert_eq!(
        create("two", "FROM ./tiny.gguf\nREQUIRES 0.14.0\n", &[]),
        ""
    );
    let linked = create("three", "FROM ./tiny.gguf\n", &["--link"]);
    assert!(
        linked.contains("has a copy of this file already"),
        "{linked}"
    );
    let done = sandbox.puna(&["run", "one", "hi", "-n", "1"], "");
    assert!(done.stderr.contains("one is for Ollama 99.1"), "{done:?}");
}

#[test]
fn a_server_has_our_words_for_our_commands() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let here = sandbox.puna(&["embed", "smol"], "a\n");
    let there = sandbox.puna(&["embed", "smol", "--host", &server.at], "a\n");
    assert_eq!(here.stderr, there.stderr);
    there.fails(2, "smol is not an embedding model");
    sandbox.file("notes.txt", "Nothing.\n");
    for more in [&[][..], &["--host", &server.at]] {
        let words = [&["create", "x", "-q", "-f", "-"], more].concat();
        let done = sandbox.puna(&words, "FROM ./notes.txt\n");
        done.fails(2, "notes.txt is a text file, not a model");
    }
}
