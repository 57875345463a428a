//! `map`: records in, records out, and its journal.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::Value as Json;

use crate::engine::minilm;
use crate::support::{Sandbox, eventually};

pub const MAP: [&str; 6] = ["map", "smol", "-n", "4", "--temperature", "0"];

pub fn map(sandbox: &Sandbox, words: &[&str], input: &str) -> crate::support::Done {
    sandbox.puna(&[&MAP, words].concat(), input)
}

pub fn objects(text: &str) -> Vec<Json> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn answers_come_in_the_order_of_their_records() {
    let sandbox = Sandbox::with_smol();
    let input: String = (0..40).map(|number| format!("word{number}\n")).collect();
    let out = map(&sandbox, &["-p", "Repeat: {}", "--json", "-j", "5"], &input).ok();
    let inputs: Vec<Json> = objects(&out)
        .iter()
        .map(|object| object["input"].clone())
        .collect();
    let wanted: Vec<Json> = (0..40)
        .map(|number| format!("word{number}").into())
        .collect();
    assert_eq!(inputs, wanted);
    assert!(
        objects(&out)
            .iter()
            .all(|object| object["tokens"].as_u64() <= Some(4) && object.get("error").is_none())
    );
    let lines = map(
        &sandbox,
        &["-p", "Write two lines about {}."],
        "the sea\nthe sky\n",
    )
    .ok();
    assert_eq!(lines.lines().count(), 2, "an answer is a line: {lines:?}");
}

