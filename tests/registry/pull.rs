//! Pulling models: the result is byte for byte the registry's model, whatever happens during the download.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use puna::core::digest::Digest;
use puna::format::gguf::Writer;
use serde_json::{Value as Json, json};

use crate::support::scripted_registry::{Asked, Registry};
use crate::support::{Done, Sandbox, eventually, tiny_gguf};

/// Weights of about 300 KB: ten parts of 32 KiB, the part size of these tests.
pub fn weights() -> Vec<u8> {
    let mut writer = Writer::new("test");
    writer.unsigned("test.context_length", 64);
    let data: Vec<f32> = (0..75_000).map(|number| number as f32 * 0.37).collect();
    writer.tensor_f32("x.weight", &[75_000], &data);
    writer.bytes()
}

/// Runs the program with small parts and short pauses.
pub fn quick(sandbox: &Sandbox, words: &[&str]) -> Done {
    let mut command = sandbox.command(words);
    command.envs([
        ("PUNA_PART_BYTES", "32768"),
        ("PUNA_STALL_TIME", "1s"),
        ("PUNA_RETRY_PAUSE", "5ms"),
    ]);
    crate::support::run(&mut command, "")
}

pub fn pull(sandbox: &Sandbox, name: &str) -> Done {
    quick(sandbox, &["pull", "--insecure", "-q", name])
}

/// Asserts that a model was pulled byte for byte.
pub fn assert_pulled(sandbox: &Sandbox, registry: &Registry, manifest: &[u8]) {
    let name = registry.name("lib/tiny");
    let listed = sandbox.puna(&["ls"], "").ok();
    assert!(
        listed.contains(&Digest::compute(manifest).to_string()),
        "{listed}"
    );
    assert_eq!(
        sandbox.puna(&["show", &name, "--system"], "").ok(),
        "You are pulled.\n"
    );
    sandbox.puna(&["verify"], "").ok();
    assert_eq!(leftovers(sandbox), [""; 0]);
}

/// Files of the store that are not blobs.
pub fn leftovers(sandbox: &Sandbox) -> Vec<String> {
    let entries = fs::read_dir(sandbox.models().join("blobs"));
    let names = entries.into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| Digest::parse(name).is_err()).collect()
}

#[test]
fn a_model_arrives_as_it_is_and_only_once() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    let manifest = registry.model("tiny", &weights());
    let name = registry.name("lib/tiny");
    let done = pull(&sandbox, &name);
    assert_eq!(
        (done.status, done.stdout.as_str(), done.stderr.as_str()),
        (Some(0), "", "")
    );
    assert_pulled(&sandbox, &registry, &manifest);
    let blobs = registry.asked();
    let mut ranges: Vec<(usize, usize)> = blobs.iter().filter_map(Asked::range).collect();
    ranges.sort_unstable();
    let borders = ranges.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0);
    assert!(
        borders && ranges.len() == 10,
        "each byte was asked for once: {ranges:?}"
    );
    assert_eq!(registry.count("HEAD"), 0);
    let agent = blobs[0].header("user-agent");
    assert!(agent.starts_with("puna/"), "{agent}");
    // A second pull requests only the manifest.
    let before = registry.asked().len();
    pull(&sandbox, &name).ok();
    assert_eq!(registry.asked().len(), before + 1);
    // A different spelling means the same model.
    let upper = registry.name("LIB/Tiny");
    registry
        .held
        .lock()
        .unwrap()
        .manifests
        .insert("LIB/Tiny:latest".into(), manifest);
    pull(&sandbox, &upper).ok();
    assert_eq!(sandbox.puna(&["ls"], "").ok().lines().count(), 1);
    // A newer version replaces the model and removes its unused blobs.
    let mut newer = weights();
    let end = newer.len() - 40;
    newer[end] ^= 1;
    let manifest = registry.model("tiny", &newer);
    let outdated = quick(&sandbox, &["outdated", "--insecure"]);
    assert_eq!((outdated.status, outdated.stderr.as_str()), (Some(13), ""));
    let objects = quick(&sandbox, &["outdated", "--insecure", "--json"]).stdout;
    let object: Json = serde_json::from_str(&objects).unwrap();
    assert_eq!(
        Some(object["name"].as_str().unwrap()),
        outdated.stdout.strip_suffix('\n')
    );
    assert!(
        outdated.stdout.ends_with("/lib/tiny:latest\n"),
        "{outdated:?}"
    );
    let check = ["pull", "--insecure", "--check", &name];
    assert_eq!(quick(&sandbox, &check).status, Some(13));
    quick(&sandbox, &["pull", "--all", "--insecure"]).ok();
    assert_eq!(quick(&sandbox, &check).status, Some(0));
    assert_pulled(&sandbox, &registry, &manifest);
    let old = Digest::compute(&weights()).file_name();
    assert!(!sandbox.models().join("blobs").join(old).exists());
}

