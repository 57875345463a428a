//! Mutation fuzzing of parsers of foreign bytes: Go templates, Jinja templates, reply readers, the
//! grammar compiler, GGUF and safetensors headers, tokenizers, Modelfiles, manifests, requests,
//! the router, and whole models.
//! `make fuzz` runs each target for a while; a panic, a hang or a lost byte stops it and prints the
//! input that caused it. `cargo bench --bench fuzz -- write FOLDER COUNT` writes mutated models for other programs.
//!
//! There is no coverage guidance, so it runs on a stable compiler and shares the build of everything
//! else; the seeds, templates and transcripts of the tests, reach far by themselves.

mod files;
mod models;
mod requests;
mod router;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use puna::core::clock::Local;
use puna::core::message::{Message, Tool, ToolCall};
use puna::format::reply::{Format, Piece, Reader};
use puna::format::template::go::{GoTemplate, Input};
use puna::format::template::{Chat, Template};
use puna::system::engine::Compiler;

/// Makes an input from the seeds and parses it.
type Target = fn(&mut Dice, &[Vec<u8>]);

/// Time limit of one input.
const INPUT_MAX: Duration = Duration::from_secs(5);
/// The same for a model, which a process of its own loads.
const MODEL_MAX: Duration = Duration::from_secs(30);

fn main() {
    // cargo bench passes its own flags on: only words count.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    if let [command, folder, count] = &words[..]
        && command == "write"
    {
        let count = count.parse().expect("a number of models");
        return models::write(&mut Dice(seed()), Path::new(folder), count);
    }
    let seconds = words
        .first()
        .and_then(|word| word.parse().ok())
        .unwrap_or(60);
    let only = words.get(1).map(String::as_str).unwrap_or_default();
    let targets: [(&str, Target, Duration); 13] = [
        ("go", go, INPUT_MAX),
        ("jinja", jinja, INPUT_MAX),
        ("reply", reply, INPUT_MAX),
        ("grammar", grammar, INPUT_MAX),
        ("gguf", files::gguf, INPUT_MAX),
        ("modelfile", files::modelfile, INPUT_MAX),
        ("manifest", files::manifest, INPUT_MAX),
        ("safetensors", files::safetensors, INPUT_MAX),
        ("vocabulary", files::vocabulary, INPUT_MAX),
        ("requests", requests::requests, INPUT_MAX),
        ("router", router::router, INPUT_MAX),
        ("models", models::models, MODEL_MAX),
        ("bodies", requests::bodies, INPUT_MAX),
    ];
    for (name, target, most) in targets
        .into_iter()
        .filter(|(name, ..)| only.is_empty() || only == *name)
    {
        let seeds = seeds(name);
        let mut dice = Dice(seed());
        let started = Instant::now();
        let mut count = 0_u64;
        while started.elapsed() < Duration::from_secs(seconds) {
            let state = dice.0;
            let one = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| target(&mut dice, &seeds)));
            assert!(outcome.is_ok(), "target {name} fails from state {state}");
            assert!(
                one.elapsed() < most,
                "target {name} hangs from state {state}"
            );
            count += 1;
        }
        println!(
            "{name}\t{count} inputs in {:.0} s",
            started.elapsed().as_secs_f64()
        );
    }
}

/// The initial state: from the clock, or from `PUNA_FUZZ_STATE` to reproduce a failure.
fn seed() -> u64 {
    let given = std::env::var("PUNA_FUZZ_STATE")
        .ok()
        .and_then(|text| text.parse().ok());
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    given.unwrap_or(now.as_nanos() as u64 | 1)
}

