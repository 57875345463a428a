//! Wrong usages that a new user tried: nothing of the user's is lost, nothing is ignored in silence.

use crate::support::Sandbox;

/// Lines of shell, the status, and a part of the one line on standard error.
const WRONG: &[(&str, i32, &str)] = &[
    (
        "puna serve --socket k.txt",
        2,
        "k.txt exists and is not a socket",
    ),
    (
        "puna run nomodel hi --record k.txt",
        2,
        "k.txt exists: a record is not written over another file",
    ),
    (
        "PUNA_CACHE=k.txt puna run smol hi -n 1",
        2,
        "k.txt is a file, not a folder of files that are kept",
    ),
    (
        "puna run smol hi --schema '{\"type\":\"banana\"}'",
        5,
        "the schema is not accepted: Invalid type: banana",
    ),
    (
        "puna run smol hi --schema '{\"type\":\"string\",\"pattern\":\"((\"}'",
        5,
        "the schema is not accepted: regex parse error: unclosed group",
    ),
    (
        "puna render smol hi --jinja bad.jinja",
        1,
        "the chat template fails",
    ),
    (
        "puna run smol hi -n 2 -o num_predict=3",
        2,
        "--num-predict and --option num_predict cannot be used together",
    ),
    ("puna run smol hi --stop ''", 2, "--stop needs a text"),
    (
        "puna run smol - 'Sum up.' < empty",
        2,
        "standard input is empty",
    ),
    (
        "puna run smol hi -n 1 --host 127.0.0.1:1 --mem-max 1K",
        2,
        "--mem-max is for what this process computes",
    ),
    (
        "puna map smol --host 127.0.0.1:1 --nice 5 < k.txt",
        2,
        "--nice is for what this process computes",
    ),
    (
        "puna run smol hi --host 'a b'",
        2,
        "the host is neither a name nor an address",
    ),
    (
        "PUNA_HOST=foo:bar:baz puna run smol hi",
        2,
        "the host is neither a name nor an address",
    ),
    (
        "puna run smol hi --schema s.json --fields zz",
        2,
        "the schema has no property 'zz'",
    ),
    (
        "puna map smol --schema s.json --fields a,a < k.txt",
        2,
        "--fields names 'a' twice",
    ),
    (
        "puna map smol -p '{nope}' < k.txt",
        2,
        "{nope} is a field: it needs --csv, --tsv or --jsonl",
    ),
    (
        "puna map smol --choose yes,yes < k.txt",
        2,
        "duplicate choice 'yes'",
    ),
    (
        "puna map smol --choose yes,,no < k.txt",
        2,
        "--choose has an empty choice",
    ),
    (
        "puna map smol --csv --add-column c,c --schema s.json --fields a,b < k.txt",
        2,
        "names a column twice",
    ),
    (
        "printf 't,t\\na,b\\n' | puna map smol --csv -p '{t}'",
        2,
        "the first line names two columns 't'",
    ),
    (
        "printf 't,y\\na,1\\nb,\"2\\nc,3\\n' | puna map smol --csv -p '{t}' -n 1 -q",
        2,
        "the quote that is opened in the row at line 3",
    ),
    (
        "PUNA_CONFIG=/nowhere puna config",
        2,
        "PUNA_CONFIG: /nowhere does not exist",
    ),
    ("puna cache stat x", 2, "cache stat takes no names"),
    ("puna cache ls x", 1, "no saved sequence is called 'x'"),
    (
        "PUNA_MODELS=k.txt puna ls",
        2,
        "is a file, not a folder of models",
    ),
    (
        "puna run smol hi --timeout xx",
        2,
        "--timeout must be a duration, such as 90s or 5m, not 'xx'",
    ),
    (
        "puna run smol hi --keepalive 5x",
        2,
        "--keepalive must be a duration",
    ),
    ("puna serve --linger xx", 2, "--linger must be a duration"),
    (
        "puna gc --older-than xx",
        2,
        "--older-than must be a duration",
    ),
    (
        "PUNA_KEEP_ALIVE=xx puna ps",
        2,
        "PUNA_KEEP_ALIVE needs a duration, such as 90s or 5m",
    ),
    (
        "puna serve --no-tcp --host 127.0.0.1:1",
        2,
        "--no-tcp and --host cannot be used together",
    ),
    (
        "puna rerank smol why -o temperature=0.5 < k.txt",
        2,
        "'temperature' has no effect",
    ),
    (
        "puna choose smol yes no -o temperature=0.5 < k.txt",
        2,
        "'temperature' has no effect",
    ),
    (
        "puna run smol hi --deterministic --host localhost:1",
        2,
        "--deterministic and --host cannot be used together",
    ),
    (
        "puna run smol hi --pull=always --host localhost:1",
        2,
        "--pull and --host cannot be used together",
    ),
    (
        "puna run smol hi --record new --transcript new",
        2,
        "--record and --transcript need two files",
    ),
    (
        "puna run smol hi --transcript k.txt",
        2,
        "k.txt exists and is not a transcript",
    ),
    (
        "puna run smol hi --transcript t --continue nosuch",
        2,
        "--continue: nosuch does not exist",
    ),
    (
        "puna pull --all smol",
        2,
        "--all and the name of a model cannot be used together",
    ),
    (
        "puna pull smol --replace --check",
        2,
        "--check and --replace cannot be used together",
    ),
    (
        "puna pull file:some.gguf --limit-rate 1K",
        2,
        "have no effect on a file of this machine",
    ),
    (
        "puna pull file:some.gguf --check",
        2,
        "are for models of registries",
    ),
    (
        "printf 'FROM smol\\nREQUIRES banana\\n' | puna create x -f -",
        2,
        "REQUIRES needs a version",
    ),
    (
        "echo FROM smol | puna create x -f - --requantize",
        2,
        "--requantize needs --quantize",
    ),
    ("puna show smol -v", 2, "--verbose needs --json"),
    (
        "puna verify --insecure smol",
        2,
        "--insecure has no effect without --repair",
    ),
    ("puna run smol hi -o stop=", 2, "--option stop needs a text"),
    (
        "mkfifo pipe && puna run smol hi -a pipe --timeout 1s",
        10,
        "pipe has not ended",
    ),
    (
        "puna map smol --resume /dev/full < k.txt",
        2,
        "/dev/full is not a regular file",
    ),
    (
        "printf 'keep_alive = 1h\\nkeep_alive = 2h\\n' > c && PUNA_CONFIG=c puna ls",
        2,
        "line 2: 'keep_alive' is in line 1 too",
    ),
    ("gzip < k.txt | puna import", 8, "gunzip -c it first"),
    (
        "puna run smol hi --messages images.json",
        2,
        "images.json, message 1: images are not read yet",
    ),
];

