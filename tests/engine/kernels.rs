//! The attention of `patches/attention.h`, apart from llama.cpp: right, and the same to the bit however it is computed.

use std::path::Path;
use std::process::Command;

use crate::support::Sandbox;

#[test]
fn attention_is_the_same_to_the_bit_however_it_is_computed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sandbox = Sandbox::new();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    // As it is built here, and for processors without AVX-512.
    for flags in [&["-march=native"][..], &["-mavx2", "-mfma", "-mf16c"]] {
        let program = sandbox.home.join("attention");
        let mut build = Command::new(&compiler);
        build.args(["-std=c++17", "-O2", "-w", "-I"]);
        build.arg(root.join("patches")).args(flags);
        build.arg(root.join("tests/data/attention.cpp"));
        let built = build.arg("-o").arg(&program).output().unwrap();
        if cfg!(not(target_arch = "x86_64")) {
            return; // It knows no such flags, and the header nothing.
        }
        assert!(built.status.success(), "{built:?}");
        let done = Command::new(&program).output().unwrap();
        assert!(done.status.success(), "{flags:?}: {done:?}");
    }
}
