//! `choose`, and `map --choose` and `--questions`: the model's probabilities decide.

use serde_json::Value as Json;

use crate::support::{Done, Sandbox};

fn map(sandbox: &Sandbox, words: &[&str], input: &str) -> Done {
    sandbox.puna(&[&["map", "smol", "-q"], words].concat(), input)
}

fn objects(lines: &str) -> Vec<Json> {
    let objects = lines.lines().map(serde_json::from_str);
    objects.map(Result::unwrap).collect()
}

#[test]
fn records_are_decided_as_single_texts_are() {
    let sandbox = Sandbox::with_smol();
    let mails = [
        "Buy cheap pills now!",
        "Lunch at noon?",
        "You have won a prize",
    ];
    let input = mails.join("\n");
    let out = map(&sandbox, &["--choose", "spam,ham"], &input).ok();
    assert_eq!(
        map(&sandbox, &["--choose", "spam,ham", "-j", "1"], &input).ok(),
        out
    );
    for (line, mail) in out.lines().zip(mails) {
        let alone = sandbox.puna(&["choose", "smol", "spam", "ham"], mail).ok();
        assert_eq!(line, alone.trim_end(), "{mail}");
    }
    let sure = map(&sandbox, &["--choose", "spam,ham", "--sure", "1"], &input).ok();
    assert!(
        sure.lines().all(|line| line.starts_with("unsure\t")),
        "{sure}"
    );
    let table = format!("n,mail\n1,{}\n", mails[0]);
    let words = [
        "-p",
        "{mail}",
        "--csv",
        "--add-column",
        "kind,p",
        "--choose",
        "spam,ham",
    ];
    let first = out.lines().next().unwrap().replace('\t', ",");
    assert_eq!(
        map(&sandbox, &words, &table).ok(),
        format!("n,mail,kind,p\n1,{},{first}\n", mails[0])
    );
    let json = map(&sandbox, &["--choose", "spam,ham", "--json"], mails[0]).ok();
    assert!(objects(&json)[0]["probability"].is_f64(), "{json}");
    // Questions of a file, as choose answers them.
    let questions = r#"{"ad":{"type":"noul","instructions":"Is it an advertisement?"}}"#;
    sandbox.file("q.json", questions);
    let words = ["--questions", "q.json", "--resume", "done"];
    let out = map(&sandbox, &words, &input).ok();
    assert_eq!(map(&sandbox, &words, &input).ok(), out, "from the journal");
    for (object, mail) in objects(&out).iter().zip(mails) {
        let words = ["choose", "smol", "--questions", "q.json", "--json"];
        let mut alone: Json = serde_json::from_str(&sandbox.puna(&words, mail).ok()).unwrap();
        alone.as_object_mut().unwrap().remove("id");
        assert_eq!(object["answers"]["ad"], alone, "{mail}");
    }
    for (words, why) in [
        (
            &["--choose", "a,b", "--questions", "q.json"][..],
            "cannot be used together",
        ),
        (
            &["--questions", "q.json", "--overflow", "tail"],
            "cannot be used together",
        ),
        (&["--choose", "a,b", "--think"], "cannot be used together"),
        (
            &["--choose", "a,b", "--host", "127.0.0.1:1"],
            "cannot be used together",
        ),
        (&["--sure", "0.5"], "--sure needs --choose"),
        (&["--choose", "a,b", "--temperature", "1"], "has no effect"),
    ] {
        map(&sandbox, words, "x\n").fails(2, why);
    }
    let line = "echo x | PUNA_HOST=127.0.0.1:1 puna map smol --choose a,b";
    sandbox.shell(line).fails(2, "compute here");
}

