//! The output formats of `run`, on answers that a grammar determines.

use crate::support::{Done, Sandbox};

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::with_smol();
    let grammar = r#"root ::= "Here:\n```sh\nls -l\n```\nor\n```\npwd\n```\n""#;
    sandbox.file("code.gbnf", grammar);
    sandbox.file("quoted.gbnf", r#"root ::= "\"so\n be  it\"""#);
    sandbox.file("plain.gbnf", r#"root ::= "one, two, three, four""#);
    let schema = r#"{"type":"object","properties":{"name":{"const":"a\tb"},"age":{"const":7}},"required":["name","age"],"additionalProperties":false}"#;
    sandbox.file("person.json", schema);
    sandbox
}

fn run(sandbox: &Sandbox, flags: &[&str]) -> Done {
    let words = ["run", "smol", "go", "--temperature", "0", "--local"];
    sandbox.puna(&[&words[..], flags].concat(), "")
}

#[test]
fn an_answer_takes_the_shape_that_is_asked_for() {
    let sandbox = sandbox();
    for (flags, printed) in [
        (&["--grammar", "code.gbnf", "--extract"][..], "ls -l\n"),
        (&["--grammar", "code.gbnf", "--extract=last"], "pwd\n"),
        (
            &["--grammar", "code.gbnf", "--extract=all", "--one-line"],
            "ls -l pwd\n",
        ),
        (&["--grammar", "quoted.gbnf", "--strip"], "so\n be  it\n"),
        (
            &["--grammar", "quoted.gbnf", "--one-line"],
            "\"so be it\"\n",
        ),
        (
            &["--schema", "person.json", "--fields", "age,name,name.none"],
            "7\ta\\tb\t\n",
        ),
        (&["--grammar", "plain.gbnf"], "one, two, three, four\n"),
    ] {
        let done = run(&sandbox, flags);
        assert_eq!(
            (done.stdout.as_str(), done.status),
            (printed, Some(0)),
            "{flags:?} {}",
            done.stderr
        );
    }
    let stopped = run(
        &sandbox,
        &["--grammar", "plain.gbnf", "--stop", "two", "--stop", "four"],
    );
    assert_eq!(stopped.stdout.trim_end(), "one,", "{stopped:?}");
}

#[test]
fn an_answer_without_the_shape_is_an_error() {
    let sandbox = sandbox();
    run(&sandbox, &["--grammar", "plain.gbnf", "--extract"])
        .fails(1, "the answer has no code block");
    run(&sandbox, &["--extract=second"]).fails(2, "--extract must be first, last or all");
    run(&sandbox, &["--fields", "a"]).fails(2, "--fields needs --schema or --format json");
    run(&sandbox, &["--json", "--strip"]).fails(2, "--json cannot be used with");
    let cut = run(
        &sandbox,
        &["--schema", "person.json", "--fields", "age", "-n", "2"],
    );
    assert_eq!((cut.status, cut.stdout.as_str()), (Some(6), ""), "{cut:?}");
}

#[test]
fn an_object_has_the_properties_that_its_schema_names() {
    let sandbox = sandbox();
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer"}},"required":["name","age"]}"#;
    let prompt = "Anna is 34 years old and has two dogs. Describe her as JSON.";
    for seed in 1..=12 {
        let seed = seed.to_string();
        let words = [
            "run", "smol", prompt, "--schema", schema, "-n", "60", "--seed", &seed,
        ];
        let answer = sandbox.puna(&words, "").ok();
        let object: serde_json::Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(object.as_object().unwrap().len(), 2, "{answer}");
        // One line without white space between its parts.
        assert_eq!(answer, format!("{object}\n"));
    }
    let asked = |flags: &[&str]| run(&sandbox, flags);
    asked(&["--open"]).fails(2, "--open needs --schema");
    asked(&["--schema", "{"]).fails(5, "--schema is not a JSON Schema");
    let open = r#"{"type":"object","properties":{"a":{"const":1}},"required":["a","b"]}"#;
    for flags in [&[][..], &["--open"]] {
        let opened = asked(&[&["--schema", open, "-n", "200"], flags].concat());
        assert!(opened.stdout.starts_with(r#"{"a":1,""#), "{opened:?}");
    }
}
