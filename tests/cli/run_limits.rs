//! Run limits, as cron jobs need them for every command that runs a model: locks, timeouts, retries.

use std::fs::File;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::engine::minilm::minilm;
use crate::support::scripted_model::scripted_gguf;
use crate::support::scripted_registry::{Registry, Say};
use crate::support::{Done, Sandbox, smol};

/// Starts a run that has the lock and waits for input.
fn holder(sandbox: &Sandbox) -> Child {
    let smol = smol();
    let model = smol.to_str().unwrap();
    let words = ["run", model, "--lock", "nightly", "-n", "1", "-"];
    let mut command = sandbox.command(&words);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let path = sandbox.home.join(".cache/puna/locks/nightly");
    let is_held = || File::open(&path).is_ok_and(|file| file.try_lock().is_err());
    while !is_held() {
        let ended = child.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "it ended before it had the lock: {ended:?}"
        );
        std::thread::yield_now();
    }
    child
}

#[test]
fn the_time_is_over_though_standard_input_never_ends() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("mini", &format!("FROM {}\n", minilm().display()));
    for (words, status) in [
        (&["run", "smol"][..], 10),
        (&["chat", "smol"], 10),
        (&["choose", "smol", "yes", "no"], 10),
        (&["choose", "smol", "yes", "no", "--status"], 121),
        (&["embed", "mini"], 10),
        (&["rerank", "mini", "x"], 10),
        (&["nearest", "mini", "x"], 10),
    ] {
        let words = [words, &["--timeout", "300ms"]].concat();
        let mut command = sandbox.command(&words);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take(); // Stays open until the end.
        let done = child.wait_with_output().unwrap();
        drop(input);
        assert_eq!(done.status.code(), Some(status), "{words:?}: {done:?}");
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert!(
            stderr.starts_with("puna: timed out: "),
            "{words:?}: {stderr}"
        );
    }
}

#[test]
fn a_lock_keeps_others_out() {
    let sandbox = Sandbox::with_smol();
    let mut child = holder(&sandbox);
    let run = |flags: &[&str]| -> Done {
        sandbox.puna(&[&["run", "smol", "Hi", "-n", "1"], flags].concat(), "")
    };
    run(&["--lock", "nightly"]).fails(9, "another puna holds the lock 'nightly'");
    run(&["--lock", "nightly", "--wait=200ms"]).fails(9, "holds the lock");
    run(&["--lock", "nightly", "--wait", "--timeout", "200ms"])
        .fails(10, "timed out: another puna holds the lock 'nightly'");
    let skipped = run(&["--lock", "nightly", "--skip"]);
    assert!(skipped.stderr.is_empty(), "{skipped:?}");
    assert_eq!(skipped.ok(), "");
    assert!(!run(&["--lock", "other"]).ok().is_empty());
    // A waiting run starts as soon as the lock is released, however its holder ended.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run(&["--lock", "nightly", "--wait"]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!waiting.join().unwrap().ok().is_empty());
    });
    for (flags, words) in [
        (&["--skip"][..], "--wait and --skip need --lock"),
        (
            &["--lock", "a", "--wait", "--skip"],
            "cannot be used together",
        ),
        (&["--lock", "../a"], "--lock must be a name"),
        (&["--lock", ""], "--lock must be a name"),
        (&["--nice", "20"], "--nice must be a number from 0 to 19"),
        (&["--threads", "0"], "--threads must be a number from 1"),
        (&["--mem-max", "much"], "is not a size such as"),
        (&["--retry", "x"], "--retry must be a number"),
    ] {
        run(flags).fails(2, words);
    }
}

#[test]
fn memory_and_time_have_limits() {
    let sandbox = Sandbox::with_smol();
    let small = sandbox.puna(&["run", "smol", "Hi", "--mem-max", "1M"], "");
    small.fails(11, "needs");
    let limits = ["--mem-max", "2G", "--nice", "5", "--threads", "1"];
    let words = [&["run", "smol", "Hi", "-n", "2"], &limits[..]].concat();
    assert!(!sandbox.puna(&words, "").ok().is_empty());
    let lines = "a\n".repeat(2000);
    let map = ["map", "smol", "-p", "Tell a story: {}", "-n", "40"];
    for (words, input) in [
        ([&map[..], &["--timeout", "1s"]].concat(), lines.as_str()),
        (
            vec!["choose", "smol", "--timeout", "1ms", "yes", "no"],
            "Well?",
        ),
        (vec!["run", "smol", "--timeout", "1ms"], "Well?"),
    ] {
        let started = Instant::now();
        let done = sandbox.puna(&words, input);
        assert_eq!(done.status, Some(10), "{done:?}");
        assert!(done.stderr.ends_with("see --timeout\n"), "{done:?}");
        assert!(started.elapsed().as_secs() < 20);
        let whole = done.stdout.is_empty() || done.stdout.ends_with('\n');
        assert!(whole, "{done:?}");
    }
}

