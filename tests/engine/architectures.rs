//! Other architectures: recurrent models, one with an encoder, one with an adapter. Tiny, with random
//! weights, written here.

use std::path::PathBuf;

use puna::format::gguf::Writer;
use serde_json::{Value as Json, json};

use crate::support::{Sandbox, Server};

/// Width of the tiny models.
pub const WIDTH: u64 = 32;
/// Vocabulary size of the tiny models: three special tokens, the bytes, and filler.
pub const TOKENS: u64 = 320;

/// A reproducible generator of pseudo-random numbers.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    }
}

pub fn tensors(writer: &mut Writer, prefix: &str, seed: u64, list: &[(&str, &[u64])]) {
    let mut numbers = Numbers(seed);
    for (name, shape) in list {
        let count = shape.iter().product::<u64>() as usize;
        let is_norm = name.contains("norm.weight")
            || name.contains("norm_2.weight")
            || name.contains("_ln.weight");
        let number = |_| match *name {
            _ if is_norm => 1.0,
            // Negative, so that the state decays; a growing one would soon overflow.
            "ssm_a" => -numbers.next().abs(),
            _ => numbers.next(),
        };
        let data: Vec<f32> = (0..count).map(number).collect();
        writer.tensor_f32(&format!("{prefix}{name}"), shape, &data);
    }
}

/// A GGUF of an architecture, with a byte vocabulary.
fn tiny(architecture: &str, keys: &[(&str, u64)]) -> Writer {
    tiny_of(architecture, keys, TOKENS)
}

/// The same with a different vocabulary size.
pub fn tiny_of(architecture: &str, keys: &[(&str, u64)], tokens: u64) -> Writer {
    let mut writer = Writer::new(architecture);
    let defaults = [
        ("context_length", 256),
        ("embedding_length", WIDTH),
        ("block_count", 1),
        ("feed_forward_length", 64),
    ];
    let given = |name: &str| keys.iter().any(|(key, _)| *key == name);
    let defaults = defaults.iter().filter(|(key, _)| !given(key));
    for (key, value) in defaults.chain(keys) {
        writer.unsigned(&format!("{architecture}.{key}"), *value as u32);
    }
    let bytes = (0..256).map(|byte| format!("<0x{byte:02X}>"));
    let special_tokens = ["<unk>", "<s>", "</s>"].map(String::from);
    let mut texts: Vec<String> = special_tokens.into_iter().chain(bytes).collect();
    texts.extend((texts.len()..tokens as usize).map(|id| format!("t{id}")));
    let kinds: Vec<i32> = (0..tokens)
        .map(|id| match id {
            0 => 2,
            1 | 2 => 3,
            3..=258 => 6,
            _ => 1,
        })
        .collect();
    writer.text("tokenizer.ggml.model", "llama");
    writer.texts("tokenizer.ggml.tokens", &texts);
    writer.floats("tokenizer.ggml.scores", &vec![0.0; tokens as usize]);
    writer.integers("tokenizer.ggml.token_type", &kinds);
    writer.bool("tokenizer.ggml.add_bos_token", false);
    writer
}

pub fn mamba() -> Vec<u8> {
    mamba_of(1.0)
}

/// The same with its output norm scaled by `norm`.
fn mamba_of(norm: f32) -> Vec<u8> {
    let mut writer = tiny(
        "mamba",
        &[
            ("context_length", 4096),
            ("ssm.conv_kernel", 4),
            ("ssm.inner_size", 64),
            ("ssm.state_size", 8),
            ("ssm.time_step_rank", 4),
        ],
    );
    writer.float("mamba.attention.layer_norm_rms_epsilon", 1e-5);
    tensors(
        &mut writer,
        "",
        1,
        &[("token_embd.weight", &[WIDTH, TOKENS])],
    );
    let norms = vec![norm; WIDTH as usize];
    writer.tensor_f32("output_norm.weight", &[WIDTH], &norms);
    tensors(
        &mut writer,
        "blk.0.",
        2,
        &[
            ("attn_norm.weight", &[WIDTH]),
            ("ssm_in.weight", &[WIDTH, 128]),
            ("ssm_conv1d.weight", &[4, 64]),
            ("ssm_conv1d.bias", &[64]),
            ("ssm_x.weight", &[64, 20]),
            ("ssm_dt.weight", &[4, 64]),
            ("ssm_dt.bias", &[64]),
            ("ssm_a", &[8, 64]),
            ("ssm_d", &[64]),
            ("ssm_out.weight", &[64, WIDTH]),
        ],
    );
    writer.bytes()
}

