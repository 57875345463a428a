//! The store under stress: killed at any moment, full disks, Ollama's own store, damaged files.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use puna::core::digest::Digest;
use serde_json::{Value as Json, json};

use crate::support::{Sandbox, run, smol, tiny_gguf};

/// Asserts that every blob has the digest in its name, and that the blobs of every manifest exist.
pub fn assert_valid(sandbox: &Sandbox) {
    if let Ok(blobs) = fs::read_dir(sandbox.models().join("blobs")) {
        for blob in blobs.map(|entry| entry.unwrap().path()) {
            let name = blob.file_name().unwrap().to_str().unwrap().to_string();
            if name.starts_with(".puna-") || name.contains("-partial") || name.ends_with("-link") {
                continue;
            }
            let digest = Digest::compute(&fs::read(&blob).unwrap());
            assert_eq!(
                digest.file_name(),
                name,
                "a blob under a final name is whole"
            );
        }
    }
    let listed = sandbox.puna(&["ls"], "");
    assert_eq!((listed.status, listed.stderr.as_str()), (Some(0), ""));
    for line in listed.stdout.lines() {
        sandbox
            .puna(&["show", line.split('\t').next().unwrap()], "")
            .ok();
    }
}

#[test]
fn listings_are_available_as_json() {
    let sandbox = Sandbox::with_smol();
    let orphan = sandbox
        .models()
        .join("blobs")
        .join(format!("sha256-{:064}", 1));
    fs::write(&orphan, "nobody's").unwrap();
    let lines = |words: &[&str]| -> Vec<Json> {
        let text = sandbox.puna(&[words, &["--json"]].concat(), "").ok();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    assert_eq!(
        lines(&["version"]),
        [json!({"version": env!("CARGO_PKG_VERSION")})]
    );
    let path = sandbox.puna(&["path", "smol"], "").ok();
    assert_eq!(lines(&["path", "smol"]), [json!({"path": path.trim_end()})]);
    let prompt = sandbox.puna(&["render", "smol", "Hi"], "").ok();
    assert_eq!(
        lines(&["render", "smol", "Hi"]),
        [json!({"prompt": prompt})]
    );
    let tokens = lines(&["render", "smol", "--raw", "Hi", "--tokens"]);
    assert_eq!(tokens, [json!({"id": 26843, "text": "Hi"})]);
    assert_eq!(
        lines(&["gc", "--dry-run", "--older-than", "0"]),
        [json!({"what": "blob", "size": 8, "path": orphan})]
    );
    assert_eq!(lines(&["verify"]), Vec::<Json>::new());
}

#[test]
fn killed_fifty_times_during_create_the_store_stays_valid() {
    let sandbox = Sandbox::new();
    // 8 MiB of weights and a dozen small layers: about 20 ms of work, killed at random times.
    let mut writer = puna::format::gguf::Writer::new("test");
    writer.tensor_f32("x.weight", &[2 << 20], &vec![0.25; 2 << 20]);
    sandbox.file("model.gguf", writer.bytes());
    let mut seed = 88_172_645_463_325_252u64;
    for round in 0..50 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let modelfile = format!(
            "FROM ./model.gguf\nSYSTEM round {round}\nTEMPLATE t{round}\nLICENSE l{round}\nPARAMETER seed {round}\n"
        );
        sandbox.file("Modelfile", modelfile);
        let mut command = sandbox.command(&["create", "victim", "-q"]);
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(seed % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_valid(&sandbox);
    }
    sandbox.puna(&["create", "victim", "-q"], "").ok();
    sandbox.puna(&["rm", "victim"], "").ok();
    let blobs = fs::read_dir(sandbox.models().join("blobs")).unwrap();
    let names = blobs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let unfinished: Vec<String> = names.filter(|name| name.starts_with(".puna-")).collect();
    assert!(
        unfinished.is_empty(),
        "they go with the next collection: {unfinished:?}"
    );
}

#[test]
fn blobs_of_a_replaced_model_are_removed_unless_noprune() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    let blobs = || {
        fs::read_dir(sandbox.models().join("blobs"))
            .unwrap()
            .count()
    };
    let create = |system: &str, keep: &str| {
        sandbox.file("Modelfile", format!("FROM ./tiny.gguf\nSYSTEM {system}\n"));
        let mut command = sandbox.command(&["create", "m", "-q"]);
        crate::support::run(command.env("OLLAMA_NOPRUNE", keep), "").ok();
        blobs()
    };
    let once = create("one", "0");
    assert_eq!(create("two", "0"), once);
    let unpruned = create("three", "1");
    assert!(unpruned > once);
    sandbox.puna(&["gc", "--older-than", "0"], "").ok();
    assert_eq!(blobs(), once);
}

