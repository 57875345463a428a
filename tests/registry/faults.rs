//! Registries that redirect, fail, or give wrong answers.

use std::sync::atomic::{AtomicUsize, Ordering};

use puna::core::digest::Digest;
use serde_json::json;

use crate::registry::pull::{assert_pulled, leftovers, pull, weights};
use crate::support::scripted_registry::{Asked, Registry, Say, blob};
use crate::support::{Sandbox, tiny_gguf};

#[test]
fn redirects_are_followed_without_credentials() {
    for status in [301, 302, 303, 307, 308] {
        let sandbox = Sandbox::new();
        let cdn = Registry::scripted(|asked, _| blob(&weights(), asked));
        let elsewhere = cdn.address;
        let registry = Registry::scripted(move |asked, answer| {
            let digest = Digest::compute(&weights()).to_string();
            match asked.line.as_str() {
                line if line.contains("hop") => {
                    Say::on_to(status, format!("http://{elsewhere}/x?signed=1"))
                }
                line if line.ends_with(&digest) => Say::on_to(status, "/hop"),
                _ => answer(),
            }
        });
        let manifest = registry.model("tiny", &weights());
        pull(&sandbox, &registry.name("lib/tiny")).ok();
        assert_pulled(&sandbox, &registry, &manifest);
        let asked = cdn.asked();
        assert!(!asked.is_empty());
        assert!(
            asked
                .iter()
                .all(|asked| asked.header("authorization").is_empty())
        );
    }
    let sandbox = Sandbox::new();
    let looping = Registry::scripted(|asked, _| Say::on_to(307, asked.line[4..].to_string()));
    pull(&sandbox, &looping.name("lib/tiny")).fails(7, "more than 10 redirects");
}

#[test]
fn signed_addresses_are_renewed() {
    let sandbox = Sandbox::new();
    static SIGNED: AtomicUsize = AtomicUsize::new(0);
    let cdn = Registry::scripted(|asked, _| {
        // Each signed address is valid for two requests.
        let number: usize = asked.line.rsplit('=').next().unwrap().parse().unwrap();
        match SIGNED.fetch_add(1, Ordering::Relaxed) < number * 2 {
            true => blob(&weights(), asked),
            false => Say::status(403),
        }
    });
    let elsewhere = cdn.address;
    let registry = Registry::scripted(move |asked, answer| {
        let digest = Digest::compute(&weights()).to_string();
        match asked.line.ends_with(&digest) {
            true => {
                let number = SIGNED.load(Ordering::Relaxed) / 2 + 1;
                Say::on_to(307, format!("http://{elsewhere}/x?n={number}"))
            }
            false => answer(),
        }
    });
    let manifest = registry.model("tiny", &weights());
    let mut command = sandbox.command(&["pull", "--insecure", "-q", &registry.name("lib/tiny")]);
    command.envs([
        ("PUNA_PART_BYTES", "32768"),
        ("PUNA_RETRY_PAUSE", "5ms"),
        ("PUNA_PULL_STREAMS", "1"),
    ]);
    crate::support::run(&mut command, "").ok();
    assert_pulled(&sandbox, &registry, &manifest);
}

#[test]
fn network_faults_are_retried_until_the_blob_is_complete() {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let first_of_two = || COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
    type Break = fn(&mut Say, usize);
    let breaks: [(&str, Break); 9] = [
        ("cut", |say, count| {
            say.cut = Some(say.body.len() * (count % 10) / 10)
        }),
        ("silent before a byte", |say, _| say.stall = Some(0)),
        ("silent in the middle", |say, _| {
            say.stall = Some(say.body.len() / 2)
        }),
        ("500", |say, _| *say = Say::status(500)),
        ("502", |say, _| *say = Say::status(502)),
        ("429", |say, _| {
            *say = Say::status(429);
            say.headers.push(("Retry-After", "0".into()));
        }),
        ("another range", |say, _| say.headers.clear()),
        ("another total", |say, _| {
            say.headers = vec![("Content-Range", "bytes 0-5/6".into())];
        }),
        ("too short", |say, _| {
            say.length = Some(say.body.len());
            say.cut = Some(say.body.len() - 1);
        }),
    ];
    for (what, spoil) in breaks {
        COUNT.store(0, Ordering::Relaxed);
        let sandbox = Sandbox::new();
        let registry = Registry::scripted(move |asked, answer| {
            let mut say = answer();
            if asked.range().is_some() && first_of_two() {
                spoil(&mut say, COUNT.load(Ordering::Relaxed));
            }
            say
        });
        let manifest = registry.model("tiny", &weights());
        let done = pull(&sandbox, &registry.name("lib/tiny"));
        assert_eq!(done.status, Some(0), "{what}: {done:?}");
        assert_pulled(&sandbox, &registry, &manifest);
    }
}

#[test]
fn registries_that_ignore_ranges_are_read_in_one_piece() {
    let sandbox = Sandbox::new();
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let registry = Registry::scripted(|asked, answer| match asked.range() {
        None => answer(),
        Some(_) => {
            let mut say = Say::body(weights());
            if COUNT.fetch_add(1, Ordering::Relaxed) < 12 {
                say.cut = Some(200_000);
            }
            say
        }
    });
    let manifest = registry.model("tiny", &weights());
    pull(&sandbox, &registry.name("lib/tiny")).ok();
    assert_pulled(&sandbox, &registry, &manifest);
}

