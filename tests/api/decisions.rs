//! Typed questions about a text: `/v1/systemone`, `/v1/decisions`, and the forms of `puna choose` that ask as they do.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Map, Value as Json, json};

use crate::support::{Answer, Sandbox, Server};

const SYSTEMONE: &str = "/v1/systemone";
const DECISIONS: &str = "/v1/decisions";
const MAIL: &str = "Buy cheap pills now!!! Click here.";

fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

fn ask(server: &Server, path: &str, body: &Json) -> Answer {
    server.ask("POST", path, &body.to_string())
}

/// Three questions, one of each kind.
fn questions() -> Json {
    json!({
        "spam": {"type": "noul", "instructions": "Is it spam?", "criteria": {"true": "it sells something"}},
        "desk": {"type": "choice", "instructions": "Which desk?", "criteria": {"help": null, "sales": "wants to buy", "환불": ""}},
        "anger": {"type": "score", "instructions": "How angry?", "criteria": ["calm", {"b": 1, "a": 2}, ["furious"]]},
    })
}

fn answers(server: &Server, questions: &Json) -> Map<String, Json> {
    let answer = ask(
        server,
        SYSTEMONE,
        &json!({"model": "smol", "state": MAIL, "questions": questions}),
    );
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["answers"].as_object().unwrap().clone()
}

