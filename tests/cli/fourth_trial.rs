//! The limits, words and files of a fourth trial: nothing is lost, and a server does as this machine does.

use serde_json::Value as Json;

use crate::support::{Sandbox, run};

#[test]
fn a_shorter_context_cuts_an_answer_of_a_warm_server_too() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let words = [
        "run",
        "smol",
        "Write a story",
        "-n",
        "-1",
        "--temperature",
        "0",
        "--num-ctx",
        "64",
    ];
    let here = sandbox.puna(&words, "");
    let ask = || sandbox.puna(&[&words[..], &["--host", &server.at]].concat(), "");
    // The first request loads a longer context.
    let long = ["run", "smol", "hi", "-n", "1", "--host", &server.at];
    sandbox.puna(&long, "").ok();
    let there = ask();
    assert_eq!(here.stdout, there.stdout);
    let cut = "the answer was cut after ";
    assert!(
        here.stderr.contains(cut) && there.stderr.contains(cut),
        "{here:?} {there:?}"
    );
}

#[test]
fn transcripts_have_what_was_said() {
    let sandbox = Sandbox::with_smol();
    let lines = |name: &str| -> Vec<Json> {
        let text = std::fs::read_to_string(sandbox.home.join(name)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let words = [
        "run",
        "smol",
        "Write a long story",
        "-n",
        "4000",
        "-o",
        "num_ctx=8192",
        "--timeout",
        "2s",
        "--transcript",
        "cut.jsonl",
    ];
    let done = sandbox.puna(&words, "");
    assert_eq!(done.status, Some(10), "{done:?}");
    let kept = lines("cut.jsonl");
    assert_eq!(
        kept[1]["content"].as_str().unwrap().trim(),
        done.stdout.trim()
    );
    // Messages behind the last answer, and a conversation without one.
    let chat = |input: &str, name: &str| {
        let words = ["chat", "smol", "--jsonl", "--transcript", name, "-n", "3"];
        sandbox.puna(&words, input).ok();
    };
    let (user, assistant) = (
        r#"{"role":"user","content":"a"}"#,
        r#"{"role":"assistant","content":"zz"}"#,
    );
    chat(&format!("{user}\n{assistant}\n"), "rest.jsonl");
    assert_eq!(lines("rest.jsonl")[2]["content"], "zz");
    chat("{\"role\":\"system\",\"content\":\"S\"}\n", "system.jsonl");
    assert_eq!(lines("system.jsonl")[0]["content"], "S");
    sandbox.file("bogus.jsonl", "{\"role\":\"bogus\",\"content\":\"a\"}\n");
    let done = sandbox.puna(&["run", "smol", "x", "--continue", "bogus.jsonl"], "");
    done.fails(2, "bogus.jsonl, line 1: 'bogus' is not a role");
    sandbox
        .puna(&["run", "none", "x", "--transcript", "empty.jsonl"], "")
        .fails(3, "none");
    assert!(!sandbox.home.join("empty.jsonl").exists());
}

#[test]
fn one_model_has_one_name_in_any_case() {
    let sandbox = Sandbox::with_smol();
    sandbox
        .puna(&["cp", "smol", "SMOL"], "")
        .fails(2, "names ignore case");
    sandbox
        .puna(&["cp", "smol", " x"], "")
        .fails(2, "begins or ends with a blank");
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let there = ["cp", "smol", "SMOL", "--host", &server.at];
    sandbox.puna(&there, "").fails(2, "names ignore case");
    for words in [&["rm", "one", "two"][..], &["tokens", "smol", "one", "two"]] {
        let done = sandbox.puna(words, "");
        let (first, second) = (done.stderr.find("one"), done.stderr.find("two"));
        assert!(first < second && first.is_some(), "{done:?}");
    }
    let done = sandbox.puna(&["rm", "one", "two"], "");
    let (first, second) = (done.stderr.find("'one'"), done.stderr.find("'two'"));
    assert!(first < second && first.is_some(), "{done:?}");
}

#[test]
fn words_and_settings_without_effect_are_told() {
    let sandbox = Sandbox::with_smol();
    for (words, text) in [
        (&["--pull", "always"][..], "see --pull=always"),
        (&["--extract", "last"], "see --extract=last"),
        (&["--truncate", "false"], "see --truncate=false"),
    ] {
        let done = sandbox.puna(&[&["run", "smol", "hi", "-n", "1"], words].concat(), "");
        assert!(done.stderr.contains(text), "{words:?}: {done:?}");
    }
    for (line, text) in [
        ("heartbeat = 0", "longer than 0"),
        ("stall_time = -1s", "longer than 0"),
        ("num_parallel = 0", "from 1 on"),
        ("context_length = 0", "from 1 on"),
    ] {
        sandbox.file(".config/puna/config", format!("{line}\n"));
        sandbox.puna(&["ls"], "").fails(2, text);
    }
    std::fs::remove_file(sandbox.home.join(".config/puna/config")).unwrap();
    let body = r#"{"questions": {"q": {"type": "noul", "instructions": "?"}}, "state": "t", "model": "other", "bogus": 3}"#;
    sandbox.file("body.json", body);
    let done = sandbox.puna(&["choose", "smol", "--questions", "body.json"], "");
    for text in [
        "bogus of the file has no effect",
        "the file's model other is not used",
    ] {
        assert!(done.stderr.contains(text), "{done:?}");
    }
    let create = |text: &str| sandbox.puna(&["create", "x", "-f", "-"], text);
    create("FROM smol\nPARAMETER stop \"\"\n").fails(2, "stop needs a text");
    let noted = create("FROM smol\nSYSTEM \"\"\nREQUIRES 0.2\n").stderr;
    assert!(noted.contains("an empty SYSTEM changes nothing"), "{noted}");
    let shown = sandbox.puna(&["show", "x", "--modelfile"], "").ok();
    assert!(shown.contains("\nREQUIRES 0.2\n"), "{shown}");
    sandbox
        .puna(&["bench", "smol", "--runs", "1", "-n", "99999999"], "")
        .fails(2, "does not fit");
    for words in [
        &["run", "smol", "hi", "--schema", ""][..],
        &["run", "smol", "hi", "--transcript", ""],
        &["map", "smol", "--resume", ""],
    ] {
        let done = sandbox.puna(words, "a\n");
        done.fails(2, "needs FILE");
    }
    // map reads the same files, and says what of them is for one text only.
    let words = ["map", "smol", "--questions", "body.json", "-p", "{}"];
    let done = sandbox.puna(&words, "a\n");
    for text in [
        "bogus of the file",
        "model other is not used",
        "the file's text is not used",
    ] {
        assert!(done.stderr.contains(text), "{done:?}");
    }
    let quantize = [
        "create",
        "y",
        "-q",
        "-f",
        "-",
        "--quantize",
        "nosuch",
        "--host",
        "127.0.0.1:1",
    ];
    sandbox.puna(&quantize, "FROM smol\n").fails(2, "nosuch");
    let mut check = sandbox.command(&["pull", "--check", "x"]);
    run(check.env("PUNA_HOST", "127.0.0.1:1"), "").fails(2, "--check cannot be used with a server");
}
