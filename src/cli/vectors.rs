//! `puna embed` and `puna nearest`: turn lines into vectors, and sort lines by nearness to a text.

use std::io::Write;

use serde::Deserialize;

use super::context::{self, Context};
use super::deadline::Deadline;
use super::encoding::{ENCODING, Encoding};
use super::flag::{Flag, HOST, JSON, QUIET, option, switch};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::records::{Format, NULL, Records};
use super::run::args::DIMENSIONS;
use super::run::turn_args::{draws_nothing, options};
use super::run::turn_flags::OPTION;
use super::run_limits;
use super::stdin::Input;
use super::table::{Command, ONE_MODEL, PLAIN};
use crate::core::error::{Class, Error, Result};
use crate::format::wire::native::EmbedRequest;
use crate::format::wire::native::encode::EmbedRecord;
use crate::format::wire::options::to_json;
use crate::ops::embed::{self, Request};
use crate::ops::model::{self, Model};
use crate::ops::pool::{Policy, Pool};
use crate::system::client::Client;

/// Lines in one request to the model.
const LINES: usize = 64;

pub const EMBED: Command = Command {
    name: "embed",
    summary: "turn lines into vectors",
    operands: "MODEL",
    arity: (1, 1),
    flags: &[NULL, ENCODING, F32, DIMENSIONS, OPTION, JSON, HOST, QUIET],
    about: &[
        "Reads lines from standard input and prints each line, a tab, and its vector: numbers with blanks between \
         them. Backslashes, tabs and line ends in a text are escaped as \\\\, \\t, \\r and \\n, and lines are read in \
         this form too: tokens --split, embed and nearest keep the text itself. With -0 texts end with NUL, and \
         nothing in them is an escape. Vectors have length 1. Lines are printed in order, as soon as they are \
         computed; a line that is longer than the model accepts is cut.",
    ],
    examples: &[(
        "puna embed mini < titles.txt > titles.vectors",
        "compute the vectors of lines",
    )],
    limits: run_limits::FLAGS,
    run: embed,
    completes: ONE_MODEL,
    ..PLAIN
};

pub const NEAREST: Command = Command {
    name: "nearest",
    summary: "sort lines by how near they are to a text",
    operands: "MODEL TEXT",
    arity: (2, 2),
    flags: &[TOP, OPTION, JSON, HOST, QUIET],
    about: &[
        "Reads the output of embed from standard input, lines or JSON, and prints each line's nearness to TEXT, a tab, \
         and the line, the nearest first. Nearness is the cosine of the angle between the two vectors: 1 for the same \
         meaning. The model must be the one that computed the vectors.",
    ],
    examples: &[
        (
            "puna nearest mini 'a tale of the sea' --top 3 < titles.vectors",
            "print the three nearest lines",
        ),
        (
            "puna embed mini < titles.txt | puna nearest mini 'whales' --top 1 | cut -f2",
            "print the nearest line",
        ),
    ],
    limits: run_limits::FLAGS,
    run: nearest,
    completes: ONE_MODEL,
    ..PLAIN
};

const F32: Flag = switch("f32", None, "print only raw little-endian 32-bit floats");
const TOP: Flag = option("top", None, "N", "print only the N nearest");

/// An embedding model with its settings and deadline.
struct Maker {
    at: At,
    dimensions: Option<usize>,
    options: crate::core::options::Options,
    deadline: Deadline,
}

/// Where the vectors are computed.
enum At {
    /// In this process.
    Here(Box<(Pool, Model)>),
    /// At a server, with a model of this name.
    Server(Client, String),
}

impl Maker {
    fn open(parsed: &Parsed, context: &Context) -> Result<Self> {
        let (config, operand) = (&context.config, &parsed.operands[0]);
        let at = match context.model_server(parsed)? {
            Some(server) => At::Server(server, operand.clone()),
            None => {
                let model = model::open(&context::store(config), operand)?;
                if !model.header.is_embedding() {
                    return Err(not_embedding(&model.label));
                }
                let pool = Pool::new(config.clone(), Policy::Server, out::log(None)?);
                At::Here(Box::new((pool, model)))
            }
        };
        let options = options(parsed)?;
        draws_nothing(&options)?;
        Ok(Maker {
            at,
            dimensions: parsed.number(&DIMENSIONS, 1..=usize::MAX)?,
            options,
            deadline: Deadline::new()?,
        })
    }

    /// The vector of each text; the vector of a text without tokens is empty.
    fn vectors(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let (pool, model) = match &self.at {
            At::Here(here) => &**here,
            At::Server(server, model) => {
                let body = EmbedRequest {
                    model: model.clone(),
                    input: texts.into(),
                    truncate: Some(true),
                    dimensions: self.dimensions.map_or(0, |count| count as i64),
                    options: to_json(&self.options),
                    ..EmbedRequest::default()
                };
                let answer = server.ask::<EmbedRecord>("/api/embed", &body);
                // The reference's words are about how a server is started.
                let answer = answer.map_err(|error| match error.class() {
                    Class::NoVectors => not_embedding(model),
                    _ => error,
                });
                let vectors = answer?.embeddings;
                has_dimensions(&vectors, self.dimensions)?;
                return Ok(vectors);
            }
        };
        let request = Request {
            model,
            texts,
            truncate: true,
            dimensions: self.dimensions,
            options: self.options.clone(),
            keep_alive: None,
            cancel: self.deadline.flag(),
        };
        let made = embed::embed(pool, &request, &mut |_| {});
        let vectors = self.deadline.check(made)?.vectors;
        has_dimensions(&vectors, self.dimensions)?;
        Ok(vectors)
    }
}

