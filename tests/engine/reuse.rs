//! Prefix reuse: by the same prompt, by one with a shared prefix, by eight at once; and the answers
//! stay the same.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::engine::architectures::assert_same;
use crate::support::{Sandbox, Server, gemma};

fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    sandbox.create("gemma", &format!("FROM {}\n", gemma().display()));
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

pub fn ask(server: &Server, model: &str, prompt: &str) -> Json {
    let body = json!({"model": model, "prompt": prompt, "raw": true, "stream": false, "logprobs": true,
        "top_logprobs": 2, "options": {"temperature": 0, "num_predict": 12, "stop": ["\u{1}"]}});
    server.post("/api/generate", &body.to_string())
}

fn prompt_ms(json: &Json) -> u64 {
    json["prompt_eval_duration"].as_u64().unwrap() / 1_000_000
}

pub fn words(word: &str, count: usize) -> String {
    let words: Vec<String> = (0..count).map(|number| format!("{word}{number}")).collect();
    words.join(" ")
}

#[test]
fn alternating_conversations_reuse_their_prefix() {
    let (_sandbox, server) = started();
    for model in ["smol", "gemma"] {
        let prompts = [words("word", 130), words("other", 130), words("third", 130)];
        let first = prompts.clone().map(|prompt| ask(&server, model, &prompt));
        for round in 0..2 {
            for (prompt, first) in prompts.iter().zip(&first) {
                let again = ask(&server, model, prompt);
                assert_same(first, &again, &format!("{model}, round {round}"));
                let (before, now) = (prompt_ms(first), prompt_ms(&again));
                assert!(now < before / 3, "{model}: {before} ms, then {now} ms");
            }
        }
        // A prompt that extends an earlier one, and two that diverge in the middle.
        let longer = format!("{} and so", prompts[0]);
        assert!(prompt_ms(&ask(&server, model, &longer)) < prompt_ms(&first[0]) / 3);
        let parted = |end: &str| format!("{} {end}", words("word", 90));
        ask(&server, model, &parted("one thing"));
        let second = prompt_ms(&ask(&server, model, &parted("another")));
        assert!(second < prompt_ms(&first[0]) / 3, "{model}: {second} ms");
    }
}

#[test]
fn eight_prompts_with_one_prefix_get_their_own_answers() {
    let (_sandbox, server) = started();
    for model in ["smol", "gemma"] {
        let system = words("rule", 130);
        // After a word repeated twelve times, the next token is certain.
        let ends = [
            "cats", "rivers", "bread", "stars", "music", "trees", "glass", "winter",
        ];
        let ends = ends.map(|end| format!("{end}, ").repeat(12));
        let prompts = ends.map(|end| format!("{system} {}", end.trim_end()));
        ask(&server, model, "x");
        let together: Vec<Json> = std::thread::scope(|scope| {
            let server = &server;
            let threads: Vec<_> = prompts
                .iter()
                .map(|prompt| scope.spawn(move || ask(server, model, prompt)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (prompt, answer) in prompts.iter().zip(&together) {
            assert_same(&ask(&server, model, prompt), answer, model);
        }
    }
}

#[test]
fn a_prompt_that_was_left_at_any_moment_is_answered_as_ever() {
    let (_sandbox, server) = started();
    let (_another, fresh) = started();
    for model in ["smol", "gemma"] {
        let prompt = |word: &str| words(word, 130);
        ask(&server, model, "x");
        for (at, leave_ms) in [10, 30, 70, 110, 170].into_iter().enumerate() {
            let word = ["one", "two", "few", "lot", "all"][at];
            let body = json!({"model": model, "prompt": prompt(word), "raw": true});
            let left = server.send("POST", "/api/generate", &body.to_string(), "");
            std::thread::sleep(Duration::from_millis(leave_ms));
            drop(left);
            let after = ask(&server, model, &prompt(word));
            let anew = ask(&fresh, model, &prompt(word));
            assert_same(&anew, &after, &format!("{model}, left after {leave_ms} ms"));
        }
    }
}

#[test]
fn a_window_goes_back_to_any_place_before_it_slid() {
    let (_sandbox, server) = started();
    let (_another, fresh) = started();
    let counter = |what: &str| -> u64 {
        let metrics = server.ask("GET", "/metrics", "").body;
        let start = format!("puna_{what}_tokens_total{{model=\"gemma:latest\"}} ");
        let mut values = metrics.lines().filter_map(|line| line.strip_prefix(&start));
        values.next().unwrap().parse().unwrap()
    };
    let computed = || counter("prompt") - counter("cached");
    // One within the window of 512, one that exceeds it in the prompt, one in the answer.
    for (word, count, answer_tokens) in [("word", 30, 4), ("other", 200, 4), ("third", 140, 120)] {
        let body = json!({"model": "gemma", "prompt": words(word, count), "raw": true, "stream": false,
            "options": {"temperature": 0, "num_predict": answer_tokens, "stop": ["\u{1}"]}});
        let answer = server.post("/api/generate", &body.to_string());
        let all = answer["prompt_eval_count"].as_u64().unwrap() + answer_tokens;
        assert_eq!(answer["eval_count"], answer_tokens, "{answer}");
        assert_eq!(all > 512, count > 30, "{all} tokens");
        let so_far = computed();
        let prompt = format!("{} and so on", words(word, 27));
        let parted = ask(&server, "gemma", &prompt);
        let anew = computed() - so_far;
        assert!(anew <= 4, "behind {count} words: {anew} tokens computed");
        let alone = ask(&fresh, "gemma", &prompt);
        assert_same(&alone, &parted, &format!("behind {count} words"));
    }
}
