//! The command line with a server that is not puna.

use serde_json::json;

use crate::engine::minilm::minilm;
use crate::support::scripted_server::{Say, Scripted};
use crate::support::{self, Sandbox, run, smol};

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
fn what_a_server_has_no_route_for_is_told() {
    let (sandbox, server) = (Sandbox::new(), says("hello"));
    let host = server.address.to_string();
    for words in [
        &["tokens", "m"][..],
        &["choose", "m", "--score", "-Q", "?", "a", "b"],
    ] {
        let done = sandbox.puna(&[words, &["--host", &host]].concat(), "text");
        done.fails(2, "cannot do this: it has no such route");
    }
    let done = sandbox.puna(&["render", "m", "hi", "--host", &host], "");
    done.fails(2, "renders no prompts");
    let other = Scripted::new(|_| {
        let body = br#"{"error": {"message": "no model m here", "type": "not_found"}}"#;
        Say(404, vec![], body.to_vec())
    });
    let host = other.address.to_string();
    let done = sandbox.puna(&["tokens", "m", "--host", &host], "text");
    done.fails(3, "no model m here");
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

#[test]
fn the_class_of_a_remote_error_is_in_a_header() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    let long = "word ".repeat(200);
    let body = json!({"model": "smol", "prompt": long, "options": {"num_ctx": 64}, "truncate": false,
        "stream": false});
    let answer = server.ask("POST", "/api/generate", &body.to_string());
    assert_eq!(answer.status, 400, "{answer:?}");
    assert_eq!(answer.header("puna-error"), Some("context"), "{answer:?}");
    for words in [vec!["--local"], vec!["--host", &server.at]] {
        let ask = ["run", "smol", "--overflow", "error", "-o", "num_ctx=64"];
        let done = sandbox.puna(&[&ask[..], &words].concat(), &long);
        assert_eq!(done.status, Some(4), "{words:?} {done:?}");
    }
    let answer = server.ask("POST", "/v1/chat/completions", "{\"model\": \"none\"}");
    assert!(answer.header("puna-error").is_some(), "{answer:?}");
}

