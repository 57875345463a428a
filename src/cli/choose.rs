//! `puna choose`: an answer as a word, a probability and an exit status.

use super::ask::{Ask, OPTION, SYSTEM};
use super::contract::Deadline;
use super::out::{self, Out, Unit};
use super::parse::Parsed;
use super::spec::{Command, Completes, JSON, QUIET, option, switch};
use crate::chat::Request;
use crate::choose::{CHOICES_MAX, choose};
use crate::config::Config;
use crate::error::{Class, Error, Result};
use crate::message::Think;
use crate::model;
use crate::pool::{Policy, Pool};

/// Context beside the prompt's own tokens: for the template, the system text and the choices.
const CONTEXT_TOKENS_MORE: usize = 2048;
/// `--status` where no choice is sure enough, and where puna fails.
const UNSURE: u8 = 120;
pub const FAILED: u8 = 121;

pub const COMMAND: Command = Command {
    name: "choose",
    alias: None,
    summary: "pick one of some answers, with its probability",
    operands: "MODEL CHOICE CHOICE...",
    arity: (3, CHOICES_MAX + 1),
    flags: &[
        option(
            "question",
            Some('Q'),
            "TEXT",
            "what is asked about the text on standard input",
        ),
        switch(
            "status",
            None,
            "exit 0 for the first choice, 1 for the second, ..., 120 if unsure, 121 for any failure",
        ),
        option(
            "sure",
            None,
            "P",
            "print unsure if no choice has at least this probability, such as 0.8",
        ),
        SYSTEM,
        OPTION,
        JSON,
        QUIET,
    ],
    about: &[
        "Reads a text from standard input, asks the question about it, and prints the likeliest of the choices, a tab, \
         and its probability among them. Nothing is sampled: each choice's whole text is weighed by the model's own \
         probabilities, so that the same input always gives the same answer.",
        "With --json all probabilities are printed. The model always runs in this process.",
    ],
    examples: &[
        (
            "puna choose smol -Q 'Is this mail spam?' yes no < mail.txt",
            "ask about a text",
        ),
        (
            "puna choose smol -Q 'Is this urgent?' yes no --status --sure 0.7 < mail.txt && echo urgent",
            "decide in a script",
        ),
    ],
    completes: Completes::Models,
    run,
};

fn run(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<()> {
    let tells = parsed.has("status");
    match chosen(parsed, config, out) {
        Ok(status) if tells && status > 0 => Err(Error::plain(Class::Told(status), "")),
        Ok(_) => Ok(()),
        Err(error) if tells => {
            out::complain(&error.to_string());
            Err(Error::plain(Class::Told(FAILED), ""))
        }
        Err(error) => Err(error),
    }
}

/// Prints the choice; returns its status.
fn chosen(parsed: &Parsed, config: &Config, out: &mut Out) -> Result<u8> {
    let sure = parsed.value("sure").map(probability).transpose()?;
    let choices = &parsed.operands[1..];
    if let Some(twice) = (1..choices.len()).find(|at| choices[..*at].contains(&choices[*at])) {
        let text = format!("the choice '{}' is there twice", choices[twice]);
        return Err(Error::usage(text));
    }
    let mut ask = Ask::without_prompt(parsed)?;
    let text = super::read_text("-", super::ask::PROMPT_BYTES_MAX)?;
    ask.prompt = prompt(text.trim_end(), parsed.value("question"), choices)?;
    let model = model::open(&super::store(config), &ask.model)?;
    if ask.options.int("num_ctx").is_none() {
        // A token is a byte at least: the context holds the prompt, the template and the choices.
        let tokens = (ask.prompt.len() + CONTEXT_TOKENS_MORE).to_string();
        ask.options.set_text("num_ctx", &tokens)?;
    }
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let progress = out.progress("loading", Unit::Percent);
    let request = ask.request(&model);
    let thinks = request.dialect(&pool)?.can("thinking");
    let deadline = Deadline::new();
    let request = Request {
        cancel: deadline.flag(),
        think: request.think.or(thinks.then_some(Think::Off)), // Else it would be weighed within a thought.
        ..request
    };
    let shares = choose(&pool, request, choices, &mut |fraction| {
        progress.show((fraction * 100.0) as u64, 100)
    });
    let shares = deadline.tell(shares)?;
    drop(progress);
    let likeliest = (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b]));
    let likeliest = likeliest.expect("there are choices");
    let is_sure = sure.is_none_or(|sure| shares[likeliest] >= sure);
    let word = if is_sure {
        choices[likeliest].as_str()
    } else {
        "unsure"
    };
    let status = if is_sure { likeliest as u8 } else { UNSURE };
    let told = tell(
        parsed.has("json"),
        out,
        word,
        shares[likeliest],
        choices,
        &shares,
    );
    match told {
        // Nobody reads the word: the status still tells it.
        Err(error) if error.class() == Class::Closed && parsed.has("status") => Ok(status),
        told => told.map(|()| status),
    }
}

fn tell(
    json: bool,
    out: &mut Out,
    word: &str,
    share: f64,
    choices: &[String],
    shares: &[f64],
) -> Result<()> {
    if json {
        let all = choices
            .iter()
            .cloned()
            .zip(shares.iter().map(|share| (*share).into()));
        let all: serde_json::Map<String, serde_json::Value> = all.collect();
        let record =
            serde_json::json!({ "choice": word, "probability": share, "probabilities": all });
        return out.json(&[record]);
    }
    out.records(&[vec![word.to_string(), format!("{share:.2}")]])
}

fn probability(text: &str) -> Result<f64> {
    let value = text
        .parse()
        .ok()
        .filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| Error::usage(format!("--sure is a number from 0 to 1, not '{text}'")))
}

/// The text, what is asked about it, and which answers there are.
fn prompt(text: &str, question: Option<&str>, choices: &[String]) -> Result<String> {
    if text.is_empty() && question.is_none() {
        return Err(Error::usage(
            "nothing is asked: give --question, or a text on standard input",
        ));
    }
    let parts = [text, question.unwrap_or_default()];
    let asked: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let list = choices.join(", ");
    Ok(format!(
        "{}\n\nAnswer with one of: {list}.",
        asked.join("\n\n")
    ))
}
