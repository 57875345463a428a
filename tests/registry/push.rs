//! Pushing models to registries, and authentication there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use puna::core::digest::Digest;
use serde_json::json;

use crate::support::scripted_registry::{Registry, Say};
use crate::support::{Sandbox, tiny_gguf};

/// A sandbox with a model of this name.
fn with(name: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    sandbox.create(name, "FROM ./tiny.gguf\nSYSTEM pushed\n");
    sandbox
}

fn push(sandbox: &Sandbox, name: &str) -> crate::support::Done {
    let mut command = sandbox.command(&["push", "--insecure", "--json", name]);
    command.envs([("PUNA_PART_BYTES", "100"), ("PUNA_RETRY_PAUSE", "5ms")]);
    crate::support::run(&mut command, "")
}

#[test]
fn a_model_goes_there_and_comes_back_the_same() {
    let registry = Registry::new();
    let name = registry.name("me/tiny:v1");
    let sandbox = with(&name);
    let lines = push(&sandbox, &name).ok();
    assert!(
        lines.starts_with("{\"status\":\"retrieving manifest\"}\n{\"status\":\"pushing "),
        "{lines}"
    );
    assert!(
        lines.ends_with("{\"status\":\"pushing manifest\"}\n{\"status\":\"success\"}\n"),
        "{lines}"
    );
    let listed = sandbox.puna(&["ls"], "").ok();
    let sent = registry.held.lock().unwrap().manifests["me/tiny:v1"].clone();
    assert!(
        listed.contains(&Digest::compute(&sent).to_string()),
        "byte for byte"
    );
    // A second push sends nothing; another sandbox can pull the model.
    let before = registry.count("PATCH");
    assert!(before > 2, "in parts");
    push(&sandbox, &name).ok();
    assert_eq!(registry.count("PATCH"), before);
    let other = Sandbox::new();
    other.puna(&["pull", "--insecure", "-q", &name], "").ok();
    assert_eq!(
        other.puna(&["ls"], "").ok().split('\t').nth(1),
        listed.split('\t').nth(1)
    );
}

#[test]
fn parts_may_go_elsewhere_and_registries_may_stumble() {
    let cdn = Registry::scripted(|_, _| Say::status(200));
    let elsewhere = cdn.address;
    let registry = Registry::scripted(move |asked, answer| match asked.line.split(' ').next() {
        Some("PATCH") => {
            let mut say = Say::on_to(307, format!("http://{elsewhere}/part"));
            let session = asked.line[6..].to_string();
            say.headers.push(("Docker-Upload-Location", session));
            say
        }
        Some("PUT") if asked.line.contains("/uploads/") => Say::status(201),
        _ => answer(),
    });
    let name = registry.name("me/tiny");
    push(&with(&name), &name).ok();
    let bytes: usize = cdn.asked().iter().map(|asked| asked.body.len()).sum();
    assert!(bytes >= tiny_gguf().len());
    assert!(
        cdn.asked()
            .iter()
            .all(|asked| asked.header("authorization").is_empty())
    );
    for (status, exit) in [(500, 7), (403, 12)] {
        let registry =
            Registry::scripted(move |asked, answer| match asked.line.starts_with("PUT") {
                true => Say::status(status),
                false => answer(),
            });
        let name = registry.name("me/tiny");
        let done = push(&with(&name), &name);
        assert_eq!(done.status, Some(exit), "{done:?}");
        assert!(done.stderr.contains(&status.to_string()), "{done:?}");
    }
}