fn rwkv() -> Vec<u8> {
    let mut writer = tiny(
        "rwkv6",
        &[
            ("wkv.head_size", 16),
            ("time_mix_extra_dim", 4),
            ("time_decay_extra_dim", 4),
            ("attention.head_count", 0),
        ],
    );
    writer.float("rwkv6.attention.layer_norm_epsilon", 1e-5);
    tensors(
        &mut writer,
        "",
        3,
        &[
            ("token_embd.weight", &[WIDTH, TOKENS]),
            ("token_embd_norm.weight", &[WIDTH]),
            ("token_embd_norm.bias", &[WIDTH]),
            ("output_norm.weight", &[WIDTH]),
            ("output_norm.bias", &[WIDTH]),
            ("output.weight", &[WIDTH, TOKENS]),
        ],
    );
    tensors(
        &mut writer,
        "blk.0.",
        4,
        &[
            ("attn_norm.weight", &[WIDTH]),
            ("attn_norm.bias", &[WIDTH]),
            ("attn_norm_2.weight", &[WIDTH]),
            ("attn_norm_2.bias", &[WIDTH]),
            ("time_mix_w1.weight", &[WIDTH, 20]),
            ("time_mix_w2.weight", &[4, WIDTH, 5]),
            ("time_mix_lerp_x.weight", &[WIDTH, 1, 1]),
            ("time_mix_lerp_fused.weight", &[WIDTH, 1, 1, 5]),
            ("time_mix_first.weight", &[16, 2]),
            ("time_mix_decay.weight", &[WIDTH]),
            ("time_mix_decay_w1.weight", &[WIDTH, 4]),
            ("time_mix_decay_w2.weight", &[4, WIDTH]),
            ("time_mix_key.weight", &[WIDTH, WIDTH]),
            ("time_mix_value.weight", &[WIDTH, WIDTH]),
            ("time_mix_receptance.weight", &[WIDTH, WIDTH]),
            ("time_mix_gate.weight", &[WIDTH, WIDTH]),
            ("time_mix_ln.weight", &[WIDTH]),
            ("time_mix_ln.bias", &[WIDTH]),
            ("time_mix_output.weight", &[WIDTH, WIDTH]),
            ("channel_mix_lerp_k.weight", &[WIDTH, 1, 1]),
            ("channel_mix_lerp_r.weight", &[WIDTH, 1, 1]),
            ("channel_mix_key.weight", &[WIDTH, 64]),
            ("channel_mix_value.weight", &[64, WIDTH]),
            ("channel_mix_receptance.weight", &[WIDTH, WIDTH]),
        ],
    );
    writer.bytes()
}

fn t5() -> Vec<u8> {
    let mut writer = tiny(
        "t5",
        &[
            ("attention.head_count", 2),
            ("attention.key_length", 16),
            ("attention.value_length", 16),
            ("attention.relative_buckets_count", 8),
            ("decoder_start_token_id", 0),
        ],
    );
    writer.float("t5.attention.layer_norm_rms_epsilon", 1e-6);
    writer.bool("tokenizer.ggml.add_eos_token", true);
    let square: &[u64] = &[WIDTH, WIDTH];
    tensors(
        &mut writer,
        "",
        5,
        &[
            ("token_embd.weight", &[WIDTH, TOKENS]),
            ("output.weight", &[WIDTH, TOKENS]),
            ("enc.output_norm.weight", &[WIDTH]),
            ("dec.output_norm.weight", &[WIDTH]),
        ],
    );
    for (prefix, seed) in [("enc.blk.0.", 6), ("dec.blk.0.", 7)] {
        tensors(
            &mut writer,
            prefix,
            seed,
            &[
                ("attn_norm.weight", &[WIDTH]),
                ("attn_rel_b.weight", &[2, 8]),
                ("attn_q.weight", square),
                ("attn_k.weight", square),
                ("attn_v.weight", square),
                ("attn_o.weight", square),
                ("ffn_norm.weight", &[WIDTH]),
                ("ffn_up.weight", &[WIDTH, 64]),
                ("ffn_down.weight", &[64, WIDTH]),
            ],
        );
    }
    tensors(
        &mut writer,
        "dec.blk.0.cross_",
        8,
        &[
            ("attn_norm.weight", &[WIDTH]),
            ("attn_q.weight", square),
            ("attn_k.weight", square),
            ("attn_v.weight", square),
            ("attn_o.weight", square),
        ],
    );
    writer.bytes()
}

