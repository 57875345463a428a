//! Wrong usages that a trial of the whole found: each is refused, told, or does what it says.

use std::fs;

use serde_json::json;

use crate::engine::minilm::minilm;
use crate::support::scripted_server::{Say, Scripted};
use crate::support::tiny_models;
use crate::support::{Sandbox, run};

/// A sandbox with the chat model `smol`, the embedder `mini`, and a letter.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_smol();
    sandbox.create("mini", &format!("FROM {}\n", minilm().display()));
    sandbox.file("letter.txt", "Dear Anna, the ship leaves at noon.\n");
    sandbox
}

#[test]
fn a_decision_that_was_skipped_is_no_decision() {
    let sandbox = sandbox();
    let held = "mkdir -p .cache/puna/locks; exec 9> .cache/puna/locks/h; flock 9; ";
    for (words, status) in [
        ("choose smol --yes-no -Q 'Spam?' --lock h --skip -q", 121),
        ("choose smol keep delete --status -q --lock h --skip", 121),
        ("choose smol keep delete --lock h --skip", 0),
        ("run smol hi --lock h --skip", 0),
    ] {
        let done = sandbox.shell(&format!("{held} puna {words} < letter.txt"));
        assert_eq!(
            (done.status, done.stdout.as_str()),
            (Some(status), ""),
            "{words}: {done:?}"
        );
    }
}

#[test]
fn an_answer_whose_grammar_allows_nothing_more_is_whole() {
    let sandbox = sandbox();
    sandbox.file("yn.gbnf", "root ::= \"yes\" | \"no\"\n");
    sandbox.file("digits.gbnf", "root ::= [0-9] [0-9] [0-9]+\n");
    let schema =
        json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]});
    let schema = schema.to_string();
    let words = [
        "run",
        "smol",
        "hi",
        "--temperature",
        "0",
        "--schema",
        &schema,
        "-n",
    ];
    let full = sandbox.puna(&[&words[..], &["100"]].concat(), "").ok();
    let long = (1..100).find(|tokens| {
        let done = sandbox.puna(&[&words[..], &[&tokens.to_string()]].concat(), "");
        assert!(matches!(done.status, Some(0 | 6)), "{done:?}");
        assert_eq!(done.status == Some(0), done.stdout == full, "{done:?}");
        done.status == Some(0)
    });
    assert!(long.is_some());
    for (grammar, status) in [("yn.gbnf", 0), ("digits.gbnf", 6)] {
        let words = [
            "run",
            "smol",
            "hi",
            "--temperature",
            "0",
            "--grammar",
            grammar,
            "-n",
            "2",
        ];
        assert_eq!(sandbox.puna(&words, "").status, Some(status), "{grammar}");
    }
}

#[test]
fn blanks_and_escapes_of_choices_do_not_weigh() {
    let sandbox = sandbox();
    let map = |choices: &str| {
        let words = ["map", "smol", "--choose", choices, "-p", "Is {} an animal?"];
        sandbox.puna(&words, "dog\ncar\n")
    };
    assert_eq!(map("yes, no").ok(), map("yes,no").ok());
    map("yes=it is,no").fails(2, "without a description");
    let letter = fs::read_to_string(sandbox.home.join("letter.txt")).unwrap();
    let choose = |words: &[&str]| sandbox.puna(&[&["choose", "smol"], words].concat(), &letter);
    choose(&["yes", " no"]).fails(2, "begins or ends with a blank");
    assert!(choose(&["a\\=1", "b", "--json"]).ok().contains("\"a=1\""));
    let level = choose(&["--score", "-Q", "How?", "b\\=2", "b\\=2x"]).ok();
    assert!(level.contains("\tb=2"), "{level}");
}

