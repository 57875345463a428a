//! Models that were made here, copied or changed: no pull replaces them unasked.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::json;

use super::pull::{quick, weights};
use crate::support::Sandbox;
use crate::support::scripted_registry::Registry;

#[test]
fn a_model_that_was_made_here_is_never_replaced_unasked() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    registry.model("mine", &weights());
    registry.model("theirs", &weights());
    let [mine, theirs] = ["lib/mine", "lib/theirs"].map(|name| registry.name(name));
    sandbox.file("own.gguf", crate::support::tiny_gguf());
    let create = |name: &str, text: &str| {
        let words = ["create", name, "-q", "-f", "-"];
        sandbox.puna(&words, text).ok();
    };
    create(&mine, "FROM ./own.gguf\nSYSTEM precious\n");
    quick(&sandbox, &["pull", "--insecure", &theirs]).ok();
    let system = || sandbox.puna(&["show", "--system", &mine], "").ok();
    let is_own = || assert_eq!(system().trim(), "precious");
    quick(&sandbox, &["pull"]).fails(2, "no model given");
    quick(&sandbox, &["pull", "--all", "--insecure"]).ok();
    is_own();
    let outdated = quick(&sandbox, &["outdated", "--insecure"]);
    assert_eq!((outdated.status, outdated.stdout.as_str()), (Some(0), ""));
    let refused = format!("{mine}:latest was made here: --replace puts another in its place");
    quick(&sandbox, &["pull", "--insecure", &mine]).fails(12, &refused);
    is_own();
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let body = |replace: bool| {
        let request =
            json!({"model": &mine, "insecure": true, "stream": false, "replace": replace});
        request.to_string()
    };
    let answer = server.ask("POST", "/api/pull", &body(false));
    assert_eq!((answer.status, answer.error()), (500, refused.clone()));
    is_own();
    // So is a copy of a model that was pulled, and one that was changed.
    let copy = registry.name("lib/copy");
    registry.model("copy", &[weights(), vec![0; 32]].concat());
    sandbox.puna(&["cp", &theirs, &copy], "").ok();
    quick(&sandbox, &["pull", "--insecure", &copy]).fails(12, "was made here");
    create(&theirs, &format!("FROM {theirs}\nSYSTEM changed\n"));
    quick(&sandbox, &["pull", "--insecure", &theirs]).fails(12, "was made here");
    // Asked, it is replaced, and then it is a pulled one.
    quick(&sandbox, &["pull", "--insecure", "--replace", &theirs]).ok();
    quick(&sandbox, &["pull", "--insecure", &theirs]).ok();
    assert_eq!(server.ask("POST", "/api/pull", &body(true)).status, 200);
    assert_ne!(system().trim(), "precious");
    quick(&sandbox, &["pull", "--insecure", &mine]).ok();
    // Removed, its name is free.
    sandbox.puna(&["rm", &copy], "").ok();
    quick(&sandbox, &["pull", "--insecure", &copy]).ok();
}

#[test]
fn what_was_made_here_and_replaced_stays_for_a_day() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    registry.model("mine", &weights());
    let mine = registry.name("lib/mine");
    sandbox.file("own.gguf", crate::support::tiny_gguf());
    let create = |text: &str| _ = sandbox.puna(&["create", &mine, "-q", "-f", "-"], text).ok();
    create("FROM ./own.gguf\nSYSTEM precious\n");
    let blob = sandbox.puna(&["path", &mine], "").ok();
    let blob = std::path::Path::new(blob.trim());
    quick(&sandbox, &["pull", "--insecure", "--replace", &mine]).ok();
    let shown = sandbox.puna(&["du"], "").ok();
    assert!(
        shown.contains("(replaced)\t") && !shown.contains("(unused)"),
        "{shown}"
    );
    assert_eq!(sandbox.puna(&["gc", "--older-than", "0s"], "").ok(), "");
    assert!(blob.exists());
    // After a day, or when asked for, it goes.
    let old = "find .local/share/puna/models/replaced -type f -exec touch -d '2 days ago' {} +";
    sandbox.shell(old).ok();
    let gone = sandbox.puna(&["gc", "--older-than", "0s"], "").ok();
    assert!(
        gone.starts_with("replaced\t") && gone.contains("\nblob\t"),
        "{gone}"
    );
    assert!(!blob.exists());
    // What is removed on purpose goes at once, with what it replaced.
    create("FROM ./own.gguf\nSYSTEM one\n");
    quick(&sandbox, &["pull", "--insecure", "--replace", &mine]).ok();
    let collect = ["gc", "--replaced", "--older-than", "0s", "--dry-run"];
    let listed = sandbox.puna(&collect, "").ok();
    assert!(listed.starts_with("replaced\t"), "{listed}");
    sandbox.puna(&["rm", &mine], "").ok();
    assert_eq!(
        sandbox
            .puna(&["gc", "--replaced", "--older-than", "0s"], "")
            .ok(),
        ""
    );
    assert_eq!(sandbox.puna(&["du"], "").ok(), "");
}

#[test]
fn a_registry_in_plain_http_is_told() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/lib/mine", listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        // What a server says to the first bytes of TLS.
        for stream in listener.incoming().take(1) {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let hint = "it speaks plain http, which --insecure allows";
    quick(&sandbox, &["pull", &name]).fails(2, hint);
    answering.join().unwrap();
}

#[test]
fn a_file_replaces_no_model_that_was_made_here() {
    let sandbox = Sandbox::new();
    sandbox.file("own.gguf", crate::support::tiny_gguf());
    let words = ["create", "mine", "-q", "-f", "-"];
    sandbox
        .puna(&words, "FROM ./own.gguf\nSYSTEM precious\n")
        .ok();
    let pull = |flags: &[&str]| {
        let words = [&["pull", "file:own.gguf", "--name", "mine"], flags].concat();
        sandbox.puna(&words, "")
    };
    pull(&[]).fails(
        12,
        "mine:latest was made here: --replace puts another in its place",
    );
    pull(&["--check"]).fails(2, "are for models of registries");
    assert_eq!(
        sandbox.puna(&["show", "--system", "mine"], "").ok().trim(),
        "precious"
    );
    pull(&["--replace"]).ok();
    // What was replaced stays for a day.
    let replaced = sandbox.models().join("replaced");
    assert!(std::fs::read_dir(replaced).unwrap().next().is_some());
}