#[test]
fn records_have_four_forms_and_fields_fill_the_prompt() {
    let sandbox = Sandbox::with_smol();
    let one = |words: &[&str], input: &str| {
        let out = map(&sandbox, &[words, &["--json"]].concat(), input).ok();
        objects(&out)
            .into_iter()
            .map(|object| object["input"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        one(&["--jsonl", "-p", "{title}"], "{\"title\":\"x\",\"n\":1}\n")[0]["n"],
        1
    );
    assert_eq!(one(&["--tsv", "-p", "{b}"], "a\tb\n1\t2\n")[0]["b"], "2");
    assert_eq!(one(&["-0"], "two\nlines\0next\0"), ["two\nlines", "next"]);
    map(&sandbox, &["-p", "{"], "x\n").fails(2, "unmatched brace in the prompt");
    map(&sandbox, &["--jsonl", "--tsv"], "x\n").fails(2, "cannot be used together");
    map(&sandbox, &["-j", "0"], "x\n").fails(2, "--jobs must be a number from 1 to 64");
    assert_eq!(map(&sandbox, &[], "").ok(), "");
}

#[test]
fn a_failed_record_is_reported_and_the_others_continue() {
    let sandbox = Sandbox::with_smol();
    let input = "{\"a\":\"x\"}\nnonsense\n{\"b\":1}\n{\"a\":\"y\"}\n";
    let done = map(&sandbox, &["--jsonl", "-p", "{a}", "--json"], input);
    assert_eq!(done.status, Some(14), "{done:?}");
    let errors: Vec<String> = objects(&done.stdout)
        .iter()
        .map(|object| object["error"].as_str().unwrap_or("").to_string())
        .collect();
    assert!(errors[0].is_empty() && errors[3].is_empty(), "{errors:?}");
    assert!(errors[1].starts_with("not JSON"), "{errors:?}");
    assert_eq!(errors[2], "the record has no field 'a'");
    assert!(
        done.stderr.contains("record 2: not JSON") && done.stderr.ends_with("2 records failed\n"),
        "{done:?}"
    );
    let bytes = sandbox.shell("printf 'one\\n\\xe9\\ntwo\\n' | puna map smol -n 2 --json");
    let errors: Vec<Json> = objects(&bytes.stdout)
        .iter()
        .map(|object| object["error"].clone())
        .collect();
    assert_eq!(
        (bytes.status, &errors[1]),
        (
            Some(14),
            &Json::from(
                "the record is not UTF-8 text: line 1, column 1 is the byte 0xe9 (see --encoding)"
            )
        )
    );
    assert!(errors[0].is_null() && errors[2].is_null(), "{bytes:?}");
    let plain = map(&sandbox, &["--jsonl", "-p", "{a}", "-q"], input);
    assert_eq!(
        plain.stdout.lines().filter(|line| line.is_empty()).count(),
        2
    );
    // Truncated constrained output counts as a failure too.
    sandbox.file(
        "s.json",
        r#"{"type":"object","properties":{"a":{"type":"string","minLength":50}},"required":["a"]}"#,
    );
    let cut = map(&sandbox, &["--schema", "s.json", "--json"], "x\n");
    assert_eq!(cut.status, Some(14));
    assert!(
        objects(&cut.stdout)[0]["error"]
            .as_str()
            .unwrap()
            .contains("cut"),
        "{cut:?}"
    );
}

#[test]
fn a_long_record_is_cut_to_the_requested_part() {
    let sandbox = Sandbox::with_smol();
    let input = format!("short\n{}\n", "long ".repeat(300));
    let words = ["-p", "Repeat: {}", "--num-ctx", "128", "--json"];
    let done = map(&sandbox, &words, &input);
    assert_eq!(done.status, Some(14), "{done:?}");
    assert!(objects(&done.stdout)[1]["error"].is_string());
    let journal = sandbox.file("journal", "");
    let overflow = ["--overflow", "head", "--resume", journal.to_str().unwrap()];
    let words = [&words[..], &overflow].concat();
    for _ in 0..2 {
        let done = map(&sandbox, &words, &input);
        let note = "record 2: ";
        assert!(done.stderr.contains(note), "{done:?}");
        assert!(done.stderr.contains(" tokens were dropped"), "{done:?}");
        let answered = objects(&done.ok());
        assert!(answered[0].get("dropped").is_none(), "{answered:?}");
        assert!(answered[1]["dropped"].as_u64() > Some(150), "{answered:?}");
        assert!(answered[1].get("error").is_none(), "{answered:?}");
    }
    map(&sandbox, &["--overflow", "reduce"], "x\n")
        .fails(2, "--overflow must be error, head, tail or middle");
}

#[test]
fn choices_and_schemas_hold_each_answer() {
    let sandbox = Sandbox::with_smol();
    sandbox.file("b.json", r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}"#);
    let out = map(
        &sandbox,
        &["--schema", "b.json", "-n", "40"],
        "is it so?\nand so?\n",
    )
    .ok();
    assert!(
        objects(&out).iter().all(|object| object["ok"].is_boolean()),
        "{out}"
    );
    map(&sandbox, &["--schema", "b.json", "--choose", "a"], "x\n")
        .fails(2, "cannot be used together");
}

#[test]
fn an_endless_input_ends_with_its_reader() {
    let sandbox = Sandbox::with_smol();
    let done = sandbox.shell("yes hello | puna map smol -n 2 | head -3; echo ${PIPESTATUS[1]}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!((lines.len(), lines[3]), (4, "0"), "{done:?}");
}

#[test]
fn a_run_ends_when_its_reader_has_gone_though_no_more_records_come() {
    let sandbox = Sandbox::with_smol();
    let started = std::time::Instant::now();
    let mut child = sandbox.command(&["map", "smol", "-n", "30"]);
    child
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "hello\nhello\nhello").unwrap();
    drop(child.stdout.take().unwrap());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(started.elapsed().as_secs() < 25, "{:?}", started.elapsed());
    drop(input);
}

#[test]
fn an_answer_does_not_wait_for_the_next_record() {
    let sandbox = Sandbox::with_smol();
    let mut child = sandbox
        .command(&MAP)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for word in ["one", "two"] {
        writeln!(input, "{word}").unwrap();
        assert!(!lines.next().unwrap().unwrap().is_empty());
    }
    drop(input);
    assert!(lines.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let sandbox = Sandbox::with_smol();
    let input: String = (0..30)
        .map(|number| format!("Repeat the word word{number}.\n"))
        .collect();
    let words = ["--resume", "done.journal", "--json", "-j", "2"];
    let whole = map(&sandbox, &["--json", "-j", "2"], &input).ok();
    let mut child = sandbox
        .command(&[&MAP[..], &words].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let journal = sandbox.home.join("done.journal");
    let lines = || {
        std::fs::read_to_string(&journal)
            .unwrap_or_default()
            .lines()
            .count()
    };
    eventually(
        "ten records are done",
        std::time::Duration::from_secs(60),
        || lines() >= 10,
    );
    child.kill().unwrap();
    child.wait().unwrap();
    // A journal line that was truncated by the kill is ignored.
    let mut file = std::fs::File::options()
        .append(true)
        .open(&journal)
        .unwrap();
    file.write_all(b"{\"record\":29,\"sha").unwrap();
    let old: Vec<Json> = {
        let text = std::fs::read_to_string(&journal).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    };
    let resumed = map(&sandbox, &words, &input).ok();
    let (resumed, whole) = (objects(&resumed), objects(&whole));
    assert_eq!(resumed.len(), 30);
    for (entry, object) in old.iter().zip(&resumed) {
        assert_eq!(
            (&entry["output"], &entry["ms"]),
            (&object["output"], &object["ms"]),
            "printed from the journal"
        );
    }
    let inputs = |objects: &[Json]| {
        objects
            .iter()
            .map(|object| object["input"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(inputs(&resumed), inputs(&whole));
    assert_eq!(lines(), 30);
    // With other settings the answer is computed anew.
    map(
        &sandbox,
        &["--resume", "done.journal", "-s", "Shout."],
        "Repeat the word word0.\n",
    )
    .ok();
    assert_eq!(lines(), 31);
    // A file that is not a journal stays unchanged.
    let other = sandbox.file("other.json", "{\"a\":1}");
    map(&sandbox, &["--resume", "other.json"], "x\n")
        .fails(2, "other.json is not a journal of map");
    assert_eq!(std::fs::read_to_string(other).unwrap(), "{\"a\":1}");
    let cut = sandbox.file("cut.journal", b"{\"record\":0,\"output\":\"\xc3");
    map(&sandbox, &["--resume", cut.to_str().unwrap()], "x\n").ok();
    sandbox.file("x.journal", "nonsense\n");
    map(&sandbox, &["--resume", "x.journal"], "x\n")
        .fails(2, "x.journal, line 1: not a journal of map");
}

#[test]
fn tokens_are_counted_and_cut() {
    let sandbox = Sandbox::with_smol();
    let tokens =
        |words: &[&str], input: &str| sandbox.puna(&[&["tokens", "smol"], words].concat(), input);
    assert_eq!(tokens(&[], "hello world").ok(), "2\n");
    assert_eq!(tokens(&["--ids"], "hello world").ok(), "28120\n905\n");
    assert_eq!(
        tokens(&["--pieces"], "hello world").ok(),
        "28120\thello\n905\t world\n"
    );
    assert_eq!(tokens(&[], "").ok(), "0\n");
    let text = "One sentence is here. Another one follows it! And a third?\nA new line.";
    let long = text.repeat(2000);
    for (text, n) in [(text, 1), (text, 3), (text, 7), (&long, 5), (&long, 300)] {
        let head = tokens(&["--head", &n.to_string()], text).ok();
        let tail = tokens(&["--tail", &n.to_string()], text).ok();
        assert!(
            text.starts_with(&head) && text.ends_with(&tail),
            "{head:?} {tail:?}"
        );
        for part in [head, tail] {
            let count: usize = tokens(&[], &part).ok().trim().parse().unwrap();
            assert!((n - 1..=n).contains(&count), "{part:?}");
        }
    }
    let pieces = tokens(&["--split", "6", "--json"], text).ok();
    let pieces: Vec<String> = pieces
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(pieces[0], "One sentence is here.");
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(bare(&pieces.join(" ")), bare(text));
    sandbox.file("a.txt", "hello");
    sandbox.file("b.txt", "hello world");
    assert_eq!(
        tokens(&["a.txt", "b.txt"], "").ok(),
        "1\ta.txt\n2\tb.txt\n3\ttotal\n"
    );
    tokens(&["--head", "0"], "x").fails(2, "--head must be a number from 1 up");
    tokens(&["--ids", "--pieces"], "x").fails(2, "cannot be used together");
    tokens(&["none.txt"], "").fails(1, "cannot read none.txt");
}

#[test]
fn lines_become_vectors_and_the_nearest_are_found() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("mini", &format!("FROM {}\n", minilm::minilm().display()));
    let lines = "a whale in the ocean\na pile of stones\tand\\sand\nthe stock market\n";
    let vectors = sandbox.puna(&["embed", "mini"], lines).ok();
    assert_eq!(vectors.lines().count(), 3);
    assert!(
        vectors
            .lines()
            .nth(1)
            .unwrap()
            .starts_with("a pile of stones\\tand\\\\sand\t")
    );
    let nearest = sandbox
        .puna(
            &["nearest", "mini", "fish and the sea", "--top", "2"],
            &vectors,
        )
        .ok();
    let first = nearest.lines().next().unwrap();
    assert!(first.ends_with("\ta whale in the ocean"), "{nearest}");
    assert_eq!(nearest.lines().count(), 2);
    let all = sandbox
        .puna(&["nearest", "mini", "beach", "--json"], &vectors)
        .ok();
    assert_eq!(objects(&all).len(), 3);
    let plain = |object: &Json| object["text"] == "a pile of stones\tand\\sand";
    assert!(objects(&all).iter().any(plain), "{all}");
    let raw = sandbox
        .shell("printf 'a\\nb\\n' | puna embed mini --f32 | wc -c")
        .ok();
    assert_eq!(raw.trim(), (2 * 384 * 4).to_string());
    let json = sandbox
        .puna(&["embed", "mini", "--json", "--dimensions", "8"], "x\n")
        .ok();
    assert_eq!(objects(&json)[0]["embedding"].as_array().unwrap().len(), 8);
    sandbox
        .puna(&["embed", "smol"], "x\n")
        .fails(2, "is not an embedding model");
    let objects = sandbox.puna(&["embed", "mini", "--json"], lines).ok();
    let words = ["nearest", "mini", "fish and the sea", "--top", "2"];
    assert_eq!(sandbox.puna(&words, &objects).ok(), nearest);
    sandbox.puna(&["nearest", "mini", "x"], "a\tNaN 1\n").fails(
        2,
        "line 1 of standard input: its vector is not a list of numbers",
    );
    sandbox
        .puna(&["embed", "mini", "--f32", "--json"], "x\n")
        .fails(2, "cannot be used together");
    for words in [&["embed", "mini"][..], &["rerank", "mini", "x"]] {
        let line = format!("printf 'a\\nb\\n\\377\\nc\\n' | puna {}", words.join(" "));
        let done = sandbox.shell(&line);
        assert!(
            done.stderr.contains("line 3 of standard input: "),
            "{done:?}"
        );
        assert_eq!(
            done.stdout.lines().count(),
            if words[0] == "embed" { 2 } else { 0 }
        );
    }
    sandbox
        .puna(&["nearest", "mini", "x"], "no vector\n")
        .fails(2, "line 1 of standard input has no vector");
    sandbox
        .puna(&["nearest", "mini", "x"], "a\t1 2\n")
        .fails(2, "a vector of 2 numbers");
}
