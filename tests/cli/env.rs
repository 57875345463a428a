//! `puna env`: settings that shells and the programs' own parsers can read.

use serde_json::{Value as Json, json};

use crate::support::{Sandbox, run};

/// The content of a program's file.
fn file(sandbox: &Sandbox, program: &str) -> String {
    let words = [
        "env",
        program,
        "-m",
        "smol",
        "--host",
        "10.0.0.7:80",
        "--write",
        "-q",
    ];
    sandbox.puna(&words, "").ok()
}

#[test]
fn a_shell_reads_what_is_printed() {
    let sandbox = Sandbox::with_smol();
    let at = |words: &str, variable: &str| {
        let line = format!("eval \"$(puna env {words})\" && printf %s \"${variable}\"");
        sandbox.shell(&line).ok()
    };
    let url = "http://127.0.0.1:11434";
    for (words, variable, value) in [
        ("claude -m smol", "ANTHROPIC_BASE_URL", url),
        ("claude -m smol", "ANTHROPIC_DEFAULT_HAIKU_MODEL", "smol"),
        ("claude -m smol", "ANTHROPIC_AUTH_TOKEN", "puna"),
        ("aider -m smol", "AIDER_MODEL", "ollama_chat/smol"),
        ("goose -m smol", "GOOSE_MODEL", "smol"),
        ("openai", "OPENAI_BASE_URL", "http://127.0.0.1:11434/v1"),
        (
            "openai --host 0.0.0.0:9",
            "OPENAI_BASE_URL",
            "http://127.0.0.1:9/v1",
        ),
        ("open-webui --host h:9", "OLLAMA_BASE_URL", "http://h:9"),
        ("ollama", "OLLAMA_HOST", url),
    ] {
        assert_eq!(at(words, variable), value, "{words}");
    }
    let config: Json =
        serde_json::from_str(&at("opencode -m smol", "OPENCODE_CONFIG_CONTENT")).unwrap();
    assert_eq!(config["model"], "puna/smol");
    // A key is quoted, whatever it is made of.
    let mut command = sandbox.command(&["env", "anthropic"]);
    let printed = run(command.env("PUNA_API_KEY", "a'b $(c)"), "").ok();
    assert!(
        printed.contains("export ANTHROPIC_API_KEY='a'\\''b $(c)'\n"),
        "{printed}"
    );
}

#[test]
fn files_are_what_the_programs_read() {
    let sandbox = Sandbox::with_smol();
    let json = |program: &str| -> Json { serde_json::from_str(&file(&sandbox, program)).unwrap() };
    let (url, v1) = ("http://10.0.0.7:80", "http://10.0.0.7:80/v1");
    assert_eq!(json("claude")["env"]["ANTHROPIC_BASE_URL"], url);
    let opencode = json("opencode");
    assert_eq!(opencode["provider"]["puna"]["options"]["baseURL"], v1);
    assert_eq!(
        opencode["provider"]["puna"]["models"]["smol"]["name"],
        "smol"
    );
    let pi = json("pi");
    assert_eq!(pi["providers"]["puna"]["baseUrl"], v1);
    assert_eq!(pi["providers"]["puna"]["models"], json!([{ "id": "smol" }]));
    let zed = json("zed");
    assert_eq!(zed["language_models"]["ollama"]["api_url"], url);
    assert_eq!(zed["agent"]["default_model"]["model"], "smol");
    for (program, lines) in [
        (
            "codex",
            &[
                "model = \"smol\"",
                "base_url = \"http://10.0.0.7:80/v1\"",
                "wire_api = \"responses\"",
            ][..],
        ),
        (
            "continue",
            &[
                "    provider: ollama",
                "    apiBase: \"http://10.0.0.7:80\"",
            ],
        ),
        (
            "aider",
            &[
                "model: \"ollama_chat/smol\"",
                "  - \"OLLAMA_API_BASE=http://10.0.0.7:80\"",
            ],
        ),
        ("goose", &["GOOSE_MODEL: \"smol\""]),
    ] {
        let text = file(&sandbox, program);
        for line in lines {
            assert!(
                text.lines().any(|known| known == *line),
                "{program}: {text}"
            );
        }
    }
    // Python reads TOML by itself.
    let toml = "puna env codex -m smol --write -q | python3 -c 'import sys, tomllib; t = tomllib.load(sys.stdin.buffer); \
                print(t[\"model_providers\"][t[\"model_provider\"]][\"base_url\"])'";
    let done = sandbox.shell(toml);
    if !done.stderr.contains("No module named") {
        assert_eq!(done.ok(), "http://127.0.0.1:11434/v1\n");
    }
}

#[test]
fn what_cannot_be_set_up_is_told() {
    let sandbox = Sandbox::with_smol();
    for (words, status, text) in [
        (&["env", "cluade", "-m", "smol"][..], 2, "is it claude?"),
        (&["env", "claude"], 2, "needs --model"),
        (&["env", "claude", "-m", "none"], 3, "not found"),
        (&["env", "openai", "-m", "smol"], 2, "omit --model"),
        (&["env", "codex", "-m", "smol"], 2, "see --write"),
    ] {
        sandbox.puna(words, "").fails(status, text);
    }
    let listed = sandbox.puna(&["env"], "").ok();
    assert!(
        listed.contains("claude\tenv\t~/.claude/settings.json\n"),
        "{listed}"
    );
    assert!(
        listed.contains("codex\t\t~/.codex/config.toml\n"),
        "{listed}"
    );
    let written = sandbox.puna(&["env", "pi", "-m", "smol", "--write"], "");
    assert!(
        written.stderr.contains("for ~/.pi/agent/models.json"),
        "{written:?}"
    );
}
