//! The house rules that a program can check: owners, lengths, words. Layers and circles are in `imports_graph.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use puna::core::digest::Digest;

/// External dependencies and the only places that may name them.
const OWNED: &[(&str, &[&str])] = &[
    ("llama_cpp_2", &["src/system/engine/"]),
    ("llama_cpp_sys_2", &["src/system/engine/"]),
    ("tiny_http", &["src/server/http.rs"]),
    ("ureq", &["src/system/client/", "src/system/registry/"]),
    ("rustls::", &["src/system/registry/mod.rs"]),
    ("use ring", &["src/system/registry/key.rs"]),
    ("use tar", &["src/ops/archive.rs"]),
    ("lexopt", &["src/cli/args.rs"]),
    (
        "indicatif",
        &["src/cli/out.rs", "src/cli/transfer_display.rs"],
    ),
    ("rustyline", &["src/cli/repl/mod.rs"]),
    ("println!", &[]),
    ("eprintln!", &[]),
    ("stdout()", &["src/cli/out.rs"]),
    ("stderr()", &["src/cli/out.rs"]),
    ("env::var", &["src/system/config/"]),
    ("home_dir", &["src/system/config/"]),
    ("dirs::", &["src/system/config/"]),
    ("minijinja", &["src/format/template/"]),
    ("llguidance", &["src/system/engine/"]),
    ("aho_corasick", &["src/core/special_tokens.rs"]),
    ("jiff", &["src/core/clock.rs"]),
    ("csv::", &["src/cli/records.rs"]),
    ("signal_hook", &["src/cli/signals.rs"]),
    ("use landlock", &["src/ops/sandbox.rs"]),
    ("sha2::", &["src/core/digest.rs"]),
    ("half::", &["src/ops/import/weights.rs"]),
    ("process::exit", &[]),
    (
        "unsafe ",
        &["src/system/engine/ffi.rs", "src/server/sockets.rs"],
    ),
    ("crate::server", &["src/cli/serve.rs", "src/server/"]),
    ("todo!", &[]),
    ("unimplemented!", &[]),
    ("dbg!", &[]),
    ("#[ignore", &[]),
];

/// Limits on the lengths of files and functions.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// The Rust files below a folder of the repository: their paths and texts.
pub fn sources(folder: &str) -> Vec<(String, String)> {
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
fn comments_begin_with_their_subject() {
    for (path, text) in sources("src").into_iter().chain(sources("tests")) {
        for line in text.lines().map(str::trim) {
            let doc = line
                .strip_prefix("///")
                .or_else(|| line.strip_prefix("//!"));
            let first = doc.and_then(|words| words.split_whitespace().next());
            let riddles = ["Who", "What", "Of", "Nor"];
            assert!(
                !first.is_some_and(|word| riddles.contains(&word)),
                "{path}: {line}"
            );
        }
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
fn prefix_cache_files_name_their_build() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap();
    let (package, patches) = puna::system::engine::prefix::BUILD
        .split_once(", patches ")
        .unwrap();
    assert!(
        patches.starts_with("0x"),
        "{patches} is no digest of patches"
    );
    let (name, version) = package.split_once(' ').unwrap();
    let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
    assert!(lock.contains(&entry), "{entry} is not what is built");
}

#[test]
fn cargo_knows_the_patches_that_llama_cpp_is_built_with() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = fs::read_dir(root.join("patches")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let mut bytes = Vec::new();
    for name in names {
        bytes.extend(name.as_encoded_bytes().iter().chain(&[0]));
        bytes.extend(fs::read(root.join("patches").join(&name)).unwrap());
        bytes.push(0);
    }
    let number = format!(
        "GGML_PUNA_PATCHES = \"0x{}\"",
        &Digest::compute(&bytes).hex()[..8]
    );
    let config = fs::read_to_string(root.join(".cargo/config.toml")).unwrap();
    assert!(
        config.contains(&number),
        ".cargo/config.toml must contain {number}"
    );
}

#[test]
fn every_patch_says_what_it_gains() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("patches");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|end| end != "patch") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let reason = text.split("\ndiff --git ").next().unwrap();
        assert!(
            reason.len() > 100 && reason.chars().any(|c| c.is_ascii_digit()),
            "{}",
            path.display()
        );
        count += 1;
    }
    assert!(count >= 4, "only {count} patches were found");
}
