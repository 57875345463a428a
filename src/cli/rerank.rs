//! `puna rerank`: sorts lines by how well they answer a question.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Deserialize;
use serde_json::json;

use super::context::Context;
use super::deadline::Deadline;
use super::encoding::{ENCODING, Encoding};
use super::flag::{Flag, HOST, JSON, QUIET, option};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::records::{Format, NULL, Records};
use super::run::turn_args::{draws_nothing, options};
use super::run::turn_flags::OPTION;
use super::run_limits;
use super::stdin::Input;
use super::table::{Command, ONE_MODEL, PLAIN};
use crate::core::error::{Error, Result};
use crate::core::options::Options;
use crate::ops::model::{self, Model};
use crate::ops::pool::{Policy, Pool};
use crate::ops::rerank::{Request, rerank};
use crate::system::client::Client;

pub const COMMAND: Command = Command {
    name: "rerank",
    summary: "sort lines by how well they answer a question",
    operands: "MODEL QUERY",
    arity: (2, 2),
    flags: &[TOP, NULL, ENCODING, OPTION, JSON, HOST, QUIET],
    about: &[
        "Reads lines from standard input and prints each line's score, a tab, and the line, the best first; lines \
         with equal scores keep their order. A reranking model reads question and line together, and its scores may be \
         any numbers; with an embedding model the score is the cosine of the angle between the two vectors. A line \
         that is longer than the model accepts is cut. The escapes of a printed field (\\n, \\t, \\r, \\\\) stand for \
         what was escaped, as in the output of tokens --split; with -0 texts end with NUL and have none. Lines are \
         scored 64 at a time, and with --top only the N best are kept in memory.",
    ],
    examples: &[(
        "puna rerank mini 'How do whales breathe?' --top 3 < lines.txt | cut -f2",
        "print the three lines that answer best",
    )],
    limits: run_limits::FLAGS,
    run,
    completes: ONE_MODEL,
    ..PLAIN
};

const TOP: Flag = option("top", None, "N", "print only the N best");

/// Lines that are scored in one request.
const LINES: usize = 64;

/// The model that computes the scores.
enum Ranker {
    /// A model in this process, with these options.
    Here(Box<(Pool, Model, Options)>),
    /// A model of this name at a server.
    Server(Client, String),
}

impl Ranker {
    fn open(parsed: &Parsed, context: &Context) -> Result<Self> {
        let options = options(parsed)?;
        draws_nothing(&options)?;
        let operand = &parsed.operands[0];
        if let Some(server) = context.model_server(parsed)? {
            if parsed.has(&OPTION) {
                let text =
                    "--option cannot be used with a server, which has the model's own options";
                return Err(Error::usage(text));
            }
            server.must_be_puna("rerank")?;
            return Ok(Ranker::Server(server, operand.clone()));
        }
        let model = model::open(&context.store(), operand)?;
        let pool = Pool::new(context.config.clone(), Policy::Server, out::log(None)?);
        Ok(Ranker::Here(Box::new((pool, model, options))))
    }

    /// The score of each text.
    fn scores(
        &self,
        query: &str,
        texts: Vec<String>,
        cancel: Arc<AtomicBool>,
        out: &Out,
    ) -> Result<Vec<f32>> {
        match self {
            Ranker::Here(here) => {
                let (pool, model, options) = &**here;
                let request = Request {
                    model,
                    query: query.to_string(),
                    texts,
                    options: options.clone(),
                    cancel,
                };
                Ok(rerank(pool, &request, &mut out.loading())?.scores)
            }
            Ranker::Server(server, model) => {
                let mut scores = vec![0.0; texts.len()];
                let body = json!({ "model": model, "query": query, "documents": texts });
                for result in server.ask::<Ranked>("/api/rerank", &body)?.results {
                    if let Some(score) = scores.get_mut(result.index) {
                        *score = result.relevance_score;
                    }
                }
                Ok(scores)
            }
        }
    }
}

/// A server's answer.
#[derive(Deserialize)]
struct Ranked {
    results: Vec<Score>,
}

/// The score of a text.
#[derive(Deserialize)]
struct Score {
    index: usize,
    relevance_score: f32,
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let top = parsed.number(&TOP, 1..=usize::MAX)?;
    let encoding = Encoding::read(parsed)?;
    let ranker = Ranker::open(parsed, context)?;
    let deadline = Deadline::new()?;
    let mut input = Records::new(Input::new(), Format::of_texts(parsed), encoding);
    let mut found: Vec<(f32, usize, String)> = Vec::new();
    let mut count: usize = 0;
    loop {
        let mut texts = Vec::new();
        while texts.len() < LINES
            && let Some(line) = input.plain_text()?
        {
            texts.push(line);
        }
        // Without any lines the model and the question are still checked.
        if texts.is_empty() && count > 0 {
            break;
        }
        let is_last = texts.len() < LINES;
        let scores = ranker.scores(&parsed.operands[1], texts.clone(), deadline.flag(), out);
        let scores = deadline.check(scores)?;
        let numbers = count..;
        count += texts.len();
        let lines = texts.into_iter().zip(scores).zip(numbers);
        found.extend(lines.map(|((text, score), number)| (score, number, text)));
        found.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
        found.truncate(top.unwrap_or(usize::MAX));
        if is_last {
            break;
        }
    }
    if parsed.has(&JSON) {
        let json = |(score, number, text): &(f32, usize, String)| serde_json::json!({ "index": number, "score": score, "text": text });
        return out.json(&found.iter().map(json).collect::<Vec<_>>());
    }
    let row = |(score, _, text): (f32, usize, String)| vec![format!("{score:.4}"), text];
    out.records(&found.into_iter().map(row).collect::<Vec<_>>())
}
