//! Every example of the command pages and the README, run verbatim: registries are scripted ones on
//! loopback, and other programs have stand-ins.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::api::structured_output::tools;
use crate::cli::manual::{commands, recipes};
use crate::engine::minilm::minilm;
use crate::support::scripted_registry::Registry;
use crate::support::{Sandbox, smol, tiny_gguf};

/// Examples that are skipped, and why.
const SKIPPED: &[(&str, &str)] = &[
    (
        "puna serve",
        "serves until it is ended: every test of the server runs it",
    ),
    (
        "puna bench --tune",
        "takes a quarter of an hour: a test of the pipes runs it with a tiny model",
    ),
    ("make ", "builds, installs or tests: this runs within it"),
];

/// Programs that examples call, and their stand-ins.
const STAND_INS: &[(&str, &str)] = &[
    (
        "jq",
        "exec python3 -c 'import json,sys\nread=json.JSONDecoder().raw_decode\ntext=sys.stdin.read().strip()\nwhile text: text=text[read(text)[1]:].strip()'",
    ),
    ("ssh", "shift; exec \"$@\""),
    ("mail", "exec cat > /dev/null"),
    ("llama-cli", "exec test -f \"$2\""),
];

/// SmolLM2's own template plus tools, which some examples use.
const TEMPLATE: &str = r#"{{- if .Tools }}<|im_start|>system
Functions: {{ range .Tools }}{{ .Function }}
{{ end }}<|im_end|>
{{ end }}
{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{ range .ToolCalls }}<tool_call>
{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
</tool_call>{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
"#;

fn prepared(registry: &Registry) -> Sandbox {
    let sandbox = Sandbox::new();
    let template = format!("TEMPLATE \"\"\"{TEMPLATE}\"\"\"");
    sandbox.create("smol", &format!("FROM {}\n{template}\n", smol().display()));
    sandbox.create("mini", &format!("FROM {}\n", minilm().display()));
    let lines = "The sea was calm.\nA ship sailed at dawn.\nBread is made of flour.\n";
    for name in [
        "notes.txt",
        "lines.txt",
        "titles.txt",
        "new.txt",
        "instructions.txt",
    ] {
        sandbox.file(name, lines);
    }
    sandbox.file("long.txt", "one\ntwo\n");
    sandbox.file(
        "books.csv",
        "title,year\n\"Moby Dick, or the Whale\",1851\nDracula,1897\n",
    );
    sandbox.file("words.txt", "cat\nhouse\n");
    for name in ["letter.txt", "mail.txt"] {
        sandbox.file(name, "Dear Sir, my name is Anna and I have won a prize.\n");
    }
    sandbox.file(
        "mails.jsonl",
        "{\"subject\":\"You won\"}\n{\"subject\":\"Lunch?\"}\n",
    );
    sandbox.file("turns.jsonl", "{\"role\":\"user\",\"content\":\"Hi\"}\n");
    sandbox.file(
        "chat.json",
        json!([{"role": "user", "content": "Hi"}]).to_string(),
    );
    sandbox.file("tools.json", tools().to_string());
    let name = json!({"type": "string", "maxLength": 20});
    let schema = json!({"type": "object", "properties": {"name": name, "age": {"type": "integer", "minimum": 0, "maximum": 120}}, "required": ["name"], "additionalProperties": false});
    sandbox.file("person.json", schema.to_string());
    sandbox.file("LICENSE", "Do as you like.\n");
    sandbox.file("model-f16.gguf", crate::support::tiny_models::mamba());
    for link in ["model.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"] {
        std::os::unix::fs::symlink(smol(), sandbox.home.join(link)).unwrap();
    }
    for (name, script) in STAND_INS {
        let path = sandbox.file(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    sandbox.shell("puna export mini > models.tar").ok();
    let manifest = registry.model("tiny", &tiny_gguf());
    let names = [
        "library/llama3.2:latest",
        "bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M",
    ];
    let mut held = registry.held.lock().unwrap();
    for name in names {
        held.manifests.insert(name.into(), manifest.clone());
    }
    drop(held);
    sandbox
}

/// Runs lines of shell; returns false if they were skipped.
fn run(sandbox: &Sandbox, registry: &Registry, line: &str) -> bool {
    if SKIPPED.iter().any(|(start, _)| line.starts_with(start)) {
        return false;
    }
    let at = format!("http://{}", registry.address);
    let mirrors = format!("registry.ollama.ai={at},registry.example.org={at}");
    let script = format!(
        "export PATH=$HOME/bin:$PATH PUNA_REGISTRY={mirrors} HF_ENDPOINT={at} PUNA_RETRY_PAUSE=1ms\n{line}"
    );
    let done = sandbox.shell(&script);
    // Some exit with a negative status: no difference, no match, not urgent.
    let no = ["grep -v", "--status", "outdated"];
    let may_say_no = no.iter().any(|word| line.contains(word));
    // Such a small model seldom answers with a code block.
    if done.stderr.contains("the answer has no code block") {
        return true;
    }
    let fine = done.status == Some(0) || (may_say_no && matches!(done.status, Some(1 | 120)));
    assert!(fine, "{line}: {done:?}");
    true
}

#[test]
fn examples_of_the_command_pages_work() {
    let registry = Registry::new();
    let sandbox = prepared(&registry);
    let mut count = 0;
    // In the order of the table, since examples may use what earlier ones created.
    for command in commands() {
        let page = sandbox.puna(&["man", &command], "").ok();
        let examples = page.split(".SH EXAMPLES\n").nth(1).unwrap_or_default();
        for line in recipes(examples) {
            count += usize::from(run(&sandbox, &registry, &line));
        }
    }
    assert!(count >= 45, "{count} examples were found");
}

#[test]
fn examples_of_the_readme_work() {
    let registry = Registry::new();
    let sandbox = prepared(&registry);
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let pipes = text.split("## Pipes\n").nth(1).unwrap();
    let pipes = pipes.split("\nPiped,").next().unwrap();
    let mut count = 0;
    for block in pipes.split("\n\n") {
        let code = block.lines().filter_map(|line| line.strip_prefix("    "));
        let code: Vec<&str> = code.filter(|line| !line.starts_with('#')).collect();
        if !code.is_empty() {
            count += usize::from(run(&sandbox, &registry, &code.join("\n")));
        }
    }
    assert!(count >= 13, "{count} examples were found");
}
