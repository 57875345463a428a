//! The forms of `puna choose` that ask by labels: yes or no, described choices, a scale, questions of a file.

use std::io::{self, IsTerminal};

use serde_json::{Map, Value as Json};

use super::context;
use super::deadline::Deadline;
use super::model_notes;
use super::out::{self, Out};
use super::parsed::repeated;
use super::run::turn_args::{Ask, PROMPT_BYTES_MAX};
use super::stdin;
use crate::core::decision::{Answers, Decision, Question, UNSURE};
use crate::core::error::{Class, Error, Result};
use crate::core::unique_keys;
use crate::format::wire::decisions::{Asked, openai, systemone, unknown_members};
use crate::format::wire::options;
use crate::ops::decide::{self, Decided, Request};
use crate::ops::model;
use crate::ops::pool::{Policy, Pool};
use crate::system::client::Client;
use crate::system::config::Config;

/// Context tokens in addition to those of the texts: for the template and the words around the texts.
const CONTEXT_TOKENS_MORE: usize = 1024;
/// Largest file of questions.
const QUESTIONS_BYTES_MAX: u64 = 4 << 20;
/// The exit status if no answer is probable enough.
pub const UNSURE_STATUS: u8 = 120;

/// How the choices are asked.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// Is it so?
    YesNo,
    /// Which of these, each with its description?
    Choices,
    /// Which level?
    Score,
    /// The questions of a file.
    File(&'a str),
}

/// How the answers are printed.
pub struct Print<'a> {
    /// The probability below which an answer is `unsure`.
    pub sure: Option<f64>,
    /// As JSON.
    pub json: bool,
    /// Not at all: the exit status is the answer.
    pub nothing: bool,
    /// The question of a file whose answer is the exit status.
    pub status_of: Option<&'a str>,
    /// On standard error, the prompts and how much of the probability the labels had.
    pub explains: bool,
}

/// Where and how the answers are computed.
pub struct Place<'a> {
    /// The server, if one is named; else this process.
    pub server: Option<Client>,
    /// The settings for this process.
    pub config: &'a Config,
    /// Choices are asked in both orders.
    pub both_orders: bool,
}

/// True if a choice has a description.
pub fn is_described(choice: &str) -> bool {
    split(choice).1.is_some()
}

/// The name of a choice without a description.
pub fn name(choice: &str) -> String {
    split(choice).0
}

/// The name and the description of a choice, at the first sign that no backslash precedes.
fn split(choice: &str) -> (String, Option<&str>) {
    let mut places = choice.match_indices('=').map(|(at, _)| at);
    let at = places.find(|at| !choice[..*at].ends_with('\\'));
    let (name, means) = match at {
        Some(at) => (&choice[..at], Some(&choice[at + 1..])),
        None => (choice, None),
    };
    (name.replace("\\=", "="), means)
}

/// Asks, and prints the answers; returns the exit status of the answer.
///
/// # Errors
/// `Usage`; any error of the file, the model or the text.
pub fn run(
    ask: Ask,
    form: Form,
    choice: (Option<&str>, &[String]),
    print: Print,
    place: &Place,
    out: &mut Out,
) -> Result<u8> {
    let mut asked = asked(form, choice, &ask)?;
    note_unused(&asked, &ask.turn.model, out);
    asked.both_orders |= place.both_orders;
    let place_of = |id: &str| {
        let place = asked
            .questions
            .iter()
            .position(|question| question.id == id);
        place.ok_or_else(|| Error::usage(format!("no question has the id '{id}' of --status")))
    };
    let chosen = print.status_of.map(place_of).transpose()?;
    let decisions = match &place.server {
        Some(server) => by_server(server, &ask, &asked)?,
        None => {
            let decided = decided(ask, &asked, (place.config, print.explains), out)?;
            let prompts = decided.prompts.iter();
            prompts.for_each(|prompt| out.report(&out::harmless(prompt)));
            decided.decisions
        }
    };
    if print.explains {
        explain(&asked.questions, &decisions, out);
    }
    if let Form::File(_) = form {
        let status = match chosen {
            Some(index) => status(&asked.questions[index], &decisions[index], &print),
            None => 0,
        };
        return match print.nothing {
            true => Ok(status),
            false => print_all(&asked.questions, &decisions, &print, out).map(|()| status),
        };
    }
    let (question, decision) = (&asked.questions[0], &decisions[0]);
    let status = status(question, decision, &print);
    if print.nothing {
        return Ok(status);
    }
    let printed = match print.json {
        true => out.json(&[systemone::answer(question, decision)]),
        false => out.records(&[fields(question, decision, &print)]),
    };
    match printed {
        // The reader has closed the pipe; the exit status still gives the answer.
        Err(error) if error.class() == Class::Closed => Ok(status),
        printed => printed.map(|()| status),
    }
}

