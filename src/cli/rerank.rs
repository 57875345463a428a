//! `puna rerank`: sorts lines by how well they answer a question.

use super::context::Context;
use super::flag::{Flag, JSON, QUIET, option};
use super::out::{self, Out};
use super::parsed::Parsed;
use super::records::{Format, Records};
use super::run::turn_args::options;
use super::run::turn_flags::OPTION;
use super::run_limits::{self, Deadline};
use super::stdin::Input;
use super::table::{Command, Completes, PLAIN};
use crate::core::error::Result;
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::ops::rerank::{Request, rerank};

pub const COMMAND: Command = Command {
    name: "rerank",
    summary: "sort lines by how well they answer a question",
    operands: "MODEL QUERY",
    arity: (2, 2),
    flags: &[TOP, OPTION, JSON, QUIET],
    about: &[
        "Reads lines from standard input and prints each line's score, a tab, and the line, the best first; lines with \
         equal scores keep their order. A reranking model reads question and line together, and its scores may be any \
         numbers; with an embedding model the score is the cosine of the angle between the two vectors. A line that is \
         longer than the model accepts is cut. Lines are scored 64 at a time, and with --top only the N best are kept \
         in memory.",
    ],
    examples: &[(
        "puna rerank mini 'How do whales breathe?' --top 3 < lines.txt | cut -f2",
        "print the three lines that answer best",
    )],
    completes: Completes::Models,
    limits: run_limits::FLAGS,
    run,
    ..PLAIN
};

const TOP: Flag = option("top", None, "N", "print only the N best");

/// Lines that are scored in one request.
const LINES: usize = 64;

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let top = parsed.number(&TOP, 1..=usize::MAX)?;
    let options = options(parsed)?;
    let model = model::open(&context.store(), &parsed.operands[0])?;
    let pool = Pool::new(config.clone(), Policy::Server, out::log(None)?);
    let deadline = Deadline::new();
    let mut input = Records::new(Input::new(), Format::Lines);
    let mut found: Vec<(f32, usize, String)> = Vec::new();
    let mut count: usize = 0;
    loop {
        let mut texts = Vec::new();
        while texts.len() < LINES
            && let Some(line) = input.line()?
        {
            texts.push(line);
        }
        // Without any lines the model and the question are still checked.
        if texts.is_empty() && count > 0 {
            break;
        }
        let is_last = texts.len() < LINES;
        let request = Request {
            model: &model,
            query: parsed.operands[1].clone(),
            texts: texts.clone(),
            options: options.clone(),
            cancel: deadline.flag(),
        };
        let mut loading = out.loading();
        let ranked = rerank(&pool, &request, &mut loading);
        let ranked = deadline.check(ranked)?;
        drop(loading);
        let numbers = count..;
        count += texts.len();
        let lines = texts.into_iter().zip(ranked.scores).zip(numbers);
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
