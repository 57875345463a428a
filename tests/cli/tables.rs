//! `map` over tables, the shape of its answers, its progress, and texts in other encodings.

use serde_json::Value as Json;

use super::map::{MAP, map, objects};
use crate::engine::minilm;
use crate::support::Sandbox;

#[test]
fn a_table_keeps_its_columns_and_gets_new_ones() {
    let sandbox = Sandbox::with_smol();
    let csv = "title,year\r\n\"Moby Dick, or the Whale\",1851\r\nshort\r\n\"He said \"\"hi\"\"\nand left\",2000\r\n";
    let words = ["--csv", "-p", "Repeat: {title}", "-q", "--one-line"];
    let done = map(
        &sandbox,
        &[&words[..], &["--add-column", "topic"]].concat(),
        csv,
    );
    assert_eq!(done.status, Some(14), "{done:?}");
    let rows: Vec<Vec<String>> = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(done.stdout.as_bytes())
        .records()
        .map(|row| row.unwrap().iter().map(str::to_string).collect())
        .collect();
    assert_eq!(rows[0], ["title", "year", "topic"]);
    assert_eq!(rows[1][..2], ["Moby Dick, or the Whale", "1851"]);
    assert!(
        !rows[1][2].is_empty() && !rows[1][2].contains('\n'),
        "{rows:?}"
    );
    // A row that fails keeps what it has, and the table its columns.
    assert_eq!(rows[2], ["short", "", ""]);
    assert_eq!(rows[3][..2], ["He said \"hi\"\nand left", "2000"]);
    // Without new columns a table of answers comes, one line longer than there are records.
    let answers = map(&sandbox, &words, csv).stdout;
    assert!(answers.starts_with("output\n"), "{answers}");
    let tsv = map(
        &sandbox,
        &["--tsv", "-p", "{b}", "--add-column", "c"],
        "a\tb\n1\tx\\n y\n",
    )
    .ok();
    assert!(tsv.starts_with("a\tb\tc\n1\tx\\n y\t"), "{tsv:?}");
    let jsonl = map(
        &sandbox,
        &["--jsonl", "-p", "{a}", "--add-column", "b"],
        "{\"a\":1}\n",
    )
    .ok();
    assert!(
        objects(&jsonl)[0]["a"] == 1 && objects(&jsonl)[0]["b"].is_string(),
        "{jsonl}"
    );
    // The names are checked before anything is computed.
    for (words, why) in [
        (
            &["--csv", "-p", "{titel}"][..],
            "the first line names no column 'titel': is it title?",
        ),
        (
            &["--csv", "--add-column", "year"],
            "there is a column 'year' already",
        ),
        (
            &["--add-column", "x"],
            "--add-column needs --csv, --tsv or --jsonl",
        ),
        (
            &["--csv", "--add-column", "x,y"],
            "--add-column needs one name",
        ),
        (&["--csv", "--tsv"], "cannot be used together"),
        (&["--progress", "-q"], "cannot be used together"),
    ] {
        map(&sandbox, words, csv).fails(2, why);
    }
}

#[test]
fn answers_are_shaped_as_by_run() {
    let sandbox = Sandbox::with_smol();
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":5},"age":{"type":"integer","maximum":99,"minimum":0}},"required":["name","age"]}"#;
    let words = ["--schema", schema, "-n", "40", "--fields", "name,age"];
    let lines = map(&sandbox, &words, "Anna is 7\nBo is 9\n").ok();
    let cells: Vec<Vec<&str>> = lines
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert!(
        cells.len() == 2 && cells.iter().all(|row| row.len() == 2),
        "{lines}"
    );
    assert!(cells[0][1].parse::<u32>().is_ok(), "{lines}");
    let added = [&words[..], &["--csv", "--add-column", "who,years"]].concat();
    let table = map(&sandbox, &added, "text\nAnna is 7\n").ok();
    assert!(table.starts_with("text,who,years\nAnna is 7,"), "{table}");
    let stopped = map(
        &sandbox,
        &["-p", "Count: 1, 2, 3, {}", "--stop", " ", "-n", "20"],
        "4,\n",
    )
    .ok();
    assert!(!stopped.trim().contains(' '), "{stopped:?}");
    let code = map(&sandbox, &["--extract"], "Say hello.\n");
    assert_eq!(code.status, Some(14));
    assert!(
        code.stderr
            .contains("record 1: the answer has no code block"),
        "{code:?}"
    );
    map(&sandbox, &["--fields", "a"], "x\n").fails(2, "--fields needs --schema or --format json");
}