#[test]
fn the_apis_records_come_in_order() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    registry.model("tiny", &weights());
    let name = registry.name("lib/tiny");
    let server = sandbox.serve(&[("PUNA_PART_BYTES", "32768"), ("PUNA_RETRY_PAUSE", "5ms")]);
    let body = |name: &str, stream: bool| {
        json!({"model": name, "insecure": true, "stream": stream}).to_string()
    };
    for round in 0..2 {
        let lines = server.ask("POST", "/api/pull", &body(&name, true)).lines();
        let status = |line: &Json| line["status"].as_str().unwrap().to_string();
        assert_eq!(status(&lines[0]), "pulling manifest");
        let ends: Vec<String> = lines[lines.len() - 3..].iter().map(status).collect();
        assert_eq!(
            ends,
            ["verifying sha256 digest", "writing manifest", "success"]
        );
        let blobs = &lines[1..lines.len() - 3];
        let whole = blobs
            .iter()
            .filter(|line| line["completed"] == line["total"]);
        assert_eq!(whole.count(), 3, "round {round}: {blobs:?}");
        let first = Digest::compute(&weights());
        assert_eq!(status(&blobs[0]), format!("pulling {}", &first.hex()[..12]));
        assert_eq!(blobs[0]["digest"], first.to_string());
        let done = |line: &Json| line["completed"].as_u64().unwrap_or(0);
        let of_first = blobs
            .iter()
            .filter(|line| line["digest"] == first.to_string());
        let counts: Vec<u64> = of_first.map(done).collect();
        assert!(counts.is_sorted(), "{counts:?}");
    }
    let only = server.ask("POST", "/api/pull", &body(&name, false));
    assert_eq!(only.body, r#"{"status":"success"}"#);
    // 85, 86, and an invalid name.
    let lines = server
        .ask("POST", "/api/pull", &body(&registry.name("lib/none"), true))
        .lines();
    let text = json!({"error": "pull model manifest: file does not exist"});
    assert_eq!(lines[1]["error"], text["error"]);
    assert_eq!(lines[1]["puna_error"], "model");
    let answer = server.ask(
        "POST",
        "/api/pull",
        &body(&registry.name("lib/none"), false),
    );
    assert_eq!((answer.status, answer.json()), (500, text));
    let wrong = server.ask("POST", "/api/pull", &body("a b", true));
    assert_eq!(
        (wrong.status, wrong.error().as_str()),
        (400, "invalid model name")
    );
    // 87.
    let push = server
        .ask("POST", "/api/push", &body("nothing", true))
        .lines();
    assert_eq!(push[0]["status"], "retrieving manifest");
    assert_eq!(push[1]["status"], "couldn't retrieve manifest");
    assert!(push[2]["error"].as_str().unwrap().contains("not found"));
}

