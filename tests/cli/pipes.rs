//! `puna run` in pipes: standard input, standard output, and nothing else.

use std::io::Read;
use std::process::Stdio;

use serde_json::Value as Json;

use crate::support::{Sandbox, gemma, smol};

const COOL: &str = "--temperature=0";

#[test]
fn a_piped_prompt_is_answered_with_one_newline_at_the_end() {
    let sandbox = Sandbox::new();
    let done = sandbox.puna(
        &["run", smol().to_str().unwrap(), COOL, "-n", "20"],
        "Why is the sky blue?\n",
    );
    let note = "puna: the answer was cut after 20 tokens: see --num-predict\n";
    assert_eq!(done.stderr, note);
    let answer = done.ok();
    assert!(
        answer.ends_with('\n') && !answer.ends_with("\n\n"),
        "{answer:?}"
    );
    assert!(answer.trim().len() > 20, "{answer:?}");
    assert!(!answer.contains('\x1b'));
}

#[test]
fn arguments_and_standard_input_make_the_same_prompt() {
    let sandbox = Sandbox::with_smol();
    let model = smol();
    let path = model.to_str().unwrap();
    let piped = sandbox
        .puna(&["run", path, COOL, "-n", "8"], "Say hello\n")
        .ok();
    let spoken = sandbox
        .puna(&["run", path, COOL, "-n", "8", "Say", "hello"], "ignored")
        .ok();
    let named = sandbox
        .puna(&["run", "smol", "Say hello", COOL, "-n", "8"], "")
        .ok();
    assert_eq!(piped, spoken);
    assert_eq!(piped, named);
    let joined = sandbox
        .puna(
            &["run", path, COOL, "-n", "8", "-", "in French"],
            "Say hello\n",
        )
        .ok();
    let whole = sandbox
        .puna(
            &["run", path, COOL, "-n", "8", "Say hello\n\nin French"],
            "",
        )
        .ok();
    assert_eq!(joined, whole);
}

#[test]
fn a_while_read_loop_keeps_its_input() {
    let sandbox = Sandbox::new();
    sandbox.file("lines", "one\ntwo\nthree\n");
    let line =
        "while read -r l; do puna run $SMOL \"$l\" -n 1 >/dev/null; echo \"$l\"; done < lines";
    assert_eq!(sandbox.shell(line).ok(), "one\ntwo\nthree\n");
}

#[test]
fn a_closed_pipe_ends_the_run_quietly_with_0() {
    let sandbox = Sandbox::new();
    let line = "set -o pipefail; puna run $SMOL 'Count to one hundred, one number a line.' -n 300 --temperature 0 | head -1";
    let done = sandbox.shell(line);
    assert_eq!(
        (done.status, done.stderr.as_str()),
        (Some(0), ""),
        "{done:?}"
    );
    assert_eq!(done.stdout.lines().count(), 1);
}

#[test]
fn the_answer_comes_in_pieces_also_in_a_pipe() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&[
        "run",
        smol().to_str().unwrap(),
        "Tell me a story",
        COOL,
        "-n",
        "200",
    ]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 64];
    let count = child.stdout.take().unwrap().read(&mut first).unwrap();
    assert!(count > 0 && count < 64, "{count} bytes at once");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn json_is_one_object_with_the_apis_fields() {
    let sandbox = Sandbox::new();
    let done = sandbox.puna(
        &[
            "run",
            smol().to_str().unwrap(),
            "Hi",
            COOL,
            "-n",
            "5",
            "--json",
        ],
        "",
    );
    let text = done.ok();
    assert_eq!(text.lines().count(), 1);
    let json: Json = serde_json::from_str(&text).unwrap();
    let keys: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "model",
            "created_at",
            "response",
            "done",
            "done_reason",
            "total_duration",
            "load_duration",
            "prompt_eval_count",
            "prompt_eval_duration",
            "eval_count",
            "eval_duration"
        ]
    );
    assert_eq!(json["done_reason"], "length");
    assert_eq!(json["eval_count"], 5);
}

