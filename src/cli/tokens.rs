//! `puna tokens`: counts and cuts texts by tokens, as `wc`, `head`, `tail` and `split` do by lines.

use super::context::Context;
use super::encoding::{ENCODING, Encoding};
use super::flag::{Flag, JSON, option, switch};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::run::turn_args::PROMPT_BYTES_MAX;
use super::stdin;
use super::table::{Command, Completes, PLAIN};
use crate::core::error::{Error, Result};
use crate::core::options::Options;
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::system::engine::Engine;

/// Typical bytes per token, for the first guess at the size of a part.
const TOKEN_BYTES: usize = 4;
/// Extra tokens of a part beyond those that are printed; the tokens at a cut may differ.
const TOKENS_MORE: usize = 16;

pub const COMMAND: Command = Command {
    name: "tokens",
    summary: "count or cut texts by a model's tokens",
    operands: "MODEL [FILE...]",
    arity: (1, usize::MAX),
    flags: &[IDS, PIECES, HEAD, TAIL, SPLIT, NULL, ENCODING, JSON],
    about: &[
        "Counts the tokens of standard input, or of each FILE; - stands for standard input. For each file a line with \
         its count, a tab, and its name is printed; with several files a line with the total comes last.",
        "--split cuts between lines or sentences, and between words or characters only if a sentence alone is longer \
         than a piece. It escapes newlines, tabs and backslashes within a piece, so that each piece is one line; \
         --json prints the pieces as JSON strings. With -0 a piece is printed as it is and ends with NUL, as embed, \
         rerank and map read it with -0; embed and rerank also read the escaped form.",
    ],
    examples: &[
        ("puna tokens smol < notes.txt", "count tokens"),
        (
            "puna tokens smol notes.txt letter.txt",
            "count the tokens of files",
        ),
        (
            "puna tokens smol --head 100 < notes.txt | puna run smol - 'Summarise this.'",
            "ask about the first part of a file",
        ),
    ],
    run,
    completes: (Completes::ModelsAndFiles, Completes::Files),
    ..PLAIN
};

const IDS: Flag = switch("ids", None, "print each token's id, one a line");
const PIECES: Flag = switch("pieces", None, "print each token's id, a tab, and its text");
const HEAD: Flag = option(
    "head",
    None,
    "N",
    "print the beginning of the text, at most N tokens",
);
const TAIL: Flag = option(
    "tail",
    None,
    "N",
    "print the end of the text, at most N tokens",
);
const SPLIT: Flag = option(
    "split",
    None,
    "N",
    "print pieces of at most N tokens, one per line",
);

const NULL: Flag = switch(
    "null",
    Some('0'),
    "end pieces with NUL, not a newline, unescaped",
);

/// The forms in which tokens are printed in place of their number.
#[derive(Debug, Clone, Copy)]
enum Way {
    Ids,
    Pieces,
    /// At most so many tokens from the start.
    Head(usize),
    /// At most so many tokens from the end.
    Tail(usize),
    /// Pieces of at most so many tokens.
    Split(usize),
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let number = |flag| -> Result<usize> {
        let number = parsed.number(flag, 1..=usize::MAX)?;
        Ok(number.unwrap_or_default())
    };
    let way = parsed.only_one(&[
        (&IDS, Way::Ids),
        (&PIECES, Way::Pieces),
        (&HEAD, Way::Head(number(&HEAD)?)),
        (&TAIL, Way::Tail(number(&TAIL)?)),
        (&SPLIT, Way::Split(number(&SPLIT)?)),
    ])?;
    if parsed.has(&NULL) && !parsed.has(&SPLIT) {
        return Err(Error::usage("--null needs --split"));
    }
    parsed.only_one(&[(&NULL, ()), (&JSON, ())])?;
    let encoding = Encoding::read(parsed)?;
    let model = model::open(&context.store(), &parsed.operands[0])?;
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let lease = pool.acquire(
        &model,
        &Options::default(),
        None,
        &false.into(),
        &mut |_| {},
    )?;
    let engine = lease.engine();
    let files = &parsed.operands[1..];
    let Some(way) = way else {
        return count(engine, files, encoding, parsed.has(&JSON), out);
    };
    let mut text = String::new();
    for file in files {
        text += &read(file, encoding)?;
    }
    if files.is_empty() {
        text = read("-", encoding)?;
    }
    let json = parsed.has(&JSON);
    match way {
        Way::Head(most) => print(head(engine, &text, most), json, out),
        Way::Tail(most) => print(tail(engine, &text, most), json, out),
        Way::Split(most) => {
            let pieces = split(engine, &text, most);
            if json {
                out.json(&pieces)
            } else if parsed.has(&NULL) {
                let text: String = pieces.iter().map(|piece| format!("{piece}\0")).collect();
                out.write(&text)
            } else {
                let lines = pieces.into_iter().map(|piece| vec![piece.to_string()]);
                out.records(&lines.collect::<Vec<_>>())
            }
        }
        Way::Ids | Way::Pieces => {
            let ids = engine.tokens(&text, false, false);
            let row = |id: &i32| match way {
                Way::Pieces => vec![(*id).into(), engine.text(&[*id]).into()],
                _ => vec![(*id).into()],
            };
            let rows: Vec<_> = ids.iter().map(row).collect();
            out.named(json, &["id", "text"], &rows)
        }
    }
}

