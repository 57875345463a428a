//! A raw decode loop with llama-cpp-2, as the baseline for puna's engine.
//!
//! `cargo bench --bench raw -- MODEL.gguf [FLASH KV SLICE RUNS PROMPT ANSWER]` prints tokens per second
//! for a prompt of 440 tokens and 96 generated, medians of 5, and the peak resident memory.

use std::num::NonZeroU32;
use std::time::Instant;

use llama_cpp_2::context::params::{KvCacheType, LlamaContextParams};
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let Some(path) = words.first() else {
        println!("raw: no model given, nothing measured");
        return;
    };
    let word = |at: usize, default: &str| words.get(at).cloned().unwrap_or(default.to_string());
    let flash = word(1, "on") == "on";
    let kind = match word(2, "q8_0").as_str() {
        "f16" => KvCacheType::F16,
        _ => KvCacheType::Q8_0,
    };
    let slice: usize = word(3, "512").parse().expect("SLICE is a number");
    let runs: usize = word(4, "5").parse().expect("RUNS is a number");

    let prompt_tokens: usize = word(5, "440").parse().expect("PROMPT is a number");
    let answer_tokens: usize = word(6, "96").parse().expect("ANSWER is a number");

    let mut backend = LlamaBackend::init().expect("the backend starts once");
    backend.void_logs();
    let started = Instant::now();
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())
        .expect("the model loads");
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new((prompt_tokens + answer_tokens) as u32))
        .with_n_batch(512)
        .with_n_ubatch(512)
        .with_n_threads(2)
        .with_n_threads_batch(2)
        .with_flash_attention_policy(i32::from(flash))
        .with_type_k(kind)
        .with_type_v(kind);
    let mut rates = Vec::new();
    for _ in 0..runs {
        rates.push(one_run(
            &backend,
            &model,
            params.clone(),
            slice,
            (prompt_tokens, answer_tokens),
        ));
    }
    let median = |pick: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = rates.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (prompt, answer) = (median(|r| r.0), median(|r| r.1));
    let whole = prompt_tokens as f64 / prompt + answer_tokens as f64 / answer;
    println!(
        "load_ms\t{load_ms:.0}\tprompt\t{prompt:.0}\tanswer\t{answer:.1}\twhole_s\t{whole:.3}\tpeak_mib\t{}",
        peak_mib()
    );
}

fn one_run(
    backend: &LlamaBackend,
    model: &LlamaModel,
    params: LlamaContextParams,
    slice: usize,
    (prompt_tokens, answer_tokens): (usize, usize),
) -> (f64, f64) {
    let mut context = model
        .new_context(backend, params)
        .expect("the context starts");
    let mut batch = LlamaBatch::new(512, 1);
    let tokens: Vec<LlamaToken> = (0..prompt_tokens as i32)
        .map(|i| LlamaToken(1000 + i * 7 % 3000))
        .collect();
    let started = Instant::now();
    for (index, part) in tokens.chunks(slice).enumerate() {
        batch.clear();
        for (i, token) in part.iter().enumerate() {
            let position = index * slice + i;
            batch
                .add(*token, position as i32, &[0], position + 1 == prompt_tokens)
                .expect("room in the batch");
        }
        context.decode(&mut batch).expect("decode");
    }
    let mut sampler = LlamaSampler::greedy();
    let mut token = sampler.sample(&context, batch.n_tokens() - 1);
    let prompt_s = started.elapsed().as_secs_f64();
    let started = Instant::now();
    for i in 0..answer_tokens {
        batch.clear();
        batch
            .add(token, (prompt_tokens + i) as i32, &[0], true)
            .expect("room in the batch");
        context.decode(&mut batch).expect("decode");
        token = sampler.sample(&context, 0);
    }
    (
        prompt_tokens as f64 / prompt_s,
        answer_tokens as f64 / started.elapsed().as_secs_f64(),
    )
}

fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}
