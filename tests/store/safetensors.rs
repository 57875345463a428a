//! Converting safetensors: compared with llama.cpp's converter, recorded in `tests/data/imports`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use puna::core::digest::Digest;
use puna::format::gguf::{self, Header, Value};
use serde_json::{Map, Value as Json, json};

use crate::format::templates;
use crate::support::{Sandbox, Server, model};

fn recorded(file: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/data/imports").join(file)
}

pub fn family(name: &str) -> Json {
    let text = fs::read_to_string(recorded(&format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The values that `record-imports` generates for a tensor.
fn numbers(name: &str, count: u64) -> impl Iterator<Item = f32> {
    let start = 2_166_136_261_u32;
    let seed = name.bytes().fold(start, |seed, byte| {
        (seed ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    let norm = name.to_lowercase().contains("norm") && name.ends_with("weight");
    (0..count).map(move |at| {
        let mixed = (u64::from(seed) + at * 2_654_435_761) as u32 >> 8;
        let value = (mixed as f32 / (1 << 24) as f32 - 0.5) * 0.25;
        if norm { value + 1.0 } else { value }
    })
}

/// A safetensors file with such tensors.
fn safetensors(shapes: &Map<String, Json>, dtype: &str) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in shapes {
        let sizes = shape.as_array().unwrap().iter();
        let count = sizes.map(|size| size.as_u64().unwrap()).product();
        let start = data.len();
        for value in numbers(name, count) {
            match dtype {
                "F32" => data.extend(value.to_le_bytes()),
                "F16" => data.extend(f16::from_f32(value).to_le_bytes()),
                _ => data.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let text = Json::Object(header).to_string();
    let length = (text.len() as u64).to_le_bytes();
    [&length[..], text.as_bytes(), &data].concat()
}

/// Writes the folder of a recorded model.
pub fn folder(sandbox: &Sandbox, name: &str, record: &Json) -> PathBuf {
    let folder = sandbox.home.join(name);
    fs::create_dir(&folder).unwrap();
    let shapes = record["weights"].as_object().unwrap();
    let weights = safetensors(shapes, record["dtype"].as_str().unwrap());
    fs::write(folder.join("model.safetensors"), weights).unwrap();
    for file in ["config", "tokenizer_config"] {
        let path = folder.join(format!("{file}.json"));
        fs::write(path, record[file].to_string()).unwrap();
    }
    let source = record["tokenizer"].as_str().unwrap();
    let end = source.rsplit('.').next().unwrap();
    fs::copy(recorded(source), folder.join(format!("tokenizer.{end}"))).unwrap();
    folder
}

fn opened(sandbox: &Sandbox, name: &str) -> (Header, File) {
    let path = sandbox.puna(&["path", name], "").ok();
    let file = File::open(path.trim()).unwrap();
    let length = file.metadata().unwrap().len();
    (gguf::read(&file, length).unwrap(), file)
}

/// A GGUF value in the form of the recording.
fn told(header: &Header, file: &File, value: &Value) -> Json {
    match value {
        Value::Unsigned(value) => json!(value),
        Value::Signed(value) => json!(value),
        Value::F32(value) => json!(value),
        Value::F64(value) => json!(value),
        Value::Bool(value) => json!(value),
        Value::Text(text) => json!(text),
        Value::Array(array) => {
            let elements = header.elements(file, array).unwrap();
            let all: Vec<Json> = elements
                .iter()
                .map(|element| told(header, file, element))
                .collect();
            if all.len() <= 8 {
                return json!(all);
            }
            let line = |value: &Json| match value {
                Json::String(text) => text.clone(),
                Json::Number(number) if number.is_f64() => {
                    format!("{:.3}", number.as_f64().unwrap())
                }
                other => other.to_string(),
            };
            let text: Vec<String> = all.iter().map(line).collect();
            let sum = Digest::compute(text.join("\n").as_bytes()).hex();
            json!({"count": all.len(), "sha256": sum})
        }
    }
}

fn equal(one: &Json, other: &Json) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one as f32 == other as f32,
        _ => one == other,
    }
}

/// The differences from the recording, one per line.
fn differences(header: &Header, file: &File, made: &Json) -> Vec<String> {
    let mut wrong = Vec::new();
    let ours: BTreeMap<&str, Json> = header
        .values
        .iter()
        .filter(|(key, _)| {
            let general = key.starts_with("general.");
            !general || made["keys"].get(key).is_some()
        })
        .map(|(key, value)| (key.as_str(), told(header, file, value)))
        .collect();
    let theirs = made["keys"].as_object().unwrap();
    for (key, value) in theirs {
        match ours.get(key.as_str()) {
            Some(own) if equal(own, value) => {}
            own => wrong.push(format!("{key}: {own:?}, not {value}")),
        }
    }
    let more = ours.keys().filter(|key| !theirs.contains_key(**key));
    wrong.extend(more.map(|key| format!("{key} is too much")));
    let tensors = made["tensors"].as_object().unwrap();
    if tensors.len() != header.tensors.len() {
        wrong.push(format!(
            "{} tensors, not {}",
            header.tensors.len(),
            tensors.len()
        ));
    }
    for (name, entry) in tensors {
        let Some(tensor) = header.tensor(name) else {
            wrong.push(format!("{name} is missing"));
            continue;
        };
        let mut bytes = vec![0; tensor.size_bytes as usize];
        let start = header.data_offset + tensor.offset;
        std::os::unix::fs::FileExt::read_exact_at(file, &mut bytes, start).unwrap();
        let data = match entry[2].as_array() {
            None => json!(Digest::compute(&bytes).hex()),
            Some(theirs) => {
                let fours = bytes.chunks_exact(4).map(|four| four.try_into().unwrap());
                let ours: Vec<f32> = fours.map(f32::from_le_bytes).collect();
                let near = ours.iter().zip(theirs).all(|(one, other)| {
                    let other = other.as_f64().unwrap() as f32;
                    (one - other).abs() <= 1e-5 * other.abs()
                });
                if near { entry[2].clone() } else { json!(ours) }
            }
        };
        let own = json!([tensor.kind.name, tensor.shape, data]);
        if own != *entry {
            wrong.push(format!("{name}: {own}, not {entry}"));
        }
    }
    wrong
}

const FAMILIES: [&str; 13] = [
    "bert",
    "command-r",
    "gemma",
    "gemma2",
    "gemma3",
    "llama",
    "mistral",
    "mixtral",
    "nomic-bert",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
];

#[test]
fn every_family_becomes_what_llama_cpps_converter_makes_of_it() {
    let sandbox = Sandbox::new();
    let mut wrong = Vec::new();
    for name in FAMILIES {
        let record = family(name);
        let folder = folder(&sandbox, name, &record);
        let modelfile = format!("FROM {}\n", folder.display());
        let done = sandbox.puna(&["create", name, "-f", "-"], &modelfile);
        if done.status != Some(0) {
            wrong.push(format!("{name}: {}", done.stderr));
            continue;
        }
        let (header, file) = opened(&sandbox, name);
        let lines = differences(&header, &file, &record["made"]);
        wrong.extend(lines.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_family_answers() {
    let sandbox = Sandbox::new();
    for (index, name) in FAMILIES.iter().enumerate() {
        // llama.cpp expects a model named phi3 to have tokens that these tiny vocabularies lack.
        let folder = folder(&sandbox, &format!("m{index}"), &family(name));
        sandbox.create(name, &format!("FROM {}\n", folder.display()));
        let words = ["run", name, "the lazy dog", "-n", "2", "--temperature", "0"];
        let told = sandbox.puna(&words, "");
        assert_eq!(told.status, Some(0), "{name}: {told:?}");
        if name.contains("bert") {
            let vector: Vec<f64> = serde_json::from_str(&told.stdout).unwrap();
            assert_eq!(vector.len(), 64, "{name}");
        }
    }
}

/// The folder of all-MiniLM-L6-v2 as published.
fn published(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.home.join("all-MiniLM-L6-v2");
    fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    let files = [
        ("safetensors", "model.safetensors"),
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer.json"),
        ("tokenizer_config.json", "tokenizer_config.json"),
        ("modules.json", "modules.json"),
        ("1_Pooling.config.json", "1_Pooling/config.json"),
    ];
    for (cached, name) in files {
        let source = model(&format!("all-MiniLM-L6-v2.{cached}"));
        std::os::unix::fs::symlink(source, folder.join(name)).unwrap();
    }
    folder
}

#[test]
fn a_published_model_gives_the_vectors_of_sentence_transformers() {
    let sandbox = Sandbox::new();
    let folder = published(&sandbox);
    sandbox.create("mini", &format!("FROM {}\n", folder.display()));
    let shown = sandbox.puna(&["show", "mini"], "").ok();
    assert!(shown.contains("quantization\tF16\n"), "{shown}");
    let expected = templates::json("embeddings.json");
    let server = sandbox.serve(&[]);
    let body = json!({"model": "mini", "input": expected["texts"]});
    let found = server.post("/api/embed", &body.to_string());
    let vector = |json: &Json| -> Vec<f64> { serde_json::from_value(json.clone()).unwrap() };
    for (index, text) in expected["texts"].as_array().unwrap().iter().enumerate() {
        let ours = vector(&found["embeddings"][index]);
        let theirs = vector(&expected["vectors"][index]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&ours, &theirs) / (dot(&ours, &ours) * dot(&theirs, &theirs)).sqrt();
        assert!(cosine >= 0.9999, "{cosine} {text}");
    }
    // Quantised during creation.
    let words = ["create", "small", "-f", "-", "--quantize", "q8_0"];
    let modelfile = format!("FROM {}\n", folder.display());
    sandbox.puna(&words, &modelfile).ok();
    let shown = sandbox.puna(&["show", "small"], "").ok();
    assert!(shown.contains("quantization\tQ8_0\n"), "{shown}");
}

/// The most likely first tokens and their logprobs.
pub fn likelihoods(server: &Server, name: &str) -> Vec<(String, f64)> {
    let body = json!({
        "model": name, "prompt": "the lazy dog", "raw": true, "stream": false, "logprobs": true,
        "top_logprobs": 5, "options": {"temperature": 0, "num_predict": 1},
    });
    let answer = server.post("/api/generate", &body.to_string());
    let top = answer["logprobs"][0]["top_logprobs"].as_array().unwrap();
    let pair = |one: &Json| {
        let token = one["token"].as_str().unwrap().to_string();
        (token, one["logprob"].as_f64().unwrap())
    };
    top.iter().map(pair).collect()
}

/// An adapter of rank 4 for the first layer's queries and values; `outputs` are their output widths.
pub fn adapter(sandbox: &Sandbox, name: &str, config: &str, outputs: [u64; 2]) -> PathBuf {
    let folder = sandbox.home.join(name);
    fs::create_dir(&folder).unwrap();
    let mut shapes = Map::new();
    for (part, rows) in ["q_proj", "v_proj"].iter().zip(outputs) {
        let stem = format!("base_model.model.model.layers.0.self_attn.{part}");
        shapes.insert(format!("{stem}.lora_A.weight"), json!([4, 64]));
        shapes.insert(format!("{stem}.lora_B.weight"), json!([rows, 4]));
    }
    let file = folder.join("adapter_model.safetensors");
    fs::write(file, safetensors(&shapes, "F32")).unwrap();
    fs::write(folder.join("adapter_config.json"), config).unwrap();
    folder
}

#[test]
fn an_adapter_in_safetensors_does_what_merging_it_does() {
    let sandbox = Sandbox::new();
    let record = family("mixtral");
    let base = folder(&sandbox, "mixtral", &record);
    let config = r#"{"peft_type":"LORA","r":4,"lora_alpha":32.0}"#;
    let made = adapter(&sandbox, "adapter", config, [64, 32]);
    sandbox.create("base", &format!("FROM {}\n", base.display()));
    let lines = format!("FROM base\nADAPTER {}\n", made.display());
    sandbox.create("adapted", &lines);
    // The same merged by hand: W + alpha / r · B · A.
    let path = base.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    for (part, rows) in [("q_proj", 64), ("v_proj", 32)] {
        let name = format!("model.layers.0.self_attn.{part}");
        let stem = format!("base_model.model.{name}");
        let a: Vec<f32> = numbers(&format!("{stem}.lora_A.weight"), 4 * 64).collect();
        let b: Vec<f32> = numbers(&format!("{stem}.lora_B.weight"), rows * 4).collect();
        let start = header[format!("{name}.weight")]["data_offsets"][0].as_u64();
        let start = 8 + length + start.unwrap() as usize;
        for row in 0..rows as usize {
            for column in 0..64 {
                let place = start + 4 * (row * 64 + column);
                let four: [u8; 4] = bytes[place..place + 4].try_into().unwrap();
                let more: f32 = (0..4).map(|at| b[row * 4 + at] * a[at * 64 + column]).sum();
                let sum = f32::from_le_bytes(four) + 8.0 * more;
                bytes[place..place + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
    fs::write(&path, bytes).unwrap();
    sandbox.create("merged", &format!("FROM {}\n", base.display()));
    let server = sandbox.serve(&[]);
    let (plain, adapted) = (
        likelihoods(&server, "base"),
        likelihoods(&server, "adapted"),
    );
    let merged = likelihoods(&server, "merged");
    let apart = |a: &[(String, f64)], b: &[(String, f64)]| -> f64 {
        let gap = |(token, value): &(String, f64)| {
            let other = b.iter().find(|(known, _)| known == token);
            other.map_or(1.0, |(_, other)| (value - other).abs())
        };
        a.iter().map(gap).fold(0.0, f64::max)
    };
    // F16 rounds merged weights differently.
    assert!(apart(&adapted, &merged) < 0.02, "{adapted:?} {merged:?}");
    assert!(apart(&adapted, &plain) > 0.05, "{adapted:?} {plain:?}");
}

/// Expected error text, exit status, and the change to the folder.
type Case<'a> = (&'a str, i32, &'a dyn Fn(&Path));

#[test]
fn a_folder_that_is_no_model_says_why_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let record = family("llama");
    let edit = |path: &Path, change: &dyn Fn(&mut Json)| {
        let text = fs::read_to_string(path).unwrap();
        let mut json: Json = serde_json::from_str(&text).unwrap();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    };
    let cut = |path: &Path, left: u64| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(left).unwrap();
    };
    let cases: &[Case] = &[
        ("there is no config.json", 2, &|at| {
            fs::remove_file(at.join("config.json")).unwrap()
        }),
        ("config.json is not a JSON object", 2, &|at| {
            fs::write(at.join("config.json"), "[1,").unwrap()
        }),
        ("unsupported architecture \"FalconForCausalLM\"", 2, &|at| {
            edit(&at.join("config.json"), &|json| {
                json["architectures"] = json!(["FalconForCausalLM"]);
            })
        }),
        ("config.json names no architecture", 2, &|at| {
            edit(&at.join("config.json"), &|json| {
                json["architectures"] = Json::Null;
            })
        }),
        ("config.json has no num_hidden_layers", 2, &|at| {
            edit(&at.join("config.json"), &|json| {
                json["num_hidden_layers"] = json!("two");
            })
        }),
        ("the weights are quantised", 2, &|at| {
            edit(&at.join("config.json"), &|json| {
                json["quantization_config"] = json!({"quant_method": "gptq"});
            })
        }),
        ("rows for 5 heads", 2, &|at| {
            edit(&at.join("config.json"), &|json| {
                json["num_attention_heads"] = json!(5);
            })
        }),
        ("there is no tokenizer.model or tokenizer.json", 2, &|at| {
            fs::remove_file(at.join("tokenizer.json")).unwrap()
        }),
        ("the tokenizer has", 2, &|at| {
            edit(&at.join("config.json"), &|json| {
                json["vocab_size"] = json!(7)
            })
        }),
        ("splits text in an unknown way: x+", 2, &|at| {
            edit(&at.join("tokenizer.json"), &|json| {
                json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": "x+"}});
            })
        }),
        ("lies outside of the file", 8, &|at| {
            cut(&at.join("model.safetensors"), 20_000)
        }),
        ("its header cannot have", 8, &|at| {
            fs::write(at.join("model.safetensors"), [0xff; 64]).unwrap()
        }),
        ("there is no model.safetensors", 2, &|at| {
            let source = at.join("model.safetensors");
            fs::rename(source, at.join("other.safetensors")).unwrap()
        }),
        ("contains neither safetensors nor a GGUF", 2, &|at| {
            fs::remove_file(at.join("model.safetensors")).unwrap()
        }),
        ("in a model of llama", 2, &|at| {
            let mut shapes = Map::new();
            shapes.insert("model.layers.0.self_attn.sinks".into(), json!([4]));
            let bytes = safetensors(&shapes, "F32");
            fs::write(at.join("model-2.safetensors"), bytes).unwrap()
        }),
    ];
    for (index, (words, status, change)) in cases.iter().enumerate() {
        let name = format!("m{index}");
        let at = folder(&sandbox, &name, &record);
        change(&at);
        let modelfile = format!("FROM {}\n", at.display());
        let done = sandbox.puna(&["create", &name, "-f", "-"], &modelfile);
        done.fails(*status, words);
    }
    assert_eq!(sandbox.puna(&["ls"], "").ok(), "");
    let blobs = fs::read_dir(sandbox.models().join("blobs"));
    assert_eq!(blobs.map_or(0, |blobs| blobs.count()), 0);
}
