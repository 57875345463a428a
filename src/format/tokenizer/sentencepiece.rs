//! `tokenizer.model`: the pieces of a SentencePiece model, read from its protocol buffer.

use serde_json::Value as Json;

use super::files::{Files, config_size};
use super::vocabulary::{Kind, Vocabulary};

/// A piece of the model.
#[derive(Debug, Default, PartialEq)]
pub struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

/// Score of added tokens, which no merge produces; llama.cpp's converter gives it.
const ADDED: f32 = -1000.0;
/// Score of ids without a token.
const NOTHING: f32 = -10000.0;

/// Reads the pieces in the order of their ids; `None` if this is not a SentencePiece model.
pub fn pieces(bytes: &[u8]) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    for (number, field) in Fields(bytes).collect::<Option<Vec<_>>>()? {
        if let (1, Field::Bytes(message)) = (number, field) {
            pieces.push(piece(message)?);
        }
    }
    (!pieces.is_empty()).then_some(pieces)
}

fn piece(message: &[u8]) -> Option<Piece> {
    let mut piece = Piece::default();
    for field in Fields(message) {
        match field? {
            (1, Field::Bytes(text)) => piece.text = String::from_utf8(text.to_vec()).ok()?,
            (2, Field::Four(bytes)) => piece.score = f32::from_le_bytes(bytes),
            (3, Field::Number(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Some(piece)
}

/// Builds the vocabulary from the pieces and the tokens that were added to them.
///
/// # Errors
/// If there are too many tokens.
pub fn vocabulary(pieces: Vec<Piece>, files: &Files) -> Result<Vocabulary, String> {
    let count = config_size(files).unwrap_or(pieces.len() as u64);
    let mut vocabulary = Vocabulary::blank("llama", "default", count)?;
    vocabulary.scores = vec![NOTHING; count as usize];
    for (id, piece) in pieces.iter().enumerate() {
        let kind = match piece.kind {
            2 => Kind::Unknown,
            3 => Kind::Control,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        };
        if vocabulary.set(id as u64, &piece.text, kind) {
            vocabulary.scores[id] = piece.score;
        }
    }
    for (token, id) in files.added.iter().flatten() {
        let id = id.as_u64().unwrap_or(u64::MAX);
        if vocabulary.set(id, token, Kind::UserDefined) {
            vocabulary.scores[id as usize] = ADDED;
        }
    }
    for (id, token) in decoder(files) {
        let special = token["special"].as_bool().unwrap_or(false);
        if let (Some(text), true) = (token["content"].as_str(), id < count) {
            vocabulary.add(id, text, special);
            vocabulary.scores[id as usize] = ADDED;
        }
    }
    Ok(vocabulary)
}

/// The tokens that `tokenizer_config.json` adds, otherwise those of `tokenizer.json`, with their ids.
fn decoder(files: &Files) -> Vec<(u64, &Json)> {
    let settings = files.settings.as_ref();
    if let Some(Json::Object(map)) = settings.and_then(|map| map.get("added_tokens_decoder")) {
        let tokens = map.iter();
        return tokens
            .filter_map(|(id, token)| Some((id.parse().ok()?, token)))
            .collect();
    }
    let added = files.tokenizer.as_ref().map(|json| &json["added_tokens"]);
    let tokens = added.and_then(Json::as_array).into_iter().flatten();
    tokens
        .filter_map(|token| Some((token["id"].as_u64()?, token)))
        .collect()
}

/// The value of one field.
enum Field<'a> {
    Number(u64),
    Four([u8; 4]),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a protocol buffer message; `None` where it is damaged, and then the iteration stops.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.number()?;
        let field = match tag & 7 {
            0 => Field::Number(self.number()?),
            1 => {
                self.take(8)?;
                Field::Other
            }
            2 => {
                let length = self.number()?;
                Field::Bytes(self.take(usize::try_from(length).ok()?)?)
            }
            5 => Field::Four(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_read_with_their_scores() {
        // Field 1, twice: "a" with a score of -1, and "b", a control token; then an unknown field.
        let bytes = b"\x0a\x08\x0a\x01a\x15\0\0\x80\xbf\x0a\x05\x0a\x01b\x18\x03\x12\x02\x08\x01";
        let read = pieces(bytes).unwrap();
        assert_eq!((read[0].text.as_str(), read[0].score), ("a", -1.0));
        assert_eq!((read[1].text.as_str(), read[1].kind), ("b", 3));
        for end in 1..bytes.len() {
            let _ = pieces(&bytes[..end]); // It must not panic, whatever is missing.
        }
        assert_eq!(pieces(b"IQ== 0\nIg== 1\n"), None); // tiktoken's format has the same name.
    }
}
