//! Models in Ollama's own layout: llama.cpp loads a file derived from them. Each is written here
//! twice, once in llama.cpp's layout; both must give the same answers.

use puna::format::gguf::Writer;

use crate::support::Sandbox;
use crate::support::tiny_models::{TOKENS, WIDTH, tensors, tiny_of};

/// Layouts without a vision part.
const TEXT_ONLY: [&str; 4] = ["gptoss", "olmo3", "glm4moelite", "laguna"];

/// The engine that a file is laid out for.
#[derive(Clone, Copy, PartialEq)]
pub enum For {
    Ollama,
    Llama,
}

impl For {
    /// The name for this engine.
    pub fn name<'a>(self, ollama: &'a str, llama: &'a str) -> &'a str {
        match self {
            For::Ollama => ollama,
            For::Llama => llama,
        }
    }

    /// Header keys and vocabulary; Ollama's gemma3 has one extra token.
    pub fn file(self, architecture: &str, keys: &[(&str, u64)]) -> Writer {
        let tokens = TOKENS + u64::from(self == For::Ollama && architecture == "gemma3");
        let mut writer = tiny_of(architecture, keys, tokens);
        writer.float(
            &format!("{architecture}.attention.layer_norm_rms_epsilon"),
            1e-6,
        );
        if self == For::Ollama && !TEXT_ONLY.contains(&architecture) {
            writer.unsigned(&format!("{architecture}.vision.block_count"), 1);
            tensors(&mut writer, "v.", 9, &[("patch_embd.weight", &[WIDTH, 4])]);
            tensors(&mut writer, "mm.", 9, &[("0.weight", &[WIDTH, WIDTH])]);
        }
        writer
    }
}

const HEADS: [(&str, u64); 4] = [
    ("attention.head_count", 2),
    ("attention.head_count_kv", 1),
    ("attention.key_length", 16),
    ("attention.value_length", 16),
];
pub const EMBEDDING: (&str, &[u64]) = ("token_embd.weight", &[WIDTH, TOKENS]);
pub const QKV: [(&str, &[u64]); 3] = [
    ("attn_q.weight", &[WIDTH, 32]),
    ("attn_k.weight", &[WIDTH, 16]),
    ("attn_v.weight", &[WIDTH, 16]),
];
pub const FEED: [(&str, &[u64]); 3] = [
    ("ffn_gate.weight", &[WIDTH, 64]),
    ("ffn_up.weight", &[WIDTH, 64]),
    ("ffn_down.weight", &[64, WIDTH]),
];

pub fn keys(further: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
    HEADS.iter().chain(further).copied().collect()
}

/// The tensors of one block.
fn block(writer: &mut Writer, number: u64, further: &[(&str, &[u64])]) {
    let rest: [(&str, &[u64]); 2] = [
        ("attn_norm.weight", &[WIDTH]),
        ("attn_output.weight", &[32, WIDTH]),
    ];
    let all: Vec<_> = QKV.iter().chain(&rest).chain(further).copied().collect();
    tensors(writer, &format!("blk.{number}."), 2 + number, &all);
}

fn gemma3_block(writer: &mut Writer, number: u64) {
    let norms: [(&str, &[u64]); 5] = [
        ("attn_q_norm.weight", &[16]),
        ("attn_k_norm.weight", &[16]),
        ("post_attention_norm.weight", &[WIDTH]),
        ("ffn_norm.weight", &[WIDTH]),
        ("post_ffw_norm.weight", &[WIDTH]),
    ];
    block(
        writer,
        number,
        &norms.into_iter().chain(FEED).collect::<Vec<_>>(),
    );
}

fn gemma3(side: For) -> Vec<u8> {
    let mut writer = side.file("gemma3", &keys(&[("attention.sliding_window", 8)]));
    writer.float(
        side.name("gemma3.rope.global.freq_base", "gemma3.rope.freq_base"),
        5e5,
    );
    writer.float(
        side.name("gemma3.rope.local.freq_base", "gemma3.rope.freq_base_swa"),
        2e4,
    );
    tensors(
        &mut writer,
        "",
        1,
        &[EMBEDDING, ("output_norm.weight", &[WIDTH])],
    );
    gemma3_block(&mut writer, 0);
    writer.bytes()
}

/// Enough blocks for one with full attention: llama.cpp aborts if none has it.
const BLOCKS: u64 = 6;