#[test]
fn a_push_that_was_cut_short_goes_on_where_it_was() {
    // One part arrives but its response is lost; then the registry is down.
    let away = Arc::new(AtomicBool::new(false));
    let (count, is_away) = (AtomicUsize::new(0), away.clone());
    let registry = Registry::scripted(move |asked, answer| {
        let is_part = asked.line.starts_with("PATCH");
        match count.fetch_add(usize::from(is_part), Ordering::SeqCst) {
            1 if is_part => {
                answer();
                Say::status(502)
            }
            2.. if is_part && is_away.load(Ordering::SeqCst) => Say::status(503),
            _ => answer(),
        }
    });
    away.store(true, Ordering::SeqCst);
    let name = registry.name("me/tiny:v1");
    let sandbox = with(&name);
    let cut = push(&sandbox, &name);
    assert_eq!(cut.status, Some(7), "{cut:?}");
    let taken: usize = registry.held.lock().unwrap().uploads["s0"].len();
    assert_eq!(taken, 200);
    let notes = || {
        let blobs = fs::read_dir(sandbox.models().join("blobs")).unwrap();
        let names = blobs.map(|blob| blob.unwrap().path());
        let notes = names.filter(|path| path.to_string_lossy().contains("-partial-push-"));
        notes.collect::<Vec<_>>()
    };
    let mode = fs::metadata(&notes()[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = registry.asked().len();
    away.store(false, Ordering::SeqCst);
    push(&sandbox, &name).ok();
    let after = registry.asked().split_off(before);
    let first = after.iter().find(|asked| asked.line.starts_with("PATCH"));
    let range = first.unwrap().header("content-range");
    assert!(range.starts_with(&format!("{taken}-")), "{range}");
    assert!(notes().is_empty());
    // An upload that the registry has forgotten restarts from the beginning.
    registry.held.lock().unwrap().blobs.clear();
    away.store(true, Ordering::SeqCst);
    assert_eq!(push(&sandbox, &name).status, Some(7));
    away.store(false, Ordering::SeqCst);
    registry.held.lock().unwrap().uploads.clear();
    push(&sandbox, &name).ok();
}

/// A registry that requires a token, and issues one at its own `/token`.
fn guarded(realm: impl Fn(&str) -> String + Send + Sync + 'static) -> Registry {
    Registry::scripted(move |asked, answer| {
        if asked.line.starts_with("GET /token") {
            return Say::body(json!({"token": "t0k"}).to_string());
        }
        if asked.header("authorization") == "Bearer t0k" {
            return answer();
        }
        let realm = realm(asked.header("host"));
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"a:b:pull c:d:push\"");
        Say {
            headers: vec![("WWW-Authenticate", challenge)],
            ..Say::status(401)
        }
    })
}

#[test]
fn a_token_is_asked_for_with_a_key_made_on_first_need() {
    let registry = guarded(|host| format!("http://{host}/token"));
    registry.model("tiny", &tiny_gguf());
    let sandbox = Sandbox::new();
    let name = registry.name("lib/tiny");
    sandbox.puna(&["pull", "--insecure", "-q", &name], "").ok();
    let asked = registry.asked();
    let token = asked
        .iter()
        .find(|asked| asked.line.contains("/token"))
        .unwrap();
    let query = token.line.split_once('?').unwrap().1;
    let keys: Vec<&str> = query
        .split('&')
        .map(|pair| pair.split('=').next().unwrap())
        .collect();
    assert_eq!(keys, ["nonce", "scope", "scope", "service", "ts"]);
    let (public, signature) = token.header("authorization").split_once(':').unwrap();
    assert!(public.starts_with("AAAAC3NzaC1lZDI1NTE5") && signature.len() == 88);
    let file = sandbox.home.join(".local/share/puna/id_ed25519");
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let line = fs::read_to_string(file.with_extension("pub")).unwrap();
    assert_eq!(line, format!("ssh-ed25519 {public}\n"));
    assert_eq!(
        asked
            .iter()
            .filter(|asked| asked.line.contains("/token"))
            .count(),
        1
    );
    // ssh-keygen, if installed, reads the key.
    let check = sandbox.shell("ssh-keygen -y -f .local/share/puna/id_ed25519 2>/dev/null || true");
    assert!(
        check.stdout.is_empty() || check.stdout.starts_with(line.trim_end()),
        "{check:?}"
    );
}

#[test]
fn no_credential_goes_to_another_host() {
    let thief = Registry::scripted(|_, _| Say::body(json!({"token": "x"}).to_string()));
    let address = thief.address;
    let registry = guarded(move |_| format!("http://{address}/token"));
    registry.model("tiny", &tiny_gguf());
    let sandbox = Sandbox::new();
    sandbox.file(".netrc", "machine 127.0.0.1 login me password s3cret\n");
    let name = registry.name("lib/tiny");
    let line = sandbox
        .puna(&["pull", "--insecure", "-q", &name], "")
        .fails(12, "does not match original host");
    assert!(!line.contains("s3cret"));
    assert!(thief.asked().is_empty());
    // Basic credentials go only to their own host.
    let basic = Registry::scripted(|asked, answer| match asked.header("authorization") {
        "Basic bWU6czNjcmV0" => answer(),
        "" => Say {
            headers: vec![("WWW-Authenticate", "Basic realm=\"r\"".into())],
            ..Say::status(401)
        },
        other => panic!("{other}"),
    });
    basic.model("tiny", &tiny_gguf());
    sandbox
        .puna(&["pull", "--insecure", "-q", &basic.name("lib/tiny")], "")
        .ok();
    // A registry that rejects every token.
    let never = Registry::scripted(|asked, _| match asked.line.contains("/token") {
        true => Say::body(json!({"access_token": "t"}).to_string()),
        false => Say {
            headers: vec![(
                "WWW-Authenticate",
                format!("Bearer realm=\"http://{}/token\"", asked.header("host")),
            )],
            ..Say::status(401)
        },
    });
    sandbox
        .puna(&["pull", "--insecure", "-q", &never.name("lib/tiny")], "")
        .fails(12, "unauthorized: access denied");
}

#[test]
fn mirrors_proxies_and_endpoints_are_used() {
    let registry = Registry::new();
    let manifest = registry.model("tiny", &tiny_gguf());
    let at = format!("http://{}", registry.address);
    let held = |name: &str| {
        let mut held = registry.held.lock().unwrap();
        held.manifests.insert(name.into(), manifest.clone());
    };
    held("library/tiny:latest");
    held("user/repo:Q4_K_M");
    for (name, variable, value) in [
        ("tiny", "PUNA_REGISTRY", at.clone()),
        ("tiny", "PUNA_REGISTRY", format!("registry.ollama.ai={at}")),
        ("hf.co/user/repo:Q4_K_M", "HF_ENDPOINT", at.clone()),
    ] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command(&["pull", "-q", name]);
        command.env(variable, value).env("HF_TOKEN", "hft");
        crate::support::run(&mut command, "").ok();
        sandbox.puna(&["show", name], "").ok();
    }
    let asked = registry.asked();
    let with_token = asked
        .iter()
        .filter(|asked| asked.header("authorization") == "Bearer hft");
    assert!(with_token.clone().count() > 0);
    assert!({ with_token }.all(|asked| asked.line.contains("/user/repo/")));
    // A host that is not loopback uses the proxy, unless NO_PROXY lists it.
    let proxy = Registry::scripted(|_, _| Say::status(407));
    let through = |no_proxy: &str| {
        let sandbox = Sandbox::new();
        let mut command =
            sandbox.command(&["pull", "--insecure", "-q", "registry.invalid/lib/tiny"]);
        command
            .env("HTTP_PROXY", format!("http://{}", proxy.address))
            .env("NO_PROXY", no_proxy);
        command.env("PUNA_RETRY_PAUSE", "1ms");
        crate::support::run(&mut command, "").fails(7, "pull model manifest");
        proxy.asked().len()
    };
    let first = through("");
    assert!(first > 0);
    assert_eq!(through("invalid"), first);
}
