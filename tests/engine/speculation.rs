//! Tokens that are computed in advance change no answer, whatever the model, the options and the load.

use serde_json::{Value as Json, json};

use crate::engine::reuse::words;
use crate::support::{Sandbox, Server, gemma};

/// Two servers of the same models: one that guesses, one that does not.
fn started() -> (Sandbox, [Server; 2]) {
    let sandbox = Sandbox::with_smol();
    sandbox.create("gemma", &format!("FROM {}\n", gemma().display()));
    let servers =
        ["on", "off"].map(|value| sandbox.serve(&[("PUNA_SPECULATE", value), ("PUNA_SOCKET", "")]));
    (sandbox, servers)
}

/// The same request to both: the answers, and how many tokens were guessed and kept by the first.
fn both(servers: &[Server; 2], path: &str, body: &Json) -> ([Json; 2], (u64, u64)) {
    let answers = [0, 1].map(|at| servers[at].post(path, &body.to_string()));
    let count = |at: usize, key: &str| answers[at][key].as_u64().unwrap_or(0);
    assert_eq!(count(1, "draft_count"), 0, "{}", answers[1]);
    let counts = (count(0, "draft_count"), count(0, "draft_accepted_count"));
    (answers, counts)
}

/// A text that a small model copies on and on.
fn lines() -> String {
    let line = "The cat sat on the mat and looked at the moon. ";
    line.repeat(6).trim_end().to_string()
}

fn greedy(model: &str, prompt: &str, tokens: u64) -> Json {
    json!({"model": model, "prompt": prompt, "raw": true, "stream": false,
        "options": {"temperature": 0, "num_predict": tokens}})
}

#[test]
fn the_likeliest_answer_is_the_same_and_comes_in_fewer_decodes() {
    let (_sandbox, servers) = started();
    // gemma's second answer slides past its window of 512 tokens.
    let far = words("word", 120);
    for (model, prompt) in [
        ("smol", &lines()),
        ("gemma", &lines()),
        ("gemma", &far),
        ("smol", &"Once upon a time".to_string()),
    ] {
        let (answers, (guessed, kept)) =
            both(&servers, "/api/generate", &greedy(model, prompt, 96));
        assert_eq!(answers[0]["response"], answers[1]["response"], "{model}");
        assert_eq!(answers[0]["eval_count"], answers[1]["eval_count"]);
        if *prompt == lines() {
            // How many pay depends on what a decode of several tokens costs on this processor.
            assert!(kept > 15 && kept <= guessed, "{model}: {kept} of {guessed}");
        }
        // A further turn resumes from what the drafts left in the cache.
        let answer = answers[0]["response"].as_str().unwrap();
        let next = greedy(model, &format!("{prompt}{answer} And then"), 24);
        let (again, _) = both(&servers, "/api/generate", &next);
        assert_eq!(
            again[0]["response"], again[1]["response"],
            "{model}, resumed"
        );
    }
    let metrics = servers[0].ask("GET", "/metrics", "").body;
    let name = "puna_draft_tokens_kept_total{model=\"gemma:latest\"} ";
    let kept = metrics.lines().find_map(|line| line.strip_prefix(name));
    assert!(kept.unwrap().parse::<u64>().unwrap() > 15, "{metrics}");
}

#[test]
fn a_seed_picks_the_same_tokens() {
    let (_sandbox, servers) = started();
    let (mut same, mut guessed, mut kept) = (0, 0, 0);
    for seed in 0..24 {
        let mut body = greedy("smol", &lines(), 40);
        body["options"]["temperature"] = json!(1.2);
        body["options"]["seed"] = json!(seed);
        let (answers, counts) = both(&servers, "/api/generate", &body);
        same += usize::from(answers[0]["response"] == answers[1]["response"]);
        guessed += counts.0;
        kept += counts.1;
    }
    // Rounding may tip a choice; the distribution is the same if nearly every sample is.
    assert!(same >= 22, "{same} of 24 answers are the same");
    // Both happened: guesses that the sampler made too, and such that it did not.
    assert!(kept > 20 && guessed > kept + 10, "{kept} of {guessed}");
}

