//! Tiny models of several architectures, with random weights.

use puna::format::gguf::Writer;

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
pub fn tiny(architecture: &str, keys: &[(&str, u64)]) -> Writer {
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
pub fn mamba_of(norm: f32) -> Vec<u8> {
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

pub fn rwkv() -> Vec<u8> {
    rwkv_with(&[])
}

/// The same with further keys.
pub fn rwkv_with(keys: &[(&str, u64)]) -> Vec<u8> {
    let own: &[(&str, u64)] = &[
        ("wkv.head_size", 16),
        ("time_mix_extra_dim", 4),
        ("time_decay_extra_dim", 4),
        ("attention.head_count", 0),
    ];
    let mut writer = tiny("rwkv6", &[own, keys].concat());
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

pub fn t5() -> Vec<u8> {
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

pub fn lora(architecture: &str) -> Vec<u8> {
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

/// A decoder of an architecture: its keys, and the tensors of its layer besides those that are common to most.
fn decoder(architecture: &str, keys: &[(&str, u64)], layer: &[(&str, &[u64])]) -> Vec<u8> {
    let defaults: &[(&str, u64)] = &[("attention.head_count", 2), ("rope.dimension_count", 16)];
    let mut writer = tiny(architecture, &[defaults, keys].concat());
    let epsilon = match architecture {
        "gpt2" | "bert" => "layer_norm_epsilon",
        _ => "layer_norm_rms_epsilon",
    };
    writer.float(&format!("{architecture}.attention.{epsilon}"), 1e-5);
    writer.unsigned("tokenizer.ggml.token_type_count", 2);
    let common: &[(&str, &[u64])] = &[
        ("token_embd.weight", &[WIDTH, TOKENS]),
        ("output_norm.weight", &[WIDTH]),
        ("output.weight", &[WIDTH, TOKENS]),
    ];
    let own: &[(&str, &[u64])] = match architecture {
        "gpt2" => &[
            ("position_embd.weight", &[WIDTH, 256]),
            ("output_norm.bias", &[WIDTH]),
        ],
        "bert" => &[
            ("position_embd.weight", &[WIDTH, 256]),
            ("token_types.weight", &[WIDTH, 2]),
            ("token_embd_norm.weight", &[WIDTH]),
            ("token_embd_norm.bias", &[WIDTH]),
        ],
        _ => &[],
    };
    let common = if architecture == "bert" {
        &common[..1]
    } else {
        common
    };
    tensors(&mut writer, "", 12, &[common, own].concat());
    tensors(&mut writer, "blk.0.", 13, layer);
    writer.bytes()
}

/// Models of ten architectures.
pub fn all() -> Vec<Vec<u8>> {
    let square: &[u64] = &[WIDTH, WIDTH];
    let norm: &[u64] = &[WIDTH];
    let head: &[u64] = &[16];
    let attention: &[(&str, &[u64])] = &[
        ("attn_norm.weight", norm),
        ("attn_q.weight", square),
        ("attn_k.weight", square),
        ("attn_v.weight", square),
        ("attn_output.weight", square),
        ("ffn_norm.weight", norm),
    ];
    let ahead: &[(&str, &[u64])] = &[
        ("ffn_gate.weight", &[WIDTH, 64]),
        ("ffn_up.weight", &[WIDTH, 64]),
        ("ffn_down.weight", &[64, WIDTH]),
    ];
    let heads: &[(&str, &[u64])] = &[("attn_q_norm.weight", head), ("attn_k_norm.weight", head)];
    let after: &[(&str, &[u64])] = &[
        ("post_attention_norm.weight", norm),
        ("post_ffw_norm.weight", norm),
    ];
    let joined: &[(&str, &[u64])] = &[
        ("attn_norm.weight", norm),
        ("attn_qkv.weight", &[WIDTH, 96]),
        ("attn_output.weight", square),
        ("ffn_norm.weight", norm),
    ];
    let biases: &[(&str, &[u64])] = &[
        ("attn_norm.bias", norm),
        ("attn_qkv.bias", &[96]),
        ("attn_output.bias", norm),
        ("ffn_norm.bias", norm),
        ("ffn_up.weight", &[WIDTH, 64]),
        ("ffn_up.bias", &[64]),
        ("ffn_down.weight", &[64, WIDTH]),
        ("ffn_down.bias", norm),
    ];
    let phi: &[(&str, &[u64])] = &[
        ("ffn_up.weight", &[WIDTH, 128]),
        ("ffn_down.weight", &[64, WIDTH]),
    ];
    let experts: &[(&str, &[u64])] = &[
        ("attn_q_norm.weight", norm),
        ("attn_k_norm.weight", norm),
        ("ffn_gate_inp.weight", &[WIDTH, 4]),
        ("ffn_gate_exps.weight", &[WIDTH, 64, 4]),
        ("ffn_up_exps.weight", &[WIDTH, 64, 4]),
        ("ffn_down_exps.weight", &[64, WIDTH, 4]),
    ];
    let bert: &[(&str, &[u64])] = &[
        ("attn_q.weight", square),
        ("attn_q.bias", norm),
        ("attn_k.weight", square),
        ("attn_k.bias", norm),
        ("attn_v.weight", square),
        ("attn_v.bias", norm),
        ("attn_output.weight", square),
        ("attn_output.bias", norm),
        ("attn_output_norm.weight", norm),
        ("attn_output_norm.bias", norm),
        ("layer_output_norm.weight", norm),
        ("layer_output_norm.bias", norm),
        ("ffn_up.weight", &[WIDTH, 64]),
        ("ffn_up.bias", &[64]),
        ("ffn_down.weight", &[64, WIDTH]),
        ("ffn_down.bias", norm),
    ];
    let lengths: &[(&str, u64)] = &[("attention.key_length", 16), ("attention.value_length", 16)];
    let some: &[(&str, u64)] = &[("expert_count", 4), ("expert_used_count", 2)];
    vec![
        llama(),
        decoder("qwen3", &[], &[attention, heads, ahead].concat()),
        decoder(
            "gemma3",
            lengths,
            &[attention, heads, after, ahead].concat(),
        ),
        decoder("phi3", &[], &[joined, phi].concat()),
        decoder("gpt2", &[], &[joined, biases].concat()),
        decoder("olmoe", some, &[attention, experts].concat()),
        decoder("bert", &[("pooling_type", 1)], bert),
        mamba(),
        rwkv(),
        t5(),
    ]
}
