//! The official clients against a running server; `make clients` fetches them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::engine::minilm::minilm;
use crate::support::scripted_model::{modelfile, scripted_gguf};
use crate::support::{Sandbox, model, run};

/// Paths of a test script and of the client's packages.
fn places(script: &str, packages: &str) -> (PathBuf, PathBuf) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(script);
    (script, model(&format!("clients/{packages}")))
}

fn drives(command: &mut Command) {
    let sandbox = Sandbox::with_smol();
    sandbox.create("emb", &format!("FROM {}\n", minilm().display()));
    finds_all(&sandbox, command);
}

/// Runs a script against a server of this sandbox.
fn finds_all(sandbox: &Sandbox, command: &mut Command) {
    let server = sandbox.serve(&[]);
    let done = run(command.arg(format!("http://{}", server.at)), "");
    assert_eq!(done.stdout, "all done\n", "{}", done.stderr);
}

#[test]
fn the_python_client_finds_all_it_knows() {
    let (script, packages) = places("client.py", "python");
    let mut command = Command::new("python3");
    drives(command.arg(script).env("PYTHONPATH", packages));
}

#[test]
fn the_javascript_client_finds_all_it_knows() {
    let (script, packages) = places("client.mjs", "node/node_modules");
    let mut command = Command::new("node");
    drives(
        command
            .arg(script)
            .env("PUNA_PACKAGES", packages.parent().unwrap()),
    );
}

/// The scripted models of the SDK tests: name and script.
const SCRIPTS: [(&str, &str); 5] = [
    (
        "text",
        "The sky is blue because air scatters blue light more than red light.",
    ),
    (
        "tool",
        "I look.<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 3}}\n</tool_call>",
    ),
    (
        "tools",
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 1}}\n</tool_call>\
         <tool_call>\n{\"name\": \"set_alarm\", \"arguments\": {\"at\": \"noon\"}}\n</tool_call>",
    ),
    (
        "think",
        "<think>\nTwo and two make four.\n</think>\n\nIt is 4.",
    ),
    ("json", "{\"city\": \"Rome\", \"days\": 3}"),
];

fn check_client(command: &mut Command) {
    let sandbox = Sandbox::new();
    let file = sandbox.file(
        "scripted.gguf",
        scripted_gguf(&SCRIPTS.map(|(_, script)| script)),
    );
    for (index, (name, _)) in SCRIPTS.iter().enumerate() {
        sandbox.create(name, &modelfile(&file.display().to_string(), index));
    }
    finds_all(&sandbox, command);
}

#[test]
fn the_python_sdks_read_golden_streams() {
    let (script, packages) = places("sdk.py", "sdks");
    let mut command = Command::new("python3");
    check_client(command.arg(script).env("PYTHONPATH", packages));
}

#[test]
fn the_javascript_sdks_read_golden_streams() {
    let (script, packages) = places("sdk.mjs", "node/node_modules");
    let mut command = Command::new("node");
    let packages = packages.parent().unwrap();
    check_client(command.arg(script).env("PUNA_PACKAGES", packages));
}

#[test]
fn pydantic_ai_instructor_and_agents_are_answered() {
    let (script, packages) = places("frameworks.py", "frameworks");
    let mut command = Command::new("python3");
    check_client(command.arg(script).env("PYTHONPATH", packages));
}

#[test]
fn llm_litellm_and_langchain_are_answered() {
    let (script, packages) = places("others.py", "sdks");
    let mut command = Command::new("python3");
    check_client(command.arg(script).env("PYTHONPATH", packages));
}