fn prepared() -> Sandbox {
    let sandbox = Sandbox::with_smol();
    sandbox.file("k.txt", "precious\n");
    sandbox.file("empty", "");
    sandbox.file("bad.jinja", "{{ raise_exception('no') }}");
    sandbox.file(
        "images.json",
        r#"[{"role":"user","content":"x","images":["aGVsbG8="]}]"#,
    );
    sandbox.file(
        "s.json",
        r#"{"type":"object","properties":{"a":{"type":"boolean"},"b":{"type":"boolean"}}}"#,
    );
    sandbox
}

#[test]
fn what_has_no_effect_is_told() {
    let sandbox = prepared();
    let run =
        sandbox.shell("puna run smol hi -n 1 --insecure -q; puna run smol hi -n 1 --insecure");
    let words = "--insecure has no effect: nothing is pulled, see --pull";
    assert!(run.stderr.contains(words), "{run:?}");
    let unknown = sandbox.shell("PUNA_MODLES=/x puna ls");
    assert_eq!(
        unknown.stderr,
        "puna: no setting is called PUNA_MODLES: is it PUNA_MODELS?\n"
    );
    let theirs = sandbox.shell("OLLAMA_NUM_PARALLEL=many puna ls");
    assert!(
        theirs.stderr.contains("OLLAMA_NUM_PARALLEL needs"),
        "{theirs:?}"
    );
    // A value of Ollama's that means nothing is not where the setting comes from.
    let line = "OLLAMA_KEEP_ALIVE=abc puna config | grep ^keep_alive";
    assert_eq!(sandbox.shell(line).ok(), "keep_alive\t5m0s\tdefault\n");
    let line = "OLLAMA_KEEP_ALIVE=30 puna config | grep ^keep_alive";
    assert_eq!(
        sandbox.shell(line).ok(),
        "keep_alive\t30s\tOLLAMA_KEEP_ALIVE\n"
    );
}

#[test]
fn what_is_for_this_process_is_computed_here_though_a_server_runs() {
    let sandbox = prepared();
    let _server = sandbox.serve(&[]);
    let run = sandbox.shell("puna run smol hi -n 1 --mem-max 1M");
    run.fails(11, "--mem-max");
    let text = "long ".repeat(700);
    let words = ["run", "smol", "-n", "1", "-q", "--no-cache"];
    sandbox.puna(&words, &text).ok();
    assert_eq!(
        sandbox.puna(&["ps"], "").ok(),
        "",
        "the server loads nothing"
    );
}

#[test]
fn broken_manifests_are_damage_for_verify() {
    let sandbox = prepared();
    let folder = sandbox
        .models()
        .join("manifests/registry.ollama.ai/library/bad");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("latest"), "{").unwrap();
    for words in [&["verify", "-q"][..], &["verify", "-q", "--repair"]] {
        let verified = sandbox.puna(words, "");
        assert_eq!(verified.status, Some(8), "{verified:?}");
        assert!(
            verified.stderr.contains("1 damaged manifest"),
            "{verified:?}"
        );
    }
}

