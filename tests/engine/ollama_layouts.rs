//! Further layouts of Ollama's own engine, as in `derived.rs`: those whose keys follow from shapes, and
//! those that merge two tensors.

use std::path::Path;

use puna::format::gguf::Header;

use crate::engine::layout_translation::{EMBEDDING, FEED, For, alike, keys};
use crate::support::Sandbox;
use crate::support::tiny_models::{TOKENS, WIDTH, tensors, tiny_of};

/// The tensors outside of the blocks.
const ENDS: [(&str, &[u64]); 3] = [
    EMBEDDING,
    ("output_norm.weight", &[WIDTH]),
    ("output.weight", &[WIDTH, TOKENS]),
];
/// Experts, and one expert shared by all tokens.
const EXPERTS: [(&str, &[u64]); 7] = [
    ("ffn_gate_inp.weight", &[WIDTH, 4]),
    ("ffn_gate_exps.weight", &[WIDTH, 16, 4]),
    ("ffn_up_exps.weight", &[WIDTH, 16, 4]),
    ("ffn_down_exps.weight", &[16, WIDTH, 4]),
    ("ffn_gate_shexp.weight", &[WIDTH, 32]),
    ("ffn_up_shexp.weight", &[WIDTH, 32]),
    ("ffn_down_shexp.weight", &[32, WIDTH]),
];
const NORMS: [(&str, &[u64]); 2] = [
    ("attn_norm.weight", &[WIDTH]),
    ("ffn_norm.weight", &[WIDTH]),
];

/// Adds keys that only llama.cpp's file has.
fn only_llama(side: For, writer: &mut puna::format::gguf::Writer, numbers: &[(&str, u32)]) {
    if side == For::Llama {
        for (key, value) in numbers {
            writer.unsigned(key, *value);
        }
    }
}

fn deepseek_ocr(side: For) -> Vec<u8> {
    let sizes = [
        ("attention.head_count", 2),
        ("attention.head_count_kv", 2),
        ("block_count", 2),
        ("leading_dense_block_count", 1),
        ("expert_count", 4),
        ("expert_used_count", 2),
    ];
    let mut writer = side.file(side.name("deepseekocr", "deepseek2-ocr"), &sizes);
    only_llama(
        side,
        &mut writer,
        &[
            ("deepseek2-ocr.expert_feed_forward_length", 16),
            ("deepseek2-ocr.expert_shared_count", 2),
        ],
    );
    if side == For::Ollama {
        tensors(&mut writer, "s.", 9, &[("patch_embd.weight", &[WIDTH, 4])]);
    }
    tensors(&mut writer, "", 1, &ENDS);
    let square: &[u64] = &[WIDTH, WIDTH];
    let heads = ["attn_q", "attn_k", "attn_v", "attn_output"].map(|name| format!("{name}.weight"));
    let heads: Vec<(&str, &[u64])> = heads.iter().map(|name| (&**name, square)).collect();
    for (number, feed) in [(0, &FEED[..]), (1, &EXPERTS[..])] {
        let all = [&heads[..], &NORMS, feed].concat();
        tensors(&mut writer, &format!("blk.{number}."), 2 + number, &all);
    }
    writer.bytes()
}

