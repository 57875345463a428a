//! The house rules that a program can check: layers, owners, lengths, words.

use std::fs;
use std::path::{Path, PathBuf};

use puna::digest::Digest;

const WORDS: &[&str] = &[
    "address", "bytes", "clock", "digest", "duration", "error", "message", "name", "network",
    "options", "special",
];
const FORMATS: &[&str] = &[
    "api",
    "gguf",
    "json",
    "manifest",
    "modelfile",
    "prompt",
    "reply",
    "safetensors",
    "vocabulary",
];
const OWNERS: &[&str] = &[
    "cache", "client", "config", "engine", "machine", "registry", "store",
];
const DEEDS: &[&str] = &[
    "bench", "bundle", "chat", "choose", "convert", "create", "derive", "dialect", "embed", "kept",
    "list", "model", "pool", "pull", "push", "rerank", "shards", "shelf", "show", "tuned",
];
const FACES: &[&str] = &["cli", "server"];

/// Outside things and the only places that may name them.
const OWNED: &[(&str, &[&str])] = &[
    ("llama_cpp_2", &["src/engine/"]),
    ("llama_cpp_sys_2", &["src/engine/"]),
    ("tiny_http", &["src/server/http.rs"]),
    ("ureq", &["src/client.rs", "src/registry/"]),
    ("use ring", &["src/registry/key.rs"]),
    ("use tar", &["src/bundle.rs"]),
    ("lexopt", &["src/cli/parse.rs"]),
    ("indicatif", &["src/cli/out.rs"]),
    ("rustyline", &["src/cli/repl.rs"]),
    ("println!", &[]),
    ("eprintln!", &[]),
    ("stdout()", &["src/cli/out.rs"]),
    ("stderr()", &["src/cli/out.rs"]),
    ("env::var", &["src/config.rs"]),
    ("home_dir", &["src/config.rs"]),
    ("dirs::", &["src/config.rs"]),
    ("minijinja", &["src/prompt/jinja/"]),
    ("llguidance", &["src/engine/"]),
    ("aho_corasick", &["src/special.rs"]),
    ("jiff", &["src/clock.rs"]),
    ("jsonschema", &["src/chat/promise.rs"]),
    ("signal_hook", &["src/cli/signals.rs"]),
    ("use landlock", &["src/server/sandbox.rs"]),
    ("sha2::", &["src/digest.rs"]),
    ("half::", &["src/convert/weights.rs"]),
    ("process::exit", &[]),
    ("unsafe ", &["src/engine/ffi.rs", "src/server/sockets.rs"]),
    ("crate::server", &["src/cli/serve.rs", "src/server/"]),
    ("todo!", &[]),
    ("unimplemented!", &[]),
    ("dbg!", &[]),
    ("#[ignore", &[]),
];

/// Files and functions may not be longer.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn sources(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join(folder), &mut files);
    files.sort();
    let relative = |path: &PathBuf| {
        path.strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_string()
    };
    files
        .iter()
        .map(|path| (relative(path), fs::read_to_string(path).unwrap()))
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    [WORDS, FORMATS, OWNERS, DEEDS, FACES]
        .iter()
        .position(|layer| layer.contains(&module))
}

#[test]
fn imports_point_down_only() {
    for (path, text) in sources("src") {
        let own = path
            .trim_start_matches("src/")
            .split(['/', '.'])
            .next()
            .unwrap();
        if matches!(own, "main" | "lib") {
            continue;
        }
        let own_layer = layer(own).unwrap_or_else(|| panic!("{path} is in no layer"));
        let code = text.split("#[cfg(test)]").next().unwrap();
        for used in code.split("crate::").skip(1) {
            let module: String = used
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let Some(used_layer) = layer(&module) else {
                continue;
            };
            let same = used_layer == own_layer && (module == own || !OWNERS.contains(&own));
            assert!(used_layer < own_layer || same, "{path} imports {module}");
        }
    }
}

#[test]
fn outside_things_are_named_by_their_owners_only() {
    for (path, text) in sources("src") {
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for (thing, owners) in OWNED {
                let allowed = owners.iter().any(|owner| path.starts_with(owner));
                let names_it = line.contains(thing) && !line.contains("unsafe_code");
                assert!(allowed || !names_it, "{path} names {thing}: {line}");
            }
        }
    }
}

#[test]
fn files_open_with_their_subject_and_stay_short() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        assert!(
            text.starts_with("//! "),
            "{path} does not say what it is for"
        );
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines");
    }
}

#[test]
fn functions_fit_on_a_screen() {
    for (path, text) in sources("src") {
        let code = text.split("#[cfg(test)]").next().unwrap();
        let mut start = None;
        for (number, line) in code.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if line.contains("fn ")
                && line.trim_end().ends_with(['{', '('])
                && !line.trim_start().starts_with("//")
            {
                start = start.or(Some((number, indent)));
            }
            if let Some((first, depth)) =
                start.filter(|(_, depth)| indent == *depth && line.trim() == "}")
            {
                let lines = number - first + 1;
                assert!(
                    lines <= FUNCTION_LINES_MAX,
                    "{path}:{} has {lines} lines",
                    first + 1
                );
                assert!(depth <= 8, "{path}:{} is nested deeply", first + 1);
                start = None;
            }
        }
    }
}

#[test]
fn unsafe_blocks_say_why_they_hold() {
    for (path, text) in sources("src") {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !line.contains("unsafe {") {
                continue;
            }
            let before = lines[number.saturating_sub(5)..number].join("\n");
            assert!(before.contains("// SAFETY:"), "{path}:{}", number + 1);
        }
    }
}

#[test]
fn the_tree_of_packages_stays_small() {
    let lock =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    for heavy in ["tokio", "hyper", "clap", "async-std", "reqwest"] {
        assert!(
            !lock.contains(&format!("name = \"{heavy}\"\n")),
            "{heavy} has come in"
        );
    }
}

#[test]
fn kept_prompts_name_the_build_that_made_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let (name, version) = puna::engine::prefix::BUILD.split_once(' ').unwrap();
    let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    assert!(lock.contains(&entry), "{entry} is not what is built");
}

#[test]
fn cargo_knows_the_header_that_llama_cpp_is_compiled_with() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo");
    let header = fs::read(root.join("include/puna_x86.h")).unwrap();
    let number = format!("-DPUNA_X86=0x{}", &Digest::of(&header).hex()[..8]);
    let config = fs::read_to_string(root.join("config.toml")).unwrap();
    assert!(config.contains(&number), "it has to hold {number}");
}
