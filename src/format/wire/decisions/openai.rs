//! OpenAI's body: an input, and a list of questions.

use serde_json::{Map, Value as Json, json};

use super::{
    Asked, Result, Wrong, both_orders, bounded, bounded_questions, model, plain, refuse, stays,
    unknown_members,
};
use crate::core::decision::{Answers, Decision, LEVELS_MAX, OPTIONS_MAX, Question};
use crate::core::options::Options;
use crate::format::wire::fields::{short, unknown_in};

/// The fields that are read here or change nothing in an answer.
const FIELDS: &[&str] = &[
    "model",
    "input",
    "questions",
    "keep_alive",
    "stream",
    "prompt_cache_key",
    "prompt_cache_options",
    "safety_identifier",
    "x_orders",
    "metadata",
    "user",
];

/// A question's name, if it has one, and the typed values of its choices or the labels of its levels: an answer repeats them.
type Repeated = (Json, Vec<Json>);

/// A decoded request, with what its answers repeat.
pub struct Decoded {
    /// The request.
    pub asked: Asked,
    /// The same for each question.
    repeated: Vec<Repeated>,
}

/// Decodes a request.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode(body: &Map<String, Json>) -> Result<Decoded> {
    refuse(body)?;
    let state = match body.get("input") {
        None | Some(Json::Null) => return Err(Wrong::at(&["input"], "is required")),
        Some(Json::String(text)) => text.clone(),
        Some(Json::Array(items)) => {
            let texts = items.iter().enumerate().map(|(index, item)| {
                let read = item_text(item);
                read.map_err(|wrong| wrong.under(&["input", &index.to_string()]))
            });
            texts.collect::<Result<Vec<_>>>()?.join("\n\n")
        }
        Some(_) => return Err(Wrong::at(&["input"], "must be a string or a list of items")),
    };
    if state.trim().is_empty() {
        return Err(Wrong::at(&["input"], "must not be blank"));
    }
    let (questions, repeated) = listed(body)?.into_iter().unzip();
    Ok(Decoded {
        asked: Asked {
            model: model(body)?,
            state,
            questions,
            both_orders: both_orders(body)?,
            options: Options::default(),
            keep_alive: stays(body)?,
            ignored: { unknown_in(body, FIELDS).map(str::to_string) }
                .chain(unknown_members(body.get("questions")))
                .collect(),
        },
        repeated,
    })
}

/// Decodes only the questions of a body.
///
/// # Errors
/// The first thing that is wrong.
pub fn questions(body: &Map<String, Json>) -> Result<Vec<Question>> {
    Ok(listed(body)?
        .into_iter()
        .map(|(question, _)| question)
        .collect())
}

/// The questions, each with its name and the values of its choices.
fn listed(body: &Map<String, Json>) -> Result<Vec<(Question, Repeated)>> {
    let given = body.get("questions").and_then(Json::as_array);
    let given = given.ok_or_else(|| Wrong::at(&["questions"], "must be a list of questions"))?;
    bounded_questions(given.len())?;
    let read = given.iter().enumerate().map(|(index, value)| {
        let read = question(index, value);
        read.map_err(|wrong| wrong.under(&["questions", &index.to_string()]))
    });
    read.collect()
}

/// An item of the input as text: what was said, by whom if not by the user; a call, and what came of it.
fn item_text(item: &Json) -> Result<String> {
    match item["type"].as_str().unwrap_or("message") {
        "message" => {
            let content = parts(&item["content"]).map_err(|wrong| wrong.under(&["content"]))?;
            Ok(match item["role"].as_str() {
                Some("user") | None => content,
                Some(role) => format!("{role}: {content}"),
            })
        }
        "function_call" | "custom_tool_call" => {
            let given = item
                .get("arguments")
                .or(item.get("input"))
                .unwrap_or(&Json::Null);
            Ok(format!("call {}: {}", plain(&item["name"]), plain(given)))
        }
        "function_call_output" | "custom_tool_call_output" => {
            Ok(format!("result: {}", parts(&item["output"])?))
        }
        other => Err(Wrong::at(
            &["type"],
            format!("unknown input item type '{}'", short(other)),
        )),
    }
}