fn glm_ocr(side: For) -> Vec<u8> {
    let mut writer = side.file(side.name("glmocr", "glm4"), &keys(&[]));
    match side {
        For::Ollama => writer.integers("glmocr.rope.mrope_section", &[2, 3, 3]),
        For::Llama => writer.integers("glm4.rope.dimension_sections", &[2, 3, 3, 0]),
    };
    only_llama(side, &mut writer, &[("glm4.rope.dimension_count", 16)]);
    tensors(&mut writer, "", 1, &ENDS);
    let out = format!("{}.weight", side.name("attn_out", "attn_output"));
    let heads: [(&str, &[u64]); 4] = [
        ("attn_q.weight", &[WIDTH, 32]),
        ("attn_k.weight", &[WIDTH, 16]),
        ("attn_v.weight", &[WIDTH, 16]),
        (&out, &[32, WIDTH]),
    ];
    let attention = side.name("post_attn_norm.weight", "post_attention_norm.weight");
    let feed = side.name("post_ffn_norm.weight", "post_ffw_norm.weight");
    let norms: [(&str, &[u64]); 2] = [(attention, &[WIDTH]), (feed, &[WIDTH])];
    tensors(
        &mut writer,
        "blk.0.",
        2,
        &[&heads[..], &NORMS, &norms].concat(),
    );
    // The same values, as one tensor or as two.
    let wide: &[(&str, &[u64])] = match side {
        For::Ollama => &FEED[..2],
        For::Llama => &[("ffn_up.weight", &[WIDTH, 128])],
    };
    tensors(&mut writer, "blk.0.", 3, wide);
    tensors(&mut writer, "blk.0.", 4, &FEED[2..]);
    writer.bytes()
}

fn glm_lite(side: For) -> Vec<u8> {
    let (heads, length, value, own) = match side {
        For::Ollama => (2, 16, 16, 24),
        For::Llama => (1, 24, 16, 16),
    };
    let sizes = [
        ("attention.head_count", 2),
        ("attention.head_count_kv", heads),
        ("attention.key_length", length),
        ("attention.value_length", value),
        ("attention.key_length_mla", own),
        ("attention.value_length_mla", own),
        ("attention.q_lora_rank", 16),
        ("attention.kv_lora_rank", 16),
        ("rope.dimension_count", 8),
        ("leading_dense_block_count", 1),
        ("expert_count", 4),
        ("expert_used_count", 2),
        ("expert_feed_forward_length", 16),
        ("expert_shared_count", 1),
    ];
    let mut writer = side.file(side.name("glm4moelite", "deepseek2"), &sizes);
    let groups = ["expert_group_count", "expert_group_used_count"];
    let groups = groups.map(|key| format!("deepseek2.{key}"));
    only_llama(side, &mut writer, &[(&groups[0], 1), (&groups[1], 1)]);
    writer.integers("tokenizer.ggml.eos_token_ids", &[2, 300, 301]);
    only_llama(
        side,
        &mut writer,
        &[
            ("tokenizer.ggml.eot_token_id", 300),
            ("tokenizer.ggml.eom_token_id", 301),
        ],
    );
    tensors(&mut writer, "", 1, &ENDS);
    let list: [(&str, &[u64]); 8] = [
        ("attn_q_a.weight", &[WIDTH, 16]),
        ("attn_q_a_norm.weight", &[16]),
        ("attn_q_b.weight", &[16, 32]),
        ("attn_kv_a_mqa.weight", &[WIDTH, 24]),
        ("attn_kv_a_norm.weight", &[16]),
        ("attn_k_b.weight", &[8, 16, 2]),
        ("attn_v_b.weight", &[16, 16, 2]),
        ("attn_output.weight", &[32, WIDTH]),
    ];
    tensors(
        &mut writer,
        "blk.0.",
        2,
        &[&list[..], &NORMS, &FEED].concat(),
    );
    writer.bytes()
}

fn laguna(side: For) -> Vec<u8> {
    let sizes = [
        ("attention.sliding_window", 8),
        ("block_count", 2),
        ("leading_dense_block_count", 1),
        ("expert_count", 4),
        ("expert_used_count", 2),
        ("expert_feed_forward_length", 16),
        ("expert_shared_feed_forward_length", 32),
        (
            side.name("rope.swa.dimension_count", "rope.dimension_count_swa"),
            16,
        ),
    ];
    let mut writer = side.file("laguna", &keys(&sizes));
    let base = side.name("rope.swa.freq_base", "rope.freq_base_swa");
    writer.float(&format!("laguna.{base}"), 5e3);
    writer.float("laguna.rope.freq_base", 5e5);
    tensors(&mut writer, "", 1, &ENDS);
    let gate = format!("{}.weight", side.name("attn_g", "attn_gate"));
    let list: [(&str, &[u64]); 7] = [
        ("attn_q.weight", &[WIDTH, 32]),
        ("attn_k.weight", &[WIDTH, 16]),
        ("attn_v.weight", &[WIDTH, 16]),
        ("attn_output.weight", &[32, WIDTH]),
        ("attn_q_norm.weight", &[16]),
        ("attn_k_norm.weight", &[16]),
        (&gate, &[WIDTH, 2]),
    ];
    let bias: (&str, &[u64]) = ("exp_probs_b.bias", &[4]);
    let routed = [&EXPERTS[..], &[bias]].concat();
    for (number, feed) in [(0, &FEED[..]), (1, &routed[..])] {
        let all = [&list[..], &NORMS, feed].concat();
        tensors(&mut writer, &format!("blk.{number}."), 2 + number, &all);
    }
    writer.bytes()
}