#[test]
fn two_creates_and_a_remove_at_once_leave_a_valid_store() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    std::thread::scope(|scope| {
        for name in ["a", "b", "c"] {
            let sandbox = &sandbox;
            scope.spawn(move || {
                for round in 0..15 {
                    let modelfile = format!("FROM ./tiny.gguf\nSYSTEM {name} {}\n", round % 3);
                    sandbox
                        .puna(&["create", name, "-q", "-f", "-"], &modelfile)
                        .ok();
                    if round % 2 == 0 {
                        sandbox.puna(&["rm", name], "").ok();
                    }
                }
            });
        }
    });
    assert_valid(&sandbox);
}

#[test]
fn a_full_disk_leaves_nothing_under_a_final_name() {
    let sandbox = Sandbox::new();
    let line = "mkdir small && mount -t tmpfs -o size=4m none small && printf 'FROM %s\\n' \"$SMOL\" > Modelfile && \
                PUNA_MODELS=$PWD/small/models puna create x; echo \"status $?\"; find small -name 'sha256-*' -o -name '.puna-*' -o -name latest";
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "bash", "-c", line])
        .current_dir(&sandbox.home);
    command.env("SMOL", smol()).env("PATH", sandbox_path());
    let done = run(&mut command, "");
    assert_eq!(done.stdout, "status 1\n", "{done:?}");
    assert!(done.stderr.contains("No space left on device"), "{done:?}");
}

fn sandbox_path() -> String {
    let folder = std::path::Path::new(crate::support::PUNA).parent().unwrap();
    format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", folder.display())
}

/// A sandbox with a store in Ollama's layout that contains one model, `theirs`.
fn with_ollamas_store() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    sandbox
        .puna(
            &["create", "theirs", "-q", "-f", "-"],
            "FROM ./tiny.gguf\nSYSTEM theirs\n",
        )
        .ok();
    fs::create_dir_all(sandbox.home.join(".ollama")).unwrap();
    fs::rename(sandbox.models(), sandbox.home.join(".ollama/models")).unwrap();
    sandbox
}

#[test]
fn ollamas_store_is_read_in_place_and_never_written() {
    let sandbox = with_ollamas_store();
    let count = || walk(&sandbox.home.join(".ollama"));
    let before = count();
    assert!(
        sandbox
            .puna(&["ls"], "")
            .ok()
            .starts_with("theirs:latest\t")
    );
    assert!(
        sandbox
            .puna(&["show", "THEIRS"], "")
            .ok()
            .contains("origin\tOllama's store")
    );
    sandbox
        .puna(&["rm", "theirs"], "")
        .fails(12, "Ollama's store, which puna only reads");
    sandbox.puna(&["cp", "theirs", "mine"], "").ok();
    sandbox
        .puna(
            &["create", "made", "-q", "-f", "-"],
            "FROM theirs\nSYSTEM made\n",
        )
        .ok();
    assert_eq!(count(), before, "nothing was added, removed or changed");
    fs::remove_dir_all(sandbox.home.join(".ollama")).unwrap();
    assert_eq!(
        sandbox.puna(&["show", "mine", "--system"], "").ok(),
        "theirs\n"
    );
    assert_eq!(
        sandbox.puna(&["show", "made", "--system"], "").ok(),
        "made\n"
    );
    assert_eq!(sandbox.puna(&["ls"], "").ok().lines().count(), 2);
}

fn walk(folder: &std::path::Path) -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        found.push((entry.path(), entry.metadata().unwrap().modified().unwrap()));
        if entry.path().is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found.sort();
    found
}

#[test]
fn broken_files_hide_nothing() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    sandbox
        .puna(&["create", "good", "-q", "-f", "-"], "FROM ./tiny.gguf\n")
        .ok();
    let folder = sandbox
        .models()
        .join("manifests/registry.ollama.ai/library");
    sandbox.file(
        ".local/share/puna/models/manifests/registry.ollama.ai/library/bad/latest",
        "<html>",
    );
    sandbox.file(
        ".local/share/puna/models/manifests/registry.ollama.ai/library/good/.DS_Store",
        "x",
    );
    fs::create_dir_all(folder.join("gone")).unwrap();
    symlink("/nowhere", folder.join("gone/latest")).unwrap();
    let listed = sandbox.puna(&["ls"], "");
    assert!(
        listed.stdout.starts_with("good:latest\t") && listed.stdout.lines().count() == 1,
        "{listed:?}"
    );
    assert!(
        listed.stderr.contains("/bad/latest is damaged"),
        "{listed:?}"
    );
    sandbox
        .puna(&["show", "bad"], "")
        .fails(8, "broken manifest");
    sandbox.puna(&["show", "good"], "").ok();
}