fn numbers(of: &Json) -> Vec<f64> {
    match of {
        Json::Object(all) => all.values().map(|p| p.as_f64().unwrap()).collect(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_kind_of_question_is_answered_in_its_form() {
    let (_sandbox, server) = started();
    let answers = answers(&server, &questions());
    assert_eq!(
        answers.keys().collect::<Vec<_>>(),
        ["spam", "desk", "anger"]
    );
    let spam = answers["spam"]["noul"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&spam));
    let desk = &answers["desk"];
    let names: Vec<&String> = desk["probabilities"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["help", "sales", "환불"]);
    let p = numbers(&desk["probabilities"]);
    assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    let most = p.iter().copied().fold(0.0, f64::max);
    assert_eq!(
        desk["probabilities"][desk["choice"].as_str().unwrap()],
        json!(most)
    );
    let confidence = (most - 1.0 / 3.0) / (1.0 - 1.0 / 3.0);
    assert!((desk["confidence"].as_f64().unwrap() - confidence).abs() < 1e-9);
    let anger = &answers["anger"];
    assert_eq!(
        anger["legend"],
        json!({"0": "calm", "1": r#"{"b":1,"a":2}"#, "2": r#"["furious"]"#})
    );
    let p = numbers(&anger["probabilities"]);
    let expected: f64 = p
        .iter()
        .enumerate()
        .map(|(level, p)| level as f64 * p)
        .sum();
    assert!((anger["score"].as_f64().unwrap() - expected).abs() < 1e-6);
    // Descriptions are read: with them exchanged another number comes.
    let two = |yes: &str, no: &str| json!({"a": {"type": "noul", "instructions": "Which?", "criteria": {"true": yes, "false": no}}});
    let noul = |questions: Json| {
        self::answers(&server, &questions)["a"]["noul"]
            .as_f64()
            .unwrap()
    };
    assert_ne!(
        noul(two("it sells", "it thanks")),
        noul(two("it thanks", "it sells"))
    );
}

#[test]
fn an_answer_depends_on_its_question_alone() {
    let (_sandbox, server) = started();
    let cold = answers(&server, &questions());
    assert_eq!(answers(&server, &questions()), cold, "warm");
    let mut other = Map::new();
    for index in 0..10 {
        let text = format!("Does it mention the number {index}?");
        other.insert(
            format!("more{index}"),
            json!({"type": "noul", "instructions": text}),
        );
    }
    let given = questions();
    for (id, question) in given.as_object().unwrap().iter().rev() {
        other.insert(format!("renamed {id}"), question.clone());
    }
    let many = answers(&server, &other.into());
    for (id, answer) in &cold {
        assert_eq!(&many[&format!("renamed {id}")], answer, "{id}");
    }
    // The command line decides by the same rules.
    let sandbox = &_sandbox;
    let file = sandbox.file("q.json", questions().to_string());
    let words = [
        "choose",
        "smol",
        "--questions",
        file.to_str().unwrap(),
        "--json",
    ];
    let lines = sandbox.puna(&words, MAIL).ok();
    for (line, (id, answer)) in lines.lines().zip(&cold) {
        let mut line: Json = serde_json::from_str(line).unwrap();
        let given = line.as_object_mut().unwrap().remove("id").unwrap();
        assert_eq!((&given, &line), (&json!(id), answer));
    }
}

#[test]
fn openais_body_gets_openais_answer() {
    let (_sandbox, server) = started();
    let body = json!({
        "model": "smol",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": MAIL}]}],
        "questions": [
            {"type": "predicate", "instructions": "It sells something.", "name": "sells"},
            {"type": "choice", "instructions": "Which?", "choices": [{"value": true}, {"value": "true"}, {"value": false, "description": "none"}]},
            {"type": "score", "instructions": "How long?", "levels": [{"label": "short"}, {"label": "long", "description": "many lines"}]},
        ],
        "prompt_cache_key": "x",
    });
    let answer = ask(&server, DECISIONS, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let read = answer.json();
    let answers = read["answers"].as_array().unwrap();
    assert_eq!(answers[0]["name"], "sells");
    assert!(answers[0]["probability"].is_f64());
    assert_eq!(answers[1]["name"], Json::Null);
    let values: Vec<&Json> = answers[1]["probabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["value"])
        .collect();
    assert_eq!(values, [&json!(true), &json!("true"), &json!(false)]);
    assert_eq!(answers[2]["probabilities"][1]["label"], "long");
    assert!(read["usage"]["total_tokens"].as_u64().unwrap() > 50);
    // TypeSafe's body on this path, and a third one.
    let other = ask(
        &server,
        DECISIONS,
        &json!({"model": "smol", "state": MAIL, "questions": questions()}),
    );
    assert!(
        other.json()["answers"]["spam"]["noul"].is_f64(),
        "{}",
        other.body
    );
    let third = json!({"model": "smol", "input": "x", "questions": [{"id": "a", "type": "yes_no", "question": "?"}]});
    let refused = ask(&server, DECISIONS, &third);
    assert_eq!(refused.status, 400);
    assert!(
        refused.json()["error"]["message"]
            .as_str()
            .unwrap()
            .contains("/v1/systemone")
    );
}

#[test]
fn every_mistake_names_its_place() {
    let (_sandbox, server) = started();
    let with =
        |question: Json| json!({"model": "smol", "state": "x", "questions": {"q": question}});
    for (body, place) in [
        (
            json!({"model": "smol", "questions": questions()}),
            "body.state",
        ),
        (
            json!({"model": "smol", "state": null, "questions": questions()}),
            "body.state",
        ),
        (json!({"model": "smol", "state": "x"}), "body.questions"),
        (
            json!({"model": "smol", "state": "x", "questions": {}}),
            "body.questions",
        ),
        (
            json!({"model": "smol", "state": "x", "questions": questions(), "stream": true}),
            "body.stream",
        ),
        (
            json!({"model": "smol", "state": "x", "questions": questions(), "images": ["aGk="]}),
            "body.images",
        ),
        (with(json!({"instructions": "?"})), "body.questions.q.type"),
        (
            with(json!({"type": "boolean", "instructions": "?"})),
            "body.questions.q.type",
        ),
        (
            with(json!({"type": "score", "instructions": "?", "criteria": {"0": "a"}})),
            "body.questions.q.criteria",
        ),
    ] {
        let answer = ask(&server, SYSTEMONE, &body);
        assert_eq!(answer.status, 422, "{body}: {}", answer.body);
        let loc = answer.json()["detail"][0]["loc"]
            .as_array()
            .unwrap()
            .clone();
        let loc: Vec<&str> = loc.iter().filter_map(Json::as_str).collect();
        assert_eq!(loc.join("."), place);
        assert!(answer.json()["error"].is_string());
    }
    let broken = server.ask("POST", SYSTEMONE, "{\"state\":");
    assert_eq!(broken.status, 422, "{}", broken.body);
    assert_eq!(broken.json()["detail"][0]["loc"][0], "body");
    let absent = ask(
        &server,
        SYSTEMONE,
        &json!({"model": "nosuch", "state": "x", "questions": questions()}),
    );
    assert_eq!(absent.status, 404);
    assert_eq!(absent.json()["detail"]["error_type"], "not_found_error");
    let long = "word ".repeat(9000);
    let refused = ask(
        &server,
        SYSTEMONE,
        &json!({"model": "smol", "state": long, "questions": questions()}),
    );
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert!(
        refused.json()["error"].as_str().unwrap().contains("exceed"),
        "{}",
        refused.body
    );
    assert_eq!(
        ask(
            &server,
            SYSTEMONE,
            &json!({"model": "smol", "state": "x", "questions": questions()})
        )
        .status,
        200
    );
}

#[test]
fn options_have_labels_however_many_they_are() {
    let (_sandbox, server) = started();
    for count in [1, 2, 26, 27, 255] {
        let options: Map<String, Json> = (0..count)
            .map(|index| (format!("option {index}"), Json::Null))
            .collect();
        let questions =
            json!({"q": {"type": "choice", "instructions": "Which?", "criteria": options}});
        let answers = answers(&server, &questions);
        let p = numbers(&answers["q"]["probabilities"]);
        assert_eq!(p.len(), count);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{count}");
    }
    // More than the default context holds.
    let described = |index| {
        (
            format!("Queue {index:03}"),
            json!(format!("Tickets routed to queue {index}")),
        )
    };
    let options: Map<String, Json> = (0..255).map(described).collect();
    let questions =
        json!({"q": {"type": "choice", "instructions": "Which queue?", "criteria": options}});
    let body = json!({"model": "smol", "state": MAIL, "questions": questions});
    let answer = ask(&server, SYSTEMONE, &body).json();
    assert!(
        answer["usage"]["input_tokens"].as_u64().unwrap() > 4096,
        "{answer}"
    );
    let mut small = body;
    small["options"] = json!({"num_ctx": 2048});
    assert_eq!(ask(&server, SYSTEMONE, &small).status, 422);
    // What looks like a control token in a state is text.
    let tokens = |state: &str| {
        let body = json!({"model": "smol", "state": state, "questions": {"q": {"type": "noul", "instructions": "?"}}});
        ask(&server, SYSTEMONE, &body).json()["usage"]["input_tokens"]
            .as_u64()
            .unwrap()
    };
    assert!(tokens("a <|im_end|> b") > tokens("a b") + 3);
}

#[test]
fn a_model_may_go_unnamed() {
    let sandbox = Sandbox::with_smol();
    let body = |model: &str| json!({"model": model, "state": "x", "questions": questions()});
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let none = ask(&server, SYSTEMONE, &body("jev-latest"));
    assert_eq!(none.status, 404);
    assert!(none.body.contains("PUNA_DECISION_MODEL"), "{}", none.body);
    assert_eq!(ask(&server, SYSTEMONE, &body("smol")).status, 200);
    // Now it is the only one that is loaded.
    let found = ask(&server, SYSTEMONE, &body("jev-latest"));
    assert_eq!(found.json()["model"], "smol:latest", "{}", found.body);
    let set = sandbox.serve(&[("PUNA_SOCKET", ""), ("PUNA_DECISION_MODEL", "smol")]);
    let nameless = json!({"state": "x", "questions": questions()});
    assert_eq!(ask(&set, SYSTEMONE, &nameless).status, 200);
    let odd = json!({"state": "x", "questions": questions(), "oddity": 1, "options": {"temperature": 0, "num_ctx": 1024, "x": 1}});
    let answer = ask(&set, SYSTEMONE, &odd);
    assert_eq!(
        answer.header("Puna-Ignored"),
        Some("oddity, options.x, options.temperature")
    );
    let models = set.ask("GET", "/v1/models", "").json();
    assert_eq!(models["models"][0]["name"], "smol:latest");
    assert!(models["models"][0]["release_date"].is_string());
    assert!(models["data"][0]["id"].is_string());
}

#[test]
fn bodies_may_be_compressed() {
    let (_sandbox, server) = started();
    let state = "A line of a letter. ".repeat(60);
    let body = json!({"model": "smol", "state": state, "questions": questions()}).to_string();
    let plain = server.ask("POST", SYSTEMONE, &body).json();
    let to = |path: &str, encoding: &str, bytes: &[u8]| {
        let mut stream = TcpStream::connect(&server.at).unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: {encoding}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let send = |encoding: &str, bytes: &[u8]| to(SYSTEMONE, encoding, bytes);
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    let small = ruzstd::encoding::compress_to_vec(body.as_bytes(), level);
    let answer = send("zstd", &small);
    let (_, read) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Json>(read).unwrap(), plain);
    let bomb = ruzstd::encoding::compress_to_vec(&vec![b' '; 40 << 20][..], level);
    assert!(bomb.len() < 1 << 20);
    // A route for names keeps its own limit.
    let names = ruzstd::encoding::compress_to_vec(&vec![b' '; 2 << 20][..], level);
    let answer = to("/api/show", "zstd", &names);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    for (encoding, bytes, status) in [
        ("zstd", &bomb[..], 413),
        ("zstd", b"no frame", 400),
        ("br", b"{}", 415),
    ] {
        let answer = send(encoding, bytes);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
}

#[test]
fn choose_asks_by_labels_and_its_status_is_the_answer() {
    let sandbox = Sandbox::with_smol();
    let choose = |words: &[&str]| sandbox.puna(&[&["choose", "smol"], words].concat(), MAIL);
    let yes_no = choose(&["--yes-no", "-Q", "Is it spam?"]);
    let (word, p) = yes_no.stdout.trim_end().split_once('\t').unwrap();
    let status = ["yes", "no"]
        .iter()
        .position(|known| *known == word)
        .unwrap();
    assert_eq!(yes_no.status, Some(status as i32), "{yes_no:?}");
    assert!(
        (0.5..=1.0).contains(&p.parse::<f64>().unwrap()),
        "{yes_no:?}"
    );
    let unsure = choose(&["--yes-no", "-Q", "Is it spam?", "--sure", "1"]);
    assert_eq!(
        (unsure.status, unsure.stdout.starts_with("unsure\t")),
        (Some(120), true),
        "{unsure:?}"
    );
    let quiet = choose(&["--yes-no", "-Q", "Is it spam?", "-q"]);
    assert_eq!(
        (quiet.status, quiet.stdout.as_str()),
        (Some(status as i32), "")
    );
    let missing = sandbox.puna(&["choose", "nosuch", "--yes-no", "-Q", "?"], MAIL);
    assert_eq!(missing.status, Some(121), "{missing:?}");
    let named = choose(&[
        "-Q",
        "Which desk?",
        "sales=wants to buy",
        "a\\=b=needs help",
    ])
    .ok();
    assert!(
        ["sales", "a=b"].contains(&named.split('\t').next().unwrap()),
        "{named}"
    );
    let score = choose(&[
        "--score",
        "-Q",
        "How angry?",
        "calm",
        "annoyed",
        "furious",
        "--status",
    ]);
    let (expected, level) = score.stdout.trim_end().split_once('\t').unwrap();
    assert_eq!(
        score.status,
        Some(expected.parse::<f64>().unwrap().round() as i32),
        "{score:?}"
    );
    assert!(["calm", "annoyed", "furious"].contains(&level));
    let list = json!([{"type": "predicate", "instructions": "It sells.", "name": "sells"}]);
    sandbox.file("list.json", list.to_string());
    let body = json!({"input": "A poem about cats.", "questions": list});
    sandbox.file("body.json", body.to_string());
    let other = sandbox
        .puna(&["choose", "smol", "--questions", "body.json"], "")
        .ok();
    let here = choose(&["--questions", "list.json"]).ok();
    assert!(
        other.starts_with("sells\t") && here.starts_with("sells\t"),
        "{other}{here}"
    );
    for (words, why) in [
        (&["--yes-no", "-Q", "?", "yes"][..], "take no choices"),
        (&["--yes-no"], "need --question"),
        (&["--score", "-Q", "?", "a"], "needs two levels"),
        (
            &["--score", "--yes-no", "-Q", "?"],
            "cannot be used together",
        ),
        (&["--questions", "list.json", "--status"], "--status=ID"),
        (&["-Q", "?", "only"], "give two choices"),
        (
            &["--questions", "list.json", "--sure", "0.9", "--json"],
            "--sure has no effect",
        ),
        (&["-Q", "?", "a=1", "a=2"], "duplicate choice 'a'"),
    ] {
        let wrong = choose(words);
        assert!(matches!(wrong.status, Some(2 | 121)), "{wrong:?}");
        assert!(wrong.stderr.contains(why), "{wrong:?}");
    }
}
