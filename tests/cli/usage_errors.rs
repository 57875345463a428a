//! Wrong input: one line on standard error, the right exit status, nothing lost.

use std::fs;

use puna::format::gguf::Writer;

use crate::engine::minilm::minilm;
use crate::support::scripted_model::scripted_gguf;
use crate::support::{Sandbox, smol, tiny_gguf};

#[test]
fn a_missing_model_is_3_and_names_the_nearest() {
    let sandbox = Sandbox::with_smol();
    sandbox
        .puna(&["run", "smoll", "hi"], "")
        .fails(3, "model 'smoll' not found: is it smol:latest?");
    sandbox
        .puna(&["show", "xyzzy"], "")
        .fails(3, "model 'xyzzy' not found");
    sandbox
        .puna(&["rm", "smo"], "")
        .fails(3, "is it smol:latest?");
    sandbox
        .puna(&["run", "./missing.gguf", "hi"], "")
        .fails(3, "./missing.gguf: no such file");
}

#[test]
fn a_file_other_than_gguf_is_8() {
    let sandbox = Sandbox::new();
    let other = sandbox.file("other.gguf", b"\x7fELF\x02\x01\x01\0");
    sandbox
        .puna(&["run", other.to_str().unwrap(), "hi"], "")
        .fails(8, "not a GGUF file");
    let empty = sandbox.file("empty.gguf", "");
    sandbox
        .puna(&["run", empty.to_str().unwrap(), "hi"], "")
        .fails(8, "not a GGUF file");
    fs::create_dir(sandbox.home.join("folder.gguf")).unwrap();
    sandbox
        .puna(&["run", "./folder.gguf", "hi"], "")
        .fails(8, "a directory");
}

#[test]
fn a_gguf_cut_at_any_offset_is_8() {
    let sandbox = Sandbox::new();
    let whole = tiny_gguf();
    for length in (4..whole.len()).step_by(7) {
        let path = sandbox.file("cut.gguf", &whole[..length]);
        sandbox
            .puna(&["show", path.to_str().unwrap()], "")
            .fails(8, "cut short");
    }
    let model = fs::read(smol()).unwrap();
    for length in [8, 100, 5_000, 1_000_000, 3_000_000, model.len() - 1] {
        let path = sandbox.file("cut.gguf", &model[..length]);
        sandbox
            .puna(&["run", path.to_str().unwrap(), "hi"], "")
            .fails(8, "cut short");
    }
}

#[test]
fn absurd_headers_are_8() {
    let sandbox = Sandbox::new();
    let cases: [(&str, Writer); 6] = [
        (
            "general.alignment",
            writer(|w| _ = w.unsigned("general.alignment", 0)),
        ),
        (
            "general.alignment",
            writer(|w| _ = w.unsigned("general.alignment", 3)),
        ),
        (
            "block_count",
            writer(|w| _ = w.unsigned("test.block_count", u32::MAX)),
        ),
        (
            "outside the file",
            writer(|w| _ = w.tensor_entry("x", &[1 << 20], 0, 0)),
        ),
        (
            "wrong type",
            writer(|w| _ = w.floats("tokenizer.ggml.tokens", &[1.0])),
        ),
        (
            "invalid shape",
            writer(|w| _ = w.tensor_entry("x", &[u64::MAX, 2], 0, 0)),
        ),
    ];
    for (words, writer) in cases {
        let path = sandbox.file("odd.gguf", writer.bytes());
        sandbox
            .puna(&["run", path.to_str().unwrap(), "hi"], "")
            .fails(8, words);
    }
    for length in [1u64 << 31, 1 << 63, u64::MAX] {
        let mut bytes = tiny_gguf();
        bytes[24..32].copy_from_slice(&length.to_le_bytes());
        let path = sandbox.file("odd.gguf", bytes);
        sandbox
            .puna(&["run", path.to_str().unwrap(), "hi"], "")
            .fails(8, "is damaged");
    }
}

fn writer(add: fn(&mut Writer)) -> Writer {
    let mut writer = Writer::new("test");
    add(&mut writer);
    writer
}