/// A text, or the texts of a list of parts.
fn parts(value: &Json) -> Result<String> {
    let list = match value {
        Json::String(text) => return Ok(text.clone()),
        Json::Null => return Ok(String::new()),
        Json::Array(list) => list,
        _ => return Err(Wrong::at(&[], "must be a string or a list of parts")),
    };
    let one = |part: &Json| match part["type"].as_str().unwrap_or_default() {
        "input_text" | "output_text" | "text" => Ok(plain(&part["text"])),
        "refusal" => Ok(plain(&part["refusal"])),
        "input_json" => Ok(plain(&part["data"])),
        "input_image" | "input_audio" | "input_file" => {
            Err(Wrong::at(&[], "the model reads text only"))
        }
        other => Err(Wrong::at(
            &[],
            format!("unknown part of type '{}'", short(other)),
        )),
    };
    let texts = list.iter().map(one).collect::<Result<Vec<_>>>()?;
    Ok(texts.join("\n"))
}

/// A question, its name and the values of its choices.
fn question(index: usize, value: &Json) -> Result<(Question, Repeated)> {
    if value.get("id").is_some() || value.get("question").is_some() {
        let text = "questions with id and question are another API's: send state and questions to /v1/systemone";
        return Err(Wrong::at(&[], text));
    }
    let name = match &value["name"] {
        name @ (Json::Null | Json::String(_)) => name.clone(),
        _ => return Err(Wrong::at(&["name"], "must be a string")),
    };
    let instructions =
        parts(&value["instructions"]).map_err(|wrong| wrong.under(&["instructions"]))?;
    if instructions.trim().is_empty() {
        return Err(Wrong::at(&["instructions"], "must ask something"));
    }
    let (answers, repeated) = match value["type"].as_str() {
        Some("predicate") => (Answers::NoYes(Default::default()), Vec::new()),
        Some("choice") => choices(&value["choices"]).map_err(|wrong| wrong.under(&["choices"]))?,
        Some("score") => levels(&value["levels"]).map_err(|wrong| wrong.under(&["levels"]))?,
        Some(other) => {
            let text = format!("must be predicate, choice or score, not '{}'", short(other));
            return Err(Wrong::at(&["type"], text));
        }
        None => return Err(Wrong::at(&["type"], "is required")),
    };
    let question = Question {
        id: name
            .as_str()
            .map_or_else(|| index.to_string(), str::to_string),
        instructions,
        answers,
    };
    Ok((question, (name, repeated)))
}

fn choices(given: &Json) -> Result<(Answers, Vec<Json>)> {
    let given = given
        .as_array()
        .ok_or_else(|| Wrong::at(&[], "must be a list of choices"))?;
    bounded(given.len(), (2, OPTIONS_MAX), "choice")?;
    let (mut options, mut values) = (Vec::new(), Vec::new());
    for (index, choice) in given.iter().enumerate() {
        let value = match &choice["value"] {
            value @ (Json::String(_) | Json::Bool(_)) => value.clone(),
            _ => {
                return Err(Wrong::at(
                    &[&index.to_string(), "value"],
                    "must be a string or a boolean",
                ));
            }
        };
        // The text "true" and the boolean are two choices.
        if values.contains(&value) {
            return Err(Wrong::at(&[&index.to_string(), "value"], "stands twice"));
        }
        options.push((plain(&value), plain(&choice["description"])));
        values.push(value);
    }
    Ok((Answers::Choice(options), values))
}

