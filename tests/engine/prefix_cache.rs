//! The prefix cache on disk: saved sequences are reused across processes and never change answers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::engine::architectures::assert_same;
use crate::engine::reuse::{ask, words};
use crate::support::tiny_models::mamba;
use crate::support::{Done, Sandbox, gemma, smol};

/// The saved sequences of a sandbox.
fn files(sandbox: &Sandbox) -> Vec<PathBuf> {
    let folder = fs::read_dir(sandbox.home.join(".cache/puna/prefixes"));
    let entries = folder.into_iter().flatten();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| !path.ends_with(".lock")).collect()
}

fn run(sandbox: &Sandbox, model: &Path, prompt: &str, flags: &[&str]) -> Done {
    let model = model.to_str().unwrap();
    let fixed = ["run", model, "--raw", "-n", "6", "--temperature", "0"];
    sandbox.puna(&[&fixed[..], &["--verbose"], flags].concat(), prompt)
}

/// The number of prompt tokens that came from the cache.
fn cached(done: &Done) -> usize {
    assert_eq!(done.status, Some(0), "{done:?}");
    let mut lines = done.stderr.lines();
    let line = lines.find_map(|line| line.strip_prefix("prompt cached count:"));
    let count = line.and_then(|line| line.split_whitespace().next());
    count.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn a_shared_prefix_is_computed_once() {
    let sandbox = Sandbox::new();
    let tiny = sandbox.file("mamba.gguf", mamba());
    for (model, rules) in [
        (smol(), words("rule", 260)),
        (gemma(), words("rule", 260)),
        (tiny, "abcd ".repeat(300)),
    ] {
        let before = files(&sandbox).len();
        let prompt = |end: &str| format!("{rules} {end}");
        let first = run(&sandbox, &model, &prompt("one one one"), &[]);
        assert_eq!(cached(&first), 0);
        assert_eq!(files(&sandbox).len(), before + 1, "{}", model.display());
        // The same prompt again, then two that diverge near the end: a recurrent memory cannot be
        // truncated there, so the first of the two saves a checkpoint.
        let again = run(&sandbox, &model, &prompt("one one one"), &[]);
        assert!(cached(&again) > 600, "{again:?}");
        assert_eq!(again.stdout, first.stdout);
        run(&sandbox, &model, &prompt("two two two"), &[]).ok();
        let third = run(&sandbox, &model, &prompt("three three three"), &[]);
        assert!(cached(&third) > 600, "{third:?}");
        let alone = run(
            &sandbox,
            &model,
            &prompt("three three three"),
            &["--no-cache"],
        );
        assert_eq!((cached(&alone), alone.stdout), (0, third.stdout));
    }
    let folder = sandbox.home.join(".cache/puna/prefixes");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert!(files(&sandbox).iter().all(|path| mode(path) == 0o600));
}

#[test]
fn damaged_files_are_computed_again() {
    let sandbox = Sandbox::new();
    let prompt = words("word", 200);
    let first = run(&sandbox, &smol(), &prompt, &[]);
    let path = files(&sandbox).remove(0);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    let mut head = whole.clone();
    head[70] = b'!';
    let short = whole[..whole.len() - 9].to_vec();
    for broken in [flipped, head, short, Vec::new()] {
        fs::write(&path, &broken).unwrap();
        let again = run(&sandbox, &smol(), &prompt, &[]);
        assert_eq!((cached(&again), &again.stdout), (0, &first.stdout));
        let healed = run(&sandbox, &smol(), &prompt, &[]);
        assert!(cached(&healed) > 500, "{healed:?}");
    }
    // Other weights never use it, and a context that is too small is still an error.
    let copy = sandbox.file("copy.gguf", fs::read(smol()).unwrap());
    assert_eq!(cached(&run(&sandbox, &copy, &prompt, &[])), 0);
    let short = run(&sandbox, &smol(), &prompt, &["-o", "num_ctx=64"]);
    assert_eq!(short.status, Some(4), "{short:?}");
}

#[test]
fn the_cache_is_listed_bounded_removed_and_can_be_off() {
    let sandbox = Sandbox::new();
    let (one, two) = (words("one", 200), words("two", 200));
    let raw = |name: &str, value: &str, prompt: &str| {
        let smol = smol();
        let words = ["run", smol.to_str().unwrap(), "--raw", "-n", "1"];
        let mut command = sandbox.command(&words);
        crate::support::run(command.env(name, value), prompt).ok();
    };
    for (name, value) in [
        ("PUNA_CACHE_MAX", "0"),
        ("PUNA_CACHE_MAX", "1M"),
        ("PUNA_CACHE", "/proc/x"),
    ] {
        raw(name, value, &one);
        assert!(files(&sandbox).is_empty(), "{name}={value}");
    }
    run(&sandbox, &smol(), &one, &[]).ok();
    let listed = sandbox.puna(&["cache", "ls"], "").ok();
    let fields: Vec<&str> = listed.trim_end().split('\t').collect();
    assert_eq!(fields.len(), 5, "{listed}");
    assert_eq!(fields[1], smol().to_str().unwrap());
    let size = fs::metadata(&files(&sandbox)[0]).unwrap().len();
    assert_eq!(fields[3], size.to_string());
    // The limit leaves room for only one of them.
    raw("PUNA_CACHE_MAX", &(size + size / 2).to_string(), &two);
    let left = sandbox.puna(&["cache", "ls", "--json"], "").ok();
    let left: Json = serde_json::from_str(&left).unwrap();
    assert_ne!(left["name"], fields[0]);
    let stat = sandbox.puna(&["cache", "stat"], "").ok();
    let expected = format!("1\t{}\t", left["size"]);
    assert!(stat.starts_with(&expected), "{stat}");
    // It also holds when a file is only used.
    run(&sandbox, &smol(), &one, &[]).ok();
    assert_eq!(files(&sandbox).len(), 2);
    raw("PUNA_CACHE_MAX", &(size + size / 2).to_string(), &one);
    assert_eq!(files(&sandbox).len(), 1);
    let nothing = sandbox.puna(&["cache", "rm", "nothing"], "");
    nothing.fails(1, "no saved sequence is called");
    sandbox.puna(&["cache", "rm"], "").ok();
    assert!(files(&sandbox).is_empty());
    let unknown = sandbox.puna(&["cache", "repair"], "");
    unknown.fails(2, "cache accepts ls, rm and stat");
}

#[test]
fn servers_and_one_shots_share_it() {
    let sandbox = Sandbox::with_smol();
    let prompt = words("shared", 200);
    // With flash attention the cache has a different layout.
    let flash = ("PUNA_FLASH_ATTENTION", "1");
    let server = sandbox.serve(&[flash]);
    let first = ask(&server, "smol", &prompt);
    assert!(files(&sandbox).is_empty(), "it is still in memory");
    let (signal, _) = server.end("-TERM");
    assert_eq!((signal, files(&sandbox).len()), (Some(15), 1));
    let words = ["run", "smol", "--raw", "-n", "1", "--verbose"];
    let mut command = sandbox.command(&words);
    let shared = crate::support::run(command.env(flash.0, flash.1), &prompt);
    assert!(cached(&shared) > 500, "{shared:?}");
    let server = sandbox.serve(&[flash]);
    let again = ask(&server, "smol", &prompt);
    assert_same(&first, &again, "from a file");
    let ms = |json: &Json| json["prompt_eval_duration"].as_u64().unwrap() / 1_000_000;
    let (before, now) = (ms(&first), ms(&again));
    assert!(now < before / 3, "{before} ms, then {now} ms");
    // Unloading saves sequences too.
    sandbox.puna(&["cache", "rm"], "").ok();
    ask(&server, "smol", &format!("again {prompt}"));
    let unload = json!({"model": "smol", "keep_alive": 0}).to_string();
    server.post("/api/generate", &unload);
    let (signal, _) = server.end("-TERM");
    assert_eq!((signal, files(&sandbox).len()), (Some(15), 1));
}
