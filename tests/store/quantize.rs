//! Quantisation during `create`, locally and through the API.

use serde_json::{Value as Json, json};

use crate::engine::minilm;
use crate::support::Sandbox;

fn modelfile() -> String {
    format!("FROM {}\n", minilm::minilm().display())
}

fn vector(sandbox: &Sandbox, model: &str) -> Vec<f64> {
    let text = sandbox
        .puna(&["run", model, "The sea is calm tonight."], "")
        .ok();
    serde_json::from_str(&text).unwrap()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn smaller_weights_mean_nearly_the_same() {
    let sandbox = Sandbox::new();
    sandbox.create("whole", &modelfile());
    let whole = vector(&sandbox, "whole");
    for (kind, name, least) in [
        ("q8_0", "Q8_0", 0.999),
        ("q4_K_M", "Q4_K_M", 0.95),
        ("f16", "F16", 0.9999),
    ] {
        let words = ["create", kind, "-f", "-", "--quantize", kind];
        assert_eq!(sandbox.puna(&words, &modelfile()).ok(), "");
        let shown = sandbox.puna(&["show", kind], "").ok();
        assert!(
            shown.contains(&format!("quantization\t{name}\n")),
            "{shown}"
        );
        let similarity = cosine(&vector(&sandbox, kind), &whole);
        assert!(similarity > least, "{kind}: {similarity}");
    }
    // What was only brought to be quantised is not kept.
    let alone = Sandbox::new();
    let words = ["create", "small", "-f", "-", "--quantize", "q8_0"];
    alone.puna(&words, &modelfile()).ok();
    let used = alone.puna(&["du"], "").ok();
    assert!(
        used.contains("small") && !used.contains("(unused)"),
        "{used}"
    );
    // Weights that have the type already are not changed.
    sandbox
        .puna(
            &["create", "again", "-f", "-", "--quantize", "Q8_0"],
            "FROM q8_0\n",
        )
        .ok();
    let path = |model: &str| sandbox.puna(&["path", model], "").ok();
    assert_eq!(path("again"), path("q8_0"));
}

#[test]
fn requantizing_and_unknown_types_are_refused_without_leftovers() {
    let sandbox = Sandbox::with_smol();
    let create = |kind: &str, more: &[&str], from: &str| {
        let words = [&["create", "x", "-f", "-", "--quantize", kind], more].concat();
        sandbox.puna(&words, from)
    };
    let blobs = || {
        std::fs::read_dir(sandbox.models().join("blobs"))
            .unwrap()
            .count()
    };
    let before = blobs();
    create("q4_K_M", &[], "FROM smol\n").fails(2, "the weights are quantised already (Q4_1)");
    create("q99", &[], "FROM smol\n").fails(2, "unknown quantisation type 'q99': F32, F16");
    create("iq2_xxs", &["--requantize"], "FROM smol\n").fails(1, "needs an importance matrix");
    assert_eq!(blobs(), before);
    create("q8_0", &["--requantize"], "FROM smol\n").ok();
    let answer = sandbox
        .puna(&["run", "x", "Say hello.", "-n", "8"], "")
        .ok();
    assert!(answer.len() > 2, "{answer:?}");
}

#[test]
fn the_api_quantises_with_the_references_records() {
    let sandbox = Sandbox::new();
    sandbox.create("whole", &modelfile());
    let server = sandbox.serve(&[]);
    let body = json!({ "model": "small", "from": "whole", "quantize": "q4_K" }).to_string();
    let records = server.ask("POST", "/api/create", &body).lines();
    let status = |record: &Json| record["status"].as_str().unwrap_or_default().to_string();
    assert!(
        records
            .iter()
            .any(|record| status(record).ends_with(" model to Q4_K_M")),
        "{records:?}"
    );
    assert_eq!(status(records.last().unwrap()), "success");
    let shown = server.post("/api/show", r#"{"model":"small"}"#);
    assert_eq!(shown["details"]["quantization_level"], "Q4_K_M");
    let body = json!({ "model": "x", "from": "small", "quantize": "q8_0", "stream": false });
    let refused = server.ask("POST", "/api/create", &body.to_string());
    assert_eq!(
        refused.error(),
        "quantization is only supported for F16, BF16 and F32 models"
    );
}