pub fn llama() -> Vec<u8> {
    let mut writer = tiny(
        "llama",
        &[("attention.head_count", 2), ("rope.dimension_count", 16)],
    );
    writer.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    let square: &[u64] = &[WIDTH, WIDTH];
    tensors(
        &mut writer,
        "",
        9,
        &[
            ("token_embd.weight", &[WIDTH, TOKENS]),
            ("output_norm.weight", &[WIDTH]),
            ("output.weight", &[WIDTH, TOKENS]),
        ],
    );
    tensors(
        &mut writer,
        "blk.0.",
        10,
        &[
            ("attn_norm.weight", &[WIDTH]),
            ("attn_q.weight", square),
            ("attn_k.weight", square),
            ("attn_v.weight", square),
            ("attn_output.weight", square),
            ("ffn_norm.weight", &[WIDTH]),
            ("ffn_gate.weight", &[WIDTH, 64]),
            ("ffn_up.weight", &[WIDTH, 64]),
            ("ffn_down.weight", &[64, WIDTH]),
        ],
    );
    writer.bytes()
}

fn lora(architecture: &str) -> Vec<u8> {
    let mut writer = Writer::new(architecture);
    writer.text("general.type", "adapter");
    writer.text("adapter.type", "lora");
    writer.float("adapter.lora.alpha", 8.0);
    tensors(
        &mut writer,
        "blk.0.ffn_down.weight.",
        11,
        &[("lora_a", &[64, 4]), ("lora_b", &[4, WIDTH])],
    );
    writer.bytes()
}

fn with(name: &str, bytes: Vec<u8>) -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    let path = sandbox.file(&format!("{name}.gguf"), bytes);
    sandbox.create(name, &format!("FROM {}\n", path.display()));
    (sandbox, path)
}

/// Generates twelve tokens with their logprobs and the second-best alternatives.
fn ask(server: &Server, model: &str, prompt: &str) -> Json {
    let body = json!({"model": model, "prompt": prompt, "raw": true, "stream": false, "logprobs": true,
        "top_logprobs": 2, "options": {"temperature": 0, "num_predict": 12, "stop": ["\u{1}"]}});
    server.post("/api/generate", &body.to_string())
}

/// Asserts that two answers are equal, up to a near tie of two tokens.
pub fn assert_same(left: &Json, right: &Json, what: &str) {
    let tokens = |json: &Json| json["logprobs"].as_array().cloned().unwrap_or_default();
    let (left, right) = (tokens(left), tokens(right));
    assert!(!left.is_empty(), "{what}: an answer without tokens");
    let parts = left
        .iter()
        .zip(&right)
        .find(|(a, b)| a["token"] != b["token"]);
    if let Some((a, _)) = parts {
        let number = |at: usize| a["top_logprobs"][at]["logprob"].as_f64().unwrap();
        let gap = number(0) - number(1);
        // Rounding of activations to 8 bits moves logits by so much, by processor and place in a decode.
        assert!(gap < 0.3, "{what}: parts at a gap of {gap}: {a}");
    }
}

