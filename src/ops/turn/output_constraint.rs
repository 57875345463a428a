//! Output constraints: the grammar that an answer is generated with, and the validation of the
//! finished text.

use serde_json::{Map, Value as Json, json};

use super::Request;
use crate::core::error::{Error, Result};
use crate::core::message::Think;
use crate::core::options::Options;
use crate::core::turn::OutputConstraint;
use crate::format::reply::{Format, Thought, ToolGrammar, channel_thought, schema};
use crate::system::engine::{Compiler, Engine, Grammar, Guide, Text, ThinkingBudget, ThinkingTags};

/// The text that starts a call in the channel format.
const CHANNEL_CALL: &str = " to=functions.";

/// Validates a finished text.
///
/// # Errors
/// If it does not match the constraint.
pub fn check(constraint: &OutputConstraint, text: &str) -> Result<()> {
    let broken = |why: String| {
        Err(Error::failed(format!(
            "the answer does not match the requested format: {why}"
        )))
    };
    match constraint {
        OutputConstraint::None | OutputConstraint::Grammar(_) => Ok(()),
        OutputConstraint::Json => match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(_)) => Ok(()),
            Ok(_) => broken("it is not a JSON object".into()),
            Err(error) => broken(error.to_string()),
        },
        OutputConstraint::Schema(schema) => {
            let value: Json = match serde_json::from_str(text) {
                Ok(value) => value,
                Err(error) => return broken(error.to_string()),
            };
            let compiler = Compiler::for_bytes()?;
            // A schema that cannot be compiled was refused before the answer, or belongs to another server.
            let is_valid = |text: &str| compiler.accepts_json(schema, text).unwrap_or(true);
            // A server that is not ours may write the properties in another order than the schema has them.
            if is_valid(text.trim()) || is_valid(&in_order(&value, schema, schema).to_string()) {
                return Ok(());
            }
            broken("it does not fit the schema".into())
        }
    }
}

/// A value with the properties of its objects in the order of the schema. `root` is the whole schema, in which
/// references are looked up.
fn in_order(value: &Json, schema: &Json, root: &Json) -> Json {
    if let Some(path) = schema["$ref"].as_str() {
        let target = path.strip_prefix('#').and_then(|path| root.pointer(path));
        // A reference to the whole schema or to nothing: its properties stay as they are.
        return target
            .filter(|target| *target != root)
            .map_or_else(|| value.clone(), |target| in_order(value, target, root));
    }
    match value {
        Json::Object(fields) => {
            let known = properties(schema, fields);
            let named = known.into_iter().flatten();
            let mut ordered: Map<String, Json> = named
                .filter_map(|(name, schema)| {
                    let field = fields.get(name)?;
                    Some((name.clone(), in_order(field, schema, root)))
                })
                .collect();
            for (name, field) in fields {
                let more = || in_order(field, &schema["additionalProperties"], root);
                ordered.entry(name.clone()).or_insert_with(more);
            }
            Json::Object(ordered)
        }
        Json::Array(items) => items
            .iter()
            .map(|item| in_order(item, &schema["items"], root))
            .collect(),
        other => other.clone(),
    }
}

/// The properties of a schema, or of its first branch that names all fields.
fn properties<'a>(schema: &'a Json, fields: &Map<String, Json>) -> Option<&'a Map<String, Json>> {
    let own = schema["properties"].as_object();
    own.or_else(|| {
        let branches = ["anyOf", "oneOf", "allOf"].iter();
        let mut branches = branches.filter_map(|key| schema[key].as_array()).flatten();
        branches.find_map(|branch| {
            let known = branch["properties"].as_object()?;
            fields
                .keys()
                .all(|name| known.contains_key(name))
                .then_some(known)
        })
    })
}

/// The compiled grammar of a request's answer, if it has one.
///
/// # Errors
/// `Schema` for a schema or grammar that cannot be enforced.
pub(super) fn guide(
    request: &Request,
    format: Option<&Format>,
    prompt: &str,
    engine: &Engine,
) -> Result<Option<Guide>> {
    let own = matches!(request.turn.constraint, OutputConstraint::Grammar(_));
    if own && request.turn.tool_choice.requires() {
        return Err(Error::usage(
            "tool_choice cannot require a call together with a grammar",
        ));
    }
    let plain = Format::default();
    let format = format.unwrap_or(&plain);
    let grammar = ToolGrammar {
        format,
        thought: match format.thought(prompt) {
            Thought::Possible if request.turn.think == Some(Think::Off) => Thought::None,
            thought => thought,
        },
        specials: engine.specials()?,
    };
    match &request.turn.constraint {
        // The schema is that of a later answer.
        _ if request.turn.tool_choice.requires() => call_grammar(request, grammar, engine),
        OutputConstraint::Json => {
            answer_grammar(request, grammar, &json!({ "type": "object" }), engine)
        }
        OutputConstraint::Schema(schema) => {
            schema::check(schema)?;
            answer_grammar(request, grammar, schema, engine)
        }
        OutputConstraint::Grammar(text) => from_first_token(Text::Gbnf(text.clone()), engine),
        OutputConstraint::None => call_grammar(request, grammar, engine),
    }
}

/// The thinking tags in an answer whose prompt ends like this.
fn thinking_tags(format: &Format, thought: Thought) -> Option<ThinkingTags> {
    let (open, close) = format.think.clone()?;
    match thought {
        Thought::None => None,
        Thought::Possible => Some(ThinkingTags { open, close }),
        Thought::Begun => Some(ThinkingTags {
            open: String::new(),
            close,
        }),
    }
}