#[test]
fn verbose_prints_timings_on_standard_error_only() {
    let sandbox = Sandbox::new();
    let done = sandbox.puna(
        &[
            "run",
            smol().to_str().unwrap(),
            "Hi",
            COOL,
            "-n",
            "5",
            "--verbose",
        ],
        "",
    );
    for label in [
        "total duration:",
        "prompt eval count:",
        "eval rate:",
        "device:               CPU",
    ] {
        assert!(done.stderr.contains(label), "{label} in {}", done.stderr);
    }
    assert!(!done.ok().contains("duration"));
}

#[test]
fn llama_cpps_log_is_silent_unless_asked_for() {
    let sandbox = Sandbox::new();
    let model = smol();
    let words = ["run", model.to_str().unwrap(), "Hi", "-n", "1"];
    let quiet = sandbox.puna(&[&words[..], &["-q"]].concat(), "");
    assert_eq!(quiet.stderr, "");
    let loud = sandbox.puna(&[&words[..], &["--log", "debug"]].concat(), "");
    assert!(loud.stderr.contains("llama.cpp: "), "{}", loud.stderr);
    assert!(!loud.ok().contains("llama.cpp"));
}

#[test]
fn a_seed_gives_the_same_answer_twice() {
    let sandbox = Sandbox::new();
    let ask = |seed: &str| {
        sandbox
            .puna(
                &[
                    "run",
                    smol().to_str().unwrap(),
                    "Tell me a joke",
                    "--seed",
                    seed,
                    "-n",
                    "24",
                ],
                "",
            )
            .ok()
    };
    assert_eq!(ask("7"), ask("7"));
    assert_ne!(ask("7"), ask("8"));
}

#[test]
fn options_reach_the_model() {
    let sandbox = Sandbox::new();
    let model = smol();
    let ask = |words: &[&str]| {
        let all = [&["run", model.to_str().unwrap(), "Count: 1 2 3 4"], words].concat();
        sandbox.puna(&all, "").ok()
    };
    let plain = ask(&[COOL, "-n", "12"]);
    assert_eq!(ask(&["-o", "top_k=1", "-n", "12"]), plain);
    assert_ne!(
        ask(&[COOL, "-n", "12", "-s", "Answer in French, always."]),
        plain
    );
    let word = plain.split_whitespace().nth(1).unwrap();
    let stopped = ask(&[COOL, "-n", "12", "-o", &format!("stop={word}")]);
    assert!(!stopped.contains(word), "{stopped:?} stops before {word:?}");
    assert!(
        plain.starts_with(stopped.trim_end()),
        "{stopped:?} begins {plain:?}"
    );
}

