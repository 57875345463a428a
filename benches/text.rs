//! The cost of prompts and replies without the model: rendering a chat of 100 messages, and reading an
//! answer token by token. `cargo bench --bench text` prints medians.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use puna::core::clock::Local;
use puna::core::message::Message;
use puna::format::reply::{Format, Reader};
use puna::format::template::{Chat, GoTemplate, Template, go};

const ROUNDS: usize = 51;

fn main() {
    let messages: Vec<Message> = (0..100)
        .map(|at| {
            let role = if at % 2 == 0 { "user" } else { "assistant" };
            Message::new(
                role,
                format!("Message {at}: some words about nothing much, and a few more."),
            )
        })
        .chain([Message::new("user", "The last question.")])
        .collect();
    for name in [
        "Qwen-Qwen2.5-7B-Instruct",
        "meta-llama-Llama-3.1-8B-Instruct",
        "Qwen-Qwen3-0.6B",
        "openai-gpt-oss-120b",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/data/templates")
            .join(format!("{name}.jinja"));
        let source = fs::read_to_string(path).unwrap();
        let template = Template::from_gguf(&source, None).unwrap();
        let chat = Chat {
            messages: &messages,
            ..Chat::default()
        };
        let first = median(1, || drop(template.render(&chat).unwrap()));
        let later = median(ROUNDS, || drop(template.render(&chat).unwrap()));
        println!("render 100 messages\t{name}\tfirst {first:.3} ms\tlater {later:.3} ms");
        let format = Arc::new(Format::detect(&template, &source));
        let tokens: Vec<String> = (0..2000).map(|at| format!(" word{at}")).collect();
        let read = median(ROUNDS, || {
            let mut reader = Reader::new(format.clone(), &[], "");
            tokens.iter().for_each(|token| drop(reader.push(token)));
            drop(reader.finish(false));
        });
        println!(
            "read an answer\t{name}\t{:.3} us a token",
            read * 1e3 / tokens.len() as f64
        );
    }
    let source = "{{ range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ if $last }}<|im_start|>assistant\n{{ end }}{{ end }}";
    let template = GoTemplate::compile(source).unwrap();
    let input = go::Input {
        messages: &messages,
        tools: &[],
        think: None,
        now: Local::utc(std::time::SystemTime::UNIX_EPOCH),
    };
    let later = median(ROUNDS, || drop(template.render(&input).unwrap()));
    println!("render 100 messages\tGo template\t{later:.3} ms");
}

/// The median time of some rounds, in milliseconds.
fn median(rounds: usize, mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}
