//! `puna choose`: an answer as a word, a probability and an exit status.

use std::io::{self, IsTerminal};
use std::time::Instant;

use super::context::{self, Context};
use super::deadline::Deadline;
use super::decide::{self, UNSURE_STATUS};
use super::encoding::ENCODING;
use super::flag::{Flag, HOST, JSON, QUIET, maybe, option, switch};
use super::model_notes;
use super::out::{self, Out};
use super::parsed::{Parsed, repeated};
use super::run::turn_args::{Ask, OVERFLOWS, PROMPT_BYTES_MAX, draws_nothing};
use super::run::turn_flags::{OPTION, SYSTEM};
use super::run_limits;
use super::stdin;
use super::table::{Command, ONE_MODEL, PLAIN};
use crate::core::decision::{LEVELS_MAX, OPTIONS_MAX, UNSURE, likeliest};
use crate::core::error::{Class, Error, Result};
use crate::ops::choose::{CHOICES_MAX, choose};
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::ops::turn::Request;
use crate::system::config::Config;

/// Context tokens in addition to the prompt's: for the template, the system text and the choices.
const CONTEXT_TOKENS_MORE: usize = 2048;
/// The exit status of any failure with `--status`.
const FAILED: u8 = 121;

pub const COMMAND: Command = Command {
    name: "choose",
    summary: "pick one of several answers, with its probability",
    operands: "MODEL [CHOICE...]",
    arity: (1, OPTIONS_MAX + 1),
    flags: &[
        QUESTION, YES_NO, SCORE, QUESTIONS, ENCODING, STATUS, SURE, ORDERS, EXPLAIN, SYSTEM,
        OPTION, JSON, HOST, QUIET,
    ],
    about: &[
        "Reads a text from standard input, which may not be empty, asks the question about it, and prints the \
         likeliest choice, a tab, and its probability among the choices. Nothing is sampled: the model's own \
         probabilities weigh each choice's whole text, so that the same input always gives the same answer.",
        "--yes-no, --score, --questions, and choices with a description (NAME=DESCRIPTION, \\= for a sign in a name) are \
         asked by labels: the model sees what each answer means, and the probabilities of the labels yes and no, of \
         a letter before each choice, or of a digit before each level are read, in one decode a question. That is how \
         POST /v1/systemone decides. Words alone are weighed whole, as above, up to 100 of them.",
        "--yes-no prints yes or no; the exit status is 0 for yes and 1 for no. --score takes the levels of a scale, the \
         lowest first, and prints the expected level, counted from 0, and the likeliest; with --status the exit status \
         is the expected level, rounded. --questions reads questions about one text from a file, an object as in \
         /v1/systemone, a list as in /v1/decisions, or a whole body of either, and prints a line for each: id, answer, \
         probability. A body's own text is used if standard input is empty. With --status=ID the exit status is the answer to \
         the question of that id, as with --yes-no, --score or choices.",
        "With --status the exit status is 0 for the first choice, 1 for the second and so on, 120 if no choice has \
         the probability of --sure, and 121 for any failure. With --json all probabilities are printed; with --status \
         and --quiet nothing is.",
        "Models prefer some places in a list to others. With --orders 2 each choice is asked in the given order and reversed, \
         and the mean counts, for twice the work. --explain prints each prompt, and the probability that the model gives to \
         all labels together, on standard error: of little, it has not understood how to answer.",
        "With --host a server decides, by POST /v1/systemone. Words alone are weighed in this process only.",
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
        (
            "if puna choose smol --yes-no -Q 'Is this mail spam?' < mail.txt; then echo spam; fi",
            "ask a question that is answered by yes or no",
        ),
        (
            "puna choose smol -Q 'Which desk?' 'sales=wants to buy' 'help=has a problem' < mail.txt",
            "say what the choices mean",
        ),
        (
            "puna choose smol --score -Q 'How angry?' calm annoyed furious < mail.txt",
            "place a text on a scale",
        ),
    ],
    limits: run_limits::FLAGS,
    retries_whole: true,
    statuses: &[
        (
            UNSURE_STATUS,
            "with --status or --yes-no: no answer has the probability of --sure",
        ),
        (
            FAILED,
            "with --status or --yes-no: a failure of any kind, or a lock that was held (--skip)",
        ),
    ],
    failure_status: Some((FAILED, &["--status", "--yes-no"])),
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
const STATUS: Flag = maybe(
    "status",
    "ID",
    "exit with the number of the choice, counted from 0",
);
const YES_NO: Flag = switch("yes-no", None, "answer yes (status 0) or no (status 1)");
const SCORE: Flag = switch(
    "score",
    None,
    "the choices are levels of a scale, lowest first",
);
const QUESTIONS: Flag = option(
    "questions",
    None,
    "FILE",
    "answer all questions in FILE, JSON as in the API",
);
const ORDERS: Flag = option(
    "orders",
    None,
    "N",
    "with 2, ask about choices in both orders and take the mean",
);
const EXPLAIN: Flag = switch(
    "explain",
    None,
    "print the prompt and the labels' probability to stderr",
);
pub const SURE: Flag = option(
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
    /// The choice is the exit status; with `--questions`, that of the question of this id.
    status: Option<&'a str>,
    /// With `--status`, nothing is printed.
    quiet: bool,
    json: bool,
    ask: Ask,
    /// How the choices are asked.
    form: Form<'a>,
    /// They are asked in both orders.
    both_orders: bool,
    /// The prompt is printed, too.
    explains: bool,
}

/// How the choices are asked.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// Their whole texts are weighed.
    Words,
    /// By labels.
    Labels(decide::Form<'a>),
}

impl<'a> ChooseArgs<'a> {
    fn read(parsed: &'a Parsed) -> Result<Self> {
        let sure = parsed.value(&SURE).map(probability).transpose()?;
        let choices = &parsed.operands[1..];
        let form = form(parsed, choices)?;
        if let Some(word) = choices.iter().find(|word| word.trim() != word.as_str()) {
            let text =
                format!("the choice '{word}' begins or ends with a blank, which would weigh");
            return Err(Error::usage(text));
        }
        if let Some(twice) = repeated(choices) {
            let text = format!("duplicate choice '{twice}'");
            return Err(Error::usage(text));
        }
        let by_labels = matches!(form, Form::Labels(_));
        if let Some(flag) = parsed.first_of(&[&ORDERS, &EXPLAIN])
            && !by_labels
        {
            let text = format!(
                "--{} is for answers by labels: --yes-no, --score, --questions or NAME=DESCRIPTION",
                flag.long
            );
            return Err(Error::usage(text));
        }
        let both_orders = parsed.number(&ORDERS, 1..=2)? == Some(2);
        let ask = Ask::without_prompt(parsed, OVERFLOWS)?;
        draws_nothing(&ask.turn.options)?;
        Ok(ChooseArgs {
            choices,
            question: parsed.value(&QUESTION),
            sure,
            status: parsed.value(&STATUS),
            quiet: parsed.has(&QUIET),
            json: parsed.has(&JSON),
            ask,
            form,
            both_orders,
            explains: parsed.has(&EXPLAIN),
        })
    }
}

/// How the choices are asked; checks their number.
fn form<'a>(parsed: &'a Parsed, choices: &[String]) -> Result<Form<'a>> {
    let flags = [
        (&YES_NO, decide::Form::YesNo),
        (&SCORE, decide::Form::Score),
        (
            &QUESTIONS,
            decide::Form::File(parsed.value(&QUESTIONS).unwrap_or_default()),
        ),
    ];
    let given = parsed.only_one(&flags)?;
    let described = choices.iter().any(|choice| decide::is_described(choice));
    let form = given.or(described.then_some(decide::Form::Choices));
    let wrong = match (form, choices.len()) {
        (None | Some(decide::Form::Choices), 0 | 1) => {
            Some("give two choices at least".to_string())
        }
        (None, CHOICES_MAX..) if choices.len() > CHOICES_MAX => Some(format!(
            "more than {CHOICES_MAX} words: describe them (NAME=DESCRIPTION) for up to {OPTIONS_MAX}"
        )),
        (Some(decide::Form::Score), 0 | 1) => Some("--score needs two levels at least".to_string()),
        (Some(decide::Form::Score), LEVELS_MAX..) if choices.len() > LEVELS_MAX => {
            Some(format!("--score takes {LEVELS_MAX} levels at most"))
        }
        (Some(decide::Form::YesNo | decide::Form::File(_)), 1..) => {
            Some("--yes-no and --questions take no choices".to_string())
        }
        (Some(decide::Form::YesNo | decide::Form::Score), _) if !parsed.has(&QUESTION) => {
            Some("--yes-no and --score need --question".to_string())
        }
        (Some(decide::Form::File(_)), _) if parsed.has(&QUESTION) => {
            Some("--questions cannot be used together with --question".to_string())
        }
        (Some(decide::Form::File(_)), _) if parsed.value(&STATUS) == Some("") => {
            Some("--questions has several answers: --status=ID takes that of one".to_string())
        }
        (None | Some(decide::Form::YesNo | decide::Form::Choices | decide::Form::Score), _)
            if parsed.value(&STATUS).is_some_and(|id| !id.is_empty()) =>
        {
            Some("--status=ID is for --questions".to_string())
        }
        // Of these only the exit status can say that an answer is unsure.
        (Some(decide::Form::Choices | decide::Form::Score | decide::Form::File(_)), _)
            if parsed.has(&SURE) && parsed.has(&JSON) && !parsed.has(&STATUS) =>
        {
            Some("--sure has no effect on the JSON of answers by labels".to_string())
        }
        _ => None,
    };
    match wrong {
        Some(text) => Err(Error::usage(text)),
        None => Ok(form.map_or(Form::Words, Form::Labels)),
    }
}