fn not_embedding(model: &str) -> Error {
    Error::usage(format!("{model} is not an embedding model"))
}

/// Refuses dimensions that a model's vectors do not have.
///
/// # Errors
/// `Usage` with both numbers.
pub fn has_dimensions(vectors: &[Vec<f32>], wanted: Option<usize>) -> Result<()> {
    // The vector of a text without tokens is empty.
    let length = vectors.iter().map(Vec::len).find(|length| *length > 0);
    match wanted.zip(length) {
        Some((wanted, length)) if wanted > length => Err(Error::usage(format!(
            "--dimensions {wanted}: the model's vectors have {length}"
        ))),
        _ => Ok(()),
    }
}

/// How `embed` prints a text and its vector.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// A line: the text, a tab, the numbers.
    Line,
    /// A line of JSON.
    Json,
    /// The numbers only, as little-endian floats.
    F32,
}

fn embed(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let layout = parsed.only_one(&[(&F32, Layout::F32), (&JSON, Layout::Json)])?;
    let layout = layout.unwrap_or(Layout::Line);
    let encoding = Encoding::read(parsed)?;
    let maker = Maker::open(parsed, context)?;
    let mut input = Records::new(Input::new(), Format::of_texts(parsed), encoding);
    let mut ended = None;
    while ended.is_none() {
        let mut texts = Vec::new();
        while texts.len() < LINES && ended.is_none() {
            // Lines before an invalid one are embedded and printed first.
            match input.plain_text() {
                Ok(Some(line)) => texts.push(line),
                other => ended = Some(other.map(drop)),
            }
        }
        if texts.is_empty() {
            break;
        }
        let vectors = maker.vectors(texts.clone())?;
        print(texts, vectors, layout, out)?;
    }
    ended.unwrap_or(Ok(()))
}

/// Prints texts with their vectors.
fn print(texts: Vec<String>, vectors: Vec<Vec<f32>>, layout: Layout, out: &mut Out) -> Result<()> {
    match layout {
        Layout::F32 => {
            let numbers = vectors.iter().flatten();
            let bytes: Vec<u8> = numbers.flat_map(|x| x.to_le_bytes()).collect();
            let mut output = out.bytes();
            let written = output.write_all(&bytes).and_then(|()| output.flush());
            written.map_err(|error| Error::io("write", "standard output", error))
        }
        Layout::Json => {
            let pairs = texts.iter().zip(&vectors);
            let json = pairs
                .map(|(text, vector)| serde_json::json!({ "text": text, "embedding": vector }));
            out.json(&json.collect::<Vec<_>>())
        }
        Layout::Line => {
            let rows = texts.into_iter().zip(vectors).map(|(text, vector)| {
                let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
                vec![text, numbers.join(" ")]
            });
            out.records(&rows.collect::<Vec<_>>())
        }
    }
}

fn nearest(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let top = parsed.number(&TOP, 1..=usize::MAX)?;
    if parsed.operands[1].trim().is_empty() {
        return Err(Error::usage("the text to compare with is empty"));
    }
    let maker = Maker::open(parsed, context)?;
    let wanted = maker.vectors(vec![parsed.operands[1].clone()])?;
    let wanted = wanted.into_iter().next().unwrap_or_default();
    let mut input = Records::new(Input::new(), Format::Lines, Encoding::Strict);
    let mut found: Vec<(f32, String)> = Vec::new();
    while let Some(line) = input.line()? {
        let number = input.count();
        let wrong = |what: &str| Error::usage(format!("line {number} of standard input{what}"));
        let (text, vector) = match line.rsplit_once('\t') {
            Some((text, vector)) => {
                let numbers = vector.split(' ').map(str::parse).collect::<Result<_, _>>();
                (out::unescaped(text), numbers.unwrap_or_default())
            }
            // As embed --json prints it.
            None => match serde_json::from_str::<Embedded>(&line) {
                Ok(object) => (object.text, object.embedding),
                Err(_) => return Err(wrong(" has no vector")),
            },
        };
        if vector.is_empty() || !vector.iter().all(|x: &f32| x.is_finite()) {
            return Err(wrong(": its vector is not a list of numbers"));
        }
        if vector.len() != wanted.len() {
            let (theirs, ours) = (vector.len(), wanted.len());
            let what =
                format!(" has a vector of {theirs} numbers; the model's vectors have {ours}");
            return Err(wrong(&what));
        }
        let nearness: f32 = vector.iter().zip(&wanted).map(|(a, b)| a * b).sum();
        found.push((nearness, text));
        // With --top, memory stays bounded.
        if top.is_some_and(|top| found.len() >= 2 * top.max(LINES)) {
            sort(&mut found, top);
        }
    }
    sort(&mut found, top);
    if parsed.has(&JSON) {
        let json =
            |(score, text): &(f32, String)| serde_json::json!({ "score": score, "text": text });
        return out.json(&found.iter().map(json).collect::<Vec<_>>());
    }
    let row = |(score, text): (f32, String)| vec![format!("{score:.4}"), text];
    out.records(&found.into_iter().map(row).collect::<Vec<_>>())
}

/// A text and its vector.
#[derive(Deserialize)]
struct Embedded {
    text: String,
    embedding: Vec<f32>,
}

/// Sorts the nearest first, stably, and keeps the first `top`.
fn sort(found: &mut Vec<(f32, String)>, top: Option<usize>) {
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    found.truncate(top.unwrap_or(usize::MAX));
}
