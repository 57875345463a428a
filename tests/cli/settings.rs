//! `config` and `doctor`: where settings come from, and what is wrong with them.

use crate::support::Sandbox;

#[test]
fn each_setting_shows_its_value_and_origin() {
    let sandbox = Sandbox::new();
    let path = sandbox.file(
        ".config/puna/config",
        "# mine\nkeep_alive = 1h\nnum_parallel=2\n",
    );
    let run = |variables: &str, words: &str| sandbox.shell(&format!("{variables} puna {words}"));
    let all = run("PUNA_NUM_PARALLEL=3 OLLAMA_MAX_QUEUE=7", "config").ok();
    let line = |key: &str| {
        let found = all
            .lines()
            .find(|line| line.split('\t').next() == Some(key));
        found
            .unwrap_or_else(|| panic!("no {key}: {all}"))
            .to_string()
    };
    assert_eq!(
        line("keep_alive"),
        format!("keep_alive\t1h0m0s\t{}:2", path.display())
    );
    assert_eq!(line("num_parallel"), "num_parallel\t3\tPUNA_NUM_PARALLEL");
    assert_eq!(line("max_queue"), "max_queue\t7\tOLLAMA_MAX_QUEUE");
    assert_eq!(line("context_length"), "context_length\t4096\tdefault");
    assert_eq!(run("", "config num_parallel").ok(), "2\n");
    let json = run("", "config num_parallel --json").ok();
    assert!(
        json.contains(r#""key":"num_parallel","value":"2""#),
        "{json}"
    );
    run("", "config num_paralel").fails(2, "is it num_parallel?");
    // Every command reports errors of the config file.
    sandbox.file(".config/puna/config", "keepalive = 1h\n");
    run("", "ls").fails(
        2,
        "config, line 1: unknown key 'keepalive': is it keep_alive?",
    );
    // So it is with values, here and in the environment.
    sandbox.file(".config/puna/config", "\nrepack = perhaps\n");
    run("", "ls").fails(
        2,
        "config, line 2: repack needs auto, on or off, not 'perhaps'",
    );
    run("PUNA_REPACK=off", "ls").ok();
    for (variable, words) in [
        (
            "PUNA_NUM_THREADS=0",
            "PUNA_NUM_THREADS needs a whole number from 1 on, not '0'",
        ),
        ("PUNA_KEEP_ALIVE=soon", "PUNA_KEEP_ALIVE needs a duration"),
        (
            "PUNA_CACHE_MAX=lots",
            "PUNA_CACHE_MAX needs a number of bytes",
        ),
        (
            "PUNA_KV_CACHE_TYPE=q5",
            "PUNA_KV_CACHE_TYPE needs f16, q8_0, q4_0, not 'q5'",
        ),
        ("PUNA_SPECULATE=perhaps", "PUNA_SPECULATE needs on or off"),
        ("PUNA_TENSOR_SPLIT=a", "PUNA_TENSOR_SPLIT needs numbers"),
    ] {
        run(&format!("PUNA_CONFIG= {variable}"), "doctor").fails(2, words);
    }
    run("PUNA_CONFIG=", "ls").ok();
    run("PUNA_CONFIG=/nowhere", "ls").fails(2, "PUNA_CONFIG: /nowhere does not exist");
}

#[test]
fn settings_are_shown_without_a_home() {
    let sandbox = Sandbox::new();
    let done = sandbox.shell("env -i \"$(command -v puna)\" config");
    let all = done.ok();
    assert!(all.contains("models\t"), "{all}");
    let bare = sandbox.shell("env -i HOME=/nonexistent \"$(command -v puna)\" config cache");
    assert!(bare.ok().starts_with("/nonexistent/"));
}

#[test]
fn the_doctor_names_each_problem_and_its_fix() {
    let sandbox = Sandbox::with_smol();
    let healthy = sandbox.puna(&["doctor"], "").ok();
    for line in [
        "processor\tok\t",
        "store\tok\t1 model in ",
        "server\tok\tno server runs",
    ] {
        assert!(healthy.contains(line), "{line}: {healthy}");
    }
    let manifests = ".local/share/puna/models/manifests/registry.ollama.ai/library";
    sandbox.file(&format!("{manifests}/broken/latest"), "{");
    sandbox.file(".local/share/puna/models/blobs/sha256-x-partial", "abc");
    let ill = sandbox.puna(&["doctor", "--host", "127.0.0.1:1"], "");
    assert_eq!((ill.status, ill.stderr.as_str()), (Some(13), ""));
    let bad: Vec<&str> = ill
        .stdout
        .lines()
        .filter(|line| line.contains("\tbad\t"))
        .collect();
    assert_eq!(bad.len(), 2, "{ill:?}");
    assert!(
        bad[0].starts_with("store\t") && bad[0].ends_with("\tpuna verify --repair"),
        "{bad:?}"
    );
    assert!(
        bad[1].starts_with("server\tbad\tthe named server does not answer\t"),
        "{bad:?}"
    );
    assert!(
        ill.stdout
            .contains("\tnote\t3 B are used by no model\tpuna gc\n"),
        "{ill:?}"
    );
    let server = sandbox.serve(&[]);
    let with = sandbox.puna(&["doctor", "--host", &server.at, "--json"], "");
    assert!(
        with.stdout
            .contains("the named server answers: Ollama is running"),
        "{with:?}"
    );
    let own = sandbox.puna(&["doctor"], "");
    assert!(
        own.stdout
            .contains("puna's own server runs and reads this store"),
        "{own:?}"
    );
}

#[test]
fn doctor_reports_a_store_that_all_may_write() {
    let sandbox = Sandbox::with_smol();
    let folder = sandbox.models().join("manifests");
    let run = |line: &str| sandbox.shell(line);
    run("chmod o+w .local/share/puna/models/manifests").ok();
    let told = run("puna doctor");
    assert_eq!(told.status, Some(13));
    let text = format!("{}: every user may replace models", folder.display());
    assert!(told.stdout.contains(&text), "{}", told.stdout);
    let fix = format!("chmod -R o-w {}", sandbox.models().display());
    assert!(told.stdout.contains(&fix), "{}", told.stdout);
    run(&fix).ok();
    assert!(!run("puna doctor").stdout.contains("every user"));
}

#[test]
fn doctor_reports_an_unwritable_store() {
    let sandbox = Sandbox::new();
    let output = sandbox.shell("PUNA_MODELS=/dev/null/models puna doctor");
    assert_eq!(output.status, Some(13));
    let line =
        "store\tbad\t/dev/null/models cannot be written\texport PUNA_MODELS=/path/to/a/folder\n";
    assert!(output.stdout.contains(line), "{output:?}");
}