fn run(parsed: &Parsed, context: &Context, out: &mut Out) -> Result<()> {
    let config = &context.config;
    let args = ChooseArgs::read(parsed)?;
    let server = context.model_server(parsed)?;
    let is_status = args.status.is_some() || matches!(args.form, Form::Labels(decide::Form::YesNo));
    let status = match args.form {
        Form::Words if server.is_some() => {
            let text = "a server does not weigh words: describe them (NAME=DESCRIPTION), or decide with a model of this machine";
            return Err(Error::usage(text));
        }
        _ if server.is_some() && args.explains => {
            let text = "--explain cannot be used with a server, which keeps its prompt";
            return Err(Error::usage(text));
        }
        Form::Words => chosen(args, config, out)?,
        Form::Labels(form) => {
            let (question, choices) = (args.question, args.choices);
            let print = decide::Print {
                sure: args.sure,
                json: args.json,
                nothing: is_status && args.quiet,
                status_of: args.status.filter(|id| !id.is_empty()),
                explains: args.explains,
            };
            let place = decide::Place {
                server,
                config,
                both_orders: args.both_orders,
            };
            decide::run(args.ask, form, (question, choices), print, &place, out)?
        }
    };
    if is_status {
        context.end_with(status);
    }
    Ok(())
}

/// Prints the choice; returns its status.
fn chosen(args: ChooseArgs, config: &Config, out: &mut Out) -> Result<u8> {
    let mut ask = args.ask;
    let choices: Vec<String> = args
        .choices
        .iter()
        .map(|choice| decide::name(choice))
        .collect();
    let choices = &choices[..];
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
    model_notes::print(&model, &ask.turn.options, out);
    if ask.turn.options.int("num_ctx").is_none() {
        // A token is at least one byte, so the context fits the prompt, the template and the choices.
        let tokens = (ask.prompt.len() + CONTEXT_TOKENS_MORE).to_string();
        ask.turn.options.set_text("num_ctx", &tokens)?;
    }
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let mut loading = out.loading();
    let deadline = Deadline::new()?;
    let request = Request::new(&model, ask.turn(), deadline.flag(), Instant::now())?;
    let shares = choose(&pool, request, choices, &mut loading);
    let shares = deadline.check(shares)?;
    drop(loading);
    let likeliest = likeliest(&shares);
    let is_sure = args.sure.is_none_or(|sure| shares[likeliest] >= sure);
    let word = if is_sure {
        choices[likeliest].as_str()
    } else {
        UNSURE
    };
    let status = if is_sure {
        likeliest as u8
    } else {
        UNSURE_STATUS
    };
    if args.status.is_some() && args.quiet {
        return Ok(status);
    }
    let printed = print_choice(args.json, out, word, shares[likeliest], choices, &shares);
    match printed {
        // The reader has closed the pipe; the exit status still gives the choice.
        Err(error) if error.class() == Class::Closed && args.status.is_some() => Ok(status),
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

/// Reads the value of `--sure`.
///
/// # Errors
/// `Usage` for any other text than a number from 0 to 1.
pub fn probability(text: &str) -> Result<f64> {
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
    Ok(with_choices(&filled.join("\n\n"), choices))
}

/// A prompt with the list of choices behind it.
pub fn with_choices(prompt: &str, choices: &[String]) -> String {
    format!("{prompt}\n\nAnswer with one of: {}.", choices.join(", "))
}