#[test]
fn recurrent_models_resume_from_checkpoints() {
    for (name, bytes) in [("mamba", mamba()), ("rwkv", rwkv())] {
        let (sandbox, path) = with(name, bytes);
        let one = sandbox.puna(
            &[
                "run",
                path.to_str().unwrap(),
                "abc",
                "--raw",
                "-n",
                "3",
                "--temperature",
                "0",
            ],
            "",
        );
        assert_eq!(one.status, Some(0), "{one:?}");
        let server = sandbox.serve(&[]);
        let (a, b) = ("abcd ".repeat(30), "wxyz ".repeat(30));
        let first = [ask(&server, name, &a), ask(&server, name, &b)];
        for round in 0..2 {
            for (prompt, first) in [&a, &b].into_iter().zip(&first) {
                let again = ask(&server, name, prompt);
                assert_same(first, &again, &format!("{name}, round {round}"));
            }
        }
        let longer = ask(&server, name, &format!("{a}e"));
        let fresh = sandbox.serve(&[("PUNA_SOCKET", "")]);
        assert_same(&ask(&fresh, name, &format!("{a}e")), &longer, name);
    }
}

#[test]
fn a_model_that_computes_no_numbers_is_an_error() {
    let (sandbox, path) = with("broken", mamba_of(f32::NAN));
    for option in [
        "temperature=0",
        "temperature=1",
        "top_k=0",
        "repeat_penalty=1.1",
    ] {
        let words = ["run", path.to_str().unwrap(), "abc", "--raw", "-o", option];
        let done = sandbox.puna(&words, "");
        assert_eq!(
            (done.status, done.stdout.as_str()),
            (Some(1), ""),
            "{done:?}"
        );
        assert!(done.stderr.contains("logits are not numbers"), "{done:?}");
    }
}

#[test]
fn a_model_with_an_encoder_answers_what_it_read() {
    let (sandbox, path) = with("t5", t5());
    let run = |prompt: &str| {
        let words = [
            "run",
            path.to_str().unwrap(),
            prompt,
            "--raw",
            "--json",
            "-n",
            "8",
            "--temperature",
            "0",
        ];
        sandbox.puna(&words, "").ok()
    };
    assert!(run("abc").contains("\"done\":true"));
    let server = sandbox.serve(&[]);
    let first = ask(&server, "t5", "hello there");
    let other = ask(&server, "t5", "something else");
    assert_ne!(first["logprobs"], other["logprobs"], "the prompt was read");
    // Concurrent prompts, each with its own encoder output.
    std::thread::scope(|scope| {
        let threads = [0, 1, 2].map(|_| scope.spawn(|| ask(&server, "t5", "hello there")));
        for thread in threads {
            assert_eq!(thread.join().unwrap()["logprobs"], first["logprobs"]);
        }
    });
    let long = ask(&server, "t5", &"x".repeat(100));
    assert_eq!(long["done"], true);
}

#[test]
fn an_adapter_changes_the_answer_by_its_scale() {
    let (sandbox, path) = with("llama", llama());
    let adapter = sandbox.file("lora.gguf", lora("llama"));
    let modelfile = format!("FROM {}\nADAPTER {}\n", path.display(), adapter.display());
    sandbox.create("tuned", &modelfile);
    sandbox.create("plain", &format!("{modelfile}PARAMETER adapter_scale 0\n"));
    let server = sandbox.serve(&[]);
    let answer = |name: &str| ask(&server, name, "abc")["logprobs"].clone();
    let base = answer("llama");
    assert_ne!(answer("tuned"), base);
    assert_eq!(answer("plain"), base, "none of it is applied");
    let wrong = sandbox.file("wrong.gguf", lora("gemma3"));
    let line = |file: &std::path::Path| format!("FROM llama\nADAPTER {}\n", file.display());
    sandbox
        .puna(&["create", "x", "-f", "-"], &line(&wrong))
        .fails(2, "the adapter is for gemma3, the model is llama");
    sandbox
        .puna(&["create", "x", "-f", "-"], &line(&path))
        .fails(2, "contains no LoRA adapter");
    sandbox
        .puna(&["create", "x", "-f", "-"], "FROM llama\nADAPTER ./none\n")
        .fails(3, "ADAPTER ./none: no such file");
}
