//! `puna choose`: an answer as a word, a probability and an exit status.

use std::io::{self, IsTerminal};
use std::time::Instant;

use super::context::{self, Context};
use super::encoding::ENCODING;
use super::flag::{Flag, JSON, QUIET, option, switch};
use super::out::{self, Out};
use super::parsed::{Parsed, repeated};
use super::run::turn_args::{Ask, OVERFLOWS, PROMPT_BYTES_MAX, draws_nothing};
use super::run::turn_flags::{OPTION, SYSTEM};
use super::run_limits::{self, Deadline};
use super::stdin;
use super::table::{Command, ONE_MODEL, PLAIN};
use crate::core::error::{Class, Error, Result};
use crate::core::message::Think;
use crate::ops::choose::{CHOICES_MAX, choose};
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::ops::turn::Request;
use crate::system::config::Config;

/// Context tokens in addition to the prompt's: for the template, the system text and the choices.
const CONTEXT_TOKENS_MORE: usize = 2048;
/// Exit statuses with `--status`: no choice is probable enough, and any failure.
const UNSURE: u8 = 120;
const FAILED: u8 = 121;

pub const COMMAND: Command = Command {
    name: "choose",
    summary: "pick one of several answers, with its probability",
    operands: "MODEL CHOICE CHOICE...",
    arity: (3, CHOICES_MAX + 1),
    flags: &[
        QUESTION, ENCODING, STATUS, SURE, SYSTEM, OPTION, JSON, QUIET,
    ],
    about: &[
        "Reads a text from standard input, which may not be empty, asks the question about it, and prints the \
         likeliest choice, a tab, and its probability among the choices. Nothing is sampled: the model's own \
         probabilities weigh each choice's whole text, so that the same input always gives the same answer.",
        "With --status the exit status is 0 for the first choice, 1 for the second and so on, 120 if no choice has \
         the probability of --sure, and 121 for any failure. With --json all probabilities are printed; with --status \
         and --quiet nothing is. The model always runs in this process.",
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
    limits: run_limits::FLAGS,
    retries_whole: true,
    failure_status: Some(FAILED),
    run,
    completes: ONE_MODEL,
    ..PLAIN
};

const QUESTION: Flag = option(
    "question",
    Some('Q'),
    "TEXT",
    "question about the text on standard input",
);
const STATUS: Flag = switch(
    "status",
    None,
    "exit with the number of the choice, counted from 0",
);
const SURE: Flag = option(
    "sure",
    None,
    "P",
    "print unsure below this probability, such as 0.8",
);

/// The flags of `choose`, read once.
struct ChooseArgs<'a> {
    choices: &'a [String],
    question: Option<&'a str>,
    /// The probability below which the answer is `unsure`.
    sure: Option<f64>,
    /// The choice is the exit status.
    status: bool,
    /// With `--status`, nothing is printed.
    quiet: bool,
    json: bool,
    ask: Ask,
}

impl<'a> ChooseArgs<'a> {
    fn read(parsed: &'a Parsed) -> Result<Self> {
        let sure = parsed.value(&SURE).map(probability).transpose()?;
        let choices = &parsed.operands[1..];
        if let Some(twice) = repeated(choices) {
            let text = format!("duplicate choice '{twice}'");
            return Err(Error::usage(text));
        }
        let ask = Ask::without_prompt(parsed, OVERFLOWS)?;
        draws_nothing(&ask.turn.options)?;
        Ok(ChooseArgs {
            choices,
            question: parsed.value(&QUESTION),
            sure,
            status: parsed.has(&STATUS),
            quiet: parsed.has(&QUIET),
            json: parsed.has(&JSON),
            ask,
        })
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let args = ChooseArgs::read(parsed)?;
    let is_status = args.status;
    let status = chosen(args, config, out)?;
    if is_status {
        context.end_with(status);
    }
    Ok(())
}

/// Prints the choice; returns its status.
fn chosen(args: ChooseArgs, config: &Config, out: &mut Out) -> Result<u8> {
    let (choices, mut ask) = (args.choices, args.ask);
    let is_watched = io::stdin().is_terminal();
    let text = if is_watched && args.question.is_some() {
        String::new()
    } else {
        stdin::decoded("-", PROMPT_BYTES_MAX, ask.encoding)?
    };
    // An empty file is a mistake, and not a text with an answer.
    if text.trim().is_empty() && !is_watched {
        return Err(Error::usage("standard input is empty"));
    }
    ask.prompt = prompt(text.trim_end(), args.question, choices)?;
    let model = model::open(&context::store(config), &ask.turn.model)?;
    model.must_generate()?;
    if ask.turn.options.int("num_ctx").is_none() {
        // A token is at least one byte, so the context fits the prompt, the template and the choices.
        let tokens = (ask.prompt.len() + CONTEXT_TOKENS_MORE).to_string();
        ask.turn.options.set_text("num_ctx", &tokens)?;
    }
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let mut loading = out.loading();
    let deadline = Deadline::new()?;
    let mut request = Request::new(&model, ask.turn(), deadline.flag(), Instant::now())?;
    if request.template_choice(&pool)?.can("thinking") {
        // Otherwise a choice would be scored as thinking.
        request.turn.think.get_or_insert(Think::Off);
    }
    let shares = choose(&pool, request, choices, &mut loading);
    let shares = deadline.check(shares)?;
    drop(loading);
    let likeliest = (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b]));
    let likeliest = likeliest.expect("there are choices");
    let is_sure = args.sure.is_none_or(|sure| shares[likeliest] >= sure);
    let word = if is_sure {
        choices[likeliest].as_str()
    } else {
        "unsure"
    };
    let status = if is_sure { likeliest as u8 } else { UNSURE };
    if args.status && args.quiet {
        return Ok(status);
    }
    let printed = print_choice(args.json, out, word, shares[likeliest], choices, &shares);
    match printed {
        // The reader has closed the pipe; the exit status still gives the choice.
        Err(error) if error.class() == Class::Closed && args.status => Ok(status),
        printed => printed.map(|()| status),
    }
}

fn print_choice(
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
    value.ok_or_else(|| Error::usage(format!("--sure must be a number from 0 to 1, not '{text}'")))
}

/// The prompt: the text, the question about it, and the list of choices.
fn prompt(text: &str, question: Option<&str>, choices: &[String]) -> Result<String> {
    if text.is_empty() && question.is_none() {
        return Err(Error::usage(
            "no prompt: give --question, or a text on standard input",
        ));
    }
    let parts = [text, question.unwrap_or_default()];
    let filled: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let list = choices.join(", ");
    Ok(format!(
        "{}\n\nAnswer with one of: {list}.",
        filled.join("\n\n")
    ))
}
