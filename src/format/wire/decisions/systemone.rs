//! TypeSafe's body: a state, and an object of questions.

use serde_json::{Map, Value as Json, json};

use super::{
    Asked, Result, Wrong, both_orders, bounded, bounded_questions, model, refuse, stays,
    unknown_members, worded,
};
use crate::core::decision::{Answers, Decision, LEVELS_MAX, OPTIONS_MAX, Question};
use crate::core::options::Options;
use crate::format::wire::fields::{short, unknown_in};
use crate::format::wire::options::{from_json, not_obeyed, of_sampling};

/// The fields that are read here or change nothing in an answer.
const FIELDS: &[&str] = &[
    "model",
    "state",
    "questions",
    "options",
    "keep_alive",
    "stream",
    "user",
    "x_orders",
];

/// Decodes a request.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode(body: &Map<String, Json>) -> Result<Asked> {
    refuse(body)?;
    let state = match body.get("state") {
        None => return Err(Wrong::at(&["state"], "is required")),
        Some(Json::Null) => return Err(Wrong::at(&["state"], "must not be null")),
        Some(state) => worded(state).map_err(|wrong| wrong.under(&["state"]))?,
    };
    if state.trim().is_empty() {
        return Err(Wrong::at(&["state"], "must not be blank"));
    }
    let mut ignored: Vec<String> = unknown_in(body, FIELDS).map(str::to_string).collect();
    let options = match body.get("options") {
        None | Some(Json::Null) => Options::default(),
        Some(Json::Object(given)) => {
            ignored.extend(not_obeyed("options.", given));
            from_json(given).map_err(|error| Wrong::at(&["options"], error.to_string()))?
        }
        Some(_) => return Err(Wrong::at(&["options"], "must be an object")),
    };
    ignored.extend(unknown_members(body.get("questions")));
    // Nothing is drawn, so that options of sampling have no effect.
    ignored.extend(of_sampling(&options).map(|name| format!("options.{name}")));
    Ok(Asked {
        model: model(body)?,
        state,
        questions: questions(body.get("questions"))?,
        both_orders: both_orders(body)?,
        options,
        keep_alive: stays(body)?,
        ignored,
    })
}

/// Decodes an object of questions.
///
/// # Errors
/// The first thing that is wrong.
pub fn questions(given: Option<&Json>) -> Result<Vec<Question>> {
    let place = &["questions"];
    let given = match given {
        None | Some(Json::Null) => return Err(Wrong::at(place, "is required")),
        Some(Json::Object(given)) => given,
        Some(_) => return Err(Wrong::at(place, "must be an object of questions")),
    };
    bounded_questions(given.len())?;
    let one = |(id, value): (&String, &Json)| {
        let read = question(id, value);
        read.map_err(|wrong| wrong.under(&["questions", id]))
    };
    given.iter().map(one).collect()
}

fn question(id: &str, value: &Json) -> Result<Question> {
    if id.is_empty() {
        return Err(Wrong::at(&[], "an id must not be empty"));
    }
    if !value.is_object() {
        return Err(Wrong::at(&[], "must be an object"));
    }
    let instructions = worded(&value["instructions"]);
    let instructions = instructions.map_err(|wrong| wrong.under(&["instructions"]))?;
    let criteria = Some(&value["criteria"]).filter(|given| !given.is_null());
    let answers = match (value.get("type"), value["type"].as_str()) {
        (None, _) => return Err(Wrong::at(&["type"], "is required")),
        (_, Some("noul")) => no_yes(criteria),
        (_, Some("choice")) => choice(criteria),
        (_, Some("score")) => score(criteria),
        (_, other) => {
            let other = short(other.unwrap_or_default());
            let text = format!("must be noul, choice or score, not '{other}'");
            return Err(Wrong::at(&["type"], text));
        }
    };
    let answers = answers.map_err(|wrong| wrong.under(&["criteria"]))?;
    let asks_nothing =
        matches!(&answers, Answers::NoYes(means) if means.iter().all(String::is_empty));
    if instructions.trim().is_empty() && asks_nothing {
        return Err(Wrong::at(&["instructions"], "must ask something"));
    }
    Ok(Question {
        id: id.to_string(),
        instructions,
        answers,
    })
}