/// A small random number generator (xorshift64*): the same state gives the same input.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides.max(1)
    }

    /// One of the seeds with a few changes: bytes flipped, pieces removed, repeated or copied from another.
    fn mutated_bytes(&mut self, seeds: &[Vec<u8>], words: &[&[u8]]) -> Vec<u8> {
        let mut bytes = seeds[self.roll(seeds.len())].clone();
        for _ in 0..=self.roll(6) {
            let at = self.roll(bytes.len() + 1);
            let end = (at + self.roll(40)).min(bytes.len());
            match self.roll(6) {
                0 if at < bytes.len() => bytes[at] = self.roll(256) as u8,
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                3 => {
                    let other = &seeds[self.roll(seeds.len())];
                    let from = self.roll(other.len() + 1);
                    let to = (from + self.roll(200)).min(other.len());
                    bytes.splice(at..end, other[from..to].to_vec());
                }
                4 => bytes.truncate(at.max(1)),
                _ => {
                    let word = words[self.roll(words.len())];
                    bytes.splice(at..end, word.iter().copied());
                }
            }
        }
        bytes.truncate(64 << 10);
        bytes
    }

    /// The same as text.
    fn mutated(&mut self, seeds: &[Vec<u8>], words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        String::from_utf8_lossy(&self.mutated_bytes(seeds, &words)).into_owned()
    }
}

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(path)
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let files = |folder: &str, end: &str| -> Vec<Vec<u8>> {
        let entries = fs::read_dir(data(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let chosen = entries.filter(|path| path.to_string_lossy().ends_with(end));
        chosen.map(|path| fs::read(path).unwrap()).collect()
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    match target {
        "go" => texts(GO),
        "jinja" => files("templates", ".jinja"),
        "reply" => texts(REPLIES),
        "grammar" => texts(GRAMMARS),
        "requests" => texts(requests::SEEDS),
        "bodies" => requests::compressed_seeds(),
        "router" => router::seeds(),
        "models" => models::seeds(),
        other => files::seeds(other),
    }
}

const GO: &[&str] = &[
    "[{{.System}}]<{{.Prompt}}>{{.Response}}</s>",
    "{{- $system := .System }}{{- range $i, $_ := .Messages }}{{- $last := eq (len (slice $.Messages $i)) 1 }}{{- if eq .Role \"user\" }}<u>{{- if and (eq $i 1) $system }}{{ $system }}{{- end }}{{ .Content }}{{ else if eq .Role \"assistant\" }}{{ .Content }}{{ end }}{{- if $last }}<m>{{ end }}{{- end }}",
    "{{ range .Tools }}{{ . }}{{ range $k, $v := .Function.Parameters.Properties }}{{ $k }}{{ $v.Type }}{{ toTypeScriptType $v }}{{ end }}{{ end }}{{ range .Messages }}{{ range .ToolCalls }}{{ json . }}{{ .Function.Arguments }}{{ end }}{{ end }}",
    "{{ define \"t\" }}{{ . }}{{ template \"t\" . }}{{ end }}{{ block \"b\" .System }}{{ . }}{{ end }}{{ with .X }}{{ else with .Y }}{{ else }}{{ end }}",
    "{{ printf \"%s %5d %-3v %q %.2f %x\" .System 1 true \"a\" 1.5 255 }}{{ index .Messages 0 }}{{ slice \"abc\" 1 2 }}{{ html \"<\" }}{{ range 3 }}{{ break }}{{ end }}",
];

const REPLIES: &[&str] = &[
    "<think>\nhm\n</think>\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
    "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {}}]",
    "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"é\"}}",
    "<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>",
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>",
    "<|tool_call_start|>[get_weather(city='x', days=[1, {'a': None}])]<|tool_call_end|>",
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    "<|tool_call>call:get_weather{city:<|\"|>Rome<|\"|>}<tool_call|>",
    "plain text, a < b, {\"x\": 1}",
];

const GRAMMARS: &[&str] = &[
    r##"start: %json {"type":"object","properties":{"a":{"type":"integer","minimum":1},"b":{"enum":["x",1,null]},"c":{"type":"array","items":{"$ref":"#/$defs/d"},"maxItems":3}},"required":["a"],"$defs":{"d":{"type":"string","pattern":"^[a-z]{2,5}$"}}}"##,
    r#"start: %json {"anyOf":[{"type":"number"},{"type":"string","format":"date"},{"allOf":[{"minLength":2},{"maxLength":4}]}]}"#,
    "start: \"a\" b{0,3} (\"c\" | /[0-9]+/)?\nb[lazy]: /(?s:.*)x/\n",
];

fn messages() -> Vec<Message> {
    let mut call = Message::new("assistant", "");
    call.tool_calls = vec![ToolCall {
        id: None,
        name: "get_weather".into(),
        arguments: r#"{"city":"Rome"}"#.into(),
    }];
    vec![
        Message::new("system", "S"),
        Message::new("user", "q"),
        call,
        Message::new("tool", "r"),
        Message::new("user", "é"),
    ]
}

fn tools() -> Vec<Tool> {
    let parameters = serde_json::json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}});
    vec![Tool {
        name: "get_weather".into(),
        description: "d".into(),
        parameters,
    }]
}

