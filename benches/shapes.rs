//! Writes models of real shapes with random weights, for measuring at the sizes people run.
//!
//! `cargo bench --bench shapes -- llama-1b Q4_K_M FILE` writes one in seconds: blocks of random bits with scales
//! that give weights a deviation of 0.02, nothing is quantised. The names: `llama-1b` (Llama 3.2), `qwen-3b`
//! (Qwen 2.5), `llama-8b` (Llama 3.1), `olmoe-7b` (64 experts, 8 used), `gemma-4b` (Gemma 3); the types: `Q4_K_M`
//! mixed as llama.cpp mixes it, `Q8_0`, `IQ4_NL`. What they answer is noise. With `-chain` behind its name, as in
//! `llama-1b-chain`, a model computes as much, but its layers add nothing, and behind each token comes the one with the next
//! number: so a prompt decides what its answer repeats (`benches/rewrite`).

use std::fs::File;
use std::io::{BufWriter, Write};

use puna::format::gguf::Writer;

/// The sizes of a model.
struct Shape {
    name: &'static str,
    architecture: &'static str,
    hidden: u64,
    layers: u64,
    feed: u64,
    heads: u64,
    kv_heads: u64,
    head: u64,
    vocabulary: usize,
    /// The embedding table is the output's too.
    tied: bool,
    experts: u64,
}

const SHAPES: &[Shape] = &[
    Shape {
        name: "llama-1b",
        architecture: "llama",
        hidden: 2048,
        layers: 16,
        feed: 8192,
        heads: 32,
        kv_heads: 8,
        head: 64,
        vocabulary: 128_256,
        tied: true,
        experts: 0,
    },
    Shape {
        name: "qwen-3b",
        architecture: "qwen2",
        hidden: 2048,
        layers: 36,
        feed: 11008,
        heads: 16,
        kv_heads: 2,
        head: 128,
        vocabulary: 151_936,
        tied: true,
        experts: 0,
    },
    Shape {
        name: "llama-8b",
        architecture: "llama",
        hidden: 4096,
        layers: 32,
        feed: 14336,
        heads: 32,
        kv_heads: 8,
        head: 128,
        vocabulary: 128_256,
        tied: false,
        experts: 0,
    },
    Shape {
        name: "olmoe-7b",
        architecture: "olmoe",
        hidden: 2048,
        layers: 16,
        feed: 1024,
        heads: 16,
        kv_heads: 16,
        head: 128,
        vocabulary: 50_304,
        tied: false,
        experts: 64,
    },
    Shape {
        name: "gemma-4b",
        architecture: "gemma3",
        hidden: 2560,
        layers: 34,
        feed: 10240,
        heads: 8,
        kv_heads: 4,
        head: 256,
        vocabulary: 262_208,
        tied: true,
        experts: 0,
    },
];

/// A type of weights: ggml's number, values and bytes of a block, and the block's fixed bytes with their places.
struct Kind {
    number: u32,
    values: u64,
    bytes: u64,
    fixed: &'static [(usize, &'static [u8])],
}

/// 1.36e-4 and 1.02e-3 as 16-bit floats, then scales and minima that are all 32: weights of 147 × 1.36e-4.
const Q4_K: Kind = Kind {
    number: 12,
    values: 256,
    bytes: 144,
    fixed: &[
        (0, &[0x75, 0x08, 0x2e, 0x14]),
        (4, &[0xa0; 8]),
        (12, &[0; 4]),
    ],
};
/// Scales of 8, then 1.35e-4.
const Q6_K: Kind = Kind {
    number: 14,
    values: 256,
    bytes: 210,
    fixed: &[(192, &[8; 16]), (208, &[0x6c, 0x08])],
};
/// 2.7e-4.
const Q8_0: Kind = Kind {
    number: 8,
    values: 32,
    bytes: 34,
    fixed: &[(0, &[0x6c, 0x0c])],
};
/// 2.9e-4.
const IQ4_NL: Kind = Kind {
    number: 20,
    values: 32,
    bytes: 18,
    fixed: &[(0, &[0xc0, 0x0c])],
};