#[test]
fn wrong_usages_are_told_in_one_line() {
    let sandbox = prepared();
    for (line, status, words) in WRONG {
        let done = sandbox.shell(line);
        let stderr = done.stderr.trim_end().to_string();
        assert_eq!(done.status, Some(*status), "{line}: {done:?}");
        assert!(
            stderr.contains(words) && !stderr.contains('\n'),
            "{line}: {stderr}"
        );
        // The rows before an open quote are answered.
        let answers = done.stdout.replace("output\n", "");
        assert!(
            answers.is_empty() || words.contains("the quote"),
            "{line}: {answers}"
        );
    }
    let kept = std::fs::read_to_string(sandbox.home.join("k.txt")).unwrap();
    assert_eq!(kept, "precious\n");
    // A folder that is mistyped is not made.
    sandbox
        .shell("PUNA_MODELS=$HOME/typo puna gc --dry-run")
        .ok();
    assert!(!sandbox.home.join("typo").exists());
    let doctor = sandbox.shell("PUNA_THREADS=2 puna doctor").stdout;
    assert!(doctor.contains("unknown: PUNA_THREADS"), "{doctor}");
    let long = sandbox.shell("puna run smol hi -n 1 --num-ctx 99999999");
    assert!(
        long.stderr
            .contains("the model reads 8192 tokens at most, not 99999999"),
        "{long:?}"
    );
    let threads = sandbox.shell("PUNA_NUM_THREADS=9999 timeout 60 puna run smol hi -n 2");
    assert_eq!(threads.status, Some(0), "{threads:?}");
}

#[test]
fn a_record_is_never_written_over() {
    let sandbox = prepared();
    let first = "puna run smol hi -n 2 -q --record r.json";
    sandbox.shell(first).ok();
    let read = || std::fs::read_to_string(sandbox.home.join("r.json")).unwrap();
    let recorded = read();
    sandbox.shell(first).fails(2, "r.json exists");
    assert_eq!(read(), recorded);
    // A run that fails leaves nothing.
    let failing = "puna run nomodel hi --record other.json";
    sandbox.shell(failing).fails(3, "nomodel");
    let left = sandbox.shell("ls").ok();
    assert!(
        !left.contains("r.json.") && !left.contains("other"),
        "{left}"
    );
}

#[test]
fn records_come_back_as_they_were() {
    let sandbox = prepared();
    let map = |words: &str, input: &str| {
        sandbox.file("in", input);
        sandbox.shell(&format!("puna map smol -q -n 2 {words} < in"))
    };
    let exact = "{\"a\": 12345678901234567890123, \"b\":1.0,\"c\":1e2}";
    let out = map(
        "--jsonl -p '{c}' --add-column t",
        &format!("{exact}\n{{}}\n"),
    )
    .stdout;
    assert!(out.starts_with(&exact[..exact.len() - 1]), "{out}");
    let json = map("--jsonl -p '{}' --json", &format!("{exact}\n")).ok();
    assert!(
        json.starts_with(&format!("{{\"input\":{exact},\"output\":")),
        "{json}"
    );
    // What cannot be used is given back with its error.
    let wrong = map("--jsonl -p '{a}' --json", "not json\n");
    assert!(
        wrong.stdout.contains("\"input\":\"not json\"") && wrong.status == Some(14),
        "{wrong:?}"
    );
    let own = map("--jsonl -p '{a}' --add-column a", "{\"a\":1}\n");
    assert!(
        own.stdout.starts_with("{\"a\":1,\"error\":") && own.status == Some(14),
        "{own:?}"
    );
    let surplus = map("--csv -p '{t}' --add-column x", "t,y\na,1,2\n");
    assert_eq!(
        (surplus.stdout.as_str(), surplus.status),
        ("t,y,x\na,1,,2\n", Some(14))
    );
    // A conversation does not answer what nobody said.
    let chat = sandbox.shell("printf '\\nhi\\n' | puna chat smol -n 2");
    assert_eq!(chat.status, Some(14), "{chat:?}");
    for line in [
        r#"{"role":"user","contnet":"hello"}"#,
        r#"{"role":"user","content":"x","images":["aGVsbG8="]}"#,
    ] {
        sandbox.file("line", line);
        let done = sandbox.shell("puna chat smol -n 2 --jsonl < line");
        assert_eq!(done.status, Some(14), "{line}: {done:?}");
    }
    // Nothing but an answer goes to standard output.
    let late = sandbox.shell("puna run smol hi --timeout 1ms");
    assert_eq!((late.status, late.stdout.as_str()), (Some(10), ""));
}