#[test]
fn a_file_that_llama_cpp_refuses_is_8_with_its_reason() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("odd.gguf", tiny_gguf());
    sandbox
        .puna(&["run", path.to_str().unwrap(), "hi"], "")
        .fails(8, "unknown model architecture: 'test'");
}

#[test]
fn an_empty_prompt_is_2() {
    let sandbox = Sandbox::with_smol();
    sandbox.puna(&["run", "smol"], "").fails(2, "no prompt");
    sandbox
        .puna(&["run", "smol"], " \n\n")
        .fails(2, "no prompt");
    sandbox
        .puna(&["run", "smol", "-"], "")
        .fails(2, "no prompt");
    let done = sandbox.shell("puna run smol < <(printf '\\377\\376')");
    done.fails(2, "standard input is not UTF-8 text");
}

#[test]
fn wrong_options_are_2_and_name_the_nearest() {
    let sandbox = Sandbox::with_smol();
    for (words, message) in [
        (
            &["run", "smol", "hi", "-o", "temprature=1"][..],
            "unknown option 'temprature': is it temperature?",
        ),
        (
            &["run", "smol", "hi", "-o", "top_k"],
            "--option needs KEY=VALUE, not 'top_k'",
        ),
        (
            &["run", "smol", "hi", "-o", "top_p=1.5"],
            "option top_p must be between 0 and 1",
        ),
        (
            &["run", "smol", "hi", "--seed", "x"],
            "option seed needs a whole number, not 'x'",
        ),
        (&["run", "smol", "hi", "--jsn"], "is it --json?"),
        (
            &["run", "smol", "hi", "--log", "loud"],
            "--log must be off, warn or debug, not 'loud'",
        ),
        (
            &["run", "smol", "hi", "--keepalive", "1d"],
            "--keepalive must be a duration",
        ),
        (&["run", "a b", "hi"], "invalid model name 'a b'"),
        (
            &["run", "smol", "hi", "--linger", "--host", "127.0.0.1:1"],
            "--linger and --host cannot be used together",
        ),
        (&["run"], "too few operands"),
        (&["rnu", "smol"], "unknown command 'rnu': is it run?"),
        (&[], "no command"),
        (
            &["show", "smol", "--system", "--license"],
            "cannot be used together",
        ),
    ] {
        sandbox.puna(words, "").fails(2, message);
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_4_with_both_numbers() {
    let sandbox = Sandbox::with_smol();
    let long = "word ".repeat(200);
    sandbox
        .puna(&["run", "smol", "--num-ctx", "64"], &long)
        .fails(4, "exceeds the available context size of 64 tokens");
    let longer = "word ".repeat(9000);
    sandbox
        .puna(&["run", "smol"], &longer)
        .fails(4, "exceeds the model's maximum of 8192 tokens");
    let server = sandbox.serve(&[]);
    sandbox
        .puna(&["run", "smol", "--num-ctx", "64"], &long)
        .fails(4, "exceeds the available context size of 64 tokens");
    drop(server);
}

#[test]
fn weights_larger_than_memory_are_11_with_the_numbers() {
    let sandbox = Sandbox::new();
    let size = 1u64 << 42; // 4 TiB, as a sparse file.
    let mut writer = Writer::new("llama");
    writer.tensor_entry("x.weight", &[size / 4], 0, 0);
    let path = sandbox.file("huge.gguf", writer.bytes());
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(size + 4096)
        .unwrap();
    let line = sandbox
        .puna(&["run", path.to_str().unwrap(), "hi"], "")
        .fails(11, "needs 4096.");
    assert!(
        line.contains(" free: try -o num_ctx=2048, a smaller quantisation"),
        "{line}"
    );
    let cache = sandbox.puna(&["run", smol().to_str().unwrap(), "hi", "-n", "2"], "");
    assert_eq!(cache.status, Some(0));
    let limited = sandbox.shell("ulimit -v 300000; puna run $SMOL hi");
    limited.fails(11, "not enough memory");
}

#[test]
fn what_has_no_effect_is_2() {
    let sandbox = Sandbox::with_smol();
    sandbox.create("mini", &format!("FROM {}\n", minilm().display()));
    sandbox.file("notes.txt", "Milk, bread\nand butter\n");
    sandbox.file("s.json", "{}");
    let wrong: [(&[&str], &str); 18] = [
        (
            &["run", "./notes.txt", "hi", "--host", "x"],
            "--host cannot be used with a model in a file",
        ),
        (
            &["embed", "./notes.txt", "--host", "x"],
            "--host cannot be used with a model in a file",
        ),
        (
            &["run", "smol", "hi", "--grammar", "s.json", "--open"],
            "--open needs --schema",
        ),
        (
            &["run", "smol", "hi", "--local", "--host", "x"],
            "cannot be used together",
        ),
        (
            &["run", "smol", "hi", "--dimensions", "8"],
            "need an embedding model",
        ),
        (
            &["run", "smol", "hi", "--truncate=false"],
            "need an embedding model",
        ),
        (
            &["run", "mini", "hi", "--format", "json"],
            "makes a vector of a text",
        ),
        (
            &["run", "mini", "hi", "--system", "x"],
            "makes a vector of a text",
        ),
        (
            &["run", "smol", "hi", "--tool-choice", "auto"],
            "--tool-choice needs --tools",
        ),
        (
            &["run", "smol", "hi", "--num-ctx", "0"],
            "--num-ctx must be a number from 1",
        ),
        (&["run", "./notes.txt", "hi"], "is a text file, not a model"),
        (
            &["run", "smol", "- buy milk"],
            "put -- before a text that begins with -",
        ),
        (&["run", "smol", "hi", "--mem-max", "foo"], "--mem-max: "),
        (
            &["run", "smol", "hi", "--keepalive", "foo"],
            "--keepalive must be",
        ),
        (&["gc", "--older-than", "x"], "--older-than must be"),
        (
            &["map", "smol", "-p", "hi"],
            "--prompt has no place for the record",
        ),
        (
            &["map", "smol", "--choose", "spam"],
            "--choose needs two words",
        ),
        (
            &["choose", "smol", "a", "b", "-Q", "Which?"],
            "standard input is empty",
        ),
    ];
    for (words, why) in wrong {
        sandbox.puna(words, "").fails(2, why);
    }
    let words = [
        "run",
        "smol",
        "-a",
        "notes.txt",
        "s.json",
        "Sum up",
        "-n",
        "1",
    ];
    let attached = sandbox.puna(&words, "");
    assert!(
        attached.stderr.contains("'s.json' is a word of the prompt"),
        "{attached:?}"
    );
    let words = ["choose", "smol", "a", "b", "--status", "-q"];
    assert_eq!(sandbox.puna(&words, "Is it a?").stdout, "");
}

#[test]
fn no_server_where_one_was_named_is_7() {
    let sandbox = Sandbox::with_smol();
    let hint = "no server at http://127.0.0.1:9: start one with 'puna serve'; run needs none";
    sandbox
        .puna(&["run", "smol", "hi", "--host", "127.0.0.1:9"], "")
        .fails(7, hint);
    sandbox
        .puna(&["ps", "--host", "127.0.0.1:9"], "")
        .fails(7, hint);
    let named = sandbox.shell("OLLAMA_HOST=127.0.0.1:9 puna run smol hi");
    named.fails(7, hint);
    sandbox
        .puna(&["run", "smol", "hi", "--host", "ftp://x"], "")
        .fails(2, "only http and https");
}

#[test]
fn a_port_in_use_is_7_and_names_its_server() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let at = server.at.clone();
    let taken = sandbox.puna(&["serve", "--host", &at, "--no-socket"], "");
    taken.fails(7, "a server answers there: 'Ollama is running'");
    let socket = sandbox.puna(&["serve", "--host", "127.0.0.1:0"], "");
    socket.fails(7, "another puna serves there");
}

#[test]
fn a_full_disk_on_standard_output_is_1() {
    let sandbox = Sandbox::with_smol();
    sandbox
        .shell("puna run smol hi -n 3 > /dev/full")
        .fails(1, "standard output: No space left on device");
    sandbox
        .shell("puna ls > /dev/full")
        .fails(1, "standard output: No space left on device");
}

#[test]
fn an_unwritable_store_is_12_or_1_and_says_where() {
    let sandbox = Sandbox::new();
    let file = sandbox.file("file", "");
    let create = format!(
        "printf 'FROM %s\\n' \"$SMOL\" | PUNA_MODELS={}/models puna create x -f -",
        file.display()
    );
    sandbox
        .shell(&create)
        .fails(1, "/file/models: Not a directory");
    let other = "printf 'FROM %s\\n' \"$SMOL\" | PUNA_MODELS=/proc/puna puna create x -f -";
    sandbox.shell(other).fails(1, "cannot make /proc/puna");
}

#[test]
fn without_home_and_environment_it_still_answers() {
    let sandbox = Sandbox::new();
    let done = sandbox.shell("env -i $(command -v puna) run $SMOL hi -n 2 --temperature 0");
    assert!(!done.ok().trim().is_empty());
    // As a systemd service with DynamicUser: another user, no home, nothing writable.
    let bare = sandbox.shell(
        "p=$(command -v puna); mkdir $HOME/x && cp $p $SMOL $HOME/x/ && chmod 755 $HOME $HOME/x $HOME/x/*; cd / && \
         env -i HOME=/ setpriv --reuid=65534 --regid=65534 --clear-groups $HOME/x/puna ls && \
         env -i HOME=/ setpriv --reuid=65534 --regid=65534 --clear-groups \
         $HOME/x/puna run $HOME/x/${SMOL##*/} hi -n 1",
    );
    assert_eq!(bare.status, Some(0), "{bare:?}");
}

#[test]
fn modelfiles_that_are_wrong_say_where() {
    let sandbox = Sandbox::new();
    for (text, status, words) in [
        ("", 2, "no FROM line"),
        (
            "FORM x\n",
            2,
            "line 1, column 1: 'FORM' is not an instruction",
        ),
        ("FROM ./missing.gguf\n", 3, "./missing.gguf: no such file"),
        ("FROM missing\n", 3, "model 'missing' not found"),
        ("FROM .\n", 2, "contains neither safetensors nor a GGUF"),
        ("FROM /dev/zero\n", 2, "not a regular file"),
        ("FROM x\0\n", 2, "NUL byte"),
    ] {
        sandbox
            .puna(&["create", "x", "-f", "-"], text)
            .fails(status, words);
    }
    let parameter = format!("FROM {}\nPARAMETER temprature 1\n", smol().display());
    sandbox
        .puna(&["create", "x", "--link", "-f", "-"], &parameter)
        .fails(2, "is it temperature?");
    sandbox
        .puna(&["create", "x", "-f", "missing"], "")
        .fails(1, "cannot read missing: No such file");
    assert_eq!(
        sandbox.puna(&["ls"], "").ok(),
        "",
        "nothing is left under a final name"
    );
}

#[test]
fn a_vocabulary_that_would_end_llama_cpp_is_damage() {
    let sandbox = Sandbox::new();
    // Makes the second piece a duplicate of the first.
    let mut twice = scripted_gguf(&["The sky is blue."]);
    let (first, second) = ("The\u{2581}".as_bytes(), "sky\u{2581}".as_bytes());
    let at = twice.windows(second.len()).position(|part| part == second);
    let at = at.expect("the piece is there");
    twice[at..at + second.len()].copy_from_slice(first);
    let path = sandbox.file("twice.gguf", &twice);
    let path = path.display().to_string();
    sandbox
        .puna(&["run", &path, "hi"], "")
        .fails(8, "two tokens of its vocabulary");
    sandbox.create("twice", &format!("FROM {path}\n"));
    let server = sandbox.serve(&[]);
    let answer = server.ask(
        "POST",
        "/api/generate",
        r#"{"model":"twice","prompt":"hi"}"#,
    );
    assert_eq!(answer.status, 500, "{answer:?}");
    assert_eq!(server.ask("GET", "/", "").status, 200);
}