#[test]
fn files_that_are_no_files_block_nothing() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    let good = ["create", "good", "-q", "-f", "-"];
    sandbox.puna(&good, "FROM ./tiny.gguf\n").ok();
    let folder = sandbox
        .models()
        .join("manifests/registry.ollama.ai/library");
    fs::create_dir_all(folder.join("pipe")).unwrap();
    fs::create_dir_all(folder.join("socket")).unwrap();
    let mut mkfifo = std::process::Command::new("mkfifo");
    let made = mkfifo.arg(folder.join("pipe/latest")).status();
    assert!(made.unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(folder.join("socket/latest")).unwrap();
    // A command that blocks is ended with 124.
    let timed =
        |words: &str| sandbox.shell(&format!("timeout 20 {} {words}", crate::support::PUNA));
    for (words, status, text) in [
        ("ls", 0, "good:latest"),
        ("ls --json", 0, "good:latest"),
        ("du", 0, ""),
        ("show good", 0, ""),
        ("cp good other", 0, ""),
        ("rm other", 0, ""),
        ("show pipe", 8, ""),
        ("run pipe hi", 8, ""),
        ("show socket", 8, ""),
        ("run ./pipe.gguf hi", 8, ""),
    ] {
        if words.contains("./pipe.gguf") {
            sandbox.shell("mkfifo pipe.gguf").ok();
        }
        let done = timed(words);
        assert_eq!(done.status, Some(status), "{words}: {done:?}");
        assert!(done.stdout.contains(text), "{words}: {done:?}");
        let told = ["not a regular file", "a special file"];
        let told = told.iter().any(|text| done.stderr.contains(text));
        assert!(told || status == 0, "{words}: {done:?}");
    }
    for words in ["gc", "verify"] {
        assert_ne!(timed(words).status, Some(124), "{words}");
    }
    let from = sandbox.shell("echo 'FROM ./pipe.gguf' | timeout 20 puna create x -q -f -");
    assert!(from.stderr.contains("not a regular file"), "{from:?}");
    let pull = sandbox.shell("PUNA_CA_FILE=pipe.gguf timeout 20 puna pull 127.0.0.1:9/a/b");
    assert!(pull.stderr.contains("not a regular file"), "{pull:?}");
    // What a link's target was, and files of the cache.
    sandbox.file("llama.gguf", crate::support::tiny_models::llama());
    sandbox.create("linked", "FROM ./llama.gguf\n");
    let blobs = sandbox.models().join("blobs");
    let replaced = format!(
        "cd {} && for note in *-link; do rm \"$note\" && mkfifo \"$note\"; done",
        blobs.display()
    );
    sandbox.shell(&replaced).ok();
    assert_ne!(timed("show linked").status, Some(124));
    sandbox
        .shell("mkdir -p .cache/puna/prefixes && cd .cache/puna/prefixes && mkfifo a")
        .ok();
    assert_ne!(timed("cache ls").status, Some(124));
    assert_ne!(timed("run ./tiny.gguf hi -n 1").status, Some(124));
    sandbox.shell("mkfifo keys && chmod 600 keys").ok();
    timed("serve --host 127.0.0.1:0 --api-key-file keys").fails(1, "not a regular file");
    sandbox
        .shell("mkdir -p .config/puna && mkfifo .config/puna/config")
        .ok();
    timed("ls").fails(1, "not a regular file");
}

#[test]
fn a_blob_of_the_wrong_length_is_8() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    sandbox
        .puna(&["create", "tiny", "-q", "-f", "-"], "FROM ./tiny.gguf\n")
        .ok();
    let blob = sandbox
        .models()
        .join("blobs")
        .join(Digest::compute(&tiny_gguf()).file_name());
    fs::File::options()
        .write(true)
        .open(&blob)
        .unwrap()
        .set_len(100)
        .unwrap();
    sandbox
        .puna(&["show", "tiny"], "")
        .fails(8, "100 bytes instead of");
    fs::remove_file(&blob).unwrap();
    sandbox
        .puna(&["show", "tiny"], "")
        .fails(8, "the blob is missing");
    sandbox
        .puna(&["create", "tiny", "-q", "-f", "-"], "FROM ./tiny.gguf\n")
        .ok();
    sandbox.puna(&["show", "tiny"], "").ok();
}
