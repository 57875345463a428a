//! The cost of one decode by its number of tokens, each in its own sequence, with llama-cpp-2 alone.
//!
//! `cargo bench --bench steps -- MODEL.gguf` prints the milliseconds of decodes of 1 to 64 tokens, each
//! after 24 or more others of its sequence, with logits and without, medians of 24; then of decodes whose tokens
//! all belong to one sequence, as drafts do, with logits.

use std::num::NonZeroU32;
use std::time::Instant;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;

const SEQUENCES: usize = 64;
const DEPTH: usize = 24;
const STEPS: usize = 24;

fn main() {
    let Some(path) = std::env::args().skip(1).find(|word| word != "--bench") else {
        println!("steps: no model given, nothing measured");
        return;
    };
    let mut backend = LlamaBackend::init().expect("the backend starts once");
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default())
        .expect("the model loads");
    println!("tokens\twith logits, ms\twithout, ms\tof one sequence, ms");
    for tokens in [1, 2, 4, 7, 8, 9, 12, 16, 32, 48, 63, 64] {
        let times = [Some(true), Some(false), None].map(|logits| {
            // A context as `map` creates it: one cache for all sequences, just large enough for them.
            let cells = (DEPTH + STEPS + 1) * SEQUENCES;
            let params = LlamaContextParams::default()
                .with_n_ctx(NonZeroU32::new(cells as u32))
                .with_n_batch(SEQUENCES as u32)
                .with_n_ubatch(SEQUENCES as u32)
                .with_n_seq_max(SEQUENCES as u32)
                .with_n_threads(2)
                .with_n_threads_batch(2)
                .with_flash_attention_policy(1)
                .with_kv_unified(true);
            let mut context = model
                .new_context(&backend, params)
                .expect("the context starts");
            match logits {
                Some(logits) => measure(&mut context, tokens, logits),
                None => measure_drafts(&mut context, tokens),
            }
        });
        let [with, without, drafts] = times;
        println!("{tokens}\t{with:.1}\t{without:.1}\t{drafts:.1}");
    }
}

/// The median time to decode the next token of `sequences` sequences, in milliseconds.
fn measure(context: &mut LlamaContext, sequences: usize, logits: bool) -> f64 {
    let mut batch = LlamaBatch::new(SEQUENCES, 1);
    let mut times: Vec<f64> = (0..DEPTH + STEPS)
        .map(|position| {
            batch.clear();
            for sequence in 0..sequences {
                let token = token(position, sequence);
                batch
                    .add(token, position as i32, &[sequence as i32], logits)
                    .expect("room in the batch");
            }
            decoded_ms(context, &mut batch)
        })
        .skip(DEPTH)
        .collect();
    times.sort_by(f64::total_cmp);
    times[STEPS / 2]
}

/// The median time to decode so many tokens of one sequence of which the first is kept, in milliseconds.
fn measure_drafts(context: &mut LlamaContext, tokens: usize) -> f64 {
    let mut batch = LlamaBatch::new(SEQUENCES, 1);
    let mut times: Vec<f64> = (0..DEPTH + STEPS)
        .map(|start| {
            batch.clear();
            for position in start..start + tokens {
                batch
                    .add(token(position, 0), position as i32, &[0], true)
                    .expect("room in the batch");
            }
            let time = decoded_ms(context, &mut batch);
            let removed = context.clear_kv_cache_seq(Some(0), Some(start as u32 + 1), None);
            assert!(removed.is_ok());
            time
        })
        .skip(DEPTH)
        .collect();
    times.sort_by(f64::total_cmp);
    times[STEPS / 2]
}

fn token(position: usize, sequence: usize) -> LlamaToken {
    LlamaToken(1000 + ((position * 31 + sequence * 7) % 3000) as i32)
}

fn decoded_ms(context: &mut LlamaContext, batch: &mut LlamaBatch) -> f64 {
    let started = Instant::now();
    context.decode(batch).expect("decode");
    context.synchronize();
    started.elapsed().as_secs_f64() * 1e3
}
