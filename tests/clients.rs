//! The official clients against a running puna: `make clients` fetches them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::minilm::minilm;
use crate::support::{Sandbox, model, run};

/// A script of the tests, and where the client's packages lie.
fn places(script: &str, packages: &str) -> (PathBuf, PathBuf) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(script);
    (script, model(&format!("clients/{packages}")))
}

fn drives(command: &mut Command) {
    let sandbox = Sandbox::with_smol();
    sandbox.create("emb", &format!("FROM {}\n", minilm().display()));
    let server = sandbox.serve(&[]);
    let done = run(command.arg(format!("http://{}", server.at)), "");
    assert_eq!(done.stdout, "all done\n", "{}", done.stderr);
}

#[test]
fn the_python_client_finds_all_it_knows() {
    let (script, packages) = places("client.py", "python");
    let mut command = Command::new("python3");
    drives(command.arg(script).env("PYTHONPATH", packages));
}

#[test]
fn the_javascript_client_finds_all_it_knows() {
    let (script, packages) = places("client.mjs", "node/node_modules");
    let mut command = Command::new("node");
    drives(
        command
            .arg(script)
            .env("PUNA_PACKAGES", packages.parent().unwrap()),
    );
}