#[test]
fn a_pull_that_was_killed_goes_on_where_it_was() {
    let sandbox = Sandbox::new();
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    let registry = Registry::scripted(|asked, answer| {
        let mut say = answer();
        // At first, the bytes after the third part never arrive.
        if OPEN.load(Ordering::Relaxed) == 0 && asked.range().is_some_and(|range| range.0 >= 98_304)
        {
            say.stall = Some(100);
        }
        say
    });
    let manifest = registry.model("tiny", &weights());
    let name = registry.name("lib/tiny");
    let mut command = sandbox.command(&["pull", "--insecure", "--json", &name]);
    command.envs([("PUNA_PART_BYTES", "32768"), ("PUNA_STALL_TIME", "60s")]);
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    // Complete ranges are saved every two seconds.
    eventually("written down", Duration::from_secs(20), || {
        leftovers(&sandbox)
            .iter()
            .any(|name| name.ends_with("-partial-0"))
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(sandbox.puna(&["ls"], "").ok(), "");
    assert!(!leftovers(&sandbox).is_empty(), "the partial file stays");
    OPEN.store(1, Ordering::Relaxed);
    let before = registry.asked().len();
    pull(&sandbox, &name).ok();
    assert_pulled(&sandbox, &registry, &manifest);
    let again = registry.asked()[before..]
        .iter()
        .filter_map(Asked::range)
        .map(|range| range.0)
        .min();
    assert!(
        again.unwrap() >= 98_304,
        "the first parts are not fetched again: {again:?}"
    );
}

#[test]
fn pulls_at_once_share_the_work() {
    let sandbox = Sandbox::new();
    let registry = Registry::scripted(|asked, answer| {
        if asked.range().is_some() {
            std::thread::sleep(Duration::from_millis(20));
        }
        answer()
    });
    let manifest = registry.model("tiny", &weights());
    registry.model("other", &weights());
    std::thread::scope(|scope| {
        for model in ["lib/tiny", "lib/tiny", "lib/other"] {
            let (sandbox, registry) = (&sandbox, &registry);
            scope.spawn(move || pull(sandbox, &registry.name(model)).ok());
        }
    });
    assert_pulled(&sandbox, &registry, &manifest);
    let parts = registry
        .asked()
        .iter()
        .filter(|asked| asked.range().is_some())
        .count();
    assert_eq!(parts, 10, "each part was fetched once");
}

#[test]
fn damaged_blobs_are_noticed_and_fetched_again() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    let manifest = registry.model("tiny", &weights());
    let name = registry.name("lib/tiny");
    pull(&sandbox, &name).ok();
    let path = sandbox.puna(&["path", &name], "").ok();
    let path = path.trim_end();
    // Truncated: the next pull notices at once.
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(1000)
        .unwrap();
    pull(&sandbox, &name).ok();
    assert_pulled(&sandbox, &registry, &manifest);
    // Changed with the same length: verify notices.
    let mut bytes = weights();
    bytes[5000] ^= 1;
    fs::write(path, &bytes).unwrap();
    let done = sandbox.puna(&["verify"], "");
    assert_eq!(done.status, Some(8));
    assert!(
        done.stdout
            .starts_with(&Digest::compute(&weights()).to_string()),
        "{done:?}"
    );
    let object: Json =
        serde_json::from_str(&sandbox.puna(&["verify", "--json"], "").stdout).unwrap();
    assert_eq!(object["digest"], Digest::compute(&weights()).to_string());
    assert_eq!(object["name"], format!("{name}:latest"));
    quick(&sandbox, &["verify", "--repair", "--insecure", "-q"])
        .status
        .unwrap();
    assert_pulled(&sandbox, &registry, &manifest);
}

#[test]
fn garbage_goes_when_it_is_old() {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    sandbox.create("tiny", "FROM ./tiny.gguf\n");
    let blobs = sandbox.models().join("blobs");
    let unused = blobs.join(Digest::compute(b"unused").file_name());
    fs::write(&unused, "unused").unwrap();
    let partial = blobs.join(format!("{}-partial", Digest::compute(b"x").file_name()));
    fs::write(&partial, "half").unwrap();
    assert_eq!(sandbox.puna(&["gc"], "").ok(), "", "both are young");
    let listed = sandbox
        .puna(&["gc", "--dry-run", "--older-than", "0"], "")
        .ok();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(unused.exists() && partial.exists());
    let usage = sandbox.puna(&["du"], "").ok();
    assert!(
        usage.starts_with("tiny:latest\t") && usage.contains("(partial)\t4\t4\n"),
        "{usage}"
    );
    // A manifest that cannot be read may use any blob: nothing is removed, and du reports the same.
    let broken = sandbox
        .models()
        .join("manifests/registry.ollama.ai/library/broken/latest");
    fs::create_dir_all(broken.parent().unwrap()).unwrap();
    fs::write(&broken, "{").unwrap();
    sandbox
        .puna(&["gc", "--older-than", "0"], "")
        .fails(1, "may use any blob");
    assert_eq!(sandbox.puna(&["du"], "").ok(), usage);
    fs::remove_file(&broken).unwrap();
    assert_eq!(sandbox.puna(&["gc", "--older-than", "0"], "").ok(), listed);
    assert!(!unused.exists() && !partial.exists());
    sandbox.puna(&["show", "tiny"], "").ok();
    sandbox
        .puna(&["gc", "--older-than", "soon"], "")
        .fails(2, "must be a duration");
}

#[test]
fn a_full_disk_ends_a_pull_and_keeps_its_partial_file() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    registry.model("tiny", &weights());
    let name = registry.name("lib/tiny");
    // First a disk without room for the model; then one that another program fills while bytes come.
    let line = format!(
        "mkdir small && mount -t tmpfs -o size=200k none small && export PUNA_MODELS=$PWD/small/models
         puna pull --insecure -q {name}; echo \"status $?\"
         mount -o remount,size=600k small
         (puna pull --insecure -q --limit-rate 100K {name}; echo \"status $?\" > status) &
         until [ $(du -sk small | cut -f1) -gt 60 ] || [ -e status ]; do sleep 0.02; done
         head -c 1M /dev/zero > small/filler 2> errors; wait; cat status
         find small -name '*-partial' -size +0 | wc -l; find small/models/manifests -name latest | wc -l
         rm small/filler; puna pull --insecure -q {name}; echo \"status $?\"; find small/models/manifests -name latest | wc -l"
    );
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "bash", "-c", &line])
        .current_dir(&sandbox.home);
    let folder = std::path::Path::new(crate::support::PUNA).parent().unwrap();
    let path = format!("{}:/usr/bin:/bin:/usr/sbin:/sbin", folder.display());
    let done = crate::support::run(command.env("PATH", path), "");
    // No manifest was written, and the received bytes stay for the next attempt.
    let expected = "status 1\nstatus 1\n1\n0\nstatus 0\n1\n";
    assert_eq!(done.stdout, expected, "{done:?}");
    for words in ["not enough room", "No space left on device"] {
        assert!(done.stderr.contains(words), "{done:?}");
    }
}