#[test]
fn keys_that_follow_from_shapes_and_tensors_that_join_answer_alike() {
    alike(&[
        ("deepseekocr", deepseek_ocr),
        ("glmocr", glm_ocr),
        ("glm4moelite", glm_lite),
        ("laguna", laguna),
    ]);
}

/// gemma3 in Ollama's layout, with vision and text in one file.
fn gemma3_that_sees() -> Vec<u8> {
    let mut writer = tiny_of("gemma3", &keys(&[("attention.sliding_window", 8)]), TOKENS);
    for (key, value) in [
        ("block_count", 1),
        ("embedding_length", 32),
        ("feed_forward_length", 64),
        ("attention.head_count", 2),
        ("image_size", 56),
        ("patch_size", 14),
        ("num_channels", 3),
    ] {
        writer.unsigned(&format!("gemma3.vision.{key}"), value);
    }
    writer.float("gemma3.vision.attention.layer_norm_epsilon", 1e-6);
    tensors(&mut writer, "", 1, &[ENDS[0], ENDS[1]]);
    let list: [(&str, &[u64]); 11] = [
        ("attn_q.weight", &[WIDTH, 32]),
        ("attn_k.weight", &[WIDTH, 16]),
        ("attn_v.weight", &[WIDTH, 16]),
        ("attn_output.weight", &[32, WIDTH]),
        ("attn_norm.weight", &[WIDTH]),
        ("attn_q_norm.weight", &[16]),
        ("attn_k_norm.weight", &[16]),
        ("post_attention_norm.weight", &[WIDTH]),
        ("ffn_norm.weight", &[WIDTH]),
        ("post_ffw_norm.weight", &[WIDTH]),
        FEED[0],
    ];
    tensors(&mut writer, "blk.0.", 2, &[&list[..], &FEED[1..]].concat());
    let ends: [(&str, &[u64]); 7] = [
        ("v.patch_embedding.weight", &[14, 14, 3, 32]),
        ("v.patch_embedding.bias", &[32]),
        ("v.position_embedding.weight", &[32, 16]),
        ("v.post_layernorm.weight", &[32]),
        ("v.post_layernorm.bias", &[32]),
        ("mm.mm_input_projection.weight", &[WIDTH, 32]),
        ("mm.mm_soft_emb_norm.weight", &[32]),
    ];
    tensors(&mut writer, "", 3, &ends);
    let square: &[u64] = &[32, 32];
    for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
        let names = [format!("{name}.weight"), format!("{name}.bias")];
        tensors(
            &mut writer,
            "v.blk.0.",
            4,
            &[(&names[0], square), (&names[1], &[32])],
        );
    }
    let block: [(&str, &[u64]); 8] = [
        ("layer_norm1.weight", &[32]),
        ("layer_norm1.bias", &[32]),
        ("layer_norm2.weight", &[32]),
        ("layer_norm2.bias", &[32]),
        ("mlp.fc1.weight", &[32, 64]),
        ("mlp.fc1.bias", &[64]),
        ("mlp.fc2.weight", &[64, 32]),
        ("mlp.fc2.bias", &[32]),
    ];
    tensors(&mut writer, "v.blk.0.", 5, &block);
    writer.bytes()
}