/// Notes what a file of questions says that has no effect with this model.
pub fn note_unused(asked: &Asked, model: &str, out: &Out) {
    for name in &asked.ignored {
        out.note(&format!("{name} of the file has no effect"));
    }
    if let Some(other) = asked.model.as_ref().filter(|name| *name != model) {
        out.note(&format!("the file's model {other} is not used"));
    }
}

/// The questions and the text that they are about: standard input, else the text of the file.
fn asked(form: Form, (question, choices): (Option<&str>, &[String]), ask: &Ask) -> Result<Asked> {
    let one = |answers| {
        Asked::only(vec![Question {
            id: String::new(),
            instructions: question.unwrap_or_default().to_string(),
            answers,
        }])
    };
    let mut asked = match form {
        Form::File(path) => read(path)?,
        Form::YesNo => one(Answers::NoYes(Default::default())),
        Form::Score => one(Answers::Score(
            choices.iter().map(|level| name(level)).collect(),
        )),
        Form::Choices => one(described(choices)?),
    };
    if !io::stdin().is_terminal() {
        let text = stdin::decoded("-", PROMPT_BYTES_MAX, ask.encoding)?;
        if !text.trim().is_empty() {
            asked.state = text.trim_end().to_string();
        }
    }
    if asked.state.is_empty() {
        return Err(Error::usage("standard input is empty"));
    }
    Ok(asked)
}

/// Choices with their descriptions.
fn described(choices: &[String]) -> Result<Answers> {
    let options = choices.iter().map(|choice| {
        let (name, means) = split(choice);
        (name, means.unwrap_or_default().to_string())
    });
    let options: Vec<(String, String)> = options.collect();
    let names: Vec<&String> = options.iter().map(|(name, _)| name).collect();
    if let Some(twice) = repeated(&names) {
        return Err(Error::usage(format!("duplicate choice '{twice}'")));
    }
    if names.iter().any(|name| name.is_empty()) {
        return Err(Error::usage("a choice has no name"));
    }
    Ok(Answers::Choice(options))
}

/// Has a server compute the answers.
fn by_server(server: &Client, ask: &Ask, asked: &Asked) -> Result<Vec<Decision>> {
    if ask.system.is_some() {
        return Err(Error::usage("--system cannot be used with a server"));
    }
    if asked.both_orders {
        server.must_be_puna("--orders")?;
    }
    let options = options::to_json(&ask.turn.options);
    let body = systemone::body(&ask.turn.model, asked, options);
    let answer: Json = server.ask("/v1/systemone", &body)?;
    systemone::decisions(&asked.questions, &answer).ok_or_else(|| {
        let text = format!("the server at {} sent an invalid answer", server.address());
        Error::plain(Class::Network, text)
    })
}

/// Tells how much of the probability the labels of each question had.
fn explain(questions: &[Question], decisions: &[Decision], out: &Out) {
    for (question, decision) in questions.iter().zip(decisions) {
        let id = match question.id.as_str() {
            "" => String::new(),
            id => format!("{id}: "),
        };
        let mass = decision.label_mass;
        out.report(&format!(
            "puna: {id}the labels have a probability of {mass:.3} together"
        ));
    }
}

/// Computes the answers in this process.
fn decided(
    mut ask: Ask,
    asked: &Asked,
    (config, explains): (&Config, bool),
    out: &Out,
) -> Result<Decided> {
    let model = model::open(&context::store(config), &ask.turn.model)?;
    model_notes::print(&model, &ask.turn.options, out);
    if ask.turn.options.int("num_ctx").is_none() {
        // A token is at least one byte, so the context fits the texts.
        let longest = asked.questions.iter().map(bytes).max().unwrap_or(0);
        let tokens = asked.state.len() + longest + CONTEXT_TOKENS_MORE;
        ask.turn.options.set_text("num_ctx", &tokens.to_string())?;
    }
    let pool = Pool::new(config.clone(), Policy::OneShot, out::log(None)?);
    let deadline = Deadline::new()?;
    let request = Request {
        model: &model,
        system: ask.system.as_deref(),
        state: &asked.state,
        questions: &asked.questions,
        both_orders: asked.both_orders,
        explains,
        options: ask.turn.options.clone(),
        keep_alive: None,
        cancel: deadline.flag(),
    };
    let decided = decide::decide(&pool, &request, &mut out.loading());
    deadline.check(decided)
}