#[test]
fn choose_scores_complete_texts_and_sets_the_status() {
    let sandbox = Sandbox::with_smol();
    let choose = |words: &[&str]| {
        let common = ["choose", "smol", "-Q", "What is the capital of France?"];
        sandbox.puna(&[&common, words].concat(), "Please answer.\n")
    };
    let json = choose(&["Berlin", "Paris", "Paris in Texas", "--json"]).ok();
    let answered: Json = serde_json::from_str(&json).unwrap();
    let all = answered["probabilities"].as_object().unwrap();
    let sum: f64 = all.values().map(|share| share.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{answered}");
    assert!(all["Paris"].as_f64() > all["Berlin"].as_f64(), "{answered}");
    let line = choose(&["Berlin", "Paris"]).ok();
    assert!(line.starts_with("Paris\t0."), "{line}");
    assert_eq!(
        choose(&["Berlin", "Paris"]).ok(),
        line,
        "nothing is sampled"
    );
    assert_eq!(choose(&["Berlin", "Paris", "--status"]).status, Some(1));
    let unsure = choose(&["Berlin", "Paris", "--status", "--sure", "1"]);
    assert_eq!(
        (unsure.status, unsure.stdout.split('\t').next()),
        (Some(120), Some("unsure"))
    );
    choose(&["red", "red"]).fails(2, "duplicate choice 'red'");
    choose(&["Berlin", "Paris", "--sure", "2"]).fails(2, "--sure must be a number from 0 to 1");
    let broken = sandbox.shell("PUNA_HOST=:x puna choose smol a b --status < /dev/null");
    assert_eq!(broken.status, Some(121), "{broken:?}");
    assert_eq!(choose(&["Berlin", "--status"]).status, Some(121));
    let failed = sandbox.puna(&["choose", "none", "a", "b", "--status"], "x");
    assert_eq!(failed.status, Some(121));
    assert!(
        failed.stderr.contains("model 'none' not found"),
        "{failed:?}"
    );
}

#[test]
fn words_may_be_any_text() {
    let sandbox = Sandbox::with_smol();
    let words = [
        "-p",
        "Is {} an animal?",
        "--choose",
        "yes,no,not \"sure\",हाँ",
    ];
    let out = map(&sandbox, &words, "cat\nstone\n").ok();
    let words: Vec<&str> = out
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    let known = ["yes", "no", "not \"sure\"", "हाँ"];
    assert!(
        words.len() == 2 && words.iter().all(|word| known.contains(word)),
        "{out}"
    );
}

#[test]
fn the_status_can_be_the_answer_to_one_question_of_a_file() {
    let sandbox = Sandbox::with_smol();
    let questions = r#"{"ad": {"type": "noul", "instructions": "Is it an advertisement?"},
        "kind": {"type": "choice", "instructions": "What is it?", "criteria": {"mail": "a mail", "bill": "a bill"}}}"#;
    sandbox.file("q.json", questions);
    let choose = |words: &[&str]| sandbox.puna(&[&["choose", "smol"], words].concat(), "Buy now!");
    let all = choose(&["--questions", "q.json"]).ok();
    for (id, answers) in [("ad", ["yes", "no"]), ("kind", ["mail", "bill"])] {
        let line = all.lines().find(|line| line.starts_with(id)).unwrap();
        let answer = line.split('\t').nth(1).unwrap();
        let status = answers.iter().position(|known| *known == answer);
        let of_one = format!("--status={id}");
        let done = choose(&["--questions", "q.json", &of_one]);
        assert_eq!(done.status, status.map(|status| status as i32), "{done:?}");
        assert_eq!(done.stdout, all);
        let quiet = choose(&["--questions", "q.json", &of_one, "-q"]);
        assert_eq!((quiet.status, quiet.stdout.as_str()), (done.status, ""));
    }
    for (words, why) in [
        (
            &["--questions", "q.json", "--status=none"][..],
            "no question has the id 'none'",
        ),
        (&["--questions", "q.json", "--status"], "--status=ID"),
        (&["a", "b", "--status=a"], "is for --questions"),
    ] {
        let done = choose(words);
        assert_eq!(done.status, Some(121), "{words:?}: {done:?}");
        assert!(done.stderr.contains(why), "{words:?}: {done:?}");
    }
}

#[test]
fn both_orders_and_what_was_asked() {
    let sandbox = Sandbox::with_smol();
    let choose = |words: &[&str]| sandbox.puna(&[&["choose", "smol"], words].concat(), "It rains.");
    let choices = ["-Q", "What is it?", "w=weather", "f=food", "--json"];
    let probability = |words: &[&str]| {
        let answer: Json = serde_json::from_str(&choose(words).ok()).unwrap();
        answer["probabilities"]["w"].as_f64().unwrap()
    };
    let given = probability(&choices);
    let reversed = probability(&["-Q", "What is it?", "f=food", "w=weather", "--json"]);
    let both = [&choices[..], &["--orders", "2"]].concat();
    let mean = probability(&both);
    assert_ne!(given, reversed, "this model has no preference");
    assert!(
        (mean - (given + reversed) / 2.0).abs() < 1e-6,
        "{given} {reversed} {mean}"
    );
    // A server's numbers are the same.
    let server = sandbox.serve(&[]);
    let there = probability(&[&both[..], &["--host", &server.at]].concat());
    assert!((mean - there).abs() < 1e-6, "{mean} {there}");
    let file = r#"{"state": "It rains.", "x_orders": 2, "questions": {"q": {"type": "choice", "instructions": "What is it?",
        "criteria": {"w": "weather", "f": "food"}}}}"#;
    sandbox.file("orders.json", file);
    let words = ["map", "smol", "--questions", "orders.json", "-p", "{}"];
    let mapped: Json = serde_json::from_str(&sandbox.puna(&words, "It rains.\n").ok()).unwrap();
    let mapped = mapped["answers"]["q"]["probabilities"]["w"]
        .as_f64()
        .unwrap();
    assert!((mean - mapped).abs() < 1e-6, "{mean} {mapped}");
    let wrong = r#"{"model": "smol", "state": "a", "x_orders": 3, "questions": {"a": {"type": "noul", "instructions": "?"}}}"#;
    assert_eq!(server.ask("POST", "/v1/systemone", wrong).status, 422);
    let told = choose(&[&both[..], &["--explain"]].concat());
    for text in [
        "What is it?",
        "W: w - weather",
        "F: f - food",
        "the labels have a probability of ",
    ] {
        assert!(told.stderr.contains(text), "{text}: {told:?}");
    }
    assert_eq!(told.ok(), choose(&both).ok());
    for (words, text) in [
        (&["a", "b", "--orders", "2"][..], "is for answers by labels"),
        (&["a=1", "b", "--orders", "3"], "--orders must be"),
        (
            &["a=1", "b", "--explain", "--host", &server.at],
            "cannot be used with a server",
        ),
    ] {
        choose(words).fails(2, text);
    }
}