fn levels(given: &Json) -> Result<(Answers, Vec<Json>)> {
    let given = given
        .as_array()
        .ok_or_else(|| Wrong::at(&[], "must be a list of levels, the lowest first"))?;
    bounded(given.len(), (2, LEVELS_MAX), "level")?;
    let one = |(index, level): (usize, &Json)| {
        let label = level["label"].as_str().filter(|label| !label.is_empty());
        let label =
            label.ok_or_else(|| Wrong::at(&[&index.to_string(), "label"], "must be a text"))?;
        let means = plain(&level["description"]);
        let both: Vec<&str> = [label, &means]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        Ok((both.join(" - "), Json::from(label)))
    };
    let levels = given
        .iter()
        .enumerate()
        .map(one)
        .collect::<Result<Vec<_>>>()?;
    let (levels, labels) = levels.into_iter().unzip();
    Ok((Answers::Score(levels), labels))
}

/// The whole response.
pub fn encode(model: &str, decoded: &Decoded, (decisions, tokens): (&[Decision], usize)) -> Json {
    let questions = decoded.asked.questions.iter();
    let all = questions.zip(&decoded.repeated).zip(decisions);
    let answers = all.map(|((question, (name, repeated)), decision)| {
        let p = &decision.probabilities;
        match question.answers {
            Answers::NoYes(_) => json!({ "type": "predicate", "name": name, "probability": p[1] }),
            Answers::Choice(_) => {
                let all = repeated.iter().zip(p);
                let all = all.map(|(value, p)| json!({ "value": value, "probability": p }));
                json!({
                    "type": "choice",
                    "name": name,
                    "choice": repeated[decision.likeliest()],
                    "probabilities": all.collect::<Vec<_>>(),
                    "confidence": decision.confidence_of_choice(),
                })
            }
            Answers::Score(_) => {
                let all = repeated.iter().zip(p).enumerate();
                let all = all.map(|(level, (label, p))| json!({ "value": level, "label": label, "probability": p }));
                json!({
                    "type": "score",
                    "name": name,
                    "score": decision.score(),
                    "probabilities": all.collect::<Vec<_>>(),
                    "confidence": decision.confidence_of_score(),
                })
            }
        }
    });
    json!({
        "model": model,
        "answers": answers.collect::<Vec<_>>(),
        "usage": {
            "input_tokens": tokens,
            "input_tokens_details": { "cached_tokens": 0, "cache_write_tokens": 0 },
            "output_tokens": 0,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": tokens,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_values_come_back_and_mistakes_have_their_place() {
        let body = json!({
            "model": "m",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_json", "data": {"b": 1}}]},
                      {"type": "function_call_output", "call_id": "c", "output": "d"}],
            "questions": [{"type": "choice", "instructions": "?", "choices": [{"value": true}, {"value": "true"}, {"value": false}]}],
        });
        let body = body.as_object().unwrap();
        let decoded = decode(body).unwrap();
        assert_eq!(decoded.asked.state, "a\n{\"b\":1}\n\nresult: d");
        let decision = Decision {
            probabilities: vec![0.1, 0.2, 0.7],
            label_mass: 1.0,
        };
        let answer = encode("m", &decoded, (&[decision], 5));
        assert_eq!(answer["answers"][0]["choice"], false);
        assert_eq!(answer["answers"][0]["probabilities"][1]["value"], "true");
        assert_eq!(answer["answers"][0]["name"], Json::Null);
        for (question, place) in [
            (
                json!({"type": "noul", "instructions": "?"}),
                "questions.0.type",
            ),
            (json!({"type": "predicate"}), "questions.0.instructions"),
            (
                json!({"id": "a", "type": "choice", "question": "?"}),
                "questions.0",
            ),
            (
                json!({"type": "choice", "instructions": "?", "choices": [{"value": "a"}, {"value": "a"}]}),
                "questions.0.choices.1.value",
            ),
            (
                json!({"type": "score", "instructions": "?", "levels": [{"label": "a"}, {}]}),
                "questions.0.levels.1.label",
            ),
        ] {
            let body = json!({"input": "x", "questions": [question]});
            let wrong = decode(body.as_object().unwrap()).err().unwrap();
            assert_eq!(wrong.place.join("."), place);
        }
    }
}