fn print(part: &str, json: bool, out: &mut Out) -> Result<()> {
    if json {
        out.json(&[part])
    } else {
        out.plain(part)
    }
}

fn read(file: &str, encoding: Encoding) -> Result<String> {
    stdin::decoded(file, PROMPT_BYTES_MAX, encoding)
}

fn counted(engine: &Engine, text: &str) -> usize {
    engine.tokens(text, false, false).len()
}

fn count(
    engine: &Engine,
    files: &[String],
    encoding: Encoding,
    json: bool,
    out: &mut Out,
) -> Result<()> {
    if files.is_empty() {
        let tokens = counted(engine, &read("-", encoding)?);
        return out.named(json, &["tokens"], &[vec![tokens.into()]]);
    }
    let (mut rows, mut failed) = (Vec::new(), None);
    for file in files {
        match read(file, encoding) {
            Ok(text) => rows.push((counted(engine, &text), file.as_str())),
            // As wc does, the others are counted.
            Err(error) => match &failed {
                None => failed = Some(error),
                Some(_) => out::complain(&error.to_string()),
            },
        }
    }
    let printed = print_counts(rows, files.len() > 1, json, out);
    failed.map_or(printed, Err)
}

fn print_counts(
    mut rows: Vec<(usize, &str)>,
    several: bool,
    json: bool,
    out: &mut Out,
) -> Result<()> {
    if json {
        let json =
            |(tokens, file): &(usize, &str)| serde_json::json!({ "file": file, "tokens": tokens });
        return out.json(&rows.iter().map(json).collect::<Vec<_>>());
    }
    if several {
        rows.push((rows.iter().map(|(tokens, _)| tokens).sum(), "total"));
    }
    let line = |(tokens, file): &(usize, &str)| vec![tokens.to_string(), file.to_string()];
    out.records(&rows.iter().map(line).collect::<Vec<_>>())
}

/// The byte offset of every boundary between two characters, and of the end.
fn characters(text: &str) -> Vec<usize> {
    let starts = text.char_indices().map(|(at, _)| at);
    starts.skip(1).chain([text.len()]).collect()
}

/// A part of a text that certainly has more than `n` tokens, or the whole text; the rest need not be
/// tokenised. `part` returns a part of about so many bytes.
fn enough<'a>(engine: &Engine, text: &str, n: usize, part: impl Fn(usize) -> &'a str) -> &'a str {
    // The last tokens of a part may differ from those of the whole text.
    let wanted = n.saturating_add(TOKENS_MORE);
    let mut bytes = wanted.saturating_mul(TOKEN_BYTES);
    loop {
        let part = part(bytes);
        if part.len() == text.len() || counted(engine, part) > wanted {
            return part;
        }
        bytes = bytes.saturating_mul(2);
    }
}

/// The first part of a text, with more than `n` tokens, or the whole text.
fn beginning<'a>(engine: &Engine, text: &'a str, n: usize) -> &'a str {
    enough(engine, text, n, |bytes| {
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
fn longest(engine: &Engine, text: &str, places: &[usize], n: usize) -> usize {
    let fits = |at: &usize| counted(engine, &text[..*at]) <= n;
    let count = places.partition_point(fits);
    count.checked_sub(1).map_or(0, |last| places[last])
}

/// The longest beginning of at most `n` tokens.
fn head<'a>(engine: &Engine, text: &'a str, n: usize) -> &'a str {
    let near = beginning(engine, text, n);
    &near[..longest(engine, near, &characters(near), n)]
}

/// The longest end of at most `n` tokens.
fn tail<'a>(engine: &Engine, text: &'a str, n: usize) -> &'a str {
    let near = enough(engine, text, n, |bytes| {
        let mut start = text.len().saturating_sub(bytes);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        &text[start..]
    });
    let places: Vec<usize> = near.char_indices().map(|(at, _)| at).collect();
    let first = places.partition_point(|at| counted(engine, &near[*at..]) > n);
    &near[places.get(first).copied().unwrap_or(near.len())..]
}

/// The text in pieces of at most `n` tokens.
fn split<'a>(engine: &Engine, text: &'a str, n: usize) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.trim().is_empty() {
        let near = beginning(engine, rest, n);
        let at = [
            sentences(near, rest.len() == near.len()),
            words(near),
            characters(near),
        ]
        .iter()
        .map(|places| longest(engine, near, places, n))
        .find(|at| *at > 0)
        .unwrap_or_else(|| near.chars().next().map_or(0, char::len_utf8));
        let (piece, behind) = rest.split_at(at);
        if !piece.trim().is_empty() {
            pieces.push(piece.trim());
        }
        rest = behind;
    }
    pieces
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
