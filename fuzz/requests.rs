//! Fuzz target for request bodies: each API's body decodes to the native one, or to an error.

use std::io::Read as _;

use puna::core::turn::TurnRequest;
use puna::format::compressed::inflate;
use puna::format::wire::native::{self, create};
use puna::format::wire::{anthropic, decisions, openai, responses};
use serde_json::{Map, Value as Json};

use crate::Dice;

/// A body of each API with most of its fields.
pub const SEEDS: &[&str] = &[
    r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"r"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"tool_choice":{"type":"function","function":{"name":"f"}},"n":2,"logprobs":true,"top_logprobs":3,"logit_bias":{"5":1.5},"max_completion_tokens":7,"stop":["a"],"stream":true,"stream_options":{"include_usage":true},"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{}}},"reasoning_effort":"high","seed":1,"temperature":0.5}"#,
    r#"{"model":"m","prompt":["a","b"],"suffix":"s","echo":false,"best_of":1,"logprobs":2,"max_tokens":5,"stop":"x"}"#,
    r#"{"model":"m","input":["a",[1,2]],"encoding_format":"base64","dimensions":8}"#,
    r#"{"model":"m","instructions":"i","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]},{"type":"reasoning","summary":[],"encrypted_content":"h"},{"type":"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"function_call_output","call_id":"c","output":"r"}],"text":{"format":{"type":"json_object"}},"tools":[{"type":"function","name":"f","parameters":{}}],"reasoning":{"effort":"low"},"max_output_tokens":3}"#,
    r#"{"model":"m","max_tokens":5,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"r"}]}]},{"role":"assistant","content":[{"type":"thinking","thinking":"h","signature":""},{"type":"tool_use","id":"t","name":"f","input":{}}]}],"tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"any"},"thinking":{"type":"enabled","budget_tokens":9},"stop_sequences":["x"]}"#,
    r#"{"model":"m","prompt":"p","system":"s","template":"{{ .Prompt }}","context":[1],"options":{"num_ctx":8,"stop":["a"]},"format":{"type":"object"},"think":"high","keep_alive":"5m","images":["AA=="],"raw":false,"suffix":"x","files":{"a.gguf":"sha256:0"},"quantize":"q8_0"}"#,
    r#"{"model":"m","state":{"a":[1]},"questions":{"a":{"type":"noul","instructions":"?","criteria":{"true":"t","false":null}},"b":{"type":"choice","criteria":{"x":null,"y":{"z":1}}},"c":{"type":"score","instructions":["?"],"criteria":["l","h"]}},"options":{"num_ctx":8},"keep_alive":1}"#,
    r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_json","data":{}}]},{"type":"function_call_output","call_id":"c","output":"r"}],"questions":[{"type":"predicate","instructions":"?","name":"n"},{"type":"choice","instructions":"?","choices":[{"value":true},{"value":"a","description":"d"}]},{"type":"score","instructions":"?","levels":[{"label":"l"},{"label":"h"}]}]}"#,
];

/// Bodies in gzip and zstd.
pub fn compressed_seeds() -> Vec<Vec<u8>> {
    let long = SEEDS.concat().repeat(20);
    let fast = ruzstd::encoding::CompressionLevel::Fastest;
    let mut gzip = Vec::new();
    let mut reader = flate2::read::GzEncoder::new(long.as_bytes(), flate2::Compression::fast());
    reader.read_to_end(&mut gzip).unwrap();
    vec![
        ruzstd::encoding::compress_to_vec(SEEDS[0].as_bytes(), fast),
        ruzstd::encoding::compress_to_vec(long.as_bytes(), fast),
        gzip,
    ]
}

/// Inflates a body; an error is a valid result, and what comes out is bounded.
pub fn bodies(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        &[0x28, 0xb5, 0x2f, 0xfd],
        &[0x1f, 0x8b, 8],
        &[0xff; 4],
        &[0; 8],
    ];
    const MOST: usize = 1 << 20;
    let bytes = dice.mutated_bytes(seeds, WORDS);
    for encoding in ["gzip", "zstd"] {
        if let Ok(inflated) = inflate(bytes.clone(), encoding, MOST) {
            assert!(inflated.len() <= MOST);
        }
    }
}

/// Decodes a body as every API does.
pub fn requests(dice: &mut Dice, seeds: &[Vec<u8>]) {
    const WORDS: &[&[u8]] = &[
        b"null",
        b"[]",
        b"{}",
        b"\"\"",
        b"-1",
        b"1e999",
        b"18446744073709551616",
        b"true",
        b"\"\\ud800\"",
        b"\"role\":\"tool\"",
        b"\"content\":",
        b"\"type\":\"tool_result\"",
        b"data:;base64,",
        b"[[1,2],\"a\"]",
    ];
    let bytes = dice.mutated_bytes(seeds, WORDS);
    // Errors are valid results.
    let _ = serde_json::from_slice::<native::GenerateRequest>(&bytes);
    let _ = serde_json::from_slice::<native::EmbedRequest>(&bytes).map(|request| request.texts());
    let _ = serde_json::from_slice::<create::CreateRequest>(&bytes);
    let Ok(body) = serde_json::from_slice::<Map<String, Json>>(&bytes) else {
        return;
    };
    let turns = [
        openai::chat(&body),
        anthropic::conversation(&body),
        responses::conversation(&body),
        anthropic::messages(&body),
        responses::request(&body),
    ];
    for turn in turns.into_iter().flatten() {
        let text = chat_text(&turn);
        let again: native::ChatRequest = serde_json::from_str(&text).expect("it reads as itself");
        let again = native::decode::chat(again).expect("an encoded turn is a valid request");
        assert_eq!(chat_text(&again), text);
    }
    let _ = decisions::systemone::decode(&body);
    let _ = decisions::openai::decode(&body);
    let _ = openai::completion(&body);
    let _ = openai::embedding(&body);
}

/// A decoded conversation as the body of a native request.
fn chat_text(turn: &TurnRequest) -> String {
    match native::decode::body(turn) {
        native::decode::Body::Chat(body) => serde_json::to_string(&body).expect("a body is JSON"),
        native::decode::Body::Generate(_) => unreachable!("conversations are sent to /api/chat"),
    }
}