#[test]
fn what_is_made_here_outlives_imports_and_repairs() {
    let sandbox = Sandbox::new();
    sandbox.file("one.gguf", tiny_models::llama());
    sandbox.create("one", "FROM ./one.gguf\n");
    sandbox.shell("puna export one > one.tar").ok();
    sandbox.shell("puna import < one.tar").ok();
    sandbox.create("one", "FROM ./one.gguf\nSYSTEM mine\n");
    let mine = sandbox.puna(&["ls"], "").ok();
    sandbox
        .shell("puna import < one.tar")
        .fails(12, "was made here: --replace");
    assert_eq!(sandbox.puna(&["ls"], "").ok(), mine);
    sandbox.shell("puna import --replace < one.tar").ok();
    assert_ne!(sandbox.puna(&["ls"], "").ok(), mine);
    assert!(sandbox.models().join("replaced").is_dir());
    // A damaged file of one's own is named and stays: no registry has it.
    let copy = ["create", "two", "-q", "-f", "-"];
    sandbox.puna(&copy, "FROM ./one.gguf\n").ok();
    let blob = sandbox.puna(&["path", "two"], "").ok();
    let mut bytes = fs::read(blob.trim()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(blob.trim(), &bytes).unwrap();
    let done = sandbox.puna(&["verify", "--repair"], "");
    assert_eq!(done.status, Some(8), "{done:?}");
    assert!(done.stderr.contains("came from no registry"), "{done:?}");
    assert_eq!(fs::read(blob.trim()).unwrap(), bytes);
}

#[test]
fn servers_that_are_none_of_ours_are_told() {
    let sandbox = sandbox();
    let page = Scripted::new(|_| Say(200, vec![], b"<html>hello</html>".to_vec()));
    let broken = Scripted::new(|_| Say(500, vec![], b"<html>oops</html>".to_vec()));
    let other = Scripted::new(|_| {
        let body = br#"{"error": {"code": 404, "message": "File Not Found"}}"#;
        Say(404, vec![], body.to_vec())
    });
    let at = |server: &Scripted| server.address.to_string();
    for (server, words, status, text) in [
        (&page, &["ls"][..], 7, "sent an invalid answer"),
        (&page, &["run", "m", "hi"], 7, "sent an invalid answer"),
        (&broken, &["run", "m", "hi"], 7, "answered with status 500"),
        (&other, &["run", "m", "hi"], 2, "cannot do this"),
        (&other, &["ls"], 2, "cannot do this"),
    ] {
        let host = at(server);
        let words = [words, &["--host", &host]].concat();
        sandbox.puna(&words, "").fails(status, text);
    }
    let mut doctor = sandbox.command(&["doctor"]);
    let doctor = run(doctor.env("PUNA_HOST", at(&page)), "");
    assert_eq!(doctor.status, Some(13), "{doctor:?}");
    assert!(
        doctor.stdout.contains("neither puna nor Ollama"),
        "{doctor:?}"
    );
    let name = format!("{}/a/b", at(&page));
    sandbox.puna(&["cp", "mini", &name], "").ok();
    let pushed = sandbox.puna(&["push", &name, "--insecure", "-q"], "");
    pushed.fails(7, "is not a registry");
}

#[test]
fn files_are_pulled_whatever_their_name() {
    let sandbox = Sandbox::new();
    sandbox.file("weights.bin", tiny_models::llama());
    sandbox.file("empty.lock", "");
    sandbox
        .puna(&["pull", "-q", "file:weights.bin", "--name", "w"], "")
        .ok();
    let done = sandbox.puna(&["pull", "file:weights.bin", "--name", "v", "--json"], "");
    assert_eq!(done.ok(), "{\"status\":\"success\"}\n");
    for (words, text) in [
        (
            &["file:weights.bin", "--name", "x", "--locked=empty.lock"][..],
            "--locked",
        ),
        (&["file:weights.bin", "file:other.gguf"], "is fetched alone"),
    ] {
        sandbox
            .puna(&[&["pull"], words].concat(), "")
            .fails(2, text);
    }
}

#[test]
fn what_has_no_effect_or_no_meaning_is_told() {
    let sandbox = sandbox();
    sandbox.file("role.json", r#"[{"role": "usr", "content": "S"}]"#);
    sandbox.file("field.json", r#"[{"role": "user", "contnet": "S"}]"#);
    sandbox.file("none.json", "[]");
    sandbox.file(
        "q.json",
        r#"{"a": {"type": "noul", "instructions": "?", "critera": {}}}"#,
    );
    for (words, text) in [
        (
            &["run", "smol", "--messages", "role.json"][..],
            "message 1: 'usr' is not a role",
        ),
        (
            &["run", "smol", "--messages", "field.json"],
            "no field 'contnet'",
        ),
        (
            &["run", "smol", "--messages", "none.json"],
            "has no message",
        ),
        (
            &["choose", "smol", "--questions", "q.json"],
            "no question has questions.a.critera",
        ),
        (&["run", "mini", "hi", "--extract"], "embedding model"),
        (
            &["tokens", "smol", "--head", "3", "letter.txt", "letter.txt"],
            "one file",
        ),
        (
            &["map", "smol", "--choose", "a,b", "--extract", "-p", "{}"],
            "--extract shapes",
        ),
        (
            &["render", "smol", "hi", "--raw", "--jinja", "x"],
            "cannot be used together",
        ),
        (&["serve", "--host", "https://127.0.0.1:0"], "plain http"),
        (&["serve", "--host", "127.0.0.1:0/x"], "without a path"),
        (&["ls", "--host", " "], "needs an address"),
        (&["run", "a\nb", "hi"], "'a\\nb'"),
    ] {
        let done = sandbox.puna(words, "");
        assert_eq!(done.status, Some(2), "{words:?}: {done:?}");
        assert!(done.stderr.contains(text), "{words:?}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{words:?}: {done:?}");
    }
    let vector = sandbox.puna(&["run", "mini", "hi", "-n", "1", "--raw"], "");
    let told = "num_predict, raw have no effect";
    assert!(vector.stderr.contains(told), "{vector:?}");
    assert!(vector.ok().starts_with('['));
    let mut command = sandbox.command(&["ls"]);
    run(command.env("PUNA_MODELS", "~/m"), "").fails(2, "needs a path without ~");
    sandbox.file(".config/puna/config", "\u{feff}# mine\nnum_threads = 1\n");
    sandbox.puna(&["ls"], "").ok();
}

#[test]
fn answers_outlive_what_else_fails() {
    let sandbox = sandbox();
    // Of a transcript that cannot be written the answer is printed, and then the error.
    let done = sandbox.puna(&["chat", "smol", "--transcript", "/dev/full"], "hi\nho\n");
    assert_eq!(done.status, Some(1), "{done:?}");
    assert!(
        done.stdout.trim().len() > 1 && done.stderr.contains("/dev/full"),
        "{done:?}"
    );
    // A record whose answer was changed is damaged.
    let words = ["run", "smol", "hi", "-n", "4", "--record", "r.json"];
    let answer = sandbox.puna(&words, "").ok();
    let record = fs::read_to_string(sandbox.home.join("r.json")).unwrap();
    sandbox.puna(&["replay", "r.json"], "").ok();
    let word = answer.split_whitespace().next().unwrap();
    sandbox.file("r.json", record.replace(word, "Whale"));
    sandbox
        .puna(&["replay", "r.json"], "")
        .fails(8, "not the one that was recorded");
}

#[test]
fn what_an_answer_lacks_and_what_a_flag_did_not_get_is_noted() {
    let sandbox = sandbox();
    let schema = r#"{"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"]}"#;
    let done = sandbox.puna(
        &["run", "smol", "hi", "--schema", schema, "--fields", "a,a.b"],
        "",
    );
    assert!(done.stderr.contains("no field 'a.b'"), "{done:?}");
    assert_eq!(done.ok(), "x\t\n");
    let waits = [
        "run", "smol", "hi", "--lock", "l", "--wait", "5s", "-n", "1",
    ];
    let done = sandbox.puna(&waits, "");
    assert!(done.stderr.contains("see --wait=5s"), "{done:?}");
    let cache = "mkdir -p $HOME/c/prefixes; chmod 700 $HOME/c/prefixes; chmod a+rx $HOME; cp $(command -v puna) $HOME/bin; \
                 exec setpriv --reuid=65534 --regid=65534 --clear-groups env -i HOME=/ PUNA_CACHE=$HOME/c $HOME/bin cache ls";
    sandbox.shell(cache).fails(12, "cannot read");
}

#[test]
fn backups_and_journals_are_what_they_say() {
    let sandbox = sandbox();
    sandbox.file("tiny.gguf", tiny_models::llama());
    let make = ["create", "tiny", "-q", "-f", "-"];
    sandbox.puna(&make, "FROM ./tiny.gguf\n").ok();
    let blob = sandbox.puna(&["path", "tiny"], "").ok();
    let mut bytes = fs::read(blob.trim()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(blob.trim(), &bytes).unwrap();
    sandbox
        .shell("puna export tiny > x.tar; exit $?")
        .fails(8, "another digest");
    sandbox
        .shell("puna import < letter.txt")
        .fails(8, "not a tar file");
    sandbox.shell("puna import < .").fails(1, "Is a directory");
    let make = ["create", "tiny.gguf", "-q", "-f", "-"];
    sandbox.puna(&make, "FROM smol\n").fails(2, "means a file");
    let copied = sandbox.puna(&["cp", "smol", "small.gguf"], "");
    copied.fails(2, "means a file");
    let map = "echo a | puna map smol -p '{}' -n 1 --resume j > j";
    sandbox.shell(map).fails(2, "is the output, too");
}

#[test]
fn a_server_that_never_answers_is_given_up_in_time() {
    let sandbox = sandbox();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    for (words, status) in [
        (&["choose", "smol", "--yes-no", "-Q", "x"][..], 121),
        (&["choose", "smol", "--score", "-Q", "x", "a", "b"], 10),
        (&["rerank", "mini", "dog"], 10),
        (&["run", "smol", "hi"], 10),
    ] {
        let words = [words, &["--host", &host, "--timeout", "1s"]].concat();
        let done = sandbox.puna(&words, "a text\n");
        assert_eq!(done.status, Some(status), "{words:?}: {done:?}");
        assert!(done.stderr.contains("timed out"), "{words:?}: {done:?}");
    }
}