fn embedding_gemma(side: For) -> Vec<u8> {
    let name = side.name("gemma3", "gemma-embedding");
    let sizes = [("attention.sliding_window", 8), ("block_count", BLOCKS)];
    let mut writer = side.file(name, &keys(&sizes));
    if side == For::Llama {
        writer.float("gemma-embedding.rope.freq_base", 1e6);
        writer.float("gemma-embedding.rope.freq_base_swa", 1e4);
        writer.unsigned("gemma-embedding.pooling_type", 1);
        for (key, value) in [
            ("2_feat_in", 32),
            ("2_feat_out", 48),
            ("3_feat_in", 48),
            ("3_feat_out", 32),
        ] {
            writer.unsigned(&format!("gemma-embedding.dense_{key}"), value);
        }
    }
    let norm: (&str, &[u64]) = (side.name("norm.weight", "output_norm.weight"), &[WIDTH]);
    let dense: [(&str, &[u64]); 2] = [
        (side.name("dense.0.weight", "dense_2.weight"), &[WIDTH, 48]),
        (side.name("dense.1.weight", "dense_3.weight"), &[48, WIDTH]),
    ];
    tensors(&mut writer, "", 1, &[EMBEDDING, norm, dense[0], dense[1]]);
    for number in 0..BLOCKS {
        gemma3_block(&mut writer, number);
    }
    writer.bytes()
}

fn gptoss(side: For) -> Vec<u8> {
    let name = side.name("gptoss", "gpt-oss");
    let experts = [
        ("attention.sliding_window", 8),
        ("expert_count", 4),
        ("expert_used_count", 2),
    ];
    let mut writer = side.file(name, &keys(&experts));
    if side == For::Llama {
        writer.unsigned("gpt-oss.expert_feed_forward_length", 64);
        writer.text("gpt-oss.rope.scaling.type", "yarn");
        writer.float("gpt-oss.rope.scaling.factor", 32.0);
        writer.unsigned("gpt-oss.rope.scaling.original_context_length", 4096);
    }
    let ends: [(&str, &[u64]); 2] = [
        ("output_norm.weight", &[WIDTH]),
        ("output.weight", &[WIDTH, TOKENS]),
    ];
    tensors(&mut writer, "", 1, &[EMBEDDING, ends[0], ends[1]]);
    let out = |end: &str| format!("{}.{end}", side.name("attn_out", "attn_output"));
    let names = [out("weight"), out("bias")];
    let list: [(&str, &[u64]); 18] = [
        QKV[0],
        QKV[1],
        QKV[2],
        ("attn_norm.weight", &[WIDTH]),
        (&names[0], &[32, WIDTH]),
        (&names[1], &[WIDTH]),
        ("attn_q.bias", &[32]),
        ("attn_k.bias", &[16]),
        ("attn_v.bias", &[16]),
        (side.name("attn_sinks", "attn_sinks.weight"), &[2]),
        (
            side.name("ffn_norm.weight", "post_attention_norm.weight"),
            &[WIDTH],
        ),
        ("ffn_gate_inp.weight", &[WIDTH, 4]),
        ("ffn_gate_exps.weight", &[WIDTH, 64, 4]),
        ("ffn_up_exps.weight", &[WIDTH, 64, 4]),
        ("ffn_down_exps.weight", &[64, WIDTH, 4]),
        ("ffn_gate_inp.bias", &[4]),
        ("ffn_gate_exps.bias", &[64, 4]),
        ("ffn_up_exps.bias", &[64, 4]),
    ];
    tensors(&mut writer, "blk.0.", 2, &list);
    tensors(
        &mut writer,
        "blk.0.",
        3,
        &[("ffn_down_exps.bias", &[WIDTH, 4])],
    );
    writer.bytes()
}

fn mistral3(side: For) -> Vec<u8> {
    let mut writer = side.file(
        "mistral3",
        &keys(&[("rope.scaling.original_context_length", 64)]),
    );
    writer.text("mistral3.rope.scaling.type", "yarn");
    writer.float("mistral3.rope.scaling.factor", 4.0);
    for (ollama, llama, value) in [
        ("beta_fast", "yarn_beta_fast", 16.0),
        ("beta_slow", "yarn_beta_slow", 2.0),
        ("mscale_all_dim", "yarn_log_multiplier", 0.5),
    ] {
        let key = side.name(ollama, llama);
        writer.float(&format!("mistral3.rope.scaling.{key}"), value);
    }
    plain(writer)
}

fn qwen25vl(side: For) -> Vec<u8> {
    let mut writer = side.file(side.name("qwen25vl", "qwen2vl"), &keys(&[]));
    match side {
        For::Ollama => writer.integers("qwen25vl.rope.mrope_section", &[2, 3, 3]),
        For::Llama => writer.integers("qwen2vl.rope.dimension_sections", &[2, 3, 3, 0]),
    };
    plain(writer)
}

