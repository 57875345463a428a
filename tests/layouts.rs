//! Further layouts for Ollama's own engine, as in `derived.rs`: those in which keys follow from shapes,
//! or two tensors become one.

use crate::derived::{EMBEDDING, FEED, For, alike, keys};
use crate::kinds::{TOKENS, WIDTH, tensors};

/// What opens and closes a model.
const ENDS: [(&str, &[u64]); 3] = [
    EMBEDDING,
    ("output_norm.weight", &[WIDTH]),
    ("output.weight", &[WIDTH, TOKENS]),
];
/// Experts, and one that is shared by all.
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

/// Numbers and names that only llama.cpp's file has.
fn only_llama(side: For, writer: &mut puna::gguf::Writer, numbers: &[(&str, u32)]) {
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
    // The same numbers, as one tensor or as two.
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