#[test]
fn invalid_data_is_an_error_and_leaves_no_final_file() {
    let manifest_of = |bytes: &'static [u8]| {
        move |asked: &Asked, answer: &mut dyn FnMut() -> Say| match asked
            .line
            .contains("/manifests/")
        {
            true => Say::body(bytes),
            false => answer(),
        }
    };
    let layer = |digest: &str, size: i64| -> &'static [u8] {
        let layer = json!({"mediaType": "application/vnd.ollama.image.model", "digest": digest, "size": size});
        let text = json!({"schemaVersion": 2, "layers": [layer]}).to_string();
        Box::leak(text.into_bytes().into_boxed_slice())
    };
    let hex = "a".repeat(64);
    let paths = [
        "sha256:../../x",
        "sha256-../x",
        "../../etc/passwd",
        "sha256:",
        "md5:x",
        "/etc/passwd",
    ];
    let mut cases: Vec<(&'static [u8], i32, &str)> = vec![
        (b"<html>login</html>", 8, "web page"),
        (b"{\"layers\":", 8, "EOF while parsing"),
        (b"{}", 8, "lists no layers"),
        (layer(&format!("sha256:{hex}"), -1), 8, "invalid layer size: -1"),
        (layer(&format!("sha256:{hex}"), i64::MAX), 8, "invalid layer size: 9223372036854775807"),
        (layer(&format!("sha256:{hex}"), 1 << 49), 1, "not enough room"),
        (layer(&format!("sha256:{hex}"), 5), 7, "404"),
        (
            b"{\"layers\":[{\"mediaType\":\"application/vnd.ollama.image.tensor\",\"digest\":\"\",\"size\":1}]}",
            8,
            "MLX tensors",
        ),
    ];
    cases.extend(paths.map(|path| (layer(path, 5), 8, "invalid digest format")));
    for (bytes, status, words) in cases {
        let sandbox = Sandbox::new();
        let registry = Registry::scripted(manifest_of(bytes));
        pull(&sandbox, &registry.name("lib/tiny")).fails(status, words);
        assert_eq!(sandbox.puna(&["ls"], "").ok(), "");
        assert!(!sandbox.home.join("x").exists());
    }
    type Answer = fn() -> Say;
    let answers: [(Answer, i32, &str); 6] = [
        (
            || Say::status(404),
            3,
            "pull model manifest: file does not exist",
        ),
        (
            || Say {
                body: b"needs a newer\nversion".to_vec(),
                ..Say::status(412)
            },
            7,
            "412: needs a newer version",
        ),
        (|| Say::status(500), 7, "pull model manifest: 500"),
        (|| Say::status(401), 12, "unauthorized: access denied"),
        (|| Say::body(vec![b' '; 5 << 20]), 1, "too large"),
        (
            || Say {
                cut: Some(3),
                ..Say::body("{\"layers\":[]}")
            },
            7,
            "pull model manifest",
        ),
    ];
    for (answer, status, words) in answers {
        let sandbox = Sandbox::new();
        let registry = Registry::scripted(move |_, _| answer());
        pull(&sandbox, &registry.name("lib/tiny")).fails(status, words);
    }
    let sandbox = Sandbox::new();
    pull(&sandbox, "127.0.0.1:9/lib/tiny").fails(7, "Connection refused");
    sandbox
        .puna(&["pull"], "")
        .fails(2, "no model given: name one, or give --all");
    sandbox
        .puna(&["pull", "a b"], "")
        .fails(2, "invalid model name");
    sandbox
        .puna(&["pull", "x", "--limit-rate", "fast"], "")
        .fails(2, "a rate is bytes per second");
}

#[test]
fn bytes_of_another_digest_are_discarded() {
    let sandbox = Sandbox::new();
    static GOOD: AtomicUsize = AtomicUsize::new(0);
    let registry = Registry::scripted(|asked, answer| {
        let mut say = answer();
        if GOOD.load(Ordering::Relaxed) == 0 && asked.range().is_some_and(|range| range.0 == 65_536)
        {
            say.body[7] ^= 1;
        }
        say
    });
    let manifest = registry.model("tiny", &weights());
    let line = pull(&sandbox, &registry.name("lib/tiny")).fails(
        8,
        "digest mismatch, file must be downloaded again: want sha256:",
    );
    assert!(
        line.contains(&Digest::compute(&weights()).to_string()),
        "{line}"
    );
    assert_eq!(leftovers(&sandbox), [""; 0], "it begins anew");
    GOOD.store(1, Ordering::Relaxed);
    pull(&sandbox, &registry.name("lib/tiny")).ok();
    assert_pulled(&sandbox, &registry, &manifest);
    // A blob longer than the manifest says.
    let sandbox = Sandbox::new();
    let long = Registry::scripted(|asked, answer| {
        let mut say = answer();
        if asked.line.contains("/blobs/") && asked.range().is_none() {
            say.body.push(0);
        }
        say
    });
    long.model("tiny", &tiny_gguf());
    pull(&sandbox, &long.name("lib/tiny")).fails(8, "sends more than the");
}
