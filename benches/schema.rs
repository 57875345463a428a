//! Compares two ways to constrain output to a JSON Schema on the official test suite: llguidance,
//! which puna uses, and llama.cpp's own translation to GBNF.
//!
//! Arguments: a GGUF (for its vocabulary) and a folder of the suite, such as
//! `jsonschema-4.26.0/json/tests/draft2020-12` of PyPI's jsonschema. Prints a line for each way:
//! schemas refused, values rightly accepted, rightly rejected, wrongly rejected, wrongly accepted.
//! Only the last column violates the constraint.

use std::fs;

use llama_cpp_2::json_schema_to_grammar;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use puna::system::engine::Compiler;
use serde_json::Value as Json;

#[derive(Default)]
struct Count {
    refused: usize,
    taken: usize,
    turned_away: usize,
    lost: usize,
    unsound: usize,
    unsound_in: Vec<String>,
}

impl Count {
    fn add(&mut self, outcome: Option<bool>, valid: bool, keyword: &str) {
        match (outcome, valid) {
            (None, _) => self.refused += 1,
            (Some(true), true) => self.taken += 1,
            (Some(false), false) => self.turned_away += 1,
            (Some(false), true) => self.lost += 1,
            (Some(true), false) => {
                self.unsound += 1;
                self.unsound_in.push(keyword.to_string());
            }
        }
    }

    fn print(mut self, name: &str) {
        let Count {
            refused,
            taken,
            turned_away,
            lost,
            unsound,
            ..
        } = self;
        self.unsound_in.sort();
        self.unsound_in.dedup();
        let places = self.unsound_in.join(" ");
        println!(
            "{name}\trefused {refused}\ttaken {taken}\tturned away {turned_away}\tlost {lost}\tunsound {unsound}\t{places}"
        );
    }
}

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let [model, suite] = &words[..] else {
        println!("usage: cargo bench --bench schema -- MODEL SUITE");
        return;
    };
    let mut backend = LlamaBackend::init().unwrap();
    backend.void_logs();
    let model = LlamaModel::load_from_file(&backend, model, &LlamaModelParams::default()).unwrap();
    let compiler = Compiler::for_bytes().unwrap();
    let (mut guidance, mut gbnf) = (Count::default(), Count::default());
    let mut files: Vec<_> = fs::read_dir(suite)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for path in files
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
    {
        let keyword = path.file_stem().unwrap().to_string_lossy().into_owned();
        let groups: Json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            let schema = &group["schema"];
            let lark = format!("start: %json {schema}");
            let grammar = json_schema_to_grammar(&schema.to_string()).ok();
            for test in group["tests"].as_array().unwrap() {
                let (text, valid) = (test["data"].to_string(), test["valid"] == true);
                guidance.add(compiler.accepts(&lark, &text).ok(), valid, &keyword);
                let outcome = grammar
                    .as_ref()
                    .and_then(|grammar| follows(&model, grammar, &text));
                gbnf.add(outcome, valid, &keyword);
            }
        }
    }
    guidance.print("llguidance");
    gbnf.print("GBNF");
}

/// True if the whole text matches a GBNF grammar; `None` if llama.cpp cannot parse the grammar.
fn follows(model: &LlamaModel, grammar: &str, text: &str) -> Option<bool> {
    let mut sampler = LlamaSampler::grammar(model, grammar, "root").ok()?;
    let vocab = model.vocab();
    let allows = |sampler: &mut LlamaSampler, token| {
        let mut one = LlamaTokenDataArray::new(vec![LlamaTokenData::new(token, 1.0, 0.0)], false);
        one.apply_sampler(sampler);
        one.data[0].logit().is_finite()
    };
    for token in vocab.tokenize(text.as_bytes(), false, false) {
        if !allows(&mut sampler, token) || sampler.try_accept(token).is_err() {
            return Some(false);
        }
    }
    Some(allows(&mut sampler, vocab.eos()))
}
