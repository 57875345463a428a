//! `puna tokens`: counts and cuts texts by tokens, as `wc`, `head`, `tail` and `split` do by lines.

use super::context::Context;
use super::encoding::{ENCODING, Encoding};
use super::failures::Failures;
use super::flag::{Flag, HOST, JSON, option, switch};
use super::out::Out;
use super::parsed::Parsed;
use super::run::turn_args::PROMPT_BYTES_MAX;
use super::stdin;
use super::table::{Command, Completes, PLAIN};
use super::tokenizer::Tokenizer;
use crate::core::error::{Error, Result};

pub const COMMAND: Command = Command {
    name: "tokens",
    summary: "count or cut texts by a model's tokens",
    operands: "MODEL [FILE...]",
    arity: (1, usize::MAX),
    flags: &[IDS, PIECES, HEAD, TAIL, SPLIT, NULL, ENCODING, JSON, HOST],
    about: &[
        "Counts the tokens of standard input, or of each FILE; - stands for standard input. For each file a line with \
         its count, a tab, and its name is printed; with several files a line with the total comes last, except with --json.",
        "--split cuts between lines or sentences, and between words or characters only if a sentence alone is longer \
         than a piece. It escapes newlines, tabs and backslashes within a piece, so that each piece is one line; \
         --json prints the pieces as JSON strings. With -0 a piece is printed as it is and ends with NUL, as embed, \
         rerank and map read it with -0; embed and rerank also read the escaped form.",
        "With --host a server that has the route /tokenize, as puna and llama-server do, makes the tokens.",
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

/// The flags and operands of `tokens`, read once.
struct TokensArgs<'a> {
    /// The form of the output; `None` prints the number of tokens.
    way: Option<Way>,
    /// The files; none for standard input.
    files: &'a [String],
    encoding: Encoding,
    json: bool,
    /// Pieces end with NUL.
    ends_with_nul: bool,
}

impl<'a> TokensArgs<'a> {
    fn read(parsed: &'a Parsed) -> Result<Self> {
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
        let files = &parsed.operands[1..];
        if files.len() > 1 && matches!(way, Some(Way::Head(_) | Way::Tail(_))) {
            return Err(Error::usage(
                "--head and --tail cut one text: give one file",
            ));
        }
        Ok(TokensArgs {
            way,
            files,
            encoding: Encoding::read(parsed)?,
            json: parsed.has(&JSON),
            ends_with_nul: parsed.has(&NULL),
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let TokensArgs {
        way,
        files,
        encoding,
        json,
        ends_with_nul,
    } = TokensArgs::read(parsed)?;
    let tokenizer = &Tokenizer::open(parsed, context)?;
    let Some(way) = way else {
        return count(tokenizer, files, encoding, json, out);
    };
    let mut text = String::new();
    for file in files {
        text += &read(file, encoding)?;
    }
    if files.is_empty() {
        text = read("-", encoding)?;
    }
    match way {
        Way::Head(most) => print(tokenizer.head(&text, most)?, json, out),
        Way::Tail(most) => print(tokenizer.tail(&text, most)?, json, out),
        Way::Split(most) => {
            let pieces = tokenizer.split(&text, most)?;
            if json {
                out.json(&pieces)
            } else if ends_with_nul {
                let text: String = pieces.iter().map(|piece| format!("{piece}\0")).collect();
                out.write(&text)
            } else {
                let lines = pieces.into_iter().map(|piece| vec![piece.to_string()]);
                out.records(&lines.collect::<Vec<_>>())
            }
        }
        Way::Ids | Way::Pieces => {
            let rows: Vec<_> = match way {
                Way::Pieces => {
                    let pieces = tokenizer.pieces(&text)?.into_iter();
                    pieces
                        .map(|(id, piece)| vec![id.into(), piece.into()])
                        .collect()
                }
                _ => {
                    let ids = tokenizer.ids(&text)?.into_iter();
                    ids.map(|id| vec![id.into()]).collect()
                }
            };
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

fn count(
    tokenizer: &Tokenizer,
    files: &[String],
    encoding: Encoding,
    json: bool,
    out: &mut Out,
) -> Result<()> {
    if files.is_empty() {
        let tokens = tokenizer.count(&read("-", encoding)?)?;
        return out.named(json, &["tokens"], &[vec![tokens.into()]]);
    }
    let (mut rows, mut failures) = (Vec::new(), Failures::default());
    for file in files {
        match read(file, encoding) {
            Ok(text) => rows.push((tokenizer.count(&text)?, file.as_str())),
            // As wc does, the others are counted.
            Err(error) => failures.add(&error),
        }
    }
    let printed = print_counts(rows, files.len() > 1, json, out);
    failures.outcome().and(printed)
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
