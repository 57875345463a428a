//! `create`, `ls`, `show`, `cp`, `rm`: models from Modelfiles, and how they are shown.

use std::fs;
use std::os::unix::fs::MetadataExt;

use puna::format::gguf::Writer;
use serde_json::Value as Json;

use crate::support::tiny_models::tensors;
use crate::support::{Sandbox, smol, tiny_gguf};

const MODELFILE: &str = "FROM ./tiny.gguf\nSYSTEM \"\"\"Be brief.\nVery.\"\"\"\nTEMPLATE {{ .Prompt }}\nPARAMETER stop USER:\n\
                         PARAMETER stop ASSISTANT:\nPARAMETER temperature 1\nPARAMETER top_k 10\nLICENSE MIT\nMESSAGE user hi\nMESSAGE assistant hello\n";

fn with_tiny() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.file("tiny.gguf", tiny_gguf());
    sandbox.file("Modelfile", MODELFILE);
    sandbox.puna(&["create", "tiny", "-q"], "").ok();
    sandbox
}

#[test]
fn blobs_have_the_references_bytes() {
    let sandbox = with_tiny();
    let manifest = sandbox
        .models()
        .join("manifests/registry.ollama.ai/library/tiny/latest");
    let text = fs::read_to_string(manifest).unwrap();
    for digest in [
        "b507b9c2f6ca642bffcd06665ea7c91f235fd32daeefdf875a0f938db05fb315", // {{ .Prompt }}
        "1d0ad71299d48c2fb7ae2b98e683643e771f8a5b72be34942af90d97a91c1e37", // stop, temperature, top_k
        "e5dcffe836b6ec8a58e492419b550e65fb8cbdc308503979e5dacb33ac7ea3b7", // MIT
    ] {
        assert!(text.contains(digest), "{digest} in {text}");
        assert!(
            sandbox
                .models()
                .join(format!("blobs/sha256-{digest}"))
                .is_file()
        );
    }
    assert!(text.starts_with("{\"schemaVersion\":2,\"mediaType\":\"application/vnd.docker.distribution.manifest.v2+json\",\"config\":{\"mediaType\":\"application/vnd.docker.container.image.v1+json\",\"digest\":\"sha256:"));
    assert!(text.ends_with("]}\n"));
    assert_eq!(
        fs::read(sandbox.home.join("tiny.gguf")).unwrap(),
        tiny_gguf(),
        "the file stays"
    );
}

#[test]
fn ls_is_lines_in_a_pipe_and_json_on_demand() {
    let sandbox = with_tiny();
    let line = sandbox.puna(&["ls"], "").ok();
    let fields: Vec<&str> = line.trim_end().split('\t').collect();
    assert_eq!(fields.len(), 4);
    assert_eq!(fields[0], "tiny:latest");
    assert!(fields[1].starts_with("sha256:") && fields[1].len() == 71);
    assert!(fields[2].parse::<u64>().unwrap() > 68);
    assert!(
        fields[3].ends_with('Z') && fields[3].len() == 20,
        "{}",
        fields[3]
    );
    let json: Json = serde_json::from_str(&sandbox.puna(&["list", "--json"], "").ok()).unwrap();
    assert_eq!(json["name"], "tiny:latest");
    assert_eq!(json["digest"], fields[1][7..]);
    assert_eq!(json["size"].as_u64().unwrap().to_string(), fields[2]);
    assert_eq!(json["details"]["family"], "test");
    assert!(
        json["modified_at"]
            .as_str()
            .unwrap()
            .starts_with(&fields[3][..19])
    );
    assert_eq!(sandbox.puna(&["ls", "TI"], "").ok(), line);
    assert_eq!(sandbox.puna(&["ls", "x"], "").ok(), "");
}

