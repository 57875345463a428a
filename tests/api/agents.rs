//! Coding agents from npm, run for real against a scripted model (`make test-sdk`, which fetches them), and the first
//! requests that they send, which need no agent.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use crate::api::structured_output::TEMPLATE;
use crate::support::recorder::{Exchange, Recorder};
use crate::support::scripted_model::{cue, scripted_gguf};
use crate::support::{Sandbox, model};

/// The model's answer after it has read the file.
const LAST: &str = "The ship leaves at noon.";
/// The file that it reads.
const NOTES: &str = "Departure: twelve sharp, pier nine.\n";
/// Variables by which agents send nothing but what they are asked, and may run as root.
const QUIET: &str = "IS_SANDBOX=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1";
/// The share of the first prompt that must come from the cache in the second.
const REUSED: f64 = 0.95;

/// An agent: its name for `puna env` and its program.
struct Agent {
    name: &'static str,
    /// The shell command that asks it to read the file.
    command: &'static str,
    /// The tool by which it reads a file, and the arguments.
    call: (&'static str, &'static str),
}

const AGENTS: [Agent; 5] = [
    Agent {
        name: "claude",
        command: "claude --dangerously-skip-permissions -p",
        call: ("Read", r#"{"file_path": "notes.txt"}"#),
    },
    Agent {
        name: "codex",
        command: "codex exec --skip-git-repo-check",
        call: ("exec_command", r#"{"cmd": "cat notes.txt"}"#),
    },
    Agent {
        name: "opencode",
        command: "opencode run",
        call: ("read", r#"{"filePath": "notes.txt"}"#),
    },
    Agent {
        name: "pi",
        command: "pi --provider puna --model m -p",
        call: ("read", r#"{"path": "notes.txt"}"#),
    },
    Agent {
        name: "cline",
        command: "cline -P openai-compatible -m m -t 60",
        call: ("run_commands", r#"{"commands": ["cat notes.txt"]}"#),
    },
];

/// A sandbox with a model that makes this call first, and answers once the last message is what a tool gave.
fn sandbox(call: (&str, &str)) -> Sandbox {
    let sandbox = Sandbox::new();
    let (tool, arguments) = call;
    let call = format!(
        "I read it.<tool_call>\n{{\"name\": \"{tool}\", \"arguments\": {arguments}}}\n</tool_call>"
    );
    let file = sandbox.file("scripted.gguf", scripted_gguf(&[LAST, &call]));
    let (last, first) = (cue(0), cue(1));
    sandbox.create(
        "m",
        &format!(
            "FROM {}\nTEMPLATE \"\"\"{{{{- $last := \"\" }}}}{{{{- range .Messages }}}}{{{{- $last = .Role }}}}{{{{- end }}}}{}\n\
             {{{{ if eq $last \"tool\" }}}}{last}{{{{ else }}}}{first}{{{{ end }}}}\"\"\"\n",
            file.display(),
            TEMPLATE.trim_end(),
        ),
    );
    sandbox
}

/// A file with an agent's first request, without its texts.
fn first_request(agent: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/first_requests");
    folder.join(format!("{agent}.json"))
}

/// Fields of requests that hold texts, which are not ours to keep.
const TEXTS: [&str; 8] = [
    "text",
    "content",
    "description",
    "instructions",
    "system",
    "arguments",
    "definition",
    "title",
];

/// A request without texts, ids and paths: what is left are fields, types and names.
fn without_texts(field: &str, value: &Json) -> Json {
    match value {
        Json::String(text) if TEXTS.contains(&field) || text.len() > 40 || text.contains('/') => {
            "words".into()
        }
        Json::String(_) | Json::Number(_) | Json::Bool(_) | Json::Null => value.clone(),
        Json::Array(list) => list.iter().map(|one| without_texts(field, one)).collect(),
        Json::Object(fields) => {
            let field =
                |(name, value): (&String, &Json)| (name.clone(), without_texts(name, value));
            Json::Object(fields.iter().map(field).collect::<Map<_, _>>())
        }
    }
}

/// The tokens of a prompt as an answer reports them: all, and those that were cached.
fn prompt_tokens(answer: &str) -> (u64, u64) {
    let lines = answer
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let records = lines.filter_map(|line| serde_json::from_str::<Json>(line).ok());
    let usages = records.flat_map(|record| {
        let places = ["/usage", "/response/usage", "/message/usage"];
        let found = places.map(|place| record.pointer(place).cloned());
        found.into_iter().flatten().filter(Json::is_object)
    });
    let usage = usages.last().expect("a stream reports its usage");
    let number = |place: &str| usage.pointer(place).and_then(Json::as_u64);
    if let Some(cached) = number("/cache_read_input_tokens") {
        return (cached + number("/input_tokens").unwrap(), cached);
    }
    let all = number("/prompt_tokens")
        .or(number("/input_tokens"))
        .unwrap();
    let cached = number("/prompt_tokens_details/cached_tokens");
    (
        all,
        cached
            .or(number("/input_tokens_details/cached_tokens"))
            .unwrap(),
    )
}

/// The prompts that an agent sent with tools, in their order.
fn turns(exchanges: Vec<Exchange>) -> Vec<Exchange> {
    let with_tools = |exchange: &Exchange| exchange.body["tools"].as_array().is_some();
    exchanges.into_iter().filter(with_tools).collect()
}

fn reads_a_file(agent: &Agent) {
    let sandbox = sandbox(agent.call);
    fs::create_dir(sandbox.home.join("work")).unwrap();
    sandbox.file("work/notes.txt", NOTES);
    let server = sandbox.serve(&[("PUNA_CONTEXT_LENGTH", "200000"), ("PUNA_SOCKET", "")]);
    let recorder = Recorder::new(&server.at);
    let bin = model(&format!("agents/{}/node_modules/.bin", agent.name));
    let (name, host) = (agent.name, recorder.address);
    let settings = match sandbox.shell(&format!("puna env {name} -m m --host {host}")) {
        done if done.status == Some(0) => done.stdout,
        _ => {
            let written = sandbox.shell(&format!("puna env {name} -m m --host {host} --write"));
            let file = written
                .stderr
                .trim()
                .strip_prefix("puna: for ~/")
                .unwrap()
                .to_string();
            let path = sandbox.home.join(&file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            sandbox.file(&file, written.ok());
            String::new()
        }
    };
    let done = sandbox.shell(&format!(
        "cd work; export PATH={}:$PATH; {settings}\n{QUIET} timeout 120 {} 'When does the ship leave? See notes.txt.' < /dev/null",
        bin.display(),
        agent.command,
    ));
    assert!(done.stdout.contains(LAST), "{name}: {done:?}");
    let exchanges = recorder.taken();
    for Exchange { line, answer, .. } in &exchanges {
        assert!(answer.status < 400, "{name}: {line}: {answer:?}");
    }
    let turns = turns(exchanges);
    assert_eq!(turns.len(), 2, "{name}: {turns:?}");
    assert!(
        turns[1].body.to_string().contains("twelve sharp"),
        "{name}: the result did not come"
    );
    let (sent, _) = prompt_tokens(&turns[0].answer.body);
    let (all, cached) = prompt_tokens(&turns[1].answer.body);
    assert!(
        cached as f64 >= REUSED * sent as f64,
        "{name}: {cached} of {sent} tokens that were sent before were cached"
    );
    let first = json!({
        "line": turns[0].line,
        "headers": turns[0].headers,
        "ignored": turns[0].answer.header("puna-ignored").unwrap_or_default(),
        "body": without_texts("", &turns[0].body),
    });
    let path = first_request(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{first}\n")).unwrap();
    }
    let known: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(first["ignored"], known["ignored"], "{name}");
    println!(
        "{name}: of {all} tokens {cached} were cached, and {sent} sent before; ignored: {}",
        first["ignored"]
    );
}

/// These need what `make test-sdk` fetches; `make test` leaves them out.
mod from_npm {
    #[test]
    fn agents_read_a_file_and_answer() {
        super::AGENTS.iter().for_each(super::reads_a_file);
    }
}

#[test]
fn first_requests_of_agents_are_answered() {
    for agent in &AGENTS {
        let text = fs::read_to_string(first_request(agent.name)).unwrap();
        let first: Json = serde_json::from_str(&text).unwrap();
        let sandbox = sandbox(agent.call);
        let server = sandbox.serve(&[("PUNA_CONTEXT_LENGTH", "200000")]);
        let (_, path) = first["line"].as_str().unwrap().split_once(' ').unwrap();
        let answer = server.ask("POST", path, &first["body"].to_string());
        assert_eq!(answer.status, 200, "{}: {answer:?}", agent.name);
        let ignored = answer.header("puna-ignored").unwrap_or_default();
        assert_eq!(ignored, first["ignored"], "{}", agent.name);
        let has_call = answer.body.contains(agent.call.0);
        assert!(has_call, "{}: {}", agent.name, answer.body);
    }
}
