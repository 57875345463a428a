//! Models that pass as files and would end the process of llama.cpp.

use serde_json::json;

use crate::support::Sandbox;
use crate::support::scripted_model::scripted_gguf;
use crate::support::tiny_models::rwkv_with;

/// Overwrites bytes behind a name in a header.
fn patched(mut bytes: Vec<u8>, name: &str, skipped: usize, new: &[u8]) -> Vec<u8> {
    let name = name.as_bytes();
    let at = bytes.windows(name.len()).position(|part| part == name);
    let start = at.expect("it has this name") + name.len() + skipped;
    bytes[start..start + new.len()].copy_from_slice(new);
    bytes
}

/// A scripted model with another value of a key of four bytes, which stands behind the number of its type.
pub fn key(name: &str, value: [u8; 4]) -> Vec<u8> {
    patched(scripted_gguf(&["A short script."]), name, 4, &value)
}

/// The type of a tensor, behind its dimensions.
fn tensor(name: &str, dimensions: usize, kind: u32) -> Vec<u8> {
    let skipped = 4 + 8 * dimensions;
    let bytes = scripted_gguf(&["A short script."]);
    patched(bytes, name, skipped, &kind.to_le_bytes())
}

#[test]
fn no_model_ends_the_server() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let (f16, q8_1, i8) = (1, 9, 24);
    let cases = [
        (tensor("blk.0.attn_norm.weight", 1, f16), "not F32"),
        (tensor("output_norm.weight", 1, f16), "not F32"),
        (tensor("blk.0.ffn_up.weight", 2, i8), "nothing is computed"),
        (
            tensor("blk.0.attn_q.weight", 2, q8_1),
            "nothing is computed",
        ),
        (
            key(
                "llama.attention.layer_norm_rms_epsilon",
                (-1f32).to_le_bytes(),
            ),
            "epsilon is -1",
        ),
        (
            key(
                "llama.attention.layer_norm_rms_epsilon",
                f32::NAN.to_le_bytes(),
            ),
            "epsilon is NaN",
        ),
        (
            key("llama.context_length", u32::MAX.to_le_bytes()),
            "context_length is 4294967295",
        ),
        (
            key("llama.attention.head_count", 0u32.to_le_bytes()),
            "no heads",
        ),
    ];
    let ask = |model: &str| {
        let body = json!({"model": model, "prompt": "two words", "stream": false});
        server.ask("POST", "/api/generate", &body.to_string())
    };
    for (bytes, why) in cases {
        let path = sandbox.file("odd.gguf", bytes);
        let path = path.to_str().unwrap();
        sandbox.puna(&["run", path, "two words"], "").fails(8, why);
        sandbox.create("odd", &format!("FROM {path}\n"));
        let answer = ask("odd");
        assert!(answer.status >= 400, "{why}: {}", answer.status);
        assert!(answer.error().contains(why), "{}", answer.error());
    }
    let path = sandbox.file("good.gguf", scripted_gguf(&["A short script."]));
    sandbox.create("good", &format!("FROM {}\n", path.display()));
    assert_eq!(ask("good").status, 200);
}

#[test]
fn what_passes_every_check_and_would_end_llama_cpp_ends_its_trial() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[("PUNA_SOCKET", "")]);
    let path = sandbox.file("odd.gguf", rwkv_with(&[("attention.head_count_kv", 3)]));
    let path = path.to_str().unwrap();
    let why = "llama.cpp ends when it computes with it: rwkv6-base.cpp:111: GGML_ASSERT(n_head % n_head_kv == 0) failed";
    sandbox
        .puna(&["run", path, "--raw", "a b"], "")
        .fails(8, why);
    sandbox.create("odd", &format!("FROM {path}\n"));
    let body = json!({"model": "odd", "prompt": "a b", "stream": false, "raw": true});
    for _ in 0..2 {
        let answer = server.ask("POST", "/api/generate", &body.to_string());
        assert!(answer.error().contains(why), "{}", answer.body);
    }
    let words = ["create", "small", "-f", "-", "-q", "--quantize", "q8_0"];
    sandbox
        .puna(&words, &format!("FROM {path}\n"))
        .fails(8, why);
    // A model that passed is known, and is not tried again.
    let tried = || {
        std::fs::read_dir(sandbox.home.join(".cache/puna/tried"))
            .unwrap()
            .count()
    };
    let good = sandbox.file("good.gguf", scripted_gguf(&["A short script."]));
    sandbox.create("good", &format!("FROM {}\n", good.display()));
    let ask = json!({"model": "good", "prompt": "two words", "stream": false}).to_string();
    assert_eq!(server.ask("POST", "/api/generate", &ask).status, 200);
    let count = tried();
    sandbox
        .puna(&["run", "good", "two words", "--local", "-n", "1"], "")
        .ok();
    assert_eq!(tried(), count);
}
