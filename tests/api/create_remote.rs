//! Creating models at a server: with `create --host`, and by other programs over the API.

use std::fs;

use puna::core::digest::Digest;
use serde_json::{Map, Value as Json, json};

use crate::registry::shards::{assert_whole, write_shards};
use crate::store::safetensors::{adapter, family, folder, likelihoods};
use crate::support::{Done, Sandbox, Server};

/// Runs `create --host` against a server.
fn send(sandbox: &Sandbox, server: &Server, name: &str, modelfile: &str, more: &[&str]) -> Done {
    let words = ["create", name, "-f", "-", "--host", &server.at];
    sandbox.puna(&[&words[..], more].concat(), modelfile)
}

/// The number of blob uploads in a server's log.
fn uploads(log: &str) -> usize {
    let lines = fs::read_to_string(log).unwrap_or_default();
    lines.matches("/api/blobs/").count() - lines.matches("HEAD").count()
}

/// The digest of a model's weights.
fn weights(sandbox: &Sandbox, name: &str) -> String {
    let path = sandbox.puna(&["path", name], "").ok();
    path.trim().rsplit('/').next().unwrap().to_string()
}

#[test]
fn a_server_makes_of_a_folder_what_create_makes_of_it() {
    let (ours, theirs) = (Sandbox::new(), Sandbox::new());
    let log = theirs.home.join("access.log").display().to_string();
    let words = ["serve", "--host", "127.0.0.1:0", "--access-log", &log];
    let server = Server::start(theirs.command(&words));
    let at = folder(&ours, "m", &family("qwen3"));
    let from = format!("FROM {}\n", at.display());
    let text = format!("{from}SYSTEM Be short.\nPARAMETER temperature 0.5\nMESSAGE user hi\n");
    ours.create("m", &text);
    assert_eq!(send(&ours, &server, "m", &text, &[]).ok(), "");
    assert_eq!(weights(&ours, "m"), weights(&theirs, "m"));
    let shown = |sandbox: &Sandbox| sandbox.puna(&["show", "m", "--modelfile"], "").ok();
    let lines = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.contains("FROM "));
        lines.map(str::to_string).collect()
    };
    assert_eq!(lines(shown(&ours)), lines(shown(&theirs)));
    let sent = uploads(&log);
    assert!(sent >= 4, "{sent} files");
    // Blobs that the server has are not sent again.
    send(&ours, &server, "other", &from, &[]).ok();
    assert_eq!(uploads(&log), sent);
    send(&ours, &server, "small", &from, &["--quantize", "q8_0"]).ok();
    let shown = theirs.puna(&["show", "small"], "").ok();
    assert!(shown.contains("quantization\tQ8_0\n"), "{shown}");
    // With a base model at the server, no local file is needed.
    send(
        &ours,
        &server,
        "again",
        "FROM m:latest\nSYSTEM Other.\n",
        &[],
    )
    .ok();
    assert_eq!(weights(&theirs, "again"), weights(&theirs, "m"));
}

#[test]
fn a_server_takes_an_adapter_in_safetensors() {
    let (ours, theirs) = (Sandbox::new(), Sandbox::new());
    let server = theirs.serve(&[]);
    let base = folder(&ours, "mixtral", &family("mixtral"));
    let config = r#"{"peft_type":"LORA","r":4,"lora_alpha":32.0}"#;
    let made = adapter(&ours, "adapter", config, [64, 32]);
    let from = format!("FROM {}\n", base.display());
    send(&ours, &server, "base", &from, &[]).ok();
    let adapted = format!("FROM base\nADAPTER {}\n", made.display());
    send(&ours, &server, "adapted", &adapted, &[]).ok();
    ours.create("base", &from);
    ours.create("adapted", &adapted);
    let own = ours.serve(&[]);
    assert_eq!(
        likelihoods(&own, "adapted"),
        likelihoods(&server, "adapted")
    );
    assert_ne!(
        likelihoods(&server, "base"),
        likelihoods(&server, "adapted")
    );
}

