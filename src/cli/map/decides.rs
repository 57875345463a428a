//! `map --choose` and `--questions`: the model's probabilities decide, and nothing is generated.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use serde_json::{Map, json};

use crate::cli::choose::{SURE, probability, with_choices};
use crate::cli::decide::{self, is_described};
use crate::cli::flag::{Flag, HOST, option};
use crate::cli::out::Out;
use crate::cli::parsed::{Parsed, repeated};
use crate::cli::run::turn_args::{Ask, draws_nothing};
use crate::cli::run::turn_flags::{FORMAT, GRAMMAR, OVERFLOW, SCHEMA, STOP, THINK};
use crate::cli::shape::{EXTRACT, FIELDS, ONE_LINE, STRIP};
use crate::core::decision::{UNSURE, likeliest};
use crate::core::error::{Error, Result};
use crate::core::json;
use crate::format::wire::decisions::{Asked, systemone};
use crate::ops::backend::Local;
use crate::ops::choose::choose;
use crate::ops::decide::{Request, decide as decide_all};
use crate::ops::turn;

pub const CHOOSE: Flag = option(
    "choose",
    None,
    "A,B,C",
    "decide for one of these words, as choose does",
);
pub const QUESTIONS: Flag = option(
    "questions",
    None,
    "FILE",
    "answer all questions in FILE about each record",
);

/// How records are decided.
pub struct Decides {
    what: What,
    /// The probability below which a choice is `unsure`.
    sure: Option<f64>,
}

enum What {
    /// Words, weighed whole.
    Words(Vec<String>),
    /// Questions, asked by labels.
    Questions(Asked),
}

impl Decides {
    /// Reads the flags; `None` if answers are to be generated.
    ///
    /// # Errors
    /// `Usage`.
    pub fn read(parsed: &Parsed, ask: &Ask) -> Result<Option<Self>> {
        let Some(flag) = parsed.first_of(&[&CHOOSE, &QUESTIONS]) else {
            return match parsed.has(&SURE) {
                true => Err(Error::usage("--sure needs --choose")),
                false => Ok(None),
            };
        };
        let beside = [
            &CHOOSE, &QUESTIONS, &SCHEMA, &FORMAT, &GRAMMAR, &STOP, &THINK, &HOST,
        ];
        parsed.only_one(&beside.map(|other| (other, ())))?;
        if parsed.has(&QUESTIONS) {
            parsed.only_one(&[(&QUESTIONS, ()), (&OVERFLOW, ())])?;
        }
        if let Some(shape) = parsed.first_of(&[&EXTRACT, &FIELDS, &STRIP, &ONE_LINE]) {
            let text = format!("--{} shapes answers, and nothing is generated", shape.long);
            return Err(Error::usage(text));
        }
        draws_nothing(&ask.turn.options)?;
        let what = match parsed.value(&QUESTIONS) {
            Some(_) if parsed.has(&SURE) => return Err(Error::usage("--sure needs --choose")),
            Some(path) => What::Questions(decide::read(path)?),
            None => What::Words(words(parsed.value(flag).unwrap_or_default())?),
        };
        let sure = parsed.value(&SURE).map(probability).transpose()?;
        Ok(Some(Decides { what, sure }))
    }

    /// True if each answer has one probability.
    pub fn has_probability(&self) -> bool {
        matches!(self.what, What::Words(_))
    }

    /// Notes what a file of questions says that has no effect on records.
    pub fn note_unused(&self, model: &str, out: &Out) {
        if let What::Questions(asked) = &self.what {
            decide::note_unused(asked, model, out);
            if !asked.state.is_empty() {
                out.note("the file's text is not used: each record is one");
            }
        }
    }

    /// Everything that answers depend on, for the journal.
    pub fn settings(&self) -> String {
        match &self.what {
            What::Words(words) => format!("\nchoose={words:?} {:?}", self.sure),
            What::Questions(asked) => {
                format!("\nquestions={:?} {}", asked.questions, asked.both_orders)
            }
        }
    }

    /// The answer to a record, and its probability if there is one.
    ///
    /// # Errors
    /// Any error of the model or the prompt.
    pub fn answer(
        &self,
        local: &Local,
        ask: Ask,
        over: &Arc<AtomicBool>,
    ) -> Result<(String, Option<f64>)> {
        match &self.what {
            What::Words(words) => {
                let (word, share) = self.word(local, ask, words, over)?;
                Ok((word, Some(share)))
            }
            What::Questions(asked) => {
                let questions = &asked.questions;
                let request = Request {
                    model: local.model(),
                    system: ask.system.as_deref(),
                    state: &ask.prompt,
                    questions,
                    both_orders: asked.both_orders,
                    explains: false,
                    options: ask.turn.options.clone(),
                    keep_alive: None,
                    cancel: over.clone(),
                };
                let decided = decide_all(local.pool(), &request, &mut |_| {})?;
                let all = questions.iter().zip(&decided.decisions);
                let all: Map<_, _> = all
                    .map(|(question, decision)| {
                        (question.id.clone(), systemone::answer(question, decision))
                    })
                    .collect();
                Ok((json::line(&json!({ "answers": all })), None))
            }
        }
    }

    /// The likeliest word and its probability.
    fn word(
        &self,
        local: &Local,
        mut ask: Ask,
        words: &[String],
        over: &Arc<AtomicBool>,
    ) -> Result<(String, f64)> {
        ask.prompt = with_choices(&ask.prompt, words);
        let request = turn::Request::new(local.model(), ask.turn(), over.clone(), Instant::now())?;
        let shares = choose(local.pool(), request, words, &mut |_| {})?;
        let likeliest = likeliest(&shares);
        let share = shares[likeliest];
        let word = match self.sure {
            Some(least) if share < least => UNSURE,
            _ => words[likeliest].as_str(),
        };
        Ok((word.to_string(), share))
    }
}

/// The words of `--choose`.
fn words(list: &str) -> Result<Vec<String>> {
    let words: Vec<String> = list
        .split(',')
        .map(|word| word.trim().to_string())
        .collect();
    if let Some(word) = words.iter().find(|word| is_described(word)) {
        return Err(Error::usage(format!(
            "--choose takes words without a description, not '{word}': see --questions"
        )));
    }
    if words.iter().any(String::is_empty) {
        return Err(Error::usage("--choose has an empty choice"));
    }
    if let Some(twice) = repeated(&words) {
        return Err(Error::usage(format!("duplicate choice '{twice}'")));
    }
    if words.len() < 2 {
        return Err(Error::usage(
            "--choose needs two words or more, separated by commas",
        ));
    }
    Ok(words)
}