fn go(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&str] = &[
        "{{",
        "}}",
        "{{- ",
        " -}}",
        "range",
        "end",
        "if",
        "else",
        "with",
        ".",
        "$",
        "$x := 1",
        "(",
        ")",
        "|",
        "\"",
        "`",
        "and",
        "index .Messages 9",
        "/*",
        "999999999999999999999",
    ];
    let source = dice.mutated(seeds, WORDS);
    if let Ok(template) = GoTemplate::compile(&source) {
        let (messages, tools) = (messages(), tools());
        let input = Input {
            messages: &messages,
            tools: &tools,
            think: None,
            now: Local::utc(SystemTime::UNIX_EPOCH),
        };
        let _ = template.render(&input); // An error is a valid result.
        let _ = template.insert("a", "b", Local::utc(SystemTime::UNIX_EPOCH));
    }
}

fn jinja(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&str] = &[
        "{%",
        "%}",
        "{{",
        "}}",
        "{#",
        "for x in y",
        "endfor",
        "set a = a ~ a",
        "macro f(a)",
        "endmacro",
        "| tojson",
        "raw",
        "-",
        "'",
        "messages",
        "* 99999",
        ".replace('a', a)",
        "if",
        "endif",
    ];
    let source = dice.mutated(seeds, WORDS);
    if let Ok(template) = Template::from_gguf(&source, None) {
        let (messages, tools) = (messages(), tools());
        let chat = Chat {
            messages: &messages,
            tools: &tools,
            ..Chat::default()
        };
        let _ = template.render(&chat); // An error is a valid result.
        if dice.roll(8) == 0 {
            let format = Format::detect(&template, &source);
            assert!(format.tags().iter().all(|tag| !tag.trim().is_empty()));
        }
    }
}

/// The formats of the test templates, detected once.
fn formats() -> &'static [Arc<Format>] {
    static FORMATS: std::sync::OnceLock<Vec<Arc<Format>>> = std::sync::OnceLock::new();
    FORMATS.get_or_init(|| {
        let mut formats = vec![Arc::new(Format::default())];
        for entry in fs::read_dir(data("templates")).unwrap() {
            let source = fs::read_to_string(entry.unwrap().path()).unwrap();
            let template = Template::from_gguf(&source, None).unwrap();
            formats.push(Arc::new(Format::detect(&template, &source)));
        }
        formats
    })
}

/// However an answer is split, the reader gives the same result.
fn reply(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&str] = &[
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        "\"name\"",
        "get_weather",
        "[",
        "]",
        "\n",
        "<|",
        "|>",
        "é",
        "<parameter=city>",
        "</parameter>",
    ];
    let text = dice.mutated(seeds, WORDS);
    let format = &formats()[dice.roll(formats().len())];
    let prompt = ["", "<think>\n"][dice.roll(2)];
    let mut cuts: Vec<usize> = (0..dice.roll(6))
        .map(|_| dice.roll(text.len() + 1))
        .collect();
    cuts.retain(|at| text.is_char_boundary(*at));
    cuts.sort_unstable();
    let whole = read(format, prompt, &text, &[]);
    let cut = read(format, prompt, &text, &cuts);
    assert_eq!(whole, cut, "{text:?} cut at {cuts:?}, {format:?}");
    let byte_by_byte: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    if text.len() < 400 {
        assert_eq!(
            whole,
            read(format, prompt, &text, &byte_by_byte),
            "{text:?}, {format:?}"
        );
    }
}

fn read(
    format: &Arc<Format>,
    prompt: &str,
    text: &str,
    cuts: &[usize],
) -> (String, String, Vec<ToolCall>) {
    let mut reader = Reader::new(format.clone(), &tools(), prompt);
    let mut pieces = Vec::new();
    let mut from = 0;
    for at in cuts.iter().copied().chain([text.len()]) {
        pieces.extend(reader.push(&text[from..at]));
        from = at;
    }
    pieces.extend(reader.finish(false));
    let (mut thinking, mut answer, mut calls) = (String::new(), String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Thinking(text) => thinking += &text,
            Piece::Text(text) => answer += &text,
            Piece::Call(call) => calls.push(call),
        }
    }
    (thinking, answer, calls)
}

fn grammar(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&str] = &[
        "%json",
        "{",
        "}",
        "[",
        "]",
        "\"type\"",
        "\"pattern\":\"^+a\"",
        "\"$ref\":\"#\"",
        "/",
        "(",
        ")*",
        "{1,99999}",
        "|",
        "start: ",
        "\n",
        "-1e999",
        "\"minimum\":5,\"maximum\":1",
    ];
    thread_local! {
        static COMPILER: Compiler = Compiler::for_bytes().unwrap();
    }
    let source = dice.mutated(seeds, WORDS);
    COMPILER.with(|compiler| {
        let _ = compiler.accepts(&source, "{\"a\": 1}"); // An error is a valid result.
    });
}