#[test]
fn a_server_joins_shards() {
    let (ours, theirs) = (Sandbox::new(), Sandbox::new());
    let server = theirs.serve(&[]);
    write_shards(&ours.home);
    send(&ours, &server, "m", "FROM ./m-00001-of-00002.gguf\n", &[]).ok();
    assert_whole(&theirs, "m");
}

#[test]
fn files_that_make_no_model_say_why() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    write_shards(&sandbox.home);
    let put = |name: &str| {
        let bytes = fs::read(sandbox.home.join(name)).unwrap();
        let digest = Digest::compute(&bytes).to_string();
        let path = sandbox.home.join(name).display().to_string();
        let words = format!(
            "curl -sf --data-binary @{path} {}/api/blobs/{digest}",
            server.at
        );
        sandbox.shell(&words).ok();
        Json::from(digest)
    };
    let (one, two) = (put("m-00001-of-00002.gguf"), put("m-00002-of-00002.gguf"));
    let text = put_text(&server, "[1,");
    let cases = [
        (
            json!({"a.gguf": one, "b.gguf": two}),
            "must use llama.cpp split filename pattern",
        ),
        (
            json!({"m-00001-of-00003.gguf": one, "m-00002-of-00003.gguf": two}),
            "expected 3",
        ),
        (
            json!({"m-00001-of-00002.gguf": one, "config.json": text}),
            "split filename pattern",
        ),
        (
            json!({"model.safetensors": one, "config.json": text}),
            "config.json is not a JSON object",
        ),
        (json!({"model.safetensors": one}), "there is no config.json"),
        (
            json!({"../model.safetensors": one}),
            "file path must be relative",
        ),
        (json!({}), "unknown type"),
    ];
    for (files, words) in cases {
        let body = json!({"model": "m", "files": files, "stream": false});
        let answer = server.ask("POST", "/api/create", &body.to_string());
        assert!(answer.error().contains(words), "{files}: {answer:?}");
        assert_eq!(answer.status, 400, "{files}: {answer:?}");
    }
    assert_eq!(sandbox.puna(&["ls"], "").ok(), "");
    let missing = Map::from_iter([(
        "m.gguf".to_string(),
        Digest::compute(b"none").to_string().into(),
    )]);
    let body = json!({"model": "m", "files": missing, "stream": false});
    assert_eq!(
        server.ask("POST", "/api/create", &body.to_string()).status,
        400
    );
}

/// Uploads a text as a blob.
fn put_text(server: &Server, text: &str) -> Json {
    let digest = Digest::compute(text.as_bytes()).to_string();
    let answer = server.ask("POST", &format!("/api/blobs/{digest}"), text);
    assert_eq!(answer.status, 201, "{answer:?}");
    digest.into()
}

#[test]
fn unsendable_files_fail_first() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let from = "FROM ./none.gguf\n";
    send(&sandbox, &server, "m", from, &[]).fails(3, "none.gguf");
    send(&sandbox, &server, "m", from, &["--link"]).fails(2, "cannot be used together");
    send(&sandbox, &server, "m", "FROM none\n", &[]).fails(3, "none");
    let words = ["create", "m", "-f", "-", "--host", "127.0.0.1:9"];
    sandbox.puna(&words, "FROM none\n").fails(7, "127.0.0.1:9");
}

#[test]
fn parameters_that_are_not_kept_as_given_are_named() {
    let sandbox = Sandbox::with_smol();
    let server = sandbox.serve(&[]);
    for streams in [true, false] {
        let parameters = json!({ "temperature": -4, "top_q": 1, "top_k": 5 });
        let made =
            json!({ "model": "cold", "from": "smol", "parameters": parameters, "stream": streams });
        let answer = server.ask("POST", "/api/create", &made.to_string());
        let named = answer.header("puna-ignored");
        assert_eq!(named, Some("parameters.temperature, parameters.top_q"));
    }
}
