//! `chat` over standard input, and answers that `replay` reproduces.

use serde_json::{Value as Json, json};

use crate::api::structured_output;
use crate::support::{Sandbox, smol};

fn lines(text: &str) -> Vec<Json> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_line_is_answered_in_its_conversation() {
    let sandbox = Sandbox::with_smol();
    let flags = ["--temperature", "0", "-n", "24"];
    let chat = |words: &[&str], input: &str| {
        sandbox.puna(&[&["chat", "smol"], words, &flags[..]].concat(), input)
    };
    let input = "The secret word is banana.\nWhat is the secret word?\n";
    let plain = chat(&[], input).ok();
    let answers: Vec<&str> = plain.lines().collect();
    assert_eq!(answers.len(), 2, "{plain}");
    assert!(answers[1].to_lowercase().contains("banana"), "{plain}");
    // The same as JSON, with a transcript that another call resumes.
    let user = |text: &str| json!({"role": "user", "content": text}).to_string() + "\n";
    let system = json!({"role": "system", "content": "Be brief."}).to_string() + "\n";
    let first = [system, user("The secret word is banana.")].concat();
    let output = chat(&["--jsonl", "--transcript", "t.jsonl"], &first).ok();
    assert_eq!(lines(&output).len(), 1, "{output}");
    assert_eq!(lines(&output)[0]["role"], "assistant");
    let on = chat(
        &["--jsonl", "--continue", "t.jsonl"],
        &user("What is the secret word?"),
    )
    .ok();
    let answer = lines(&on)[0]["content"].as_str().unwrap().to_lowercase();
    assert!(answer.contains("banana"), "{on}");
    // Errors are reported in place of the answer; the other lines are answered.
    let odd = ["{", "[]", r#"{"role":"judge","content":"x"}"#].map(|line| line.to_string() + "\n");
    let done = chat(&["--jsonl"], &[odd.concat(), user("Say hello.")].concat());
    assert_eq!(done.status, Some(14), "{done:?}");
    let output = lines(&done.stdout);
    assert_eq!(output.len(), 4, "{output:?}");
    assert!(
        output[..3].iter().all(|line| line["error"].is_string()),
        "{output:?}"
    );
    assert!(!output[3]["content"].as_str().unwrap().is_empty());
    chat(&["--jsonl", "--schema", "no.json"], "").fails(1, "cannot read no.json");
}

#[test]
fn a_script_can_be_the_loop_that_runs_tools() {
    let sandbox = structured_output::sandbox();
    sandbox.file("tools.json", structured_output::tools().to_string());
    let result = json!({"role": "tool", "content": "sunny", "tool_name": "get_weather"});
    let user = json!({"role": "user", "content": "Weather in Oslo?"});
    let words = [
        "chat",
        "tooly",
        "--jsonl",
        "--tools",
        "tools.json",
        "--tool-choice",
        "get_weather",
    ];
    let flags = ["--think=false", "-n", "300", "--temperature", "0"];
    let words = [&words[..], &flags].concat();
    let output = sandbox.puna(&words, &format!("{user}\n{result}\n")).ok();
    let answers = lines(&output);
    // The call first; then, after its result, the answer.
    assert_eq!(answers.len(), 2, "{output}");
    let call = &answers[0]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "get_weather");
    assert!(call["arguments"]["city"].is_string());
}

#[test]
fn a_recorded_answer_comes_out_the_same() {
    let sandbox = Sandbox::with_smol();
    let run = |words: &[&str]| sandbox.puna(words, "");
    let asked = [
        "run",
        "smol",
        "Tell a story",
        "-n",
        "40",
        "--record",
        "r.json",
    ];
    let output = run(&asked).ok();
    for _ in 0..2 {
        assert_eq!(run(&["replay", "r.json"]).ok(), "");
    }
    assert_eq!(run(&["replay", "r.json", "--print"]).ok(), output);
    let object: Json = serde_json::from_str(&run(&["replay", "r.json", "--json"]).ok()).unwrap();
    assert_eq!(object["same"], true);
    let response = object["response"].as_str().unwrap();
    assert_eq!(
        response.trim_end_matches('\n'),
        output.trim_end_matches('\n')
    );
    // Trailing newlines of an answer are printed as one, by `run` and by `replay`.
    let words = ["--grammar", "lines.gbnf", "--record", "lines.json"];
    sandbox.file("lines.gbnf", "root ::= \"a\\n\\n\\n\"");
    let short = run(&[&["run", "smol", "Hi"], &words[..]].concat()).ok();
    assert_eq!(short, "a\n");
    assert_eq!(run(&["replay", "lines.json", "--print"]).ok(), short);
    let text = std::fs::read_to_string(sandbox.home.join("r.json")).unwrap();
    let recorded: Json = serde_json::from_str(&text).unwrap();
    assert!(recorded["request"]["options"]["seed"].is_u64(), "{text}");
    let content = recorded["output"]["content"].as_str().unwrap();
    assert_eq!(
        content.trim_end_matches('\n'),
        output.trim_end_matches('\n')
    );
    // A different seed, a different model, a file that is not a record.
    let mut other = recorded.clone();
    other["request"]["options"]["seed"] = 1.into();
    sandbox.file("other.json", other.to_string());
    let no = run(&["replay", "other.json"]);
    assert_eq!((no.status, no.stdout.as_str()), (Some(13), ""), "{no:?}");
    sandbox.create("smol", &format!("FROM {}\nSYSTEM x\n", smol().display()));
    let changed = run(&["replay", "r.json"]);
    assert_eq!(changed.status, Some(13));
    assert!(
        changed
            .stderr
            .contains("is not the model that was recorded"),
        "{changed:?}"
    );
    sandbox.file("none.json", "{}");
    run(&["replay", "none.json"]).fails(2, "is not a record of run");
    // A schema, a model file, no template.
    sandbox.file(
        "s.json",
        r#"{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}"#,
    );
    let smol = smol();
    let path = smol.to_str().unwrap();
    for (record, flags) in [
        ("p.json", &["--schema", "s.json"][..]),
        ("q.json", &["--raw"]),
    ] {
        let words = [
            &["run", path, "Once", "-n", "40", "--record", record],
            flags,
        ]
        .concat();
        run(&words).ok();
        run(&["replay", record]).ok();
    }
}