#[test]
fn grammars_stops_logprobs_and_limits_hold() {
    let (_sandbox, servers) = started();
    let grammar = r#"root ::= "[" ("{\"name\": \"item\", \"size\": " [0-9] "}, "){9} "]""#;
    let mut constrained = greedy("smol", "A list:", 200);
    constrained["grammar"] = json!(grammar);
    let mut stopped = greedy("smol", &lines(), 60);
    stopped["options"]["stop"] = json!(["moon"]);
    let mut described = greedy("smol", &lines(), 30);
    (described["logprobs"], described["top_logprobs"]) = (json!(true), json!(2));
    let short = greedy("smol", &lines(), 11);
    // The context is full after a few of them and continues with the younger half.
    let mut shifted = greedy("smol", &lines(), 90);
    shifted["options"]["num_ctx"] = json!(128);
    for (what, body) in [
        ("a grammar", constrained),
        ("a stop", stopped),
        ("logprobs", described),
        ("a limit", short),
        ("a full context", shifted),
    ] {
        let (answers, (guessed, _)) = both(&servers, "/api/generate", &body);
        let part = |key: &str| [0, 1].map(|at| answers[at][key].clone());
        for key in ["response", "eval_count", "done_reason"] {
            let [with, without] = part(key);
            assert_eq!(with, without, "{what}: {key}");
        }
        // A stop string ends the answer before its counts come.
        assert!(guessed > 0 || what == "a stop", "{what}");
        let [with, without] = part("logprobs").map(|all| all.as_array().cloned());
        for (with, without) in with.iter().flatten().zip(without.iter().flatten()) {
            assert_eq!(with["token"], without["token"]);
            let [with, without] = [with, without].map(|one| one["logprob"].as_f64().unwrap());
            assert!((with - without).abs() < 0.05, "{with} and {without}");
        }
    }
}

#[test]
fn several_answers_at_once_guess_each_for_itself() {
    let (_sandbox, servers) = started();
    let prompts = ["cats", "rivers", "bread", "stars"].map(|end| format!("{end}, ").repeat(12));
    let ask = |server: &Server, prompt: &str| {
        server.post("/api/generate", &greedy("gemma", prompt, 40).to_string())
    };
    let alone = prompts.each_ref().map(|prompt| ask(&servers[1], prompt));
    let together: Vec<Json> = std::thread::scope(|scope| {
        let (server, ask) = (&servers[0], &ask);
        let threads = prompts
            .each_ref()
            .map(|prompt| scope.spawn(move || ask(server, prompt)));
        let answers = threads.map(|thread| thread.join().unwrap());
        answers.into()
    });
    // Without AMX, ggml multiplies four tokens of this model by other code than one, and nothing is drafted beside them.
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if !cpu.contains("amx_int8") {
        assert!(together.iter().all(|answer| answer["eval_count"] == 40));
        return;
    }
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(alone["response"], together["response"]);
        assert!(
            together["draft_accepted_count"].as_u64() > Some(3),
            "{together}"
        );
    }
}

#[test]
fn a_run_says_what_its_guesses_brought_and_can_do_without() {
    let sandbox = Sandbox::with_smol();
    let prompt = lines();
    let words = [
        "run",
        "smol",
        "--raw",
        "-n",
        "60",
        "--temperature",
        "0",
        "--verbose",
    ];
    let run = |value: &str| {
        let mut command = sandbox.command(&words);
        command.env("PUNA_SPECULATE", value);
        crate::support::run(&mut command, &prompt)
    };
    let [with, without] = ["on", "off"].map(run);
    assert_eq!(with.stdout, without.stdout);
    assert!(with.stderr.contains("drafts kept:"), "{}", with.stderr);
    assert!(
        !without.stderr.contains("drafts kept:"),
        "{}",
        without.stderr
    );
    // The same answer every time: what is guessed depends on no clock.
    assert_eq!(run("on").stderr.matches("drafts kept:").count(), 1);
    let kept = |text: &str| {
        let mut lines = text.lines();
        lines
            .find(|line| line.starts_with("drafts kept:"))
            .map(str::to_string)
    };
    assert_eq!(kept(&run("on").stderr), kept(&with.stderr));
}