#[test]
fn raw_takes_the_prompt_as_it_is() {
    let sandbox = Sandbox::new();
    let model = smol();
    let ask = |words: &[&str]| {
        let all = [
            &["run", model.to_str().unwrap(), COOL, "-n", "6", "--json"],
            words,
        ]
        .concat();
        serde_json::from_str::<Json>(&sandbox.puna(&all, "").ok()).unwrap()["prompt_eval_count"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(ask(&["--raw", "The sky is"]), 3);
    assert!(ask(&["The sky is"]) > 20, "the template adds a system text");
}

#[test]
fn a_model_without_a_template_continues_the_text() {
    let sandbox = Sandbox::new();
    let path = gemma();
    let ask = |words: &[&str]| {
        sandbox
            .puna(
                &[&["run", path.to_str().unwrap(), COOL, "-n", "6"], words].concat(),
                "",
            )
            .ok()
    };
    assert_eq!(ask(&["1 2 3 4 5 6 7"]), ask(&["--raw", "1 2 3 4 5 6 7"]));
    assert!(ask(&["1 2 3 4 5 6 7"]).starts_with(" 8"));
    assert_eq!(ask(&["1 2 3", "-n", "0"]), "\n");
}

#[test]
fn the_longest_answer_ends_where_the_context_ends() {
    let sandbox = Sandbox::new();
    let model = smol();
    let grammar = sandbox.file("letters.gbnf", "root ::= [a-z]{400}\n");
    let words = [
        "run",
        model.to_str().unwrap(),
        "Hi",
        COOL,
        "--num-ctx",
        "64",
        "--json",
        "--grammar",
        grammar.to_str().unwrap(),
    ];
    // A text of 400 letters does not fit, so the context has to end it.
    let done = sandbox.puna(&words, "");
    assert_eq!(done.status, Some(6), "{done:?}");
    let json: Json = serde_json::from_str(&done.stdout).unwrap();
    let tokens = json["prompt_eval_count"].as_u64().unwrap() + json["eval_count"].as_u64().unwrap();
    assert_eq!(
        (&json["done_reason"], tokens),
        (&"length".into(), 64),
        "{json}"
    );
}

#[test]
fn bench_prints_settings_and_then_speeds() {
    let sandbox = Sandbox::with_smol();
    let words = ["bench", "smol", "-p", "24", "-n", "4", "--runs", "1"];
    let done = sandbox.puna(&words, "").ok();
    let rows: Vec<Vec<&str>> = done
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let value = |what: &str| {
        let row = rows.iter().find(|row| row[0] == what);
        let row = row.unwrap_or_else(|| panic!("no {what}: {done}"));
        assert_eq!(row.len(), 4, "{row:?}");
        // A measurement has a unit, a setting a reason.
        assert_ne!(row[2].is_empty(), row[3].is_empty(), "{row:?}");
        row[1]
    };
    assert_eq!((value("cache"), value("flash attention")), ("f16", "true"));
    assert_eq!((value("context"), rows[0][0]), ("4096", "threads"));
    for what in [
        "load",
        "memory",
        "prompt of 24",
        "answers, 1 at once",
        "answers, 4 at once",
        "answers, 8 at once",
        "one-shot of one token",
    ] {
        assert!(value(what).parse::<f64>().unwrap() > 0.0, "{done}");
    }
    let other = sandbox.shell(&format!(
        "PUNA_KV_CACHE_TYPE=q8_0 puna {} --json | head -3",
        words.join(" ")
    ));
    let cache = other.stdout.lines().nth(2).unwrap();
    assert!(cache.contains(r#""value":"q8_0""#), "{other:?}");
    sandbox
        .puna(&["bench", "smol", "-p", "0"], "")
        .fails(2, "--prompt must be a number from 1 up");
    let long = sandbox.puna(&["bench", "smol", "-p", "5000"], "");
    assert_eq!(long.status, Some(4), "{long:?}");
    assert!(
        long.stderr.contains("5000 tokens") && long.stderr.contains("4096"),
        "{long:?}"
    );
}

#[test]
fn a_run_that_times_out_prints_the_partial_answer() {
    let sandbox = Sandbox::with_smol();
    let words = [
        "run",
        "smol",
        "Write a long story about the sea, in ten chapters.",
        "-n",
        "4000",
        "--num-ctx",
        "8000",
        // It goes on and on, where a drawn answer may end.
        "--temperature",
        "0",
        "-o",
        "stop=zzzz",
        "--timeout",
        "3s",
    ];
    let done = sandbox.puna(&words, "");
    assert_eq!(done.status, Some(10), "{done:?}");
    assert!(
        done.stdout.len() > 20 && done.stdout.ends_with('\n'),
        "{done:?}"
    );
    assert!(done.stderr.contains("timed out"), "{done:?}");
    let server = sandbox.serve(&[]);
    let through = sandbox.puna(&[&words[..], &["--host", &server.at]].concat(), "");
    assert_eq!(through.status, Some(10), "{through:?}");
    let json = sandbox.puna(&[&words[..], &["--json"]].concat(), "");
    let record: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.status, &record["done"]), (Some(10), &false.into()));
    sandbox
        .puna(&["run", "smol", "x", "--timeout", "soon"], "")
        .fails(2, "soon");
    assert!(
        sandbox
            .puna(&["run", "smol", "Hi", "-n", "2", "--timeout", "1m"], "")
            .ok()
            .len()
            > 1
    );
}

#[test]
fn a_run_that_a_stop_string_ends_leaves_in_order_every_time() {
    let sandbox = Sandbox::new();
    let model = smol();
    let path = model.to_str().unwrap();
    let words = [
        "run",
        path,
        "Count: 1 2 3 4",
        COOL,
        "-n",
        "30",
        "-o",
        "stop= ",
    ];
    for _ in 0..20 {
        assert_eq!(sandbox.puna(&words, "").status, Some(0));
    }
}

#[test]
fn bench_tune_stores_whether_copies_of_the_weights_are_faster() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", crate::support::tiny_models::llama());
    let make = ["create", "tiny", "-q", "--quantize", "q4_0", "-f", "-"];
    sandbox.puna(&make, "FROM ./tiny.gguf\n").ok();
    let rows = sandbox.puna(&["bench", "--tune", "tiny", "--runs", "1"], "");
    let rows = rows.ok();
    // A processor without AVX2 has no layout of its own for this type.
    let chosen = match rows.lines().last().unwrap_or_default().split_once('\t') {
        Some(("repacked", value)) => value.trim() == "true",
        _ => return assert!(!puna::system::machine::has("avx2"), "{rows}"),
    };
    for setting in ["copied", "mapped"] {
        let row = format!("{setting}, answers, 8 at once\t");
        assert!(rows.contains(&row), "{rows}");
    }
    let copies = |words: &str| {
        let line = format!("{words} puna bench tiny -p 8 -n 2 --runs 1 | grep ^repacked");
        sandbox.shell(&line).ok().contains("\ttrue\t")
    };
    assert_eq!(copies(""), chosen);
    let flip =
        "cd .cache/puna/measured && sed -i 's/:true}/:x}/; s/:false}/:true}/; s/:x}/:false}/' *";
    sandbox.shell(flip).ok();
    assert_eq!(copies(""), !chosen);
    let setting = format!("PUNA_REPACK={}", u8::from(chosen));
    assert_eq!(copies(&setting), chosen);
}

#[test]
fn bench_tune_stores_the_faster_attention() {
    let sandbox = Sandbox::new();
    let model = sandbox.file("tiny.gguf", crate::support::tiny_models::llama());
    let model = model.to_str().unwrap();
    let settings = sandbox.puna(&["bench", "--tune", model, "--runs", "1"], "");
    let settings = settings.ok();
    for setting in ["no flash", "flash"] {
        let depths = settings
            .matches(&format!("\n{setting}, answer behind "))
            .count();
        assert!(depths > 0, "{settings}");
        assert!(
            settings.contains(&format!("{setting}, answers, 8 at once\t")),
            "{settings}"
        );
    }
    let last = settings.lines().last().unwrap_or_default();
    let chosen = match last.strip_prefix("flash attention\t").map(str::trim) {
        Some("true") => true,
        Some("false") => false,
        _ => panic!("{settings}"),
    };
    // The setting in force, with `words` before the command.
    let flash = |words: &str| {
        let line = format!("{words} puna bench {model} -p 8 -n 2 --runs 1 | grep flash");
        sandbox.shell(&line).ok().contains("\ttrue\t")
    };
    assert_eq!(flash(""), chosen);
    let folder = sandbox.home.join(".cache/puna/measured");
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let stored = files
        .filter(|path| path.file_name().unwrap() != ".lock")
        .collect::<Vec<_>>();
    assert_eq!(stored.len(), 1);
    // The file overrides the default, and the variable overrides the file.
    let text = std::fs::read_to_string(&stored[0]).unwrap();
    let other = text.replace(
        &format!(r#""flash_attention":{chosen}"#),
        &format!(r#""flash_attention":{}"#, !chosen),
    );
    assert_ne!(text, other);
    std::fs::write(&stored[0], other).unwrap();
    assert_eq!(flash(""), !chosen);
    assert_eq!(flash(&format!("PUNA_FLASH_ATTENTION={chosen}")), chosen);
    // An invalid file is ignored.
    std::fs::write(&stored[0], "{").unwrap();
    sandbox
        .puna(&["bench", model, "-p", "8", "-n", "2", "--runs", "1"], "")
        .ok();
    sandbox
        .puna(&["bench", "--tune", "-p", "8", model], "")
        .fails(2, "lengths");
    sandbox
        .shell(&format!(
            "PUNA_KV_CACHE_TYPE=q8_0 puna bench --tune {model}"
        ))
        .fails(2, "nothing to choose");
}
