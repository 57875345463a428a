//! Fuzz targets for file formats.

use std::io::Cursor;

use puna::core::digest::Digest;
use puna::format::gguf::{self, Writer};
use puna::format::manifest::{Config, Layer, Manifest};
use puna::format::modelfile::{self, Instruction};
use puna::format::safetensors;
use puna::format::tokenizer::{Files, Vocabulary};

use crate::Dice;

/// The seeds of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "gguf" => vec![small_gguf(), Writer::new("llama").bytes()],
        "modelfile" => MODELFILES
            .iter()
            .map(|text| text.as_bytes().to_vec())
            .collect(),
        "safetensors" => vec![small_safetensors()],
        "vocabulary" => small_tokenizers(),
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

fn small_safetensors() -> Vec<u8> {
    let header = br#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}"#;
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header, &[0; 16]].concat()
}

/// A SentencePiece model, and JSON tokenizers: byte-level BPE, pieces, WordPiece.
fn small_tokenizers() -> Vec<Vec<u8>> {
    let pieces = [("<unk>", 2), ("<s>", 3), ("\u{2581}a", 1), ("<0x0A>", 6)];
    let piece = |(text, kind): (&str, u8)| {
        let body = [
            &[0x0a, text.len() as u8][..],
            text.as_bytes(),
            &[0x15, 0, 0, 0x80, 0xbf, 0x18, kind],
        ]
        .concat();
        [&[0x0a, body.len() as u8][..], &body].concat()
    };
    let texts = [
        r#"{"added_tokens":[{"id":3,"content":"<|end|>","special":true}],"pre_tokenizer":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}"#,
        r#"{"added_tokens":[{"id":0,"content":"<s>","special":true}],"model":{"type":"BPE","byte_fallback":true,"vocab":{"<s>":0,"a":1,"b":2,"ab":3},"merges":[["a","b"]]}}"#,
        r###"{"added_tokens":[],"model":{"type":"WordPiece","vocab":{"[UNK]":0,"a":1,"##b":2}}}"###,
    ];
    let texts = texts.iter().map(|text| text.as_bytes().to_vec());
    let model = pieces.into_iter().flat_map(piece).collect();
    texts.chain([model]).collect()
}

fn small_manifest() -> Vec<u8> {
    let digest = Digest::compute(b"a");
    let layers = vec![
        Layer::new("application/vnd.ollama.image.model", digest, 1),
        Layer::new("application/vnd.ollama.image.params", digest, 1),
    ];
    Manifest::new((digest, 1), layers).bytes()
}

/// Every accessor works on an accepted header.
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

/// A printed Modelfile parses to the same instructions.
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
    let _ = modelfile::parse(&dice.mutated_bytes(seeds, WORDS)); // An error is a valid result.
    let text = String::from_utf8_lossy(&dice.mutated_bytes(seeds, WORDS)).into_owned();
    let text = text.replace('\r', ""); // Either line ending is accepted.
    if text.contains("\"\"\"") || text.contains('\0') {
        return; // A Modelfile cannot contain these.
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

/// An accepted manifest survives writing and parsing.
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
    let _ = serde_json::from_slice::<Config>(&bytes); // An error is a valid result.
}

/// The tensors of an accepted header lie within the file.
pub fn safetensors(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        b"18446744073709551615",
        b"-1",
        b"[",
        b"]",
        b"{}",
        b"\"F64\"",
        b"\"a\":",
        b"null",
        &[0xff; 8],
        &[0, 0, 0, 0, 0, 0, 0, 0x80],
    ];
    let bytes = dice.mutated_bytes(seeds, WORDS);
    let length = bytes.len() as u64;
    for tensor in safetensors::read(Cursor::new(&bytes), length).unwrap_or_default() {
        assert!(tensor.start + tensor.size_bytes <= length, "{tensor:?}");
        assert!(tensor.elements() <= 8 * length, "{tensor:?}");
    }
}

/// An accepted tokenizer can be written to a GGUF that can be read.
pub fn vocabulary(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        b"\"vocab\":",
        b"\"merges\":",
        b"\"id\":4294967295",
        b"99999999999",
        b"null",
        b"\"a \"",
        b"[\"a\",\"ab\"]",
        b"Unigram",
        b"{",
        b"]",
        &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0x80],
    ];
    let bytes = dice.mutated_bytes(seeds, WORDS);
    let files = Files {
        tokenizer: serde_json::from_slice(&bytes).ok(),
        sentencepiece: Some(bytes),
        ..Files::default()
    };
    let Ok(vocabulary) = Vocabulary::read(&files) else {
        return;
    };
    let mut writer = Writer::new("llama");
    vocabulary.write(&mut writer);
    let written = writer.bytes();
    let read = gguf::read(Cursor::new(&written), written.len() as u64);
    assert!(read.is_ok(), "{files:?}");
}
