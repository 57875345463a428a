//! Structured mutations of whole models: values of keys, types and shapes of tensors, and bytes of weights. Each that
//! passes the checks of its header is run by the program itself, which must end by itself.

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/support/tiny_models.rs"]
mod tiny_models;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use puna::ops::model;

use crate::Dice;

/// Longest answer of the program to one model, in seconds.
const SECONDS_MAX: &str = "30";
/// The types of a text and of a list.
const TEXT: u32 = 8;
const LIST: u32 = 9;
/// Bytes of the other types, by their numbers.
const SIZES: [usize; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];

/// How often each outcome came.
static OUTCOMES: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// A GGUF in pieces.
struct Pieces {
    keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    tensors: Vec<Tensor>,
    data: Vec<u8>,
}

struct Tensor {
    name: Vec<u8>,
    shape: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// Reads the numbers of a GGUF.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken.to_vec()
    }

    fn four(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn eight(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    fn text(&mut self) -> Vec<u8> {
        let count = self.eight() as usize;
        self.take(count)
    }

    fn value(&mut self, kind: u32) -> Vec<u8> {
        let start = self.0;
        match kind {
            TEXT => drop(self.text()),
            LIST => {
                let (kind, count) = (self.four(), self.eight());
                (0..count).for_each(|_| drop(self.value(kind)));
            }
            kind => drop(self.take(SIZES[kind as usize])),
        }
        start[..start.len() - self.0.len()].to_vec()
    }
}

impl Pieces {
    fn read(bytes: &[u8]) -> Self {
        let mut reader = Reader(&bytes[8..]);
        let (tensors, keys) = (reader.eight(), reader.eight());
        let key = |reader: &mut Reader| {
            let (name, kind) = (reader.text(), reader.four());
            (name, kind, reader.value(kind))
        };
        let keys = (0..keys).map(|_| key(&mut reader)).collect();
        let tensor = |reader: &mut Reader| {
            let (name, count) = (reader.text(), reader.four());
            let shape = (0..count).map(|_| reader.eight()).collect();
            let (kind, offset) = (reader.four(), reader.eight());
            Tensor {
                name,
                shape,
                kind,
                offset,
            }
        };
        let tensors = (0..tensors).map(|_| tensor(&mut reader)).collect();
        let header = (bytes.len() - reader.0.len()).next_multiple_of(32);
        Pieces {
            keys,
            tensors,
            data: bytes[header..].to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let text = |bytes: &mut Vec<u8>, text: &[u8]| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text);
        };
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.keys.len() as u64).to_le_bytes());
        for (name, kind, value) in &self.keys {
            text(&mut bytes, name);
            bytes.extend(kind.to_le_bytes());
            bytes.extend(value);
        }
        for tensor in &self.tensors {
            text(&mut bytes, &tensor.name);
            bytes.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor
                .shape
                .iter()
                .for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }

    /// One change.
    fn mutate(&mut self, dice: &mut Dice) {
        match dice.roll(10) {
            0..5 => self.mutate_key(dice),
            5 => drop(self.keys.remove(dice.roll(self.keys.len()))),
            6 => {
                // A key of another model, or one that this model does without.
                let name = FURTHER_KEYS[dice.roll(FURTHER_KEYS.len())];
                let architecture = self
                    .keys
                    .first()
                    .and_then(|key| key.2.get(8..))
                    .unwrap_or(b"llama");
                let name = name.replace('*', &String::from_utf8_lossy(architecture));
                let kind = [4, 6, 7, TEXT][dice.roll(4)];
                let value = scalar(dice, kind);
                self.keys.push((name.into_bytes(), kind, value));
            }
            7 => {
                let index = dice.roll(self.tensors.len());
                let tensor = &mut self.tensors[index];
                match dice.roll(3) {
                    0 => tensor.kind = dice.roll(42) as u32,
                    1 => tensor.shape.reverse(),
                    _ => {
                        let at = dice.roll(tensor.shape.len());
                        tensor.shape[at] = SIZES_OF_TENSORS[dice.roll(SIZES_OF_TENSORS.len())];
                    }
                }
            }
            8 => drop(self.tensors.remove(dice.roll(self.tensors.len()))),
            _ => {
                let at = dice.roll(self.data.len() / 4) * 4;
                let value = scalar(dice, 6);
                self.data[at..at + 4].copy_from_slice(&value);
            }
        }
    }

    fn mutate_key(&mut self, dice: &mut Dice) {
        let index = dice.roll(self.keys.len());
        let (_, kind, value) = &mut self.keys[index];
        match *kind {
            LIST if value.len() > 12 && dice.roll(2) == 0 => {
                let at = 12 + dice.roll(value.len() - 12);
                value[at] = dice.roll(256) as u8;
            }
            // One value in place of the list, and a list in place of one value.
            LIST => {
                *kind = 4;
                *value = scalar(dice, 4);
            }
            4 | 5 if dice.roll(6) == 0 => {
                let count = dice.roll(4);
                let numbers: Vec<u8> = (0..count).flat_map(|_| scalar(dice, 4)).collect();
                *value = [
                    &4u32.to_le_bytes()[..],
                    &(count as u64).to_le_bytes(),
                    &numbers,
                ]
                .concat();
                *kind = LIST;
            }
            kind => *value = scalar(dice, kind),
        }
    }
}

