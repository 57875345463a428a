//! Sharded models: from files, and from Hugging Face repositories, whose registry refuses them.

use std::fs;
use std::path::Path;

use puna::core::digest::Digest;
use puna::format::gguf::Writer;
use serde_json::json;

use crate::registry::pull::{leftovers, quick};
use crate::support::Sandbox;
use crate::support::scripted_registry::{Asked, Registry, Say};

/// Shard `no` of two, about 60 KB.
fn shard(no: u32, value: f32) -> Vec<u8> {
    let mut writer = Writer::new("test");
    writer.unsigned("test.context_length", 64);
    writer.unsigned("split.no", no).unsigned("split.count", 2);
    writer.tensor_f32(&format!("x{no}.weight"), &[15_000], &[value; 15_000]);
    writer.bytes()
}

pub fn write_shards(folder: &Path) {
    fs::write(folder.join("m-00001-of-00002.gguf"), shard(0, 1.5)).unwrap();
    fs::write(folder.join("m-00002-of-00002.gguf"), shard(1, 2.5)).unwrap();
}

/// Asserts that the model's blob is the joined file.
pub fn assert_whole(sandbox: &Sandbox, name: &str) {
    let path = sandbox.puna(&["path", name], "").ok();
    let bytes = fs::read(path.trim()).unwrap();
    let header =
        puna::format::gguf::read(fs::File::open(path.trim()).unwrap(), bytes.len() as u64).unwrap();
    assert_eq!((header.shard_count(), header.tensors.len()), (1, 2));
    for (tensor, value) in [("x0.weight", 1.5), ("x1.weight", 2.5)] {
        let tensor = header.tensor(tensor).unwrap();
        let start = (header.data_offset + tensor.offset) as usize;
        let data = bytes[start..start + tensor.size_bytes as usize].chunks_exact(4);
        assert!(
            data.map(|four| f32::from_le_bytes(four.try_into().unwrap()))
                .all(|found| found == value)
        );
    }
}

#[test]
fn shards_become_one_blob() {
    let sandbox = Sandbox::new();
    write_shards(&sandbox.home);
    for (name, from) in [
        ("first", "FROM ./m-00001-of-00002.gguf\n"),
        ("second", "FROM ./m-00002-of-00002.gguf\n"),
        (
            "both",
            "FROM ./m-00001-of-00002.gguf\nFROM ./m-00002-of-00002.gguf\n",
        ),
    ] {
        fs::write(sandbox.home.join("Modelfile"), from).unwrap();
        sandbox.puna(&["create", name], "").ok();
        assert_whole(&sandbox, name);
    }
    fs::remove_file(sandbox.home.join("m-00002-of-00002.gguf")).unwrap();
    let done = sandbox.puna(
        &["create", "less", "-f", "-"],
        "FROM ./m-00001-of-00002.gguf\n",
    );
    assert_eq!(done.status, Some(2));
    assert!(
        done.stderr.contains("m-00002-of-00002.gguf is missing"),
        "{}",
        done.stderr
    );
    fs::write(sandbox.home.join("alone.gguf"), shard(0, 1.0)).unwrap();
    let done = sandbox.puna(&["create", "less", "-f", "-"], "FROM ./alone.gguf\n");
    assert!(
        done.stderr.contains("is one of 2 shards; their names"),
        "{}",
        done.stderr
    );
    let done = sandbox.puna(
        &["create", "less", "-f", "-"],
        "FROM ./alone.gguf\nFROM first\n",
    );
    assert!(
        done.stderr.contains("more than one FROM"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_projector_stands_beside_its_weights() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.home.join("m.gguf"), crate::support::tiny_gguf()).unwrap();
    let projector = Writer::new("clip").bytes();
    fs::write(sandbox.home.join("eye.gguf"), &projector).unwrap();
    sandbox
        .puna(
            &["create", "seer", "-f", "-"],
            "FROM ./eye.gguf\nFROM ./m.gguf\n",
        )
        .ok();
    let shown = sandbox.puna(&["show", "seer", "--modelfile"], "").ok();
    let digest = Digest::compute(&projector).hex();
    assert!(shown.contains(&format!("blobs/sha256-{digest}")), "{shown}");
    let done = sandbox.puna(
        &["create", "x", "-f", "-"],
        "FROM ./eye.gguf\nFROM ./eye.gguf\n",
    );
    assert!(
        done.stderr
            .contains("no FROM line of the Modelfile names weights"),
        "{}",
        done.stderr
    );
    sandbox.puna(&["create", "again", "-f", "-"], &shown).ok();
    let again = sandbox.puna(&["show", "again", "--modelfile"], "").ok();
    assert!(again.contains(&digest), "{again}");
}

/// A hub: a registry that refuses sharded models, and a file list.
fn hub() -> Registry {
    let shards = [shard(0, 1.5), shard(1, 2.5)];
    Registry::scripted(move |asked: &Asked, answer| {
        let path = asked.line.split(['?', ' ']).nth(1).unwrap_or_default();
        let file = |index: usize| format!("Q4_K_M/m-Q4_K_M-{:05}-of-00002.gguf", index + 1);
        match path {
            "/v2/u/r/manifests/latest" => Say {
                body: br#"{"error":"The specified repository contains sharded GGUF."}"#.to_vec(),
                ..Say::status(400)
            },
            "/api/models/u/r/tree/main" => {
                let large = |index: usize| {
                    let oid = Digest::compute(&shards[index]).hex();
                    json!({"type": "file", "path": file(index), "size": 1,
                        "lfs": {"oid": oid, "size": shards[index].len()}})
                };
                let readme = json!({"type": "file", "path": "README.md", "size": 3});
                Say::body(json!([readme, large(0), large(1)]).to_string())
            }
            path => {
                let found =
                    (0..2).find(|index| path == format!("/u/r/resolve/main/{}", file(*index)));
                match found {
                    Some(index) => Say::on_to(
                        302,
                        format!("/v2/u/r/blobs/{}", Digest::compute(&shards[index])),
                    ),
                    None => answer(),
                }
            }
        }
    })
}

#[test]
fn shards_of_a_hub_are_joined() {
    let (sandbox, hub) = (Sandbox::new(), hub());
    hub.put(shard(0, 1.5));
    hub.put(shard(1, 2.5));
    let endpoint = format!("http://{}", hub.address);
    let pull = |words: &[&str]| {
        let mut command = sandbox.command(words);
        command.envs([
            ("HF_ENDPOINT", endpoint.as_str()),
            ("PUNA_PART_BYTES", "32768"),
        ]);
        crate::support::run(&mut command, "")
    };
    let done = pull(&["pull", "-q", "hf.co/u/r"]);
    assert_eq!((done.status, done.stderr.as_str()), (Some(0), ""));
    assert_whole(&sandbox, "hf.co/u/r");
    assert_eq!(leftovers(&sandbox), [""; 0]);
    let blobs = fs::read_dir(sandbox.models().join("blobs"))
        .unwrap()
        .count();
    assert_eq!(
        blobs, 2,
        "the shards are gone, the whole and its config are there"
    );
    let asked = hub.count("GET /u/r/resolve");
    assert_eq!(pull(&["outdated", "hf.co/u/r"]).status, Some(0));
    assert_eq!(pull(&["pull", "-q", "hf.co/u/r"]).status, Some(0));
    assert_eq!(
        hub.count("GET /u/r/resolve"),
        asked,
        "nothing was fetched again"
    );
    let done = quick(&sandbox, &["run", "hf.co/u/r:Q8_0", "hi"]);
    assert_eq!(done.status, Some(3));
}
