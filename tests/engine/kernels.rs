//! The arithmetic of `patches/*.h`, apart from llama.cpp: right, and the same to the bit however it is computed.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value as Json;

use crate::support::Sandbox;

/// Compiles a program of `tests/data` that includes these headers, and runs it.
fn check(name: &str, flags: &[&str], more: &[PathBuf]) {
    if cfg!(not(target_arch = "x86_64")) {
        return; // The compiler knows no such flags, and the headers nothing.
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sandbox = Sandbox::new();
    let program = sandbox.home.join(name);
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut build = Command::new(&compiler);
    build.args(["-std=c++17", "-O2", "-w"]).args(flags);
    for folder in more.iter().chain([&root.join("patches")]) {
        build.arg("-I").arg(folder);
    }
    build.arg(root.join(format!("tests/data/{name}.cpp")));
    let built = build.arg("-o").arg(&program).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    let done = Command::new(&program).output().unwrap();
    assert!(done.status.success(), "{flags:?}: {done:?}");
}

/// The folder of ggml's own headers, in Cargo's registry.
fn ggml() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // The packages of other platforms are not there.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let words = ["metadata", "--offline", "--locked", "--format-version", "1"];
    let mut ask = Command::new(cargo);
    ask.args(words).args(["--filter-platform", &platform]);
    let asked = ask.current_dir(root).output();
    let asked: Json = serde_json::from_slice(&asked.unwrap().stdout).unwrap();
    let mut packages = asked["packages"].as_array().unwrap().iter();
    let package = packages.find(|package| package["name"] == "llama-cpp-sys-2");
    let manifest = package.unwrap()["manifest_path"].as_str().unwrap();
    Path::new(manifest).with_file_name("llama.cpp/ggml/src")
}

#[test]
fn attention_is_the_same_to_the_bit_however_it_is_computed() {
    // As it is built here, and for processors without AVX-512.
    for flags in [&["-march=native"][..], &["-mavx2", "-mfma", "-mf16c"]] {
        check("attention", flags, &[]);
    }
}

#[test]
fn products_are_the_same_to_the_bit_for_any_number_of_tokens() {
    check("sixteen_rows", &["-march=native"], &[ggml()]);
}