/// Sizes that tensors do not have.
const SIZES_OF_TENSORS: [u64; 12] = [0, 1, 2, 3, 16, 31, 32, 33, 64, 256, 1 << 20, 1 << 40];
/// Keys that change what is computed.
const FURTHER_KEYS: &[&str] = &[
    "*.attention.sliding_window",
    "*.attention.sliding_window_pattern",
    "*.attention.key_length",
    "*.attention.value_length",
    "*.attention.causal",
    "*.attention.head_count_kv",
    "*.attention.max_alibi_bias",
    "*.attention.clamp_kqv",
    "*.attention.kv_lora_rank",
    "*.attention.group_norm_groups",
    "*.attention.temperature_scale",
    "*.expert_count",
    "*.expert_used_count",
    "*.expert_gating_func",
    "*.expert_shared_count",
    "*.expert_group_count",
    "*.expert_group_used_count",
    "*.leading_dense_block_count",
    "*.interleave_moe_layer_step",
    "*.nextn_predict_layers",
    "*.pooling_type",
    "*.rope.dimension_count",
    "*.rope.freq_base",
    "*.rope.scaling.type",
    "*.rope.scaling.factor",
    "*.rope.scaling.original_context_length",
    "*.logit_scale",
    "*.final_logit_softcapping",
    "*.attn_logit_softcapping",
    "*.vocab_size",
    "*.ssm.group_count",
    "*.ssm.state_size",
    "*.decoder_start_token_id",
    "*.decoder_block_count",
    "*.embedding_length_per_layer_input",
    "*.use_parallel_residual",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.token_type_count",
    "tokenizer.chat_template",
    "general.alignment",
    "split.count",
];
/// Texts that keys may have.
const TEXTS: &[&str] = &[
    "",
    "llama",
    "gpt2",
    "bert",
    "t5",
    "rwkv",
    "none",
    "yarn",
    "linear",
    "longrope",
    "default",
    "qwen2",
    "gpt-4o",
    "tekken",
    "gemma3",
    "mamba",
    "phi3",
    "olmoe",
    "deepseek2",
    "clip",
    "gemma4",
    "plamo2",
    "{{ messages }}",
    "\u{ff}",
];

/// A value of a type.
fn scalar(dice: &mut Dice, kind: u32) -> Vec<u8> {
    const NUMBERS: [u64; 20] = [
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        15,
        16,
        17,
        31,
        32,
        33,
        64,
        255,
        256,
        0x7fff_ffff,
        0xffff_ffff,
        u64::MAX,
    ];
    const FLOATS: [f32; 10] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1e-5,
        1e30,
        -1e30,
        f32::NAN,
        f32::INFINITY,
        f32::MIN_POSITIVE,
    ];
    match kind {
        6 => FLOATS[dice.roll(FLOATS.len())].to_le_bytes().to_vec(),
        12 => f64::from(FLOATS[dice.roll(FLOATS.len())])
            .to_le_bytes()
            .to_vec(),
        7 => vec![dice.roll(2) as u8],
        TEXT => {
            let text = TEXTS[dice.roll(TEXTS.len())].as_bytes();
            [&(text.len() as u64).to_le_bytes()[..], text].concat()
        }
        kind => NUMBERS[dice.roll(NUMBERS.len())].to_le_bytes()[..SIZES[kind as usize]].to_vec(),
    }
}

/// The base models.
pub fn seeds() -> Vec<Vec<u8>> {
    tiny_models::all()
}

fn mutated(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces = Pieces::read(&seeds[dice.roll(seeds.len())]);
    for _ in 0..=dice.roll(3) {
        pieces.mutate(dice);
    }
    pieces.bytes()
}

/// Writes this many mutations that pass the checks of their headers into a folder, for other programs.
pub fn write(dice: &mut Dice, folder: &Path, count: usize) {
    fs::create_dir_all(folder).unwrap();
    let seeds = seeds();
    for number in 0..count {
        let path = folder.join(format!("{number}.gguf"));
        loop {
            fs::write(&path, mutated(dice, &seeds)).unwrap();
            if passes(&path) {
                break;
            }
        }
    }
}

fn passes(path: &Path) -> bool {
    let checked = model::open_file(path).and_then(|model| model.check(path));
    checked.is_ok()
}

/// Runs one mutation.
pub fn models(dice: &mut Dice, seeds: &[Vec<u8>]) {
    let folder = std::env::temp_dir().join(format!("puna-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("mutated.gguf");
    fs::write(&path, mutated(dice, seeds)).unwrap();
    let outcome = outcome(&folder, &path, dice.0);
    let mut outcomes = OUTCOMES.lock().unwrap();
    *outcomes.entry(outcome).or_default() += 1;
    let count: u64 = outcomes.values().sum();
    if count.is_multiple_of(1000) {
        println!("{count} models:");
        outcomes
            .iter()
            .for_each(|(outcome, count)| println!("{count}\t{outcome}"));
    }
}

/// What came of a model.
fn outcome(folder: &Path, path: &Path, dice_state: u64) -> String {
    if !passes(path) {
        return "refused by its header".into();
    }
    let run = Command::new("timeout")
        .args([
            SECONDS_MAX,
            env!("CARGO_BIN_EXE_puna"),
            "run",
            "--raw",
            "-q",
            "-n",
            "2",
        ])
        .args(["--local", "--mem-max", "2G"])
        .arg(path)
        .arg("a b")
        .env("PUNA_CACHE", folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&run.stderr);
    assert!(
        run.status.signal().is_none()
            && !matches!(run.status.code(), None | Some(101 | 124 | 128..)),
        "{} ends with {}: {words}",
        path.display(),
        run.status
    );
    match words.split_once("llama.cpp ends when it computes with it: ") {
        Some((_, reason)) => {
            // Kept, for a check of the header to be made of it.
            let kept = path.with_file_name(format!("{}.gguf", dice_state));
            fs::rename(path, kept).unwrap();
            format!("ended its trial: {}", reason.trim())
        }
        None => format!("status {}", run.status.code().unwrap_or_default()),
    }
}