/// The thinking budget, if the request sets one and the model thinks.
pub(super) fn thinking_budget(
    request: &Request,
    options: &Options,
    format: Option<&Format>,
    prompt: &str,
    engine: &Engine,
) -> Option<ThinkingBudget> {
    let tokens = usize::try_from(options.int("reasoning_budget")?).ok()?;
    let format = format?;
    if matches!(request.turn.constraint, OutputConstraint::Grammar(_)) {
        return None; // The user's grammar defines the entire answer.
    }
    let tags = if format.channels {
        let (open, close) = channel_thought(!request.turn.tools.is_empty());
        let (open, close) = (open.to_string(), close.to_string());
        ThinkingTags { open, close }
    } else {
        thinking_tags(format, format.thought(prompt))?
    };
    let closing = engine.tokens(&tags.close, false, true);
    Some(ThinkingBudget::new(tokens, tags, closing))
}

/// A grammar that applies from the first token.
fn from_first_token(text: Text, engine: &Engine) -> Result<Option<Guide>> {
    let grammar = Grammar {
        text,
        trigger: None,
        thought: None,
    };
    engine.guide(grammar).map(Some)
}

/// The grammar of an answer of this schema, or of calls in its place if there are tools whose calls differ from JSON.
fn answer_grammar(
    request: &Request,
    grammar: ToolGrammar,
    schema: &Json,
    engine: &Engine,
) -> Result<Option<Guide>> {
    let tools = request.turn.tool_choice.among(&request.turn.tools)?;
    let shape = grammar.format.calls.as_ref();
    let shape = shape.filter(|shape| !shape.trigger().is_empty() && !grammar.format.channels);
    if let Some(shape) = shape.filter(|_| !tools.is_empty()) {
        let either = Text::Lark(grammar.calls_or_answer(shape, &tools, schema));
        // Schemas of tools that no grammar can express leave only the answer.
        if let Ok(either) = from_first_token(either, engine) {
            return Ok(either);
        }
    }
    from_first_token(Text::Lark(grammar.answer(schema)), engine)
}

/// The grammar of the tool calls that an answer must or may contain.
fn call_grammar(request: &Request, grammar: ToolGrammar, engine: &Engine) -> Result<Option<Guide>> {
    let tools = request.turn.tool_choice.among(&request.turn.tools)?;
    if tools.is_empty() {
        return Ok(None);
    }
    let required = request.turn.tool_choice.requires();
    if grammar.format.channels {
        return if required {
            from_first_token(Text::Lark(grammar.channel_call(&tools)), engine)
        } else {
            Ok(optional(
                Grammar {
                    text: Text::Lark(grammar.channel_call_behind_trigger(&tools)),
                    trigger: Some(CHANNEL_CALL.to_string()),
                    thought: None,
                },
                engine,
            ))
        };
    }
    let Some(shape) = &grammar.format.calls else {
        return if required {
            Err(Error::usage(
                "tool_choice requires a call, but the model's template has no tool-call syntax",
            ))
        } else {
            Ok(None)
        };
    };
    if required {
        return from_first_token(Text::Lark(grammar.calls(shape, &tools)), engine);
    }
    // Without a trigger text, something that looks like a call may be an answer in JSON.
    if shape.trigger().is_empty() {
        return Ok(None);
    }
    let grammar = Grammar {
        text: Text::Lark(grammar.calls_behind_trigger(shape, &tools)),
        trigger: Some(shape.trigger().to_string()),
        thought: thinking_tags(grammar.format, grammar.thought),
    };
    Ok(optional(grammar, engine))
}

/// A grammar for optional calls: if no grammar can express the tools' schemas, calls are unconstrained.
fn optional(grammar: Grammar, engine: &Engine) -> Option<Guide> {
    engine.guide(grammar).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violated_constraint_is_an_error() {
        let schema =
            json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        let constraint = OutputConstraint::Schema(schema);
        assert!(check(&constraint, "{\"a\": 1}").is_ok());
        for text in ["{\"a\": \"1\"}", "{}", "{", ""] {
            assert!(check(&constraint, text).is_err(), "{text}");
        }
        assert!(
            check(&OutputConstraint::Json, "{}").is_ok()
                && check(&OutputConstraint::Json, "[]").is_err()
        );
    }

    #[test]
    fn the_order_of_properties_does_not_matter() {
        let schema = json!({
            "type": "object",
            "properties": {
                "a": { "type": "integer" },
                "b": { "type": "array", "items": { "$ref": "#/$defs/pair" } },
            },
            "required": ["a", "b"],
            "$defs": { "pair": {
                "type": "object",
                "properties": { "x": { "type": "string" }, "y": { "type": "null" } },
                "required": ["x", "y"],
            }},
        });
        let constraint = OutputConstraint::Schema(schema);
        for text in [
            r#"{"a":1,"b":[]}"#,
            r#" {"b": [{"y": null, "x": "1"}], "a": 1}
"#,
        ] {
            check(&constraint, text).unwrap();
        }
        for text in [
            r#"{"b":[]}"#,
            r#"{"a":"1","b":[]}"#,
            r#"{"a":1,"b":[{"x":"1"}]}"#,
        ] {
            assert!(check(&constraint, text).is_err(), "{text}");
        }
    }
}