/// A tensor: its name, its shape, and its type; `None` is F32 of ones.
type Entry = (String, Vec<u64>, Option<&'static Kind>);

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let [name, kind, path] = &words[..] else {
        println!("shapes: give a name, a type and a file; nothing was written");
        return;
    };
    let (plain, chain) = match name.strip_suffix("-chain") {
        Some(plain) => (plain, true),
        None => (name.as_str(), false),
    };
    let shape = SHAPES.iter().find(|shape| shape.name == plain);
    let shape = shape.unwrap_or_else(|| panic!("no shape is called {name}"));
    let entries = entries(shape, kind, chain);
    let mut writer = header(shape);
    let mut offset = 0;
    for (name, sizes, kind) in &entries {
        writer.tensor_entry(name, sizes, kind.map_or(0, |kind| kind.number), offset);
        offset += bytes(sizes, *kind).next_multiple_of(32);
    }
    let mut file = BufWriter::with_capacity(
        1 << 20,
        File::create(path).expect("the file can be written"),
    );
    file.write_all(&writer.bytes()).expect("there is room");
    let mut dice = 0x9e37_79b9_7f4a_7c15_u64;
    let mut table = Vec::new();
    for (name, sizes, kind) in &entries {
        let length = bytes(sizes, *kind);
        let adds = name.ends_with("attn_output.weight") || name.ends_with("ffn_down.weight");
        match kind {
            Some(kind) if chain && name == "token_embd.weight" => {
                random(&mut table, kind, length / kind.bytes, &mut dice);
                file.write_all(&table).expect("there is room");
            }
            // The row of each token is what the token before it is.
            Some(_) if chain && name == "output.weight" => {
                let row = table.len() / shape.vocabulary;
                table.rotate_right(row);
                file.write_all(&table).expect("there is room");
            }
            Some(_) if chain && adds => {
                file.write_all(&vec![0; length as usize])
                    .expect("there is room");
            }
            None => {
                let ones = 1.0_f32.to_le_bytes().repeat((length / 4) as usize);
                file.write_all(&ones).expect("there is room");
            }
            Some(kind) => random(&mut file, kind, length / kind.bytes, &mut dice),
        }
        let gap = length.next_multiple_of(32) - length;
        file.write_all(&vec![0; gap as usize])
            .expect("there is room");
    }
    file.flush().expect("there is room");
}

fn bytes(sizes: &[u64], kind: Option<&Kind>) -> u64 {
    let count: u64 = sizes.iter().product();
    kind.map_or(count * 4, |kind| count / kind.values * kind.bytes)
}

/// Writes blocks of random bits with the fixed bytes of their type.
fn random(file: &mut impl Write, kind: &Kind, blocks: u64, dice: &mut u64) {
    let mut many = vec![0; kind.bytes as usize * 4096];
    let mut left = blocks;
    while left > 0 {
        for eight in many.chunks_mut(8) {
            *dice ^= *dice << 13;
            *dice ^= *dice >> 7;
            *dice ^= *dice << 17;
            eight.copy_from_slice(&dice.to_le_bytes()[..eight.len()]);
        }
        for block in many.chunks_mut(kind.bytes as usize) {
            for (place, bytes) in kind.fixed {
                block[*place..place + bytes.len()].copy_from_slice(bytes);
            }
        }
        let now = left.min(4096);
        file.write_all(&many[..(now * kind.bytes) as usize])
            .expect("there is room");
        left -= now;
    }
}

/// All tensors, in llama.cpp's order within a layer.
fn entries(shape: &Shape, kind: &str, chain: bool) -> Vec<Entry> {
    let (base, rich, output): (&Kind, &Kind, &Kind) = match kind {
        "Q4_K_M" => (&Q4_K, &Q6_K, &Q6_K),
        "Q8_0" => (&Q8_0, &Q8_0, &Q8_0),
        "IQ4_NL" => (&IQ4_NL, &IQ4_NL, &Q6_K),
        other => panic!("no type is called {other}"),
    };
    let table = vec![shape.hidden, shape.vocabulary as u64];
    let embedding = if shape.tied || chain { output } else { base };
    let mut all: Vec<Entry> = vec![("token_embd.weight".into(), table.clone(), Some(embedding))];
    if !shape.tied || chain {
        all.push(("output.weight".into(), table, Some(output)));
    }
    all.push(("output_norm.weight".into(), vec![shape.hidden], None));
    let (wide, narrow) = (shape.heads * shape.head, shape.kv_heads * shape.head);
    let is_gemma = shape.architecture == "gemma3";
    for layer in 0..shape.layers {
        // llama.cpp's rule for Q4_K_M: the first and last eighth, and every third layer between.
        let eighth = shape.layers / 8;
        let more = layer < eighth || layer >= 7 * eighth || (layer - eighth) % 3 == 2;
        let better = if more { rich } else { base };
        let mut add = |part: &str, sizes: &[u64], kind: Option<&'static Kind>| {
            all.push((format!("blk.{layer}.{part}"), sizes.to_vec(), kind));
        };
        let hidden = shape.hidden;
        add("attn_norm.weight", &[hidden], None);
        add("attn_q.weight", &[hidden, wide], Some(base));
        add("attn_k.weight", &[hidden, narrow], Some(base));
        add("attn_v.weight", &[hidden, narrow], Some(better));
        add("attn_output.weight", &[wide, hidden], Some(base));
        add("ffn_norm.weight", &[hidden], None);
        if shape.architecture == "qwen2" {
            add("attn_q.bias", &[wide], None);
            add("attn_k.bias", &[narrow], None);
            add("attn_v.bias", &[narrow], None);
        }
        if is_gemma {
            add("attn_q_norm.weight", &[shape.head], None);
            add("attn_k_norm.weight", &[shape.head], None);
            add("post_attention_norm.weight", &[hidden], None);
            add("post_ffw_norm.weight", &[hidden], None);
        }
        if shape.experts > 0 {
            add("attn_q_norm.weight", &[wide], None);
            add("attn_k_norm.weight", &[narrow], None);
            add("ffn_gate_inp.weight", &[hidden, shape.experts], None);
            add(
                "ffn_gate_exps.weight",
                &[hidden, shape.feed, shape.experts],
                Some(base),
            );
            add(
                "ffn_up_exps.weight",
                &[hidden, shape.feed, shape.experts],
                Some(base),
            );
            add(
                "ffn_down_exps.weight",
                &[shape.feed, hidden, shape.experts],
                Some(better),
            );
        } else {
            add("ffn_gate.weight", &[hidden, shape.feed], Some(base));
            add("ffn_up.weight", &[hidden, shape.feed], Some(base));
            add("ffn_down.weight", &[shape.feed, hidden], Some(better));
        }
    }
    all
}

