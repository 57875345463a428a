//! Reranking texts by relevance to a query: with a reranking model, with an embedding model, as a
//! filter, and over the API.

use serde_json::{Value as Json, json};

use crate::engine::minilm::{minilm, ranker};
use crate::support::Sandbox;

const LINES: &str = "The stock market fell today.\nWhales come up to breathe air.\nBread is made of flour.\n\nA whale is a mammal of the sea.\n";
const QUERY: &str = "How do whales breathe?";

fn started() -> Sandbox {
    let sandbox = Sandbox::with_smol();
    sandbox.create("mini", &format!("FROM {}\n", minilm().display()));
    sandbox.create("rank", &format!("FROM {}\n", ranker().display()));
    sandbox
}

fn rows(text: &str) -> Vec<(f64, String)> {
    let row = |line: &str| {
        let (score, text) = line.split_once('\t').unwrap();
        (score.parse().unwrap(), text.to_string())
    };
    text.lines().map(row).collect()
}

#[test]
fn lines_are_sorted_by_how_well_they_answer() {
    let sandbox = started();
    let rerank = |words: &[&str], input: &str| {
        let words = [&["rerank"], words].concat();
        sandbox.puna(&words, input)
    };
    let sorted = rows(&rerank(&["mini", QUERY], LINES).ok());
    assert_eq!(sorted.len(), 5);
    assert_eq!(sorted[0].1, "Whales come up to breathe air.");
    assert_eq!(sorted[1].1, "A whale is a mammal of the sea.");
    assert!(
        sorted.windows(2).all(|two| two[0].0 >= two[1].0),
        "{sorted:?}"
    );
    // A reranking model scores each pair independently of the other texts.
    let sorted = rows(&rerank(&["rank", QUERY], LINES).ok());
    assert!(
        sorted.windows(2).all(|two| two[0].0 >= two[1].0),
        "{sorted:?}"
    );
    assert!(sorted[0].0 != sorted[4].0, "{sorted:?}");
    for (score, text) in &sorted {
        let alone = rows(&rerank(&["rank", QUERY], &format!("{text}\n")).ok());
        assert!(
            (alone[0].0 - score).abs() < 1e-3,
            "{text}: {score} and {alone:?}"
        );
    }
    let other = rows(&rerank(&["rank", "What is bread made of?"], LINES).ok());
    assert_ne!(other, sorted);
    // Many lines with `--top 3`, one of them longer than the model's context.
    let many: String = (0..200)
        .map(|number| format!("line {number} of whales\n"))
        .collect();
    let long = "whales breathe air ".repeat(2000);
    let ranked = rerank(
        &["mini", QUERY, "--top", "3", "--json"],
        &format!("{many}{long}\n"),
    )
    .ok();
    let ranked: Vec<Json> = ranked
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(ranked.len(), 3);
    let scores: Vec<f64> = ranked
        .iter()
        .map(|line| line["score"].as_f64().unwrap())
        .collect();
    assert!(
        scores.is_sorted_by(|a, b| a >= b) && scores[2] > 0.2,
        "{ranked:?}"
    );
    assert_eq!(rerank(&["mini", QUERY], "").ok(), "");
    rerank(&["mini", " "], LINES).fails(2, "the query is empty");
    rerank(&["smol", QUERY], LINES).fails(
        2,
        "is a text model; ranking needs a reranking or embedding model",
    );
    let done = sandbox.puna(&["embed", "rank"], LINES);
    done.fails(2, "makes no embeddings; use 'puna rerank'");
}

#[test]
fn the_api_ranks_documents() {
    let sandbox = started();
    let server = sandbox.serve(&[]);
    let documents: Vec<&str> = LINES.lines().collect();
    for path in ["/v1/rerank", "/api/rerank", "/rerank"] {
        let body = json!({"model": "mini", "query": QUERY, "documents": documents, "top_n": 2});
        let ranked = server.post(path, &body.to_string());
        let results = ranked["results"].as_array().unwrap();
        assert_eq!(results.len(), 2);
        assert_eq!(
            (&results[0]["index"], &results[1]["index"]),
            (&1.into(), &4.into())
        );
        // Clients of the native route expect the text in each result.
        assert_eq!(results[0]["document"].is_string(), path == "/api/rerank");
        assert!(ranked["usage"]["total_tokens"].is_u64());
    }
    let objects: Vec<Json> = documents.iter().map(|text| json!({"text": text})).collect();
    let body =
        json!({"model": "rank", "query": QUERY, "documents": objects, "return_documents": true});
    let ranked = server.post("/v1/rerank", &body.to_string());
    let first = &ranked["results"][0];
    let index = first["index"].as_u64().unwrap() as usize;
    assert_eq!(first["document"]["text"], documents[index]);
    for (body, status) in [
        (json!({"model": "mini", "query": QUERY}), 400),
        (
            json!({"model": "mini", "query": QUERY, "documents": "x"}),
            400,
        ),
        (
            json!({"model": "mini", "query": QUERY, "documents": [1]}),
            400,
        ),
        (json!({"model": "mini", "query": "", "documents": []}), 400),
        (
            json!({"model": "mini", "query": QUERY, "documents": [], "top_n": -1}),
            400,
        ),
        (
            json!({"model": "gone", "query": QUERY, "documents": []}),
            404,
        ),
        (
            json!({"model": "smol", "query": QUERY, "documents": ["x"]}),
            501,
        ),
    ] {
        let answer = server.ask("POST", "/v1/rerank", &body.to_string());
        assert_eq!(answer.status, status, "{body}: {answer:?}");
    }
    // A reranking model gives no embeddings; the error comes before llama.cpp is called.
    let body = json!({"model": "rank", "input": "x"}).to_string();
    assert_eq!(server.ask("POST", "/api/embed", &body).status, 501);
}