fn no_yes(criteria: Option<&Json>) -> Result<Answers> {
    let Some(criteria) = criteria else {
        return Ok(Answers::NoYes(Default::default()));
    };
    let Json::Object(fields) = criteria else {
        return Err(Wrong::at(&[], "must be an object with true and false"));
    };
    let mut names = fields.keys();
    if let Some(other) = names.find(|name| !["true", "false"].contains(&name.as_str())) {
        return Err(Wrong::at(&[other], "is neither true nor false"));
    }
    let means = |name: &str| worded(&criteria[name]).map_err(|wrong| wrong.under(&[name]));
    Ok(Answers::NoYes([means("false")?, means("true")?]))
}

fn choice(criteria: Option<&Json>) -> Result<Answers> {
    let options = match criteria {
        None => return Err(Wrong::at(&[], "must name the options")),
        Some(Json::Object(options)) => options,
        Some(_) => return Err(Wrong::at(&[], "must be an object: option to description")),
    };
    bounded(options.len(), (1, OPTIONS_MAX), "option")?;
    let one = |(name, means): (&String, &Json)| {
        let means = worded(means).map_err(|wrong| wrong.under(&[name]));
        Ok((name.clone(), means?))
    };
    let options = options.iter().map(one).collect::<Result<_>>();
    options.map(Answers::Choice)
}

fn score(criteria: Option<&Json>) -> Result<Answers> {
    let levels = match criteria {
        None => return Err(Wrong::at(&[], "must list the levels")),
        Some(Json::Array(levels)) => levels,
        Some(_) => return Err(Wrong::at(&[], "must be a list of levels, the lowest first")),
    };
    bounded(levels.len(), (1, LEVELS_MAX), "level")?;
    let one = |(index, level): (usize, &Json)| {
        let read = match level {
            Json::Null => Err(Wrong::at(&[], "must not be null")),
            level => worded(level),
        };
        read.map_err(|wrong| wrong.under(&[&index.to_string()]))
    };
    let levels = levels.iter().enumerate().map(one).collect::<Result<_>>();
    levels.map(Answers::Score)
}

/// The answer to one question.
pub fn answer(question: &Question, decision: &Decision) -> Json {
    let p = &decision.probabilities;
    let mut answer = match &question.answers {
        Answers::NoYes(_) => json!({ "type": "noul", "noul": p[1] }),
        Answers::Choice(options) => {
            let all = options.iter().zip(p);
            let all: Map<String, Json> =
                all.map(|((name, _), p)| (name.clone(), json!(p))).collect();
            json!({
                "type": "choice",
                "choice": options[decision.likeliest()].0,
                "probabilities": all,
                "confidence": decision.confidence_of_choice(),
            })
        }
        Answers::Score(levels) => {
            let by_level = |of: &dyn Fn(usize) -> Json| -> Map<String, Json> {
                (0..levels.len())
                    .map(|level| (level.to_string(), of(level)))
                    .collect()
            };
            json!({
                "type": "score",
                "score": decision.score(),
                "legend": by_level(&|level| levels[level].as_str().into()),
                "probabilities": by_level(&|level| json!(p[level])),
                "confidence": decision.confidence_of_score(),
            })
        }
    };
    answer["x_label_mass"] = json!(decision.label_mass);
    answer
}

/// The whole response.
pub fn encode(
    model: &str,
    questions: &[Question],
    decisions: &[Decision],
    (tokens, prompt): (usize, u32),
) -> Json {
    let answers = questions.iter().zip(decisions);
    let answers: Map<String, Json> = answers
        .map(|(question, decision)| (question.id.clone(), answer(question, decision)))
        .collect();
    json!({
        "model": model,
        "answers": answers,
        "usage": { "input_tokens": tokens, "output_tokens": 0 },
        "x_prompt": prompt,
    })
}

/// A request to another server. Ids are positions: on the command line a question may have none.
pub fn body(model: &str, asked: &Asked, options: Map<String, Json>) -> Json {
    let questions = asked.questions.iter().enumerate();
    let questions: Map<String, Json> = questions
        .map(|(index, question)| {
            let (kind, criteria) = match &question.answers {
                Answers::NoYes([no, yes]) => ("noul", json!({ "false": no, "true": yes })),
                Answers::Choice(options) => {
                    let means = options
                        .iter()
                        .map(|(name, means)| (name.clone(), means.as_str().into()));
                    ("choice", Json::Object(means.collect()))
                }
                Answers::Score(levels) => ("score", json!(levels)),
            };
            let instructions = &question.instructions;
            let question =
                json!({ "type": kind, "instructions": instructions, "criteria": criteria });
            (index.to_string(), question)
        })
        .collect();
    let mut body =
        json!({ "model": model, "state": asked.state, "questions": questions, "options": options });
    if asked.both_orders {
        body["x_orders"] = 2.into();
    }
    body
}

