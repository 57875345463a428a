//! Stores whose files are links, have other names, or belong to somebody else.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::tiny_models;
use crate::support::{Done, Sandbox};

/// A sandbox with the model `tiny`, and the path of its weights.
fn tiny() -> (Sandbox, std::path::PathBuf) {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_models::llama());
    let done = sandbox.puna(&["create", "tiny", "-q", "-f", "-"], "FROM ./tiny.gguf\n");
    done.ok();
    let path = sandbox.puna(&["path", "tiny"], "").ok();
    (sandbox, path.trim().into())
}

#[test]
fn a_blob_on_another_disk_is_read_there_and_stays_there() {
    let (sandbox, blob) = tiny();
    let elsewhere = sandbox.home.join("elsewhere");
    fs::rename(&blob, &elsewhere).unwrap();
    symlink(&elsewhere, &blob).unwrap();
    sandbox.puna(&["run", "tiny", "a", "-n", "1"], "").ok();
    sandbox.puna(&["verify"], "").ok();
    sandbox.puna(&["rm", "tiny"], "").ok();
    assert!(fs::symlink_metadata(&blob).is_err() && elsewhere.is_file());
    // One that leads nowhere is missing, and no reason to fail for the others.
    sandbox
        .puna(&["create", "tiny", "-q", "-f", "-"], "FROM ./tiny.gguf\n")
        .ok();
    fs::remove_file(&blob).unwrap();
    symlink("/nowhere", &blob).unwrap();
    assert!(sandbox.puna(&["ls"], "").ok().contains("tiny:latest"));
    sandbox.puna(&["run", "tiny", "a"], "").fails(8, "missing");
}

#[test]
fn a_manifest_that_is_a_link_is_read_as_a_manifest() {
    let (sandbox, _) = tiny();
    let names = sandbox
        .models()
        .join("manifests/registry.ollama.ai/library");
    for (name, target) in [("evil", "/etc/passwd"), ("alias", "../tiny/latest")] {
        fs::create_dir(names.join(name)).unwrap();
        symlink(target, names.join(name).join("latest")).unwrap();
    }
    let evil = sandbox.puna(&["show", "evil"], "");
    assert!(!evil.fails(8, "broken manifest").contains("root:"));
    sandbox.puna(&["run", "alias", "a", "-n", "1"], "").ok();
    sandbox.puna(&["rm", "alias"], "").ok();
    sandbox.puna(&["run", "tiny", "a", "-n", "1"], "").ok();
    assert!(fs::metadata("/etc/passwd").is_ok());
}

#[test]
fn a_blob_with_a_second_name_is_not_written_through_it() {
    let (sandbox, blob) = tiny();
    let second = sandbox.home.join("second.gguf");
    fs::hard_link(&blob, &second).unwrap();
    let before = fs::read(&second).unwrap();
    let again = "FROM ./second.gguf\nSYSTEM x\n";
    sandbox
        .puna(&["create", "tiny", "-q", "-f", "-"], again)
        .ok();
    sandbox.puna(&["rm", "tiny"], "").ok();
    sandbox.puna(&["gc", "--older-than", "0s"], "").ok();
    assert!(!blob.exists());
    assert_eq!(fs::read(&second).unwrap(), before);
    // With --link the store has no copy of its own, and what changes there is seen.
    sandbox
        .puna(&["create", "tiny", "--link", "-q", "-f", "-"], again)
        .ok();
    let mut changed = before;
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&second, &changed).unwrap();
    let done = sandbox.puna(&["verify"], "");
    assert_eq!(done.status, Some(8), "{done:?}");
    assert!(
        done.stdout.contains("the linked file has changed"),
        "{done:?}"
    );
}

#[test]
fn a_store_of_another_user_is_read_and_never_changed() {
    let (sandbox, _) = tiny();
    let store = sandbox.models().display().to_string();
    let other = |words: &str| -> Done {
        sandbox.shell(&format!(
            "chmod a+rx $HOME && chmod -R a+rX $HOME/.local && cp -n $(command -v puna) $HOME/bin; chmod a+rx $HOME/bin; \
             echo 'FROM tiny' | exec setpriv --reuid=65534 --regid=65534 --clear-groups \
             env -i HOME=/nowhere PUNA_MODELS={store} $HOME/bin {words}"
        ))
    };
    let digest = sandbox.puna(&["ls"], "").ok();
    for words in [
        "ls",
        "show tiny",
        "run tiny a -n 1",
        "verify",
        "du",
        "path tiny",
    ] {
        let done = other(words);
        assert_eq!(done.status, Some(0), "{words}: {done:?}");
    }
    for words in [
        "rm tiny",
        "cp tiny x",
        "create x -f -",
        "gc",
        "create tiny -f -",
    ] {
        let done = other(words);
        assert_eq!(done.status, Some(12), "{words}: {done:?}");
        assert_eq!(done.stderr.lines().count(), 1, "{words}: {done:?}");
    }
    assert_eq!(sandbox.puna(&["ls"], "").ok(), digest);
    // The administrator's own user can do all, as everywhere.
    sandbox.shell("chown -R 65534:65534 $HOME/.local").ok();
    sandbox.puna(&["run", "tiny", "a", "-n", "1"], "").ok();
    sandbox.puna(&["cp", "tiny", "x"], "").ok();
}
