//! Targets for what is read of files that others made.

use std::io::Cursor;

use puna::digest::Digest;
use puna::gguf::{self, Writer};
use puna::manifest::{Config, Layer, Manifest};
use puna::modelfile::{self, Instruction};

use crate::Dice;

/// What the mutations of a target begin with.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "gguf" => vec![small_gguf(), Writer::new("llama").bytes()],
        "modelfile" => MODELFILES
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect(),
        _ => vec![small_manifest()],
    }
}

const MODELFILES: &[&str] = &[
    "FROM ./a.gguf\nSYSTEM \"\"\"You\nare\"\"\"\nPARAMETER stop \"</s>\"\nPARAMETER temperature 0.5\n",
    "# c\nfrom smol:latest\nTEMPLATE {{ .Prompt }}\nMESSAGE user hi\nMESSAGE assistant \"\"\"a\"\"\"\nLICENSE MIT\nADAPTER ./l.gguf\n",
    "\u{feff}FROM \"a b\"\r\nPARAMETER num_ctx 10\r\nRENDERER x\nPARSER y\nREQUIRES 0.1\n",
];

fn small_gguf() -> Vec<u8> {
    Writer::new("llama")
        .unsigned("llama.block_count", 1)
        .unsigned("llama.context_length", 64)
        .bool("tokenizer.ggml.add_bos_token", true)
        .texts("tokenizer.ggml.tokens", &["<s>", "a", "\u{e9}"])
        .floats("tokenizer.ggml.scores", &[0.0, -1.0, -2.0])
        .integers("tokenizer.ggml.token_type", &[3, 1, 1])
        .text("tokenizer.chat_template", "{{ messages }}")
        .tensor_f32("token_embd.weight", &[4, 3], &[0.5; 12])
        .bytes()
}

fn small_manifest() -> Vec<u8> {
    let digest = Digest::of(b"a");
    let layers = vec![
        Layer::new("application/vnd.ollama.image.model", digest, 1),
        Layer::new("application/vnd.ollama.image.params", digest, 1),
    ];
    Manifest::new((digest, 1), layers).bytes()
}

/// A header that was accepted can be asked everything.
pub fn gguf(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        b"GGUF",
        &[0xff; 8],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
        &[0, 0, 0, 0x80],
        &[9, 0, 0, 0, 9, 0, 0, 0],
        b"general.alignment",
        b"llama.block_count",
        &[0; 16],
    ];
    let bytes = dice.mutated_bytes(seeds, WORDS);
    let mut file = Cursor::new(&bytes);
    let Ok(header) = gguf::read(&mut file, bytes.len() as u64) else {
        return;
    };
    let _ = (header.architecture(), header.file_type());
    let _ = (header.context_length(), header.parameter_count());
    let _ = (header.chat_template(), header.is_embedding());
    for (_, value) in &header.values {
        if let gguf::Value::Array(array) = value {
            let elements = header.elements(&mut file, array);
            assert!(elements.is_ok(), "{array:?} was accepted");
        }
    }
}

/// What is printed of a Modelfile reads as the same again.
pub fn modelfile(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        b"FROM ",
        b"PARAMETER ",
        b"\"\"\"",
        b"\"",
        b"\n",
        b"\r\n",
        b"MESSAGE user ",
        b"\xff\xfe",
        b"SYSTEM",
        b"#",
        b"stop",
    ];
    let _ = modelfile::parse(&dice.mutated_bytes(seeds, WORDS)); // An error is an answer too.
    let text = String::from_utf8_lossy(&dice.mutated_bytes(seeds, WORDS)).into_owned();
    let text = text.replace('\r', ""); // Its lines end in either way.
    if text.contains("\"\"\"") || text.contains('\0') {
        return; // No Modelfile can say these.
    }
    let written = format!("FROM a\nSYSTEM {}\n", modelfile::quoted(&text));
    let again = modelfile::parse(written.as_bytes());
    let again = again.unwrap_or_else(|error| panic!("{written:?} cannot be read: {error}"));
    let found = again.instructions.last();
    assert!(
        matches!(found, Some(Instruction::System(system)) if *system == text),
        "{written:?} was read as {found:?}"
    );
}

/// A manifest that was accepted is written and read as itself.
pub fn manifest(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        b"sha256:",
        b"null",
        b"\"layers\":[",
        b"\"digest\":\"../../x\"",
        b"-1",
        b"99999999999999999999",
        b"{",
        b"[",
        b"\"",
    ];
    let bytes = dice.mutated_bytes(seeds, WORDS);
    if let Ok(manifest) = Manifest::parse(&bytes) {
        let _ = (manifest.size_bytes(), manifest.digests().len());
        let written = manifest.bytes();
        let again = Manifest::parse(&written).expect("what was written can be read");
        assert_eq!(again.bytes(), written);
    }
    let _ = serde_json::from_slice::<Config>(&bytes); // An error is an answer too.
}
