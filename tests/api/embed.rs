//! Embeddings over the API, with all-MiniLM-L6-v2.

use serde_json::{Value as Json, json};

use crate::engine::minilm::minilm;
use crate::format::templates::json as data;
use crate::support::{Sandbox, Server};

fn started() -> (Sandbox, Server) {
    let sandbox = Sandbox::with_smol();
    sandbox.create("emb", &format!("FROM {}\n", minilm().display()));
    let server = sandbox.serve(&[]);
    (sandbox, server)
}

fn vector(json: &Json) -> Vec<f64> {
    let numbers = json.as_array().unwrap().iter();
    numbers.map(|number| number.as_f64().unwrap()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn vectors_agree_with_sentence_transformers() {
    let (_sandbox, server) = started();
    let expected = data("embeddings.json");
    let body = json!({"model": "emb", "input": expected["texts"]});
    let found = server.post("/api/embed", &body.to_string());
    let texts = expected["texts"].as_array().unwrap();
    assert_eq!(found["embeddings"].as_array().unwrap().len(), texts.len());
    for (index, text) in texts.iter().enumerate() {
        let ours = vector(&found["embeddings"][index]);
        let theirs = vector(&expected["vectors"][index]);
        assert!((dot(&ours, &ours) - 1.0).abs() < 1e-4, "{text}");
        let cosine = dot(&ours, &theirs) / dot(&theirs, &theirs).sqrt();
        assert!(cosine >= 0.9999, "{cosine} {text}");
    }
    // Embedded one by one, they give the same vectors: neighbours in a batch have no influence.
    for index in [0, 7, 31] {
        let body = json!({"model": "emb", "input": texts[index]});
        let alone = server.post("/api/embed", &body.to_string());
        let alone = vector(&alone["embeddings"][0]);
        assert!(dot(&alone, &vector(&found["embeddings"][index])) > 0.99999);
    }
}

#[test]
fn inputs_of_every_kind_get_the_references_answers() {
    let (_sandbox, server) = started();
    let embed = |body: Json| server.ask("POST", "/api/embed", &body.to_string());
    for input in [json!(""), json!([]), Json::Null] {
        let answer = embed(json!({"model": "emb", "input": input}));
        assert_eq!(answer.body, r#"{"model":"emb","embeddings":[]}"#);
    }
    for input in [
        json!(5),
        json!({}),
        json!(["a", 1]),
        json!([[1]]),
        json!(true),
    ] {
        let answer = embed(json!({"model": "emb", "input": input}));
        let error = answer.error();
        assert_eq!((answer.status, error.as_str()), (400, "invalid input type"));
    }
    let two = embed(json!({"model": "emb", "input": ["a", "b"]})).json();
    let one = embed(json!({"model": "emb", "input": "a"})).json();
    assert_eq!(two["prompt_eval_count"], 6);
    assert_eq!(one["prompt_eval_count"], 3);
    let (beside, alone) = (&two["embeddings"][0], &one["embeddings"][0]);
    assert!(dot(&vector(beside), &vector(alone)) > 0.99999);
    for (dimensions, length) in [(4, 4), (100_000, 384), (-1, 384), (0, 384)] {
        let body = json!({"model": "emb", "input": "a", "dimensions": dimensions});
        let answer = embed(body);
        let named = answer.header("Puna-Ignored");
        let obeyed = [0, 4].contains(&dimensions);
        assert_eq!(named, (!obeyed).then_some("dimensions"));
        let vector = vector(&answer.json()["embeddings"][0]);
        assert_eq!(vector.len(), length);
        assert!((dot(&vector, &vector) - 1.0).abs() < 1e-5);
    }
    let odd = json!({"model": "emb", "prompt": "a", "oddity": 1, "options": {"temprature": 1}});
    let older = server.ask("POST", "/api/embeddings", &odd.to_string());
    assert_eq!(
        older.header("Puna-Ignored"),
        Some("oddity, options.temprature")
    );
    let long = "word ".repeat(3000);
    let cut = embed(json!({"model": "emb", "input": long})).json();
    assert_eq!(cut["prompt_eval_count"], 512);
    let refused = embed(json!({"model": "emb", "input": long, "truncate": false}));
    let words = "the input length exceeds the context length";
    assert_eq!((refused.status, refused.error().as_str()), (400, words));
    let small = embed(json!({"model": "emb", "input": long, "options": {"num_ctx": 16}}));
    assert_eq!(small.json()["prompt_eval_count"], 16);
    // An empty text still has start and end tokens.
    let empty = embed(json!({"model": "emb", "input": ["hello", ""]})).json();
    assert_eq!(empty["embeddings"].as_array().unwrap().len(), 2);
}

#[test]
fn the_older_route_answers_one_vector() {
    let (_sandbox, server) = started();
    let embed = |body: Json| server.ask("POST", "/api/embeddings", &body.to_string());
    let empty = embed(json!({"model": "emb", "prompt": ""}));
    assert_eq!(empty.body, r#"{"embedding":[]}"#);
    let one = embed(json!({"model": "emb", "prompt": "a", "input": "b"})).json();
    assert_eq!(vector(&one["embedding"]).len(), 384);
    let long = embed(json!({"model": "emb", "prompt": "word ".repeat(3000)}));
    let words = "the input length exceeds the context length";
    assert_eq!((long.status, long.error().as_str()), (500, words));
}

#[test]
fn embedding_models_embed_and_others_do_not() {
    let (_sandbox, server) = started();
    for route in ["/api/embed", "/api/embeddings"] {
        let body = r#"{"model":"nope","input":"a","prompt":"a"}"#;
        let missing = server.ask("POST", route, body);
        let words = "model \"nope\" not found, try pulling it first";
        assert_eq!((missing.status, missing.error().as_str()), (404, words));
        let body = r#"{"model":"smol","input":"a","prompt":"a"}"#;
        let refused = server.ask("POST", route, body);
        assert_eq!(refused.status, 501);
        assert!(refused.error().contains("does not support embeddings"));
    }
    for (route, verb) in [("/api/chat", "chat"), ("/api/generate", "generate")] {
        let body = r#"{"model":"emb","prompt":"a","messages":[{"role":"user","content":"a"}]}"#;
        let refused = server.ask("POST", route, body);
        let words = format!("\"emb\" does not support {verb}");
        assert_eq!((refused.status, refused.error()), (400, words));
    }
    let shown = server.post("/api/show", r#"{"model":"emb"}"#);
    assert_eq!(shown["capabilities"], json!(["embedding"]));
    server.post("/api/embed", r#"{"model":"emb"}"#);
    let loaded = server.ask("GET", "/api/ps", "").json();
    assert_eq!(loaded["models"][0]["name"], "emb:latest");
    assert_eq!(loaded["models"][0]["context_length"], 512);
}

#[test]
fn run_prints_the_vector_of_its_prompt() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("emb", &format!("FROM {}\n", minilm().display()));
    let line = sandbox.puna(&["run", "emb", "a text"], "").ok();
    assert_eq!(line.lines().count(), 1);
    let here = vector(&serde_json::from_str(&line).unwrap());
    assert_eq!(here.len(), 384);
    let words = ["run", "emb", "--dimensions", "4", "--json"];
    let record: Json = serde_json::from_str(&sandbox.puna(&words, "a text").ok()).unwrap();
    assert_eq!(vector(&record["embeddings"][0]).len(), 4);
    assert!(record["prompt_eval_count"] == 4 && record["model"] == "emb");
    let long = "word ".repeat(3000);
    let refused = sandbox.puna(&["run", "emb", "--truncate=false"], &long);
    refused.fails(4, "the input length exceeds the context length");
    sandbox
        .puna(&["run", "emb", "--truncate=x"], "a")
        .fails(2, "--truncate must be true or false");
    sandbox
        .puna(&["run", "emb", "--dimensions", "0"], "a")
        .fails(2, "--dimensions must be a number");
    sandbox
        .puna(&["run", "emb", "--dimensions", "385"], "a")
        .fails(2, "--dimensions 385: the model's vectors have 384");
    // With the model at a server.
    let server = sandbox.serve(&[]);
    let line = sandbox
        .puna(&["run", "--host", &server.at, "emb", "a text"], "")
        .ok();
    let there = vector(&serde_json::from_str(&line).unwrap());
    assert!(dot(&here, &there) > 0.99999);
}

#[test]
fn many_clients_share_decodes() {
    let (_sandbox, server) = started();
    let texts: Vec<String> = (0..40)
        .map(|number| format!("text number {number}"))
        .collect();
    let body = json!({"model": "emb", "input": texts});
    let all = server.post("/api/embed", &body.to_string());
    let vectors = std::thread::scope(|scope| {
        let one = |text: &String| {
            let body = json!({"model": "emb", "input": text}).to_string();
            let server = &server;
            scope.spawn(move || vector(&server.post("/api/embed", &body)["embeddings"][0]))
        };
        let threads: Vec<_> = texts.iter().map(one).collect();
        let vectors = threads.into_iter().map(|thread| thread.join().unwrap());
        vectors.collect::<Vec<_>>()
    });
    for (index, ours) in vectors.iter().enumerate() {
        assert!(dot(ours, &vector(&all["embeddings"][index])) > 0.99999);
    }
}

#[test]
fn decodes_of_any_size_make_the_same_vectors() {
    let (_sandbox, server) = started();
    let texts: Vec<String> = (0..40)
        .map(|number| format!("text number {number}"))
        .collect();
    let embed = |options: Json| {
        let body = json!({"model": "emb", "input": texts, "options": options});
        let found = server.post("/api/embed", &body.to_string());
        let vectors = found["embeddings"].as_array().unwrap().iter();
        vectors.map(vector).collect::<Vec<_>>()
    };
    let usual = embed(json!({}));
    for options in [
        json!({"num_batch": 33}),
        json!({"num_batch": 100}),
        json!({"num_batch": 289}),
        json!({"num_batch": 65, "num_ctx": 500}),
    ] {
        for (ours, usual) in embed(options.clone()).iter().zip(&usual) {
            assert!(dot(ours, usual) > 0.99999, "{options}");
        }
    }
}

#[test]
fn a_text_has_one_vector_whatever_is_computed_beside_it() {
    let sandbox = Sandbox::new();
    sandbox.create("mini", &format!("FROM {}\n", minilm().display()));
    let server = sandbox.serve(&[]);
    let embed = |texts: &[&str]| {
        let body = json!({"model": "mini", "input": texts});
        let found = server.post("/api/embed", &body.to_string());
        let vectors = found["embeddings"].as_array().unwrap().iter();
        vectors.map(vector).collect::<Vec<_>>()
    };
    let apart = |a: &[f64], b: &[f64]| {
        let apart = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        apart.fold(0.0, f64::max)
    };
    // 16 tokens: four such texts are a tile of attention.
    let short = "The quick brown fox jumps over the lazy dog near the river bank.";
    let alone = embed(&[short]).remove(0);
    for count in [2, 4, 40] {
        for found in embed(&vec![short; count]) {
            assert!(apart(&found, &alone) < 1e-6, "{count} texts");
        }
    }
    // Where a text begins in a tile changes its last bits, and its 16-bit activations.
    let long = "The river runs on. ".repeat(30);
    let alone = [alone, embed(&[&long]).remove(0)];
    let texts: Vec<&str> = (0..24).flat_map(|_| [short, &long]).collect();
    for (at, found) in embed(&texts).iter().enumerate() {
        assert!(apart(found, &alone[at % 2]) < 1e-4, "text {at}");
    }
}