#[test]
fn a_rate_limit_is_enforced() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    registry.model("tiny", &weights());
    let started = Instant::now();
    quick(
        &sandbox,
        &[
            "pull",
            "--insecure",
            "-q",
            "--limit-rate",
            "300K",
            &registry.name("lib/tiny"),
        ],
    )
    .ok();
    assert!(
        started.elapsed() > Duration::from_millis(800),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn plain_files_become_models() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("Some-Model.gguf", tiny_gguf());
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let registry =
        Registry::scripted(
            |asked, _| match asked.line.starts_with("GET /files/Tiny-1B.Q4.gguf") {
                true => {
                    let mut say = crate::support::scripted_registry::blob(&weights(), asked);
                    // Every second response is truncated.
                    if say.body.len() > 1 && COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(2)
                    {
                        say.cut = Some(say.body.len() / 2);
                    }
                    say
                }
                false => crate::support::scripted_registry::Say::status(404),
            },
        );
    let url = format!(
        "http://{}/files/Tiny-1B.Q4.gguf?download=true",
        registry.address
    );
    quick(&sandbox, &["pull", "--insecure", "-q", &url]).ok();
    quick(
        &sandbox,
        &[
            "pull",
            "-q",
            &format!("file:{}", path.display()),
            "--name",
            "mine:v1",
        ],
    )
    .ok();
    quick(&sandbox, &["pull", "--host", "127.0.0.1:9", &url])
        .fails(2, "a server cannot fetch a file");
    let listed = sandbox.puna(&["ls"], "").ok();
    assert!(
        listed.contains("tiny-1b.q4:latest\t") && listed.contains("mine:v1\t"),
        "{listed}"
    );
    sandbox.puna(&["verify"], "").ok();
    assert_eq!(leftovers(&sandbox), [""; 0]);
    quick(&sandbox, &["pull", "-q", &url]).fails(2, "only with --insecure");
    let none = url.replace("Tiny", "None");
    quick(&sandbox, &["pull", "--insecure", "-q", &none]).fails(3, "no such file");
    quick(&sandbox, &["pull", "-q", "file:/nowhere.gguf"]).fails(1, "cannot read /nowhere.gguf");
}

#[test]
fn a_lock_file_pins_what_is_pulled() {
    let (sandbox, registry) = (Sandbox::new(), Registry::new());
    let manifest = registry.model("tiny", &weights());
    let name = registry.name("lib/tiny");
    pull(&sandbox, &name).ok();
    // The output of ls serves as a lock file.
    let lock = sandbox.shell("puna ls | cut -f1,2 | tee models.lock").ok();
    assert!(
        lock.contains(&Digest::compute(&manifest).to_string()),
        "{lock}"
    );
    let locked = |words: &[&str]| {
        let words = [&["pull", "--insecure", "-q", "--locked"], words].concat();
        quick(&sandbox, &words)
    };
    // A model that is present needs no registry; a missing one is fetched in the locked version.
    let asked = registry.asked().len();
    locked(&[]).ok();
    assert_eq!(registry.asked().len(), asked);
    sandbox.puna(&["rm", &name], "").ok();
    locked(&[]).ok();
    assert_pulled(&sandbox, &registry, &manifest);
    // The tag has a newer version: the registry still has the old manifest by digest, or not.
    sandbox.puna(&["rm", &name], "").ok();
    registry.model("tiny", &tiny_gguf());
    locked(&[]).fails(8, "does not match the lock file");
    assert_eq!(sandbox.puna(&["ls"], "").ok(), "");
    let by_digest = format!("lib/tiny:{}", Digest::compute(&manifest));
    let mut held = registry.held.lock().unwrap();
    held.manifests.insert(by_digest, manifest.clone());
    drop(held);
    locked(&[&name]).ok();
    assert_pulled(&sandbox, &registry, &manifest);
    locked(&["other"]).fails(2, "is not in models.lock");
    locked(&["--all"]).fails(2, "--locked cannot be used with a server, --all or --check");
    sandbox.file("bad.lock", "# names\nsmol\n");
    let bad = quick(&sandbox, &["pull", "--locked=bad.lock"]);
    bad.fails(2, "bad.lock, line 2: expected a name");
    let none = quick(&sandbox, &["pull", "--locked=none.lock"]);
    none.fails(1, "cannot read none.lock");
}
