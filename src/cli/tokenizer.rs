//! The tokens of a text, made here or at a server, and the places to cut it.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::context::Context;
use super::out;
use super::parsed::Parsed;
use crate::core::error::Result;
use crate::core::options::Options;
use crate::ops::model;
use crate::ops::pool::{Lease, Policy, Pool};
use crate::system::client::Client;

/// How long a server may take to load a model and make tokens with it.
const LOAD_MAX: Duration = Duration::from_secs(600);
/// Typical bytes per token, for the first guess at the size of a part.
const TOKEN_BYTES: usize = 4;
/// Extra tokens of a part beyond those that are printed; the tokens at a cut may differ.
const TOKENS_MORE: usize = 16;

/// The model that makes the tokens.
pub enum Tokenizer {
    /// In this process.
    Here(Lease),
    /// The model of this name at a server.
    Server(Client, String),
}

/// A server's answer: token ids, or with the text of each.
#[derive(Deserialize)]
struct Tokenized<T> {
    tokens: Vec<T>,
}

/// A token of a server, with its text, or with its bytes where they are no text.
#[derive(Deserialize)]
struct Piece {
    id: i32,
    piece: Json,
}

impl Tokenizer {
    /// The model of the first operand.
    ///
    /// # Errors
    /// If there is no such model, or `--host` cannot be used with it.
    pub fn open(parsed: &Parsed, context: &Context) -> Result<Self> {
        let operand = &parsed.operands[0];
        if let Some(server) = context.model_server(parsed)? {
            let server = server.within(Some(LOAD_MAX));
            return Ok(Tokenizer::Server(server, operand.clone()));
        }
        let model = model::open(&context.store(), operand)?;
        let pool = Pool::new(context.config.clone(), Policy::OneShot, out::log(None)?);
        let options = Options::default();
        let lease = pool.acquire(&model, &options, None, &false.into(), &mut |_| {})?;
        Ok(Tokenizer::Here(lease))
    }

    /// The ids of a text's tokens.
    ///
    /// # Errors
    /// The server's; here it does not fail.
    pub fn ids(&self, text: &str) -> Result<Vec<i32>> {
        match self {
            Tokenizer::Here(lease) => Ok(lease.engine().tokens(text, false, false)),
            Tokenizer::Server(server, model) => asked(server, model, text, false),
        }
    }