/// The bytes of a question's texts.
fn bytes(question: &Question) -> usize {
    let answers = match &question.answers {
        Answers::NoYes(means) => means.iter().map(String::len).sum(),
        Answers::Score(levels) => levels.iter().map(|level| level.len() + 8).sum(),
        Answers::Choice(options) => options
            .iter()
            .map(|(name, means)| name.len() + means.len() + 8)
            .sum::<usize>(),
    };
    question.instructions.len() + answers
}

/// Reads a file of questions: an object of them, a list, or a whole body of either kind.
///
/// # Errors
/// `Usage` with the place of a mistake.
pub fn read(path: &str) -> Result<Asked> {
    let wrong = |why: String| Error::usage(format!("{path}: {why}"));
    let text = stdin::read_text(path, QUESTIONS_BYTES_MAX)?;
    let given = unique_keys::parse(&text).map_err(|error| wrong(error.to_string()))?;
    let body = match given {
        Json::Object(body) if body.contains_key("questions") => body,
        questions => Map::from_iter([("questions".to_string(), questions)]),
    };
    let is_list = body["questions"].is_array();
    let text = body.get(if is_list { "input" } else { "state" });
    // A file without a text is for the one on standard input.
    let has_text = text.is_some_and(|text| !text.is_null());
    let read = match (is_list, has_text) {
        (true, true) => openai::decode(&body).map(|decoded| decoded.asked),
        (false, true) => systemone::decode(&body),
        (true, false) => openai::questions(&body).map(Asked::only),
        (false, false) => systemone::questions(body.get("questions")).map(Asked::only),
    };
    let read = read.map_err(|error| wrong(error.text()))?;
    if let Some(member) = unknown_members(body.get("questions")).first() {
        return Err(wrong(format!("no question has {member}")));
    }
    let ids: Vec<&String> = read.questions.iter().map(|question| &question.id).collect();
    match repeated(&ids) {
        Some(id) => Err(wrong(format!("two questions have the id '{id}'"))),
        None => Ok(read),
    }
}

/// Prints a line for each question.
fn print_all(
    questions: &[Question],
    decisions: &[Decision],
    print: &Print,
    out: &mut Out,
) -> Result<()> {
    for (question, decision) in questions.iter().zip(decisions) {
        if print.json {
            let mut record = Map::from_iter([("id".to_string(), Json::from(question.id.as_str()))]);
            if let Json::Object(answer) = systemone::answer(question, decision) {
                record.extend(answer);
            }
            out.json(&[record])?;
        } else {
            let fields = fields(question, decision, print);
            out.records(&[[vec![question.id.clone()], fields].concat()])?;
        }
    }
    Ok(())
}

/// True if the answer is as probable as `--sure` wants; of a scale, if its confidence is.
fn is_sure(question: &Question, decision: &Decision, print: &Print) -> bool {
    let sure = match question.answers {
        Answers::Score(_) => decision.confidence_of_score(),
        _ => decision.probabilities[decision.likeliest()],
    };
    print.sure.is_none_or(|least| sure >= least)
}

/// The answer and its probability; of a scale, the expected level and the likeliest.
fn fields(question: &Question, decision: &Decision, print: &Print) -> Vec<String> {
    let likeliest = decision.likeliest();
    let p = format!("{:.2}", decision.probabilities[likeliest]);
    let unsure = || UNSURE.to_string();
    let sure = is_sure(question, decision, print);
    match &question.answers {
        Answers::Score(levels) => {
            let level = if sure {
                levels[likeliest].clone()
            } else {
                unsure()
            };
            vec![format!("{:.2}", decision.score()), level]
        }
        _ if !sure => vec![unsure(), p],
        Answers::NoYes(_) => vec![["no", "yes"][likeliest].to_string(), p],
        Answers::Choice(options) => vec![options[likeliest].0.clone(), p],
    }
}

/// The exit status of an answer: 0 for yes and 1 for no, the number of a choice, the rounded level.
fn status(question: &Question, decision: &Decision, print: &Print) -> u8 {
    let likeliest = decision.likeliest() as u8;
    match question.answers {
        _ if !is_sure(question, decision, print) => UNSURE_STATUS,
        Answers::NoYes(_) => 1 - likeliest,
        Answers::Choice(_) => likeliest,
        Answers::Score(_) => decision.score().round() as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_begins_at_the_first_bare_sign() {
        assert_eq!(split("a=b=c"), ("a".into(), Some("b=c")));
        assert_eq!(split("a\\=b=c"), ("a=b".into(), Some("c")));
        assert_eq!(split("a\\=b"), ("a=b".into(), None));
        assert!(!is_described("plain") && is_described("x="));
    }
}
