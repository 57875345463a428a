//! A server gives the same bytes every time, whatever else it computes at the same time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::{Sandbox, eventually, gemma};

#[test]
fn a_seed_gives_the_same_bytes_a_hundred_times_under_load() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("gemma", &format!("FROM {}\n", gemma().display()));
    let words = ["serve", "--host", "127.0.0.1:0", "--deterministic"];
    let server = crate::support::Server::start(sandbox.command(&words));
    let ask = |model: &str, prompt: &str, tokens: usize| {
        let body = json!({"model": model, "prompt": prompt, "stream": false,
            "options": {"seed": 7, "temperature": 1.5, "num_predict": tokens}});
        let answer = server.post("/api/generate", &body.to_string());
        answer["response"].as_str().unwrap().to_string()
    };
    let question = "Tell me about the sea, the wind and the old ships of the north.";
    let alone = ["smol", "gemma"].map(|model| ask(model, question, 12));
    assert!(alone.iter().all(|text| text.len() > 10), "{alone:?}");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..3 {
            let (ask, done) = (&ask, &done);
            scope.spawn(move || {
                for number in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    // Half of them share a prefix with the question.
                    let start = if number % 2 == 0 {
                        &question[..30]
                    } else {
                        "What"
                    };
                    ask(
                        "smol",
                        &format!("{start} {client} {number}?"),
                        1 + number % 5,
                    );
                }
            });
        }
        for round in 0..100 {
            let (model, expected) = match round % 10 {
                0 => ("gemma", &alone[1]),
                _ => ("smol", &alone[0]),
            };
            assert_eq!(&ask(model, question, 12), expected, "round {round}");
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_run_can_be_alone_with_its_seed() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    let words = ["run", "smol", "Tell me a story", "-n", "20", "--seed", "7"];
    let run = |flags: &[&str]| sandbox.puna(&[&words[..], flags].concat(), "").ok();
    let alone = run(&["--deterministic"]);
    assert_eq!(run(&["--deterministic"]), alone);
    let answered = || {
        let metrics = server.ask("GET", "/metrics", "").body;
        metrics.contains("puna_answers_total{model=\"smol:latest\"} ")
    };
    assert!(!answered(), "no server computes it");
    run(&["--host", &server.at]);
    eventually("one does otherwise", Duration::from_secs(5), answered);
}

#[test]
fn a_seed_gives_the_same_answer_alone_beside_others_and_without_a_server() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("gemma", &format!("FROM {}\n", gemma().display()));
    let server = sandbox.serve(&[]);
    let long = "The sea was calm, and the old ship lay at the quay. ".repeat(30);
    let prompts = [
        "Name five animals.",
        "Write a short poem about rust.",
        &format!("{long}What was calm?"),
    ];
    for (name, value, flag) in [("temperature", 0, "--temperature"), ("seed", 7, "--seed")] {
        let ask = |model: &str, prompt: &str| {
            let body = json!({"model": model, "prompt": prompt, "stream": false,
                "options": {name: value, "num_predict": 24}});
            let answer = server.post("/api/generate", &body.to_string());
            answer["response"].as_str().unwrap().trim_end().to_string()
        };
        for model in ["smol", "gemma"] {
            let value = value.to_string();
            let local = prompts.map(|prompt| {
                let words = ["run", model, prompt, "--local", "-n", "24", flag, &value];
                sandbox.puna(&words, "").ok().trim_end().to_string()
            });
            let alone = prompts.map(|prompt| ask(model, prompt));
            assert_eq!(alone, local, "{model} {name}: at a server");
            // The cells of what was computed before are in use, and others take those between.
            let (ask, beside) = (&ask, ["Hello", "What is rain?", &long[..200]]);
            let crowded = std::thread::scope(|scope| {
                let others = beside.map(|prompt| scope.spawn(move || ask(model, prompt)));
                let answers = prompts.map(|prompt| scope.spawn(move || ask(model, prompt)));
                let answers = answers.map(|answer| answer.join().unwrap());
                drop(others.map(|other| other.join().unwrap()));
                answers
            });
            assert_eq!(crowded, local, "{model} {name}: beside others");
            let again = prompts.map(|prompt| ask(model, prompt));
            assert_eq!(again, local, "{model} {name}: from what was kept");
        }
    }
}
