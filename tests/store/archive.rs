//! Archives of models, models that `run` pulls, and a store that several processes use at once.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use puna::core::digest::Digest;

use crate::store::stress::assert_valid;
use crate::support::scripted_registry::Registry;
use crate::support::{Done, Sandbox, smol, tiny_gguf};

/// A sandbox with two models that share weights.
fn with_two() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    sandbox.create("one", "FROM ./tiny.gguf\nSYSTEM one\n");
    sandbox.create("two:v2", "FROM ./tiny.gguf\nSYSTEM two\n");
    sandbox
}

/// Runs the program with bytes as standard input.
fn feed(sandbox: &Sandbox, words: &[&str], bytes: &[u8]) -> Done {
    sandbox.file("input", bytes);
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    sandbox.shell(&format!("puna {} < input", words.join(" ")))
}

#[test]
fn models_travel_in_a_file() {
    let sandbox = with_two();
    sandbox.shell("puna export one two:v2 > models.tar").ok();
    let tar = fs::read(sandbox.home.join("models.tar")).unwrap();
    let members = sandbox.shell("tar tf models.tar").ok();
    assert!(
        members.starts_with("oci-layout\nindex.json\nblobs/sha256/"),
        "{members}"
    );
    let weights = Digest::compute(&tiny_gguf()).hex();
    assert_eq!(
        members.matches(&weights).count(),
        1,
        "shared blobs are there once"
    );
    let other = Sandbox::new();
    feed(&other, &["import"], &tar).ok();
    let digests = |sandbox: &Sandbox| {
        let listed = sandbox.puna(&["ls"], "").ok();
        let fields = listed
            .lines()
            .map(|line| line.split('\t').take(2).collect::<Vec<_>>().join(" "));
        let mut fields: Vec<String> = fields.collect();
        fields.sort();
        fields
    };
    assert_eq!(digests(&other), digests(&sandbox));
    other.puna(&["verify"], "").ok();
    assert_eq!(
        other.puna(&["show", "two:v2", "--system"], "").ok(),
        "two\n"
    );
    // Truncated anywhere, an archive adds no model.
    for length in [0, 100, 600, 2000, tar.len() / 2, tar.len() - 2000] {
        let cut = Sandbox::new();
        let done = feed(&cut, &["import"], &tar[..length]);
        assert_eq!(done.status, Some(8), "{length}: {done:?}");
        assert_eq!(cut.puna(&["ls"], "").ok(), "");
    }
}

#[test]
fn a_file_that_is_none_of_ours_is_refused() {
    let sandbox = with_two();
    sandbox
        .shell("puna export one > good.tar && mkdir x && tar xf good.tar -C x")
        .ok();
    for (what, line, words) in [
        (
            "a path that leaves",
            "cd x && tar cf ../bad.tar --transform 's,oci-layout,../../up,' -P oci-layout",
            "unexpected file",
        ),
        (
            "a link",
            "cd x && ln -s /etc/passwd blobs/sha256/link && tar cf ../bad.tar oci-layout blobs/sha256/link",
            "not a regular file",
        ),
        (
            "a member twice",
            "cd x && tar cf ../bad.tar oci-layout oci-layout --hard-dereference && tar rf ../bad.tar oci-layout",
            "duplicate file",
        ),
        (
            "a blob of another digest",
            "cd x && f=$(ls blobs/sha256 | grep -v link | head -1) && echo spoilt >> blobs/sha256/$f && tar cf ../bad.tar index.json oci-layout blobs/sha256/$f",
            "digest mismatch",
        ),
        (
            "no index",
            "cd x && tar cf ../bad.tar oci-layout",
            "no index.json",
        ),
        (
            "no archive",
            "head -c 5000 /dev/urandom > bad.tar",
            "the archive",
        ),
    ] {
        sandbox.shell(line).ok();
        let other = Sandbox::new();
        let bytes = fs::read(sandbox.home.join("bad.tar")).unwrap();
        let done = feed(&other, &["import"], &bytes);
        assert_eq!(done.status, Some(8), "{what}: {done:?}");
        assert!(done.stderr.contains(words), "{what}: {done:?}");
        assert_eq!(other.puna(&["ls"], "").ok(), "");
    }
}

#[test]
fn run_fetches_a_missing_model_only_with_the_flag() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    let name = registry.name("lib/smol");
    registry.model("smol", &fs::read(smol()).unwrap());
    let run = |more: &[&str]| {
        let words = ["run", &name, "hi", "-n", "2", "--insecure", "-q"];
        sandbox.puna(&[&words[..], more].concat(), "")
    };
    run(&[]).fails(3, "not found");
    run(&["--pull=never"]).fails(3, "not found");
    run(&["--pull=perhaps"]).fails(2, "--pull must be missing, always or never");
    assert!(registry.asked().is_empty());
    assert!(!run(&["--pull"]).ok().trim().is_empty());
    let asked = registry.asked().len();
    run(&["--pull=missing"]).ok();
    assert_eq!(
        registry.asked().len(),
        asked,
        "what is there is not asked for"
    );
    run(&["--pull=always"]).ok();
    assert_eq!(registry.asked().len(), asked + 1);
}

#[test]
fn killed_two_hundred_times_while_others_work_the_store_stays_valid() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    let mut writer = puna::format::gguf::Writer::new("test");
    writer.tensor_f32("x.weight", &[1 << 18], &vec![0.25; 1 << 18]);
    let weights = writer.bytes();
    sandbox.file("model.gguf", &weights);
    registry.model("tiny", &weights);
    let name = registry.name("lib/tiny");
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |limit: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % limit
    };
    let started = Instant::now();
    for round in 0..200 {
        let spawn = |number: u64| {
            let words: &[&str] = match number {
                0 => &["create", "a", "-q", "-f", "-"],
                1 => &["create", "b", "-q", "-f", "-"],
                2 | 3 => &["pull", "--insecure", "-q", &name],
                4 => &["rm", "-f", "a"],
                5 => &["rm", "-f", &name],
                _ => &["gc", "--older-than", "0"],
            };
            let mut command = sandbox.command(words);
            command.env("PUNA_PART_BYTES", "65536");
            let child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = child.spawn().unwrap();
            let modelfile = format!("FROM ./model.gguf\nSYSTEM round {round}\nLICENSE l{round}\n");
            // A command that does not read its input closes it.
            let _ = child.stdin.take().unwrap().write_all(modelfile.as_bytes());
            child
        };
        let (mut victim, mut other) = (spawn(random(7)), spawn(random(7)));
        std::thread::sleep(Duration::from_micros(random(30_000)));
        victim.kill().unwrap();
        victim.wait().unwrap();
        other.wait().unwrap();
        if round % 20 == 19 {
            assert_valid(&sandbox);
        }
    }
    sandbox.puna(&["pull", "--insecure", "-q", &name], "").ok();
    sandbox
        .puna(&["create", "a", "-q", "-f", "-"], "FROM ./model.gguf\n")
        .ok();
    assert_valid(&sandbox);
    sandbox.puna(&["verify"], "").ok();
    sandbox.puna(&["gc", "--older-than", "0"], "").ok();
    assert_eq!(sandbox.puna(&["gc", "--older-than", "0"], "").ok(), "");
    assert!(started.elapsed() < Duration::from_secs(300));
}