#[test]
fn a_status_decides_where_no_header_does() {
    let sandbox = Sandbox::new();
    let word = |word: &str| vec![("Puna-Error", word.to_string())];
    for (status, headers, expected) in [
        (400, vec![], 2),
        (400, word("context"), 4),
        (400, word("a word of a later version"), 2),
        (404, vec![], 3),
        (404, word("usage"), 2),
        (500, vec![], 1),
        (500, word("context"), 4),
    ] {
        let what = format!("{status} {headers:?}");
        let server = Scripted::new(move |asked| match asked.line.as_str() {
            "GET /api/version" => Say(200, vec![], br#"{"version":"0.0.0"}"#.to_vec()),
            _ => Say(
                status,
                headers.clone(),
                br#"{"error": "the context is the model"}"#.to_vec(),
            ),
        });
        let host = server.address.to_string();
        println!("{what}: {expected}");
        let done = sandbox.puna(&["run", "--host", &host, "m", "hi"], "");
        done.fails(expected, "the context is the model");
    }
}

#[test]
fn with_a_server_named_nothing_happens_here() {
    let (here, there) = (Sandbox::with_smol(), Sandbox::with_smol());
    there.create("mini", &format!("FROM {}\n", minilm().display()));
    let server = there.serve(&[("PUNA_SOCKET", "")]);
    let at = server.at.clone();
    let run = |words: &[&str], input: &str| {
        let mut command = here.command(words);
        run(command.env("PUNA_HOST", &at), input)
    };
    // Each of these is done by the server, and the store here stays as it is.
    let before = here.puna(&["ls"], "").ok();
    assert!(run(&["ls"], "").ok().contains("mini:latest\tsha256:"));
    assert_eq!(run(&["ls", "mi", "--json"], "").ok().lines().count(), 1);
    run(&["cp", "mini", "small"], "").ok();
    let shown = run(&["show", "small"], "").ok();
    assert!(shown.contains("capabilities\tembedding\n"), "{shown}");
    assert!(
        run(&["show", "small", "--modelfile"], "")
            .ok()
            .contains("FROM")
    );
    let vectors = run(&["embed", "small"], "a whale\na car\n").ok();
    assert_eq!(
        vectors,
        there.puna(&["embed", "mini"], "a whale\na car\n").ok()
    );
    let near = run(&["nearest", "small", "the sea", "--top", "1"], &vectors).ok();
    assert!(near.ends_with("\ta whale\n"), "{near}");
    let ranked = run(
        &["rerank", "small", "the sea", "--top", "1"],
        "a car\na whale\n",
    )
    .ok();
    assert!(ranked.ends_with("\ta whale\n"), "{ranked}");
    let words = [
        "map",
        "smol",
        "-n",
        "4",
        "--temperature",
        "0",
        "-p",
        "Say {}",
    ];
    let answers = run(&words, "one\ntwo\n").ok();
    assert_eq!(answers, there.puna(&words, "one\ntwo\n").ok());
    run(&["rm", "small"], "").ok();
    run(&["rm", "small"], "").fails(3, "not found");
    run(&["rm", "-f", "small"], "").ok();
    assert!(!there.puna(&["ls"], "").ok().contains("small"));
    // Tokens, prompts and decisions are the server's.
    let text = "A whale is no fish. It breathes.\nA car is red.\n";
    let alike: [&[&str]; 11] = [
        &["tokens", "smol"],
        &["tokens", "smol", "--pieces"],
        &["tokens", "smol", "--ids", "--json"],
        &["tokens", "smol", "--head", "3"],
        &["tokens", "smol", "--tail", "3"],
        &["tokens", "smol", "--split", "4"],
        &["render", "smol", "-s", "Be brief.", "hi"],
        &["render", "smol", "--raw", "hi"],
        &[
            "render",
            "smol",
            "--overflow",
            "head",
            "--num-ctx",
            "64",
            "--json",
            "hi",
        ],
        &[
            "choose",
            "smol",
            "-Q",
            "Where?",
            "sea=in water",
            "land=",
            "--json",
        ],
        &[
            "choose", "smol", "--score", "-Q", "How red?", "not", "a bit", "very",
        ],
    ];
    for words in alike {
        assert_eq!(
            run(words, text).ok(),
            there.puna(words, text).ok(),
            "{words:?}"
        );
    }
    let yes = ["choose", "smol", "--yes-no", "-Q", "Is it a fish?"];
    let (far, near) = (run(&yes, text), there.puna(&yes, text));
    assert_eq!((far.status, far.stdout), (near.status, near.stdout));
    for (words, why) in [
        (&["choose", "smol", "a", "b"][..], "describe them"),
        (
            &["choose", "smol", "-s", "x", "a=b", "c"],
            "--system cannot be used with a server",
        ),
        (
            &["render", "smol", "--tokens", "x"],
            "--tokens cannot be used with a server",
        ),
    ] {
        let done = run(words, "text");
        assert!(done.stderr.contains(why), "{words:?}: {done:?}");
        assert!(matches!(done.status, Some(2)), "{words:?}: {done:?}");
    }
    // The others do nothing.
    let refused: [&[&str]; 6] = [
        &["gc"],
        &["du"],
        &["verify"],
        &["outdated"],
        &["export", "smol"],
        &["path", "smol"],
    ];
    for words in refused {
        run(words, "text").fails(2, "works with the models of this machine only");
    }
    assert_eq!(here.puna(&["ls"], "").ok(), before);
    // A model in a file is here, and a server that is not there is no reason to use this store.
    let smol = smol();
    let file = smol.to_str().unwrap();
    assert!(run(&["tokens", file], "one").ok().contains('1'));
    drop(server);
    run(&["rm", "smol"], "").fails(7, "no server at");
    assert_eq!(here.puna(&["ls"], "").ok(), before);
    let mut lost = here.command(&["ls"]);
    let lost = support::run(lost.env("PUNA_HOST", "nohost.invalid"), "");
    lost.fails(7, "no connection to http://nohost.invalid:11434: ");
}