/// The answers in another server's response to [`body`]; `None` if one is missing.
pub fn decisions(questions: &[Question], response: &Json) -> Option<Vec<Decision>> {
    let one = |(index, question): (usize, &Question)| {
        let answer = &response["answers"][index.to_string()];
        let by_name = |name: &str| answer["probabilities"][name].as_f64();
        let probabilities: Option<Vec<f64>> = match &question.answers {
            Answers::NoYes(_) => answer["noul"].as_f64().map(|yes| vec![1.0 - yes, yes]),
            Answers::Choice(options) => options.iter().map(|(name, _)| by_name(name)).collect(),
            Answers::Score(levels) => (0..levels.len())
                .map(|level| by_name(&level.to_string()))
                .collect(),
        };
        Some(Decision {
            probabilities: probabilities?,
            label_mass: answer["x_label_mass"].as_f64().unwrap_or(1.0),
        })
    };
    questions.iter().enumerate().map(one).collect()
}

/// The body of a wrong request, for TypeSafe's clients and for those that read a text.
pub fn invalid(wrong: &Wrong) -> Json {
    let place: Vec<&str> = ["body"]
        .into_iter()
        .chain(wrong.place.iter().map(String::as_str))
        .collect();
    json!({
        "error": wrong.text(),
        "detail": [{ "loc": place, "msg": wrong.why, "type": "value_error" }],
    })
}

/// The body of any other error.
pub fn error_body(message: &str, status: u16) -> Json {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        503 => "overloaded_error",
        _ => "api_error",
    };
    json!({ "error": message, "detail": { "error_type": kind, "message": message } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(questions: Json) -> Result<Vec<Question>> {
        super::questions(Some(&questions))
    }

    #[test]
    fn every_mistake_has_its_place() {
        for (questions, place, why) in [
            (json!({}), "questions", "has no question"),
            (json!([]), "questions", "must be an object of questions"),
            (json!({"a": 1}), "questions.a", "must be an object"),
            (json!({"a": {}}), "questions.a.type", "is required"),
            (
                json!({"a": {"type": "boolean"}}),
                "questions.a.type",
                "must be noul, choice or score, not 'boolean'",
            ),
            (
                json!({"a": {"type": "noul"}}),
                "questions.a.instructions",
                "must ask something",
            ),
            (
                json!({"a": {"type": "noul", "instructions": "?", "criteria": {"maybe": "x"}}}),
                "questions.a.criteria.maybe",
                "is neither true nor false",
            ),
            (
                json!({"a": {"type": "choice", "instructions": "?"}}),
                "questions.a.criteria",
                "must name the options",
            ),
            (
                json!({"a": {"type": "choice", "instructions": "?", "criteria": {}}}),
                "questions.a.criteria",
                "has no option",
            ),
            (
                json!({"a": {"type": "score", "instructions": "?", "criteria": {"0": "x"}}}),
                "questions.a.criteria",
                "must be a list of levels, the lowest first",
            ),
            (
                json!({"a": {"type": "score", "instructions": "?", "criteria": ["x", null]}}),
                "questions.a.criteria.1",
                "must not be null",
            ),
        ] {
            let wrong = read(questions).unwrap_err();
            assert_eq!(
                (wrong.place.join("."), wrong.why.as_str()),
                (place.to_string(), why)
            );
        }
        let many: Map<String, Json> = (0..256).map(|n| (format!("n{n}"), Json::Null)).collect();
        let wrong = read(json!({"a": {"type": "choice", "instructions": "?", "criteria": many}}));
        assert_eq!(wrong.unwrap_err().why, "has more than 255 options");
    }

    #[test]
    fn structured_texts_are_compact_json_in_the_given_order() {
        let body = json!({
            "state": {"z": 1, "a": ["x"]},
            "questions": {"q": {"type": "score", "instructions": {"ask": "how"}, "criteria": [{"low": 1}, ["high"]]}},
        });
        let asked = decode(body.as_object().unwrap()).unwrap();
        assert_eq!(asked.state, r#"{"z":1,"a":["x"]}"#);
        assert_eq!(asked.questions[0].instructions, r#"{"ask":"how"}"#);
        let decision = Decision {
            probabilities: vec![0.25, 0.75],
            label_mass: 0.9,
        };
        let answer = answer(&asked.questions[0], &decision);
        assert_eq!(
            answer["legend"],
            json!({"0": r#"{"low":1}"#, "1": r#"["high"]"#})
        );
        assert_eq!(answer["score"], 0.75);
    }
}