#[test]
fn progress_is_told_in_lines_when_asked_for() {
    let sandbox = Sandbox::with_smol();
    sandbox.file("in.txt", "one\ntwo\nthree\n");
    let line = format!("puna {} --progress < in.txt", MAP.join(" "));
    let done = sandbox.shell(&line);
    let last = done.stderr.trim().lines().last().unwrap_or_default();
    assert!(
        last.starts_with("puna: 3 records, ") && last.contains("/s in "),
        "{done:?}"
    );
    assert_eq!(done.ok().lines().count(), 3);
}

#[test]
fn bytes_that_are_not_utf8_are_read_as_the_user_says() {
    let sandbox = Sandbox::with_smol();
    let shell = |line: &str| sandbox.shell(line);
    let inputs = |done: crate::support::Done| {
        let all = objects(&done.ok());
        all.iter()
            .map(|one| one["input"].clone())
            .collect::<Vec<_>>()
    };
    let records = "printf 'caf\\351\\nna\\357ve\\n' | puna map smol -n 2 --json --encoding";
    assert_eq!(
        inputs(shell(&format!("{records} latin1"))),
        ["café", "naïve"]
    );
    assert_eq!(
        inputs(shell(&format!("{records} replace"))),
        ["caf\u{fffd}", "na\u{fffd}ve"]
    );
    shell(&format!("{records} utf9")).fails(2, "--encoding must be strict, replace or latin1");
    let render = "printf 'one\\ncaf\\351' | puna render smol -";
    let strict = "standard input is not UTF-8 text: line 2, column 4 is the byte 0xe9";
    shell(render).fails(2, strict);
    assert!(
        shell(&format!("{render} --encoding latin1"))
            .ok()
            .contains("one\ncafé")
    );
    assert!(
        shell(&format!("{render} --encoding replace"))
            .ok()
            .contains("caf\u{fffd}")
    );
    let tokens = shell("printf 'caf\\351' | puna tokens smol --encoding latin1 --head 9").ok();
    assert_eq!(tokens, "café");
    sandbox.file("old.txt", b"caf\xe9");
    shell("puna run smol -a old.txt x").fails(2, "old.txt is not UTF-8 text: line 1, column 4");
    shell("puna run smol -a old.txt x -n 1 --encoding latin1").ok();
}

#[test]
fn pieces_of_a_text_reach_the_embedder_as_they_are() {
    let sandbox = Sandbox::new();
    sandbox.create("mini", &format!("FROM {}\n", minilm::minilm().display()));
    let text = "first line\nsecond line\twith a tab and a \\ in it\n";
    sandbox.file("text.txt", text);
    let split = "puna tokens mini --split 100 < text.txt";
    let escaped = sandbox.shell(split).ok();
    assert_eq!(
        escaped.trim_end(),
        "first line\\nsecond line\\twith a tab and a \\\\ in it"
    );
    let vector = |line: &str| {
        let done = sandbox.shell(&format!("{line} --json")).ok();
        let object: Json = serde_json::from_str(&done).unwrap();
        assert_eq!(object["text"], text.trim_end(), "{line}");
        object["embedding"].to_string()
    };
    let lines = vector(&format!("{split} | puna embed mini"));
    assert_eq!(lines, vector(&format!("{split} -0 | puna embed mini -0")));
    // What nearest prints is the text again, escaped once.
    let near = sandbox
        .shell(&format!(
            "{split} | puna embed mini | puna nearest mini tab"
        ))
        .ok();
    assert_eq!(near.split_once('\t').unwrap().1, escaped);
    let ranked = sandbox
        .shell(&format!("{split} | puna rerank mini tab"))
        .ok();
    assert_eq!(ranked.split_once('\t').unwrap().1, escaped);
    sandbox
        .shell("puna tokens mini -0 < text.txt")
        .fails(2, "--null needs --split");
}
