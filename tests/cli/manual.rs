//! Help, manuals and completions, which are printed from the tables: up to date, and valid in real shells.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Sandbox, tiny_gguf};

/// Every command, as `puna help` lists them.
pub fn commands() -> Vec<String> {
    let overview = Sandbox::new().puna(&["help"], "").ok();
    let (commands, _) = overview.split_once("\nPages:\n").unwrap();
    let lines = commands.lines().filter(|line| line.starts_with("  "));
    let first = |line: &str| line.trim().split([',', ' ']).next().map(str::to_string);
    lines.filter_map(first).collect()
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compares a committed file with what the program prints; `UPDATE=1` rewrites it.
fn assert_fresh(path: &str, printed: &str) {
    let path = project(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, printed).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == printed,
        "{} is stale: run UPDATE=1 cargo test --release manual",
        path.display()
    );
}

/// Manual pages that do not belong to a command.
const PAGES: [&str; 4] = ["config.5", "modelfile.5", "scripting.7", "api.7"];

/// The shell lines of a page, between `.RS` and `.RE`.
pub fn recipes(roff: &str) -> Vec<String> {
    let blocks = roff.split(".RS\n").skip(1);
    let plain = |block: &str| {
        let lines = block.split("\n.RE").next().unwrap();
        let lines = lines
            .replace("\\e", "\\")
            .replace("\\-", "-")
            .replace("\\(aq", "'");
        lines
            .replace("\\(ti", "~")
            .replace("\\(ha", "^")
            .replace("\\&", "")
    };
    blocks.map(plain).collect()
}

#[test]
fn recipes_of_the_manual_work() {
    let sandbox = Sandbox::with_smol();
    sandbox.create(
        "mini",
        &format!("FROM {}\n", crate::engine::minilm::minilm().display()),
    );
    sandbox.file(
        "notes.txt",
        "The sea was calm. The ship sailed at dawn.\n".repeat(20),
    );
    sandbox.file("words.txt", "cat\nhouse\nriver\n");
    sandbox.file(
        "letter.txt",
        "Dear Sir, my name is Anna and I have won a prize.\n",
    );
    sandbox.file("rules.txt", "Answer in one short sentence.\n");
    let schema = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":20}},
        "required":["name"],"additionalProperties":false}"#;
    sandbox.file("person.json", schema);
    let mut count = 0;
    for page in ["modelfile.5", "scripting.7"] {
        let roff = sandbox.puna(&["man", page], "").ok();
        let shown = [
            "[Unit]",
            "[Socket]",
            "[Service]",
            "30 6 ",
            "0 3 ",
            "FROM ",
            "puna serve ",
            "llm.example",
            "location ",
        ];
        let lines = recipes(&roff).into_iter();
        for line in lines.filter(|line| !shown.iter().any(|start| line.starts_with(start))) {
            let done = sandbox.shell(&line);
            assert_eq!(done.status, Some(0), "{line}: {done:?}");
            count += 1;
        }
    }
    assert!(count >= 11, "{count} recipes were found");
}

#[test]
fn committed_manuals_are_fresh() {
    let sandbox = Sandbox::new();
    assert_fresh("man/puna.1", &sandbox.puna(&["man"], "").ok());
    for command in &commands() {
        assert_fresh(
            &format!("man/puna-{command}.1"),
            &sandbox.puna(&["man", command], "").ok(),
        );
    }
    for page in PAGES {
        let printed = sandbox.puna(&["man", page], "").ok();
        assert_fresh(&format!("man/puna-{page}"), &printed);
    }
    assert_eq!(
        fs::read_dir(project("man")).unwrap().count(),
        commands().len() + 1 + PAGES.len()
    );
}

#[test]
fn committed_completions_are_fresh() {
    let sandbox = Sandbox::new();
    for (shell, file) in [
        ("bash", "puna.bash"),
        ("zsh", "_puna"),
        ("fish", "puna.fish"),
    ] {
        assert_fresh(
            &format!("completions/{file}"),
            &sandbox.puna(&["completions", shell], "").ok(),
        );
    }
}

#[test]
fn manuals_pass_the_lint_of_mandoc() {
    let pages = project("man").display().to_string();
    let done = Sandbox::new().shell(&format!("mandoc -T lint {pages}/*.?"));
    assert_eq!(
        (done.status, done.stdout.as_str()),
        (Some(0), ""),
        "{done:?}"
    );
}