fn header(shape: &Shape) -> Writer {
    let mut writer = Writer::new(shape.architecture);
    let key = |name: &str| format!("{}.{name}", shape.architecture);
    writer.text("general.name", shape.name);
    for (name, value) in [
        ("context_length", 32768),
        ("embedding_length", shape.hidden),
        ("block_count", shape.layers),
        ("feed_forward_length", shape.feed),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head),
        ("attention.value_length", shape.head),
        ("rope.dimension_count", shape.head),
        ("vocab_size", shape.vocabulary as u64),
    ] {
        writer.unsigned(&key(name), value as u32);
    }
    writer.float(&key("attention.layer_norm_rms_epsilon"), 1e-5);
    writer.float(&key("rope.freq_base"), 500_000.0);
    if shape.experts > 0 {
        writer.unsigned(&key("expert_count"), shape.experts as u32);
        writer.unsigned(&key("expert_used_count"), 8);
    }
    if shape.architecture == "gemma3" {
        writer.unsigned(&key("attention.sliding_window"), 1024);
    }
    vocabulary(
        &mut writer,
        shape.vocabulary,
        shape.architecture == "gemma3",
    );
    writer
}

/// A vocabulary of every byte, two tokens with a meaning, and fillers.
fn vocabulary(writer: &mut Writer, count: usize, pieces: bool) {
    let mut tokens: Vec<String> = vec!["<|begin|>".into(), "<|end|>".into()];
    let mut kinds = vec![3, 3];
    if pieces {
        tokens.push("<unk>".into());
        kinds.push(2);
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        kinds.extend([6; 256]);
    } else {
        tokens.extend((0..=255_u8).map(byte_letter));
        kinds.extend([1; 256]);
        tokens.push("th".into());
        kinds.push(1);
    }
    let fillers = tokens.len()..count;
    kinds.extend(fillers.clone().map(|_| 1));
    let space = if pieces { '\u{2581}' } else { '\u{120}' };
    tokens.extend(fillers.map(|id| format!("{space}{}", word(id))));
    writer.text(
        "tokenizer.ggml.model",
        if pieces { "llama" } else { "gpt2" },
    );
    // With it a word that is a token needs no merges.
    writer.text("tokenizer.ggml.pre", "llama-bpe");
    writer.texts("tokenizer.ggml.tokens", &tokens);
    writer.integers("tokenizer.ggml.token_type", &kinds);
    if pieces {
        let scores: Vec<f32> = (0..count).map(|id| -(id as f32)).collect();
        writer.floats("tokenizer.ggml.scores", &scores);
        writer.unsigned("tokenizer.ggml.unknown_token_id", 2);
    } else {
        writer.texts("tokenizer.ggml.merges", &["t h"]);
    }
    writer.unsigned("tokenizer.ggml.bos_token_id", 0);
    writer.unsigned("tokenizer.ggml.eos_token_id", 1);
    writer.bool("tokenizer.ggml.add_bos_token", true);
}

/// A word of its own for each number: an x and five letters.
fn word(number: usize) -> String {
    let letter = |place: u32| char::from(b'a' + (number / 26_usize.pow(place) % 26) as u8);
    let letters = (0..5).rev().map(letter);
    std::iter::once('x').chain(letters).collect()
}

/// The letter that stands for a byte in byte-level vocabularies: GPT-2's table.
fn byte_letter(byte: u8) -> String {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = if plain(byte) {
        u32::from(byte)
    } else {
        256 + (0..byte).filter(|byte| !plain(*byte)).count() as u32
    };
    char::from_u32(code)
        .expect("the table has letters only")
        .to_string()
}
