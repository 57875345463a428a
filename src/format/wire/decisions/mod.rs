//! Decisions on the wire: TypeSafe's body (`/v1/systemone`) and OpenAI's (`/v1/decisions`).

pub mod openai;
pub mod systemone;

use serde_json::{Map, Value as Json};

use crate::core::decision::Question;
use crate::core::duration::KeepAlive;
use crate::core::options::Options;
use crate::format::wire::fields::unknown;
use crate::format::wire::options::keep_alive;

/// Most questions of a request.
const QUESTIONS_MAX: usize = 400;

/// A decoded request for decisions.
#[derive(Debug)]
pub struct Asked {
    /// The model, if one is named.
    pub model: Option<String>,
    /// The text that is judged.
    pub state: String,
    /// The questions, at least one.
    pub questions: Vec<Question>,
    /// Choices are asked in both orders.
    pub both_orders: bool,
    /// Options of the load.
    pub options: Options,
    /// How long the model stays loaded afterwards.
    pub keep_alive: Option<KeepAlive>,
    /// The names of fields that are neither obeyed nor refused.
    pub ignored: Vec<String>,
}

impl Asked {
    /// Questions about a text that comes from elsewhere.
    pub fn only(questions: Vec<Question>) -> Self {
        Asked {
            model: None,
            state: String::new(),
            questions,
            both_orders: false,
            options: Options::default(),
            keep_alive: None,
            ignored: Vec::new(),
        }
    }
}

/// A mistake in a body, and where it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The names and indexes that lead to it.
    pub place: Vec<String>,
    /// The mistake.
    pub why: String,
}

impl Wrong {
    fn at(place: &[&str], why: impl Into<String>) -> Self {
        Wrong {
            place: place.iter().map(ToString::to_string).collect(),
            why: why.into(),
        }
    }

    fn under(mut self, place: &[&str]) -> Self {
        let outer = place.iter().map(ToString::to_string);
        self.place.splice(0..0, outer);
        self
    }

    /// The place and the reason in one line.
    pub fn text(&self) -> String {
        match self.place.is_empty() {
            true => self.why.clone(),
            false => format!("{}: {}", self.place.join("."), self.why),
        }
    }
}

/// `Result` with what is wrong in a body.
pub type Result<T> = std::result::Result<T, Wrong>;

/// The members of a question in an object of questions.
const OF_OBJECT: &[&str] = &["type", "instructions", "criteria"];
/// The members of a question in a list.
const OF_LIST: &[&str] = &["type", "instructions", "name", "choices", "levels"];

/// The members of questions that no question has, with their places.
pub fn unknown_members(questions: Option<&Json>) -> Vec<String> {
    let unknown_in = |place: &str, question: &Json, known: &[&str]| -> Vec<String> {
        let names = unknown(question, known);
        names
            .map(|name| format!("questions.{place}.{name}"))
            .collect()
    };
    match questions {
        Some(Json::Object(all)) => { all.iter() }
            .flat_map(|(id, one)| unknown_in(id, one, OF_OBJECT))
            .collect(),
        Some(Json::Array(all)) => { all.iter().enumerate() }
            .flat_map(|(at, one)| unknown_in(&at.to_string(), one, OF_LIST))
            .collect(),
        _ => Vec::new(),
    }
}

/// A value as text for the model: a string as it is, anything else as compact JSON.
fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

/// The same, for a field that may hold no bare boolean or number.
fn worded(value: &Json) -> Result<String> {
    match value {
        Json::Bool(_) | Json::Number(_) => {
            Err(Wrong::at(&[], "must be a string, an object or a list"))
        }
        value => Ok(plain(value)),
    }
}

/// Checks how many there are of something.
fn bounded(count: usize, (least, most): (usize, usize), what: &str) -> Result<()> {
    let text = match count {
        0 => format!("has no {what}"),
        _ if count < least => format!("needs {least} {what}s at least"),
        _ if count > most => format!("has more than {most} {what}s"),
        _ => return Ok(()),
    };
    Err(Wrong::at(&[], text))
}

/// Checks how many questions there are.
fn bounded_questions(count: usize) -> Result<()> {
    bounded(count, (1, QUESTIONS_MAX), "question").map_err(|wrong| wrong.under(&["questions"]))
}

/// How long the model stays loaded, as a body says.
fn stays(body: &Map<String, Json>) -> Result<Option<KeepAlive>> {
    let given = keep_alive(body.get("keep_alive"));
    given.map_err(|error| Wrong::at(&["keep_alive"], error.to_string()))
}

/// Whether choices are asked in both orders, as a body says.
fn both_orders(body: &Map<String, Json>) -> Result<bool> {
    match body.get("x_orders") {
        None | Some(Json::Null) => Ok(false),
        Some(given) => match given.as_u64() {
            Some(1) => Ok(false),
            Some(2) => Ok(true),
            _ => Err(Wrong::at(&["x_orders"], "must be 1 or 2")),
        },
    }
}

/// The model that a body names.
fn model(body: &Map<String, Json>) -> Result<Option<String>> {
    match body.get("model") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(name)) if name.trim().is_empty() => {
            Err(Wrong::at(&["model"], "must not be blank"))
        }
        Some(Json::String(name)) => Ok(Some(name.clone())),
        Some(_) => Err(Wrong::at(&["model"], "must be a string")),
    }
}

/// Refuses what decisions do not have.
fn refuse(body: &Map<String, Json>) -> Result<()> {
    if body.get("stream") == Some(&Json::Bool(true)) {
        return Err(Wrong::at(&["stream"], "decisions are not streamed"));
    }
    for media in ["images", "files", "videos", "audio", "assets"] {
        let given = body.get(media).filter(|given| {
            let is_empty = given.as_array().is_some_and(Vec::is_empty)
                || given.as_object().is_some_and(Map::is_empty);
            !given.is_null() && !is_empty
        });
        if given.is_some() {
            return Err(Wrong::at(&[media], "the model reads text only"));
        }
    }
    Ok(())
}
