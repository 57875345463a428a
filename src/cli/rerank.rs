//! `puna rerank`: lines sorted by how well they answer a question.

use super::ask::{OPTION, options};
use super::contract::Deadline;
use super::input::Input;
use super::out::{self, Out, Unit};
use super::parse::Parsed;
use super::records::{Format, Records};
use super::spec::{Command, Completes, JSON, QUIET, option};
use crate::config::Config;
use crate::error::Result;
use crate::model;
use crate::pool::{Policy, Pool};
use crate::rerank::{Request, rerank};

pub const COMMAND: Command = Command {
    name: "rerank",
    alias: None,
    summary: "sort lines by how well they answer a question",
    operands: "MODEL QUERY",
    arity: (2, 2),
    flags: &[
        option("top", None, "N", "print only the N best"),
        OPTION,
        JSON,
        QUIET,
    ],
    about: &[
        "Reads lines from standard input and prints each line's score, a tab, and the line, the best first; of those \
         that score alike the earlier first. A model that was made for it reads question and line together, and its \
         scores may be any numbers; with a model for embeddings the score is the cosine of the angle between the two \
         vectors. A line that is longer than the model reads is cut. Lines are scored 64 at a time, and with --top \
         only so many of them are kept.",
    ],
    examples: &[(
        "puna rerank mini 'How do whales breathe?' --top 3 < lines.txt | cut -f2",
        "the three lines that answer best",
    )],
    completes: Completes::Models,
    run,
};

/// Lines that are scored at once.
const LINES: usize = 64;

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let top = parsed.number("top", 1..=usize::MAX)?;
    let model = model::open(&super::store(config), &parsed.operands[0])?;
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
        // With no lines at all the model and the question are still looked at.
        if texts.is_empty() && count > 0 {
            break;
        }
        let is_last = texts.len() < LINES;
        let request = Request {
            model: &model,
            query: parsed.operands[1].clone(),
            texts: texts.clone(),
            options: options(parsed)?,
            cancel: deadline.flag(),
        };
        let progress = out.progress("loading", Unit::Percent);
        let ranked = rerank(&pool, &request, &mut |fraction| {
            progress.show((fraction * 100.0) as u64, 100)
        });
        let ranked = deadline.tell(ranked)?;
        drop(progress);
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
    if parsed.has("json") {
        let json = |(score, number, text): &(f32, usize, String)| serde_json::json!({ "index": number, "score": score, "text": text });
        return out.json(&found.iter().map(json).collect::<Vec<_>>());
    }
    let row = |(score, _, text): (f32, usize, String)| vec![format!("{score:.4}"), text];
    out.records(&found.into_iter().map(row).collect::<Vec<_>>())
}