#[test]
fn manuals_are_set_without_warnings() {
    let sandbox = Sandbox::new();
    for page in fs::read_dir(project("man"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        let done = sandbox.shell(&format!(
            "LC_ALL=C.UTF-8 MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z {} >/dev/null",
            page.display()
        ));
        assert_eq!(
            (done.status, done.stderr.as_str()),
            (Some(0), ""),
            "{}",
            page.display()
        );
        let text = sandbox
            .shell(&format!(
                "LC_ALL=C.UTF-8 MANWIDTH=80 man -l {} | col -b",
                page.display()
            ))
            .ok();
        assert!(text.contains("DESCRIPTION"), "{text}");
    }
}

#[test]
fn every_command_has_help_with_an_example() {
    let sandbox = Sandbox::new();
    let overview = sandbox.puna(&["help"], "").ok();
    assert_eq!(sandbox.puna(&["--help"], "").ok(), overview);
    for command in &commands() {
        assert!(overview.contains(&format!("  {command}")), "{command}");
        let help = sandbox.puna(&[command, "--help"], "").ok();
        assert!(
            help.contains(&format!("Usage: puna {command}")) && help.contains("Examples:\n  # "),
            "{help}"
        );
        assert_eq!(sandbox.puna(&["help", command], "").ok(), help);
    }
    let version = sandbox.puna(&["--version"], "").ok();
    assert_eq!(version, format!("puna {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(sandbox.puna(&["version"], "").ok(), version);
}

fn with_models() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    for name in ["alpaca", "alpine:v2"] {
        sandbox.create(name, "FROM ./tiny.gguf\n");
    }
    sandbox
}

#[test]
fn bash_completes_commands_flags_and_models() {
    let sandbox = with_models();
    let complete = |words: &str, at: usize| {
        let line = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={at}; _puna; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            project("completions/puna.bash").display()
        );
        let done = sandbox.shell(&line);
        assert_eq!(done.stderr, "");
        let mut words: Vec<String> = done.stdout.lines().map(str::to_string).collect();
        words.sort();
        words
    };
    assert_eq!(complete("puna cre", 1), ["create"]);
    assert_eq!(complete("puna run al", 2), ["alpaca:latest", "alpine:v2"]);
    assert_eq!(complete("puna run m --num-p", 3), ["--num-predict"]);
    assert_eq!(complete("puna run m -o temp", 4), ["temperature="]);
    assert_eq!(complete("puna completions f", 2), ["fish"]);
    // The values of flags, also behind =, which bash splits off.
    let overflow = ["error", "head", "middle", "reduce", "tail"];
    assert_eq!(complete("puna run m --overflow ''", 4), overflow);
    assert_eq!(complete("puna run m --think = lo", 5), ["low"]);
    assert_eq!(complete("puna run m --think =", 4).len(), 6);
    assert_eq!(complete("puna create x --quantize q8", 4), [""]);
    assert_eq!(complete("puna create x --quantize Q8", 4), ["Q8_0"]);
    assert_eq!(complete("puna run m --seed ''", 4), [""]);
    // Operands: models where models stand, and nothing else.
    assert_eq!(complete("puna run -n 4 alpa", 4), ["alpaca:latest"]);
    assert_eq!(complete("puna run alpaca ''", 3), [""]);
    assert_eq!(complete("puna rm alpaca al", 3).len(), 2);
    assert_eq!(complete("puna stop ''", 2), [""]);
    assert_eq!(complete("puna cache ''", 2), ["ls", "rm", "stat"]);
    assert_eq!(complete("puna config context", 2), ["context_length"]);
    assert_eq!(complete("puna man api", 2), ["api.7"]);
    assert_eq!(complete("puna run ./ti", 2), ["./tiny.gguf"]);
}

#[test]
fn zsh_loads_its_file_and_completes_models() {
    let sandbox = with_models();
    let file = project("completions/_puna");
    // A real zsh in its own terminal: types a line, presses Tab, waits for the output.
    let script = format!(
        "zmodload zsh/zpty; zpty z zsh -f -i; \
         zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; source {}; print \"REA\"\"DY\"'; \
         zpty -r z out '*READY*'; zpty -w -n z $'puna run alpa\\t'; \
         zpty -r z out '*alpaca:latest*'; print -r -- \"$out\"",
        file.display()
    );
    let done = sandbox.shell(&format!("timeout 20 zsh -f -c {}", quoted(&script)));
    assert!(done.stdout.contains("puna run alpaca:latest"), "{done:?}");
    let typed = |line: &str| {
        let script = format!(
            "zmodload zsh/zpty; zpty z zsh -f -i; \
             zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; source {}; print \"REA\"\"DY\"'; \
             zpty -r z out '*READY*'; zpty -w -n z $'{line}\\t\\C-a# \\C-e\\n'; zpty -w z 'print \"EN\"\"DED\"'; \
             zpty -r z out '*ENDED*'; print -r -- \"$out\"",
            file.display()
        );
        let done = sandbox.shell(&format!("timeout 20 zsh -f -c {}", quoted(&script)));
        done.stdout
    };
    for (line, whole) in [
        ("puna run m --overflow mi", "middle"),
        ("puna run m --think=lo", "--think=low"),
        ("puna cache st", "stat"),
        ("puna config context_l", "context_length"),
        ("puna man api", "api.7"),
    ] {
        let screen = typed(line);
        assert!(screen.contains(whole), "{line}: {screen:?}");
    }
    let loaded = sandbox.shell(&format!(
        "zsh -f -c 'autoload -Uz compinit; compinit -u -D; source {}; whence -w _puna'",
        file.display()
    ));
    assert_eq!(
        (loaded.stdout.trim(), loaded.stderr.as_str()),
        ("_puna: function", "")
    );
}

#[test]
fn fish_loads_its_file_and_completes_models() {
    let sandbox = with_models();
    let complete = |line: &str| {
        let script = format!(
            "source {}; complete -C {}",
            project("completions/puna.fish").display(),
            quoted(line)
        );
        let done = sandbox.shell(&format!("fish --no-config -c {}", quoted(&script)));
        assert_eq!(done.stderr, "");
        done.stdout
            .lines()
            .map(|line| line.split('\t').next().unwrap().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(complete("puna cre"), ["create"]);
    let models = complete("puna run al");
    assert!(
        models.contains(&"alpaca:latest".into()) && models.contains(&"alpine:v2".into()),
        "{models:?}"
    );
    assert!(complete("puna run m --num-p").contains(&"--num-predict".into()));
    assert_eq!(complete("puna run m --overflow t"), ["tail"]);
    assert_eq!(complete("puna run m --think=lo"), ["--think=low"]);
    assert_eq!(complete("puna run -n 4 alpa"), ["alpaca:latest"]);
    assert_eq!(complete("puna run alpaca a"), [""; 0]);
    assert_eq!(complete("puna cache s"), ["stat"]);
    assert_eq!(complete("puna config context"), ["context_length"]);
    assert_eq!(complete("puna man api"), ["api.7"]);
    assert_eq!(complete("puna stop "), [""; 0]);
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