    /// The number of a text's tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn count(&self, text: &str) -> Result<usize> {
        self.ids(text).map(|ids| ids.len())
    }

    /// Each token and its text.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn pieces(&self, text: &str) -> Result<Vec<(i32, String)>> {
        match self {
            Tokenizer::Here(lease) => {
                let engine = lease.engine();
                let ids = engine.tokens(text, false, false).into_iter();
                Ok(ids.map(|id| (id, engine.text(&[id]))).collect())
            }
            Tokenizer::Server(server, model) => {
                let pieces: Vec<Piece> = asked(server, model, text, true)?;
                let pieces = pieces
                    .into_iter()
                    .map(|token| (token.id, text_of(&token.piece)));
                Ok(pieces.collect())
            }
        }
    }

    /// A part of a text that certainly has more than `n` tokens, or the whole text; the rest need not be
    /// tokenised. `part` returns a part of about so many bytes.
    fn enough<'a>(&self, text: &str, n: usize, part: impl Fn(usize) -> &'a str) -> Result<&'a str> {
        // The last tokens of a part may differ from those of the whole text.
        let wanted = n.saturating_add(TOKENS_MORE);
        let mut bytes = wanted.saturating_mul(TOKEN_BYTES);
        loop {
            let part = part(bytes);
            if part.len() == text.len() || self.count(part)? > wanted {
                return Ok(part);
            }
            bytes = bytes.saturating_mul(2);
        }
    }

    /// The first part of a text, with more than `n` tokens, or the whole text.
    fn beginning<'a>(&self, text: &'a str, n: usize) -> Result<&'a str> {
        self.enough(text, n, |bytes| {
            let mut end = bytes.min(text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            &text[..end]
        })
    }

    /// The last of `places` up to which the text has at most `n` tokens; 0 if there is no such place.
    ///
    /// A binary search: the token count grows almost monotonically with the length.
    fn longest(&self, text: &str, places: &[usize], n: usize) -> Result<usize> {
        let count = early(places, |at| Ok(self.count(&text[..at])? <= n))?;
        Ok(count.checked_sub(1).map_or(0, |last| places[last]))
    }

    /// The longest beginning of at most `n` tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn head<'a>(&self, text: &'a str, n: usize) -> Result<&'a str> {
        let near = self.beginning(text, n)?;
        Ok(&near[..self.longest(near, &characters(near), n)?])
    }

    /// The longest end of at most `n` tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn tail<'a>(&self, text: &'a str, n: usize) -> Result<&'a str> {
        let near = self.enough(text, n, |bytes| {
            let mut start = text.len().saturating_sub(bytes);
            while !text.is_char_boundary(start) {
                start += 1;
            }
            &text[start..]
        })?;
        let places: Vec<usize> = near.char_indices().map(|(at, _)| at).collect();
        let first = early(&places, |at| Ok(self.count(&near[at..])? > n))?;
        Ok(&near[places.get(first).copied().unwrap_or(near.len())..])
    }

    /// The text in pieces of at most `n` tokens.
    ///
    /// # Errors
    /// As [`Tokenizer::ids`].
    pub fn split<'a>(&self, text: &'a str, n: usize) -> Result<Vec<&'a str>> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while !rest.trim().is_empty() {
            let near = self.beginning(rest, n)?;
            let is_whole = rest.len() == near.len();
            let mut at = near.chars().next().map_or(0, char::len_utf8);
            for places in [sentences(near, is_whole), words(near), characters(near)] {
                match self.longest(near, &places, n)? {
                    0 => {}
                    found => {
                        at = found;
                        break;
                    }
                }
            }
            let (piece, behind) = rest.split_at(at);
            if !piece.trim().is_empty() {
                pieces.push(piece.trim());
            }
            rest = behind;
        }
        Ok(pieces)
    }
}

/// Has a server make the tokens of a text.
fn asked<T: DeserializeOwned>(
    server: &Client,
    model: &str,
    text: &str,
    with_pieces: bool,
) -> Result<Vec<T>> {
    let body = json!({
        "model": model,
        "content": text,
        "add_special": false,
        "parse_special": false,
        "with_pieces": with_pieces,
    });
    Ok(server.ask::<Tokenized<T>>("/tokenize", &body)?.tokens)
}

/// The text of a server's token.
fn text_of(piece: &Json) -> String {
    let bytes = piece.as_array().into_iter().flatten();
    let bytes: Vec<u8> = bytes
        .filter_map(|byte| byte.as_u64().map(|byte| byte as u8))
        .collect();
    let lossy = || String::from_utf8_lossy(&bytes).into_owned();
    piece.as_str().map_or_else(lossy, str::to_string)
}

/// How many of `places` come first for which `is_early` holds: a binary search, as `partition_point`, with errors.
fn early(places: &[usize], is_early: impl Fn(usize) -> Result<bool>) -> Result<usize> {
    let mut error = None;
    let count = places.partition_point(|at| match is_early(*at) {
        Ok(is_early) => is_early,
        Err(failed) => {
            error.get_or_insert(failed);
            false
        }
    });
    error.map_or(Ok(count), Err)
}

/// The byte offset of every boundary between two characters, and of the end.
fn characters(text: &str) -> Vec<usize> {
    let starts = text.char_indices().map(|(at, _)| at);
    starts.skip(1).chain([text.len()]).collect()
}

/// The ends of lines and sentences; the end of the text too, if `is_whole`.
fn sentences(text: &str, is_whole: bool) -> Vec<usize> {
    let bytes = text.as_bytes();
    let ends = |at: usize| match bytes[at] {
        b'\n' => true,
        b' ' => at > 0 && matches!(bytes[at - 1], b'.' | b'!' | b'?'),
        _ => false,
    };
    let places = (0..bytes.len()).filter(|at| ends(*at)).map(|at| at + 1);
    places.chain(is_whole.then_some(text.len())).collect()
}

fn words(text: &str) -> Vec<usize> {
    let blanks = text.char_indices().filter(|(_, c)| c.is_whitespace());
    blanks.map(|(at, c)| at + c.len_utf8()).collect()
}