/// Tensor names of gemma3's projector from llama.cpp's own converter.
const SEEING: [&str; 23] = [
    "v.patch_embd.weight",
    "v.patch_embd.bias",
    "v.position_embd.weight",
    "v.post_ln.weight",
    "v.post_ln.bias",
    "mm.input_projection.weight",
    "mm.soft_emb_norm.weight",
    "v.blk.0.attn_q.weight",
    "v.blk.0.attn_q.bias",
    "v.blk.0.attn_k.weight",
    "v.blk.0.attn_k.bias",
    "v.blk.0.attn_v.weight",
    "v.blk.0.attn_v.bias",
    "v.blk.0.attn_out.weight",
    "v.blk.0.attn_out.bias",
    "v.blk.0.ln1.weight",
    "v.blk.0.ln1.bias",
    "v.blk.0.ln2.weight",
    "v.blk.0.ln2.bias",
    "v.blk.0.ffn_down.weight",
    "v.blk.0.ffn_down.bias",
    "v.blk.0.ffn_up.weight",
    "v.blk.0.ffn_up.bias",
];

#[test]
fn the_vision_part_becomes_a_projector() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("g.gguf", gemma3_that_sees());
    sandbox.create("g", &format!("FROM {}\n", file.display()));
    let path = |flag: &str| {
        let line = sandbox.puna(&["path", flag, "g"], "").ok();
        std::path::PathBuf::from(line.trim_end())
    };
    let made = path("--projector");
    let header = read(&made);
    assert_eq!(header.architecture(), "clip");
    assert_eq!(header.text("clip.projector_type"), Some("gemma3"));
    assert_eq!(header.integer("clip.vision.projection_dim"), Some(WIDTH));
    assert_eq!(header.integer("clip.vision.image_size"), Some(56));
    let names: Vec<&str> = header.tensors.iter().map(|tensor| &*tensor.name).collect();
    assert_eq!(names, SEEING);
    // The same bytes under the new names.
    let whole = read(&file);
    let bytes = |header: &Header, path: &Path, name: &str| {
        let tensor = header.tensor(name).unwrap();
        let start = (header.data_offset + tensor.offset) as usize;
        std::fs::read(path).unwrap()[start..start + tensor.size_bytes as usize].to_vec()
    };
    assert_eq!(
        bytes(&header, &made, "v.blk.0.ffn_up.weight"),
        bytes(&whole, &file, "v.blk.0.mlp.fc2.weight")
    );
    // llama.cpp gets the text part alone; the cache has both parts, once each.
    let loaded = path("--loaded");
    assert!(
        read(&loaded)
            .tensors
            .iter()
            .all(|tensor| !tensor.name.starts_with("v."))
    );
    assert!(made != loaded && made == path("--projector"));
    let both: u64 = [&made, &loaded]
        .map(|path| path.metadata().unwrap().len())
        .iter()
        .sum();
    let line = format!("(derived)\t{both}\t{both}\n");
    assert!(sandbox.puna(&["du"], "").ok().ends_with(&line));
    sandbox.puna(&["gc", "--older-than", "0"], "").ok();
    assert!(!made.exists() && !loaded.exists());
}

#[test]
fn text_models_have_no_projector() {
    let sandbox = Sandbox::with_smol();
    sandbox
        .puna(&["path", "--projector", "smol"], "")
        .fails(1, "smol has no projector");
    let mut writer = For::Ollama.file("mistral3", &keys(&[]));
    tensors(&mut writer, "", 1, &ENDS);
    let file = sandbox.file("m.gguf", writer.bytes());
    sandbox
        .puna(&["path", "--projector", file.to_str().unwrap()], "")
        .fails(1, "the vision part of mistral3 would have to be recomputed");
}

fn read(path: &Path) -> Header {
    let file = std::fs::File::open(path).unwrap();
    let bytes = file.metadata().unwrap().len();
    puna::format::gguf::read(file, bytes).unwrap()
}