/// Adds the tensors that most models have.
fn plain(mut writer: Writer) -> Vec<u8> {
    tensors(
        &mut writer,
        "",
        1,
        &[EMBEDDING, ("output_norm.weight", &[WIDTH])],
    );
    let norm: (&str, &[u64]) = ("ffn_norm.weight", &[WIDTH]);
    let biases: [(&str, &[u64]); 3] = [
        ("attn_q.bias", &[32]),
        ("attn_k.bias", &[16]),
        ("attn_v.bias", &[16]),
    ];
    let list = [norm].into_iter().chain(biases).chain(FEED);
    block(&mut writer, 0, &list.collect::<Vec<_>>());
    writer.bytes()
}

fn olmo3(side: For) -> Vec<u8> {
    let mut writer = side.file(side.name("olmo3", "olmo2"), &keys(&[]));
    tensors(
        &mut writer,
        "",
        1,
        &[
            EMBEDDING,
            ("output_norm.weight", &[WIDTH]),
            ("output.weight", &[WIDTH, TOKENS]),
        ],
    );
    let list: [(&str, &[u64]); 8] = [
        ("attn_q.weight", &[WIDTH, 32]),
        ("attn_k.weight", &[WIDTH, 16]),
        ("attn_v.weight", &[WIDTH, 16]),
        ("attn_output.weight", &[32, WIDTH]),
        ("attn_q_norm.weight", &[32]),
        ("attn_k_norm.weight", &[16]),
        ("post_attention_norm.weight", &[WIDTH]),
        ("post_ffw_norm.weight", &[WIDTH]),
    ];
    tensors(&mut writer, "blk.0.", 2, &list);
    tensors(&mut writer, "blk.0.", 3, &FEED);
    writer.bytes()
}

/// A name, and a function that writes the file for either engine.
pub type Case = (&'static str, fn(For) -> Vec<u8>);

/// Asserts that both files of each case give the same answers.
pub fn alike(cases: &[Case]) {
    let sandbox = Sandbox::new();
    for (name, make) in cases {
        let answer = |side: For, label: &str| {
            let path = sandbox.file(&format!("{label}.gguf"), make(side));
            sandbox.create(label, &format!("FROM {}\n", path.display()));
            let words = [
                "run",
                label,
                "abc abc",
                "--raw",
                "-n",
                "12",
                "--temperature",
                "0",
            ];
            sandbox.puna(&words, "").ok()
        };
        let known = answer(For::Llama, &format!("{name}-llama"));
        let derived = answer(For::Ollama, &format!("{name}-ollama"));
        assert_eq!(derived, known, "{name}");
        assert!(known.len() > 4, "{name}: {known:?}");
    }
}

#[test]
fn ollama_layouts_answer_like_llama_cpps() {
    alike(&[
        ("gemma3", gemma3),
        ("gemma-embedding", embedding_gemma),
        ("gptoss", gptoss),
        ("mistral3", mistral3),
        ("qwen25vl", qwen25vl),
        ("olmo3", olmo3),
    ]);
}

#[test]
fn a_derived_file_is_made_once_shown_and_collected() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("g.gguf", gemma3(For::Ollama));
    sandbox.create("g", &format!("FROM {}\n", path.display()));
    let run = || {
        sandbox
            .puna(&["run", "g", "abc", "--raw", "-n", "4"], "")
            .ok()
    };
    assert!(!sandbox.puna(&["du"], "").ok().contains("(derived)"));
    run();
    let folder = sandbox.home.join(".cache/puna/derived");
    let made = || {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let metas = entries.map(|entry| entry.metadata().unwrap());
        metas.filter(|meta| meta.len() > 0).collect::<Vec<_>>()
    };
    let first = made();
    assert_eq!(first.len(), 1);
    run();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(made()[0].ino(), first[0].ino(), "it was made once");
    let line = format!("(derived)\t{0}\t{0}\n", first[0].len());
    assert!(sandbox.puna(&["du"], "").ok().ends_with(&line));
    let dry = sandbox
        .puna(&["gc", "--dry-run", "--older-than", "0"], "")
        .ok();
    assert!(dry.starts_with("derived\t"), "{dry}");
    sandbox.puna(&["gc", "--older-than", "1h"], "").ok();
    assert_eq!(made().len(), 1, "it was used just now");
    sandbox.puna(&["gc", "--older-than", "0"], "").ok();
    assert_eq!(made().len(), 0);
    run();
}

#[test]
fn a_layout_that_does_not_fit_is_named() {
    let sandbox = Sandbox::new();
    let mut writer = For::Ollama.file("glmocr", &keys(&[]));
    tensors(&mut writer, "blk.0.", 2, &FEED[..1]);
    let path = sandbox.file("x.gguf", writer.bytes());
    sandbox
        .puna(&["run", path.to_str().unwrap(), "hi"], "")
        .fails(
            1,
            "blk.0.ffn_gate.weight and blk.0.ffn_up.weight are not both present",
        );
}