#[test]
fn transient_failures_are_retried() {
    // A server that answers 503 twice.
    let count = AtomicUsize::new(0);
    let server = Registry::scripted(move |asked, _| {
        let chats = usize::from(asked.line.contains("/api/chat"));
        match count.fetch_add(chats, Ordering::SeqCst) {
            0 | 1 => Say {
                status: 503,
                ..Say::body(r#"{"error":"server busy"}"#)
            },
            _ => Say::body(
                r#"{"model":"smol","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":"Yes."},"done":true,"done_reason":"stop"}"#,
            ),
        }
    });
    let sandbox = Sandbox::new();
    let run = |retry: &str| {
        let host = server.address.to_string();
        let words = ["run", "smol", "--host", &host, "--retry", retry];
        let mut command = sandbox.command(&words);
        command.env("PUNA_RETRY_PAUSE", "5ms");
        crate::support::run(&mut command, "Is it so?")
    };
    let refused = run("0");
    assert_eq!(refused.status, Some(9), "{refused:?}");
    let done = run("1");
    assert_eq!((done.status, done.stdout.as_str()), (Some(0), "Yes.\n"));
    let asked = server.asked();
    let last = String::from_utf8_lossy(&asked.last().unwrap().body).into_owned();
    assert!(last.contains("Is it so?"), "it is still known: {last}");
}

#[test]
fn an_answer_without_an_end_has_one() {
    let sandbox = Sandbox::with_smol();
    let song = "Row, row, row your boat, gently down the stream. ".repeat(12);
    let sing = |flags: &[&str]| {
        let words = [
            "run",
            "smol",
            "--raw",
            "--temperature",
            "0",
            &song,
            "--stop",
            "\u{1}",
        ];
        sandbox.puna(&[&words, flags].concat(), "")
    };
    let loops = sing(&[]);
    assert!(loops.stderr.contains("it repeats itself"), "{loops:?}");
    assert!(loops.stdout.len() > 1000, "{loops:?}");
    assert_eq!(sing(&["--whole"]).status, Some(6));
    // Whoever sets a limit has what they ask for; an answer of a server has the same end.
    let limited = sing(&["-n", "1200"]);
    assert!(limited.stderr.contains("after 1200 tokens"), "{limited:?}");
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let remote = sing(&["--host", &server.at]);
    assert!(remote.stderr.contains("it repeats itself"), "{remote:?}");
    // Without a loop there is a bound.
    sandbox.file("script.gguf", scripted_gguf(&["A short script."]));
    sandbox.file("letters.gbnf", "root ::= [a-z] root");
    let words = [
        "run",
        "./script.gguf",
        "Hi",
        "--grammar",
        "letters.gbnf",
        "--json",
    ];
    let endless = sandbox.puna(&[&words[..], &["--temperature", "9"]].concat(), "");
    assert_eq!(endless.status, Some(6), "{endless:?}");
    let record: serde_json::Value = serde_json::from_str(&endless.stdout).unwrap();
    assert_eq!(
        (&record["eval_count"], &record["done_reason"]),
        (&4096.into(), &"length".into())
    );
}

#[test]
fn an_answer_that_a_limit_cut_says_so() {
    let sandbox = Sandbox::with_smol();
    let run = |flags: &[&str]| {
        let words = ["run", "smol", "Tell me a long story", "--temperature", "0"];
        sandbox.puna(&[&words, flags].concat(), "")
    };
    let cut = run(&["-n", "3"]);
    let note = "puna: the answer was cut after 3 tokens: see --num-predict\n";
    assert_eq!((cut.status, cut.stderr.as_str()), (Some(0), note));
    assert_eq!(run(&["-n", "3", "-q"]).stderr, "");
    let whole = run(&["-n", "3", "--whole"]);
    assert_eq!((whole.status, whole.stderr.as_str()), (Some(6), note));
    assert_eq!(whole.stdout, cut.stdout);
    let full = run(&["--num-ctx", "60", "--stop", "\u{1}"]);
    assert!(
        full.stderr.contains("the context is full, see --num-ctx"),
        "{full:?}"
    );
    // A limit of the model's own is one, too, here and at a server.
    let model = smol();
    let modelfile = format!("FROM {}\nPARAMETER num_predict 4\n", model.display());
    sandbox.create("short", &modelfile);
    let words = ["run", "short", "Tell me a long story"];
    let own = sandbox.puna(&words, "").stderr;
    assert!(
        own.ends_with("after 4 tokens: see --num-predict\n"),
        "{own}"
    );
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let there = [&words[..], &["--host", &server.at]].concat();
    let remote = sandbox.puna(&there, "").stderr;
    assert!(
        remote.contains("after 4 tokens: see --num-predict"),
        "{remote}"
    );
    // An answer that ended by itself is whole.
    let short = sandbox.puna(
        &[
            "run",
            "smol",
            "Say hello",
            "-n",
            "200",
            "--whole",
            "--temperature",
            "0",
        ],
        "",
    );
    assert_eq!(
        (short.status, short.stderr.as_str()),
        (Some(0), ""),
        "{short:?}"
    );
}

#[test]
fn a_limit_of_processes_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", crate::support::tiny_models::llama());
    std::fs::copy(env!("CARGO_BIN_EXE_puna"), sandbox.home.join("own")).unwrap();
    let open = "chmod 777 . && chmod 755 own && chmod 644 tiny.gguf";
    sandbox.shell(open).ok();
    for words in [
        "serve --no-socket --host 127.0.0.1:0",
        "run ./tiny.gguf a -n 2",
        "tokens ./tiny.gguf a",
        "bench ./tiny.gguf -p 2 -n 2 --runs 1",
    ] {
        // The limit does not hold for root.
        let line = format!(
            "limited='ulimit -u 1 && exec ./own {words}'; if [ \"$(id -u)\" = 0 ]; then \
             exec setpriv --reuid=65534 --regid=65534 --clear-groups bash -c \"$limited\"; \
             else exec bash -c \"$limited\"; fi"
        );
        let done = sandbox.shell(&line);
        assert_eq!(done.status, Some(1), "{words}: {done:?}");
        let is_told = done.stderr.contains("puna: cannot start");
        assert!(
            is_told && !done.stderr.contains("panicked"),
            "{words}: {done:?}"
        );
    }
}
