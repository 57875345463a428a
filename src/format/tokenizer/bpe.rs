//! `tokenizer.json`: byte pairs, SentencePiece's pairs, or WordPiece.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::files::{Files, config_size};
use super::split;
use super::vocabulary::{Kind, Vocabulary};
use crate::format::gguf::byte_of;

/// Reads the vocabulary of a `tokenizer.json`.
///
/// # Errors
/// If llama.cpp does not know its type, or its way to split text.
pub fn vocabulary(json: &Json, files: &Files) -> Result<Vocabulary, String> {
    let kind = json["model"]["type"].as_str().unwrap_or("BPE");
    let merged = json["model"]["byte_fallback"].as_bool().unwrap_or(false);
    match kind {
        "BPE" if merged => pieces(json, files),
        "BPE" => {
            let mut vocabulary = tokens("gpt2", split::name(json, files)?, json, files)?;
            vocabulary.merges = merges(json)?;
            Ok(vocabulary)
        }
        "WordPiece" => words(json, files),
        other => Err(format!(
            "tokenizer.json has a tokenizer of type {other}, not BPE or WordPiece"
        )),
    }
}

/// SentencePiece's own pairs: a pair that merges earlier has a higher score.
fn pieces(json: &Json, files: &Files) -> Result<Vocabulary, String> {
    let mut vocabulary = tokens("llama", "default", json, files)?;
    let mut ranks: HashMap<String, usize> = HashMap::new();
    for (rank, pair) in pairs(json)?.into_iter().enumerate() {
        ranks.entry(pair.concat()).or_insert(rank);
    }
    let unknown = json["model"]["unk_token"].as_str();
    for (id, token) in vocabulary.tokens.iter().enumerate() {
        let rank = ranks.get(token).copied().unwrap_or(ranks.len());
        vocabulary.scores.push(-(rank as f32));
        let kind = &mut vocabulary.kinds[id];
        if Some(token.as_str()) == unknown {
            *kind = Kind::Unknown;
        } else if *kind == Kind::Normal && byte_of(token.as_bytes()).is_some() {
            *kind = Kind::Byte;
        }
    }
    Ok(vocabulary)
}

/// WordPiece: marks the pieces that begin a word, instead of those that continue one.
fn words(json: &Json, files: &Files) -> Result<Vocabulary, String> {
    // llama.cpp does not split words by this name; its converter writes it for BERT's own vocabulary.
    let mut vocabulary = tokens("bert", "jina-v2-en", json, files)?;
    for (token, kind) in vocabulary.tokens.iter_mut().zip(&vocabulary.kinds) {
        if *kind == Kind::Control {
            continue;
        }
        *token = match token.strip_prefix("##") {
            Some(rest) => rest.to_string(),
            None => format!("\u{2581}{token}"),
        };
    }
    Ok(vocabulary)
}

/// Reads all tokens by their ids.
fn tokens(
    model: &'static str,
    pre: &'static str,
    json: &Json,
    files: &Files,
) -> Result<Vocabulary, String> {
    let own = json["model"]["vocab"].as_object();
    let own = own.ok_or("tokenizer.json has no vocabulary")?;
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let added: Vec<(u64, &str, bool)> = added
        .filter_map(|token| {
            let special = token["special"].as_bool().unwrap_or(false);
            Some((token["id"].as_u64()?, token["content"].as_str()?, special))
        })
        .collect();
    let ids = own.values().filter_map(Json::as_u64);
    let last = ids.chain(added.iter().map(|(id, ..)| *id)).max();
    let needed = last.map_or(0, |id| id.saturating_add(1));
    let count = config_size(files).unwrap_or(needed);
    if needed > count {
        return Err(format!(
            "the tokenizer has {needed} tokens, the weights have {count}"
        ));
    }
    let mut vocabulary = Vocabulary::blank(model, pre, count)?;
    for (token, id) in own {
        vocabulary.set(id.as_u64().unwrap_or(u64::MAX), token, Kind::Normal);
    }
    for (id, token, special) in added {
        vocabulary.add(id, token, special);
    }
    Ok(vocabulary)
}

/// The pairs to merge, highest priority first.
fn pairs(json: &Json) -> Result<Vec<[String; 2]>, String> {
    let merges = json["model"]["merges"].as_array();
    let merges = merges.ok_or("tokenizer.json has no merges")?;
    let pair = |merge: &Json| match merge {
        Json::String(text) => text
            .split_once(' ')
            .map(|(left, right)| [left.into(), right.into()]),
        Json::Array(pair) => match pair.as_slice() {
            [Json::String(left), Json::String(right)] => Some([left.clone(), right.clone()]),
            _ => None,
        },
        _ => None,
    };
    let pairs = merges.iter().map(pair).collect::<Option<Vec<_>>>();
    pairs.ok_or_else(|| "tokenizer.json has a merge that is not a pair".into())
}

/// The pairs in GGUF's form: a space between the two, and byte-level tokenizers' sign for a space within.
fn merges(json: &Json) -> Result<Vec<String>, String> {
    let text = |pair: [String; 2]| pair.map(|part| part.replace(' ', "\u{120}")).join(" ");
    Ok(pairs(json)?.into_iter().map(text).collect())
}