#[test]
fn a_terminal_gets_a_table() {
    let sandbox = with_tiny();
    let done = sandbox.shell("script -qec 'puna ls' /dev/null");
    let text = done.ok().replace('\r', "");
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap().split_whitespace().collect::<Vec<_>>(),
        ["NAME", "ID", "SIZE", "MODIFIED"]
    );
    assert!(lines.next().unwrap().starts_with("tiny:latest    "));
    assert!(!text.contains('\x1b'));
}

#[test]
fn show_prints_a_modelfile_that_recreates_the_model() {
    let sandbox = with_tiny();
    let text = sandbox.puna(&["show", "tiny"], "").ok();
    for line in [
        "name\ttiny:latest",
        "architecture\ttest",
        "context\t64",
        "system\tBe brief.\\nVery.",
        "option temperature\t1",
        "option stop\t\"USER:\"",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
    assert_eq!(
        sandbox.puna(&["show", "tiny", "--system"], "").ok(),
        "Be brief.\nVery.\n"
    );
    let json: Json =
        serde_json::from_str(&sandbox.puna(&["show", "tiny", "--json"], "").ok()).unwrap();
    assert_eq!(
        json["parameters"].as_str().unwrap().lines().next().unwrap(),
        "stop                           \"USER:\""
    );
    assert_eq!(json["model_info"]["general.parameter_count"], 32);
    assert_eq!(json["tensors"][0]["name"], "x.weight");
    let modelfile = sandbox.puna(&["show", "tiny", "--modelfile"], "").ok();
    sandbox
        .puna(&["create", "again", "-q", "-f", "-"], &modelfile)
        .ok();
    let layers = |name: &str| {
        let path = sandbox.models().join(format!(
            "manifests/registry.ollama.ai/library/{name}/latest"
        ));
        let json: Json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        json["layers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|layer| layer["digest"].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(layers("tiny"), layers("again"));
}

#[test]
fn a_model_can_be_made_of_a_model() {
    let sandbox = with_tiny();
    sandbox
        .puna(
            &["create", "two", "-q", "-f", "-"],
            "FROM tiny\nSYSTEM Other.\nPARAMETER top_k 20\n",
        )
        .ok();
    let text = sandbox.puna(&["show", "two"], "").ok();
    for line in [
        "system\tOther.",
        "option top_k\t20",
        "option temperature\t1",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
    let json: Json =
        serde_json::from_str(&sandbox.puna(&["show", "two", "--json"], "").ok()).unwrap();
    assert_eq!(json["details"]["parent_model"], "tiny:latest");
}

#[test]
fn what_stands_more_than_once_is_told() {
    let sandbox = with_tiny();
    let twice = "FROM tiny\nSYSTEM a\nSYSTEM b\nPARAMETER seed 1\nPARAMETER seed 2\nPARAMETER stop x\nPARAMETER stop y\n";
    let made = sandbox.puna(&["create", "two", "-f", "-"], twice);
    assert_eq!(
        (made.status, made.stderr.as_str()),
        (
            Some(0),
            "puna: PARAMETER seed stands more than once: the last one holds\n\
             puna: SYSTEM stands more than once: the last one holds\n"
        )
    );
}

#[test]
fn cp_and_rm_leave_used_blobs() {
    let sandbox = with_tiny();
    assert_eq!(sandbox.puna(&["cp", "tiny", "me/copy:v1"], "").ok(), "");
    let blobs = || {
        fs::read_dir(sandbox.models().join("blobs"))
            .unwrap()
            .count()
    };
    let before = blobs();
    assert_eq!(sandbox.puna(&["rm", "tiny"], "").ok(), "");
    assert_eq!(blobs(), before, "the copy uses them all");
    assert_eq!(sandbox.puna(&["ls"], "").ok().lines().count(), 1);
    sandbox.puna(&["rm", "ME/COPY:V1"], "").ok();
    assert_eq!(blobs(), 0);
    assert_eq!(
        fs::read_dir(sandbox.models().join("manifests"))
            .unwrap()
            .count(),
        0,
        "no empty folders"
    );
    sandbox.puna(&["rm", "tiny"], "").fails(3, "not found");
    sandbox.puna(&["rm", "-f", "tiny"], "").ok();
}

#[test]
fn recreating_a_name_removes_its_unused_blobs() {
    let sandbox = with_tiny();
    let blobs = || {
        fs::read_dir(sandbox.models().join("blobs"))
            .unwrap()
            .count()
    };
    let before = blobs();
    sandbox
        .puna(&["create", "tiny", "-q", "-f", "-"], "FROM ./tiny.gguf\n")
        .ok();
    assert_eq!(blobs(), 2, "weights and config are left of {before}");
}

#[test]
fn a_linked_file_is_shared_and_must_not_change() {
    let sandbox = Sandbox::new();
    let path = sandbox.file("tiny.gguf", tiny_gguf());
    sandbox
        .puna(
            &["create", "tiny", "--link", "-q", "-f", "-"],
            "FROM ./tiny.gguf\n",
        )
        .ok();
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 2);
    sandbox.puna(&["show", "tiny"], "").ok();
    let changed = fs::File::options().append(true).open(&path).unwrap();
    changed
        .set_times(fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH))
        .unwrap();
    sandbox
        .puna(&["show", "tiny"], "")
        .fails(8, "the linked file has changed");
    let again = ["create", "tiny", "-q", "-f", "-"];
    sandbox
        .puna(&[&again[..], &["--link"]].concat(), "FROM ./tiny.gguf\n")
        .ok();
    sandbox.puna(&["show", "tiny"], "").ok();
    sandbox.puna(&again, "FROM ./tiny.gguf\n").ok();
    assert_eq!(
        fs::metadata(&path).unwrap().nlink(),
        1,
        "a copy replaces a link"
    );
    std::os::unix::fs::symlink(&path, sandbox.home.join("other.gguf")).unwrap();
    sandbox.puna(&["rm", "tiny"], "").ok();
    sandbox
        .puna(&[&again[..], &["--link"]].concat(), "FROM ./other.gguf\n")
        .ok();
    sandbox.puna(&["show", "tiny"], "").ok();
}

#[test]
fn system_messages_and_parameters_reach_the_prompt() {
    let sandbox = Sandbox::new();
    let modelfile = format!(
        "FROM {}\nSYSTEM Be a pirate.\nMESSAGE user hi\nMESSAGE assistant Arr!\nPARAMETER num_predict 3\nPARAMETER temperature 0\n",
        smol().display()
    );
    sandbox.create("pirate", &modelfile);
    let json: Json =
        serde_json::from_str(&sandbox.puna(&["run", "pirate", "Hello", "--json"], "").ok())
            .unwrap();
    assert!(json["eval_count"].as_u64().unwrap() <= 3, "{json}");
    let server = sandbox.serve(&[]);
    let body = r#"{"model":"pirate","messages":[{"role":"user","content":"Hello"}],"_debug_render_only":true}"#;
    let rendered = server.post("/api/chat", body);
    assert_eq!(
        rendered["_debug_info"]["rendered_template"],
        "<|im_start|>system\nBe a pirate.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nArr!<|im_end|>\n\
         <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    );
}

/// A GGUF without a template whose vocabulary has ChatML's special tokens.
fn marked(name: &str) -> Vec<u8> {
    let mut tokens: Vec<String> = ["<unk>", "<|im_start|>", "<|im_end|>"]
        .map(String::from)
        .into();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).collect();
    let mut writer = Writer::new("llama");
    writer.text("general.name", name);
    for key in [
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
    ] {
        let value = if key == "block_count" { 1 } else { 32 };
        writer.unsigned(&format!("llama.{key}"), value);
    }
    writer.unsigned("llama.attention.head_count", 1);
    writer.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    writer.text("tokenizer.ggml.model", "llama");
    writer.texts("tokenizer.ggml.tokens", &tokens);
    writer.floats("tokenizer.ggml.scores", &[0.0; 259]);
    writer.integers("tokenizer.ggml.token_type", &kinds);
    let square: &[u64] = &[32, 32];
    let layer = [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
    ];
    let layer = layer.map(|name| (format!("blk.0.{name}.weight"), square));
    let norms = ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"];
    let norms = norms.map(|name| (format!("{name}.weight"), &[32][..]));
    let table = ("token_embd.weight".to_string(), &[32, 259][..]);
    let all: Vec<_> = layer.into_iter().chain(norms).chain([table]).collect();
    let all: Vec<(&str, &[u64])> = all
        .iter()
        .map(|(name, shape)| (name.as_str(), *shape))
        .collect();
    tensors(&mut writer, "", 5, &all);
    writer.bytes()
}

const CHATML: &str = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";

#[test]
fn a_model_without_a_template_gets_the_one_that_its_tokens_show() {
    let sandbox = Sandbox::new();
    sandbox.file("m.gguf", marked("Some Model Instruct"));
    let words = ["create", "m", "-f", "-"];
    let done = sandbox.puna(&words, "FROM ./m.gguf\n");
    assert!(
        done.stderr
            .contains("chatml, which its vocabulary suggests"),
        "{done:?}"
    );
    let shown = sandbox.puna(&["show", "m", "--parameters"], "").ok();
    assert!(
        shown.contains("<|im_start|>") && shown.contains("<|im_end|>"),
        "{shown}"
    );
    assert!(
        sandbox
            .puna(&["show", "m", "--template"], "")
            .ok()
            .contains("<|im_start|>")
    );
    // By path too, where only the file name shows that the model is instruction-tuned.
    for model in ["m", "./m.gguf"] {
        assert_eq!(
            sandbox.puna(&["render", model, "hi"], "").ok(),
            CHATML,
            "{model}"
        );
    }
    sandbox.file("some-7b-chat.gguf", marked("x"));
    assert_eq!(
        sandbox
            .puna(&["render", "./some-7b-chat.gguf", "hi"], "")
            .ok(),
        CHATML
    );
    // The Modelfile has precedence.
    let own = "FROM ./m.gguf\nTEMPLATE <{{ .Prompt }}>\nPARAMETER stop X\n";
    sandbox.create("own", own);
    assert_eq!(sandbox.puna(&["render", "own", "hi"], "").ok(), "<hi>");
    let shown = sandbox.puna(&["show", "own", "--parameters"], "").ok();
    assert!(!shown.contains("im_end"), "{shown}");
    sandbox.create("stops", "FROM ./m.gguf\nPARAMETER stop X\n");
    let shown = sandbox.puna(&["show", "stops", "--parameters"], "").ok();
    assert!(shown.contains('X') && !shown.contains("im_end"), "{shown}");
    // A base model has the tokens but is not instruction-tuned.
    sandbox.file("base.gguf", marked("Some Model"));
    sandbox.create("base", "FROM ./base.gguf\n");
    assert_eq!(sandbox.puna(&["render", "base", "hi"], "").ok(), "hi");
    let shown = sandbox.puna(&["show", "base"], "").ok();
    assert!(shown.contains("continues the prompt"), "{shown}");
}

#[test]
fn the_api_says_which_template_it_found() {
    let sandbox = Sandbox::new();
    let server = sandbox.serve(&[]);
    let file = sandbox.file("m.gguf", marked("m chat"));
    let digest = puna::core::digest::Digest::compute(&marked("m chat")).to_string();
    let put = format!(
        "curl -sf --data-binary @{} {}/api/blobs/{digest}",
        file.display(),
        server.at
    );
    sandbox.shell(&put).ok();
    let body = serde_json::json!({"model": "m", "files": {"m.gguf": digest}});
    let answer = server.ask("POST", "/api/create", &body.to_string());
    let said: Vec<Json> = answer.lines();
    let found = said
        .iter()
        .any(|line| line["status"] == "using autodetected template chatml");
    assert!(found, "{said:?}");
}
