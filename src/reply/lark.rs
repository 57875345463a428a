//! Grammars in llguidance's Lark: for JSON Schema, and for calls of functions in a family's shape.

use serde_json::{Value as Json, json};

use super::format::Format;
use super::shape::{ANY, Body, Shape};
use crate::message::Tool;

/// White space that JSON may hold between its parts: more of it, and small models write nothing
/// else for ever.
const SPACE: &str = r"[ ]?|\n[ \t]{0,20}";

/// The largest integer that every reader of JSON holds exactly.
const INTEGER_MAX: i64 = (1 << 53) - 1;
/// Deepest nesting of a schema that is looked into.
const SCHEMA_DEPTH_MAX: usize = 128;
/// Calls after the first one: a model that cannot stop would call for ever.
const MORE_CALLS_MAX: usize = 15;
/// The same where the model was made to call.
const REQUIRED_MORE_MAX: usize = 3;

/// Turns a text into a grammar's own words: special tokens by their ids, the rest quoted.
pub struct Marks<'a> {
    specials: &'a [String],
    ids: &'a [i32],
}

impl<'a> Marks<'a> {
    /// For a vocabulary's special tokens: their texts and ids.
    pub fn new(specials: &'a [String], ids: &'a [i32]) -> Self {
        Marks { specials, ids }
    }

    fn literal(&self, text: &str) -> String {
        if let Some((before, after)) = text.split_once(ANY) {
            return format!(
                "{} /[A-Za-z0-9_.:-]{{1,40}}/ {}",
                self.literal(before),
                self.literal(after)
            );
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let found = self
                .specials
                .iter()
                .zip(self.ids)
                .filter_map(|(special, id)| Some((rest.find(special.as_str())?, special, id)));
            let next = found.min_by_key(|(at, special, _)| (*at, usize::MAX - special.len()));
            let (at, length, id) = next.map_or((rest.len(), 0, None), |(at, special, id)| {
                (at, special.len(), Some(id))
            });
            if at > 0 {
                parts.push(Json::from(&rest[..at]).to_string());
            }
            parts.extend(id.map(|id| format!("<[{id}]>")));
            rest = &rest[at + length..];
        }
        parts.join(" ")
    }

    /// A rule for any text up to `end` and with it.
    fn until(&self, rule: &str, end: &str) -> String {
        match self.specials.iter().position(|special| special == end) {
            Some(index) => format!("{rule}: /(?s:.*)/ <[{}]>\n", self.ids[index]),
            None => format!("{rule}[lazy]: /(?s:.*){}/\n", escaped(end)),
        }
    }
}

fn escaped(text: &str) -> String {
    let special = |c: char| !c.is_alphanumeric() && !c.is_whitespace() && c.is_ascii();
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '\n' => out.push_str("\\n"),
            '<' | '>' | '"' | '\'' | '=' | ':' | '!' | '@' | '%' | '_' | ';' | ',' | '`' | '~'
            | '#' | '&' => out.push(c),
            c if special(c) => out.extend(['\\', c]),
            c => out.push(c),
        }
        out
    })
}

/// A schema as a rule's body.
fn of_schema(schema: &Json) -> String {
    let mut schema = match schema {
        Json::Object(_) => schema.clone(),
        _ => json!({}),
    };
    bound_integers(&mut schema, 0);
    schema["x-guidance"] = json!({ "whitespace_pattern": SPACE });
    format!("%json {schema}")
}

/// Integers without bounds get those of a double: a small model does not stop writing digits.
fn bound_integers(schema: &mut Json, depth: usize) {
    if depth > SCHEMA_DEPTH_MAX {
        return;
    }
    match schema {
        Json::Array(items) => items
            .iter_mut()
            .for_each(|item| bound_integers(item, depth + 1)),
        Json::Object(fields) => {
            if fields.get("type").is_some_and(|kind| kind == "integer") {
                for (key, other, bound) in [
                    ("minimum", "exclusiveMinimum", -INTEGER_MAX),
                    ("maximum", "exclusiveMaximum", INTEGER_MAX),
                ] {
                    // A bound of the schema's own that lies beyond ours leaves no room for it.
                    let beyond = |name: &str| {
                        fields
                            .get(name)
                            .and_then(Json::as_f64)
                            .is_some_and(|own| own.abs() >= INTEGER_MAX as f64)
                    };
                    let own = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
                        .into_iter()
                        .any(beyond);
                    let fixed = fields.contains_key("const") || fields.contains_key("enum");
                    if !fields.contains_key(key) && !fields.contains_key(other) && !own && !fixed {
                        fields.insert(key.into(), bound.into());
                    }
                }
            }
            // Below these are values, not schemas.
            let schemas = fields.iter_mut().filter(|(key, _)| {
                !matches!(key.as_str(), "enum" | "const" | "default" | "examples")
            });
            schemas.for_each(|(_, value)| bound_integers(value, depth + 1));
        }
        _ => {}
    }
}

/// The rule that reads thinking first, if the answer may begin with it: `opened` if the prompt
/// began it, so that it must end.
fn thought(format: Option<&Format>, thinks: bool, opened: bool, marks: &Marks) -> (String, String) {
    let Some((open, close)) = format
        .and_then(|format| format.think.as_ref())
        .filter(|_| thinks)
    else {
        return Default::default();
    };
    let rule = marks.until("thought", close);
    match opened {
        true => ("thought /[ \\n]{0,4}/".into(), rule),
        false => (
            format!("({} thought /[ \\n]{{0,4}}/)?", marks.literal(open)),
            rule,
        ),
    }
}

/// The grammar of an answer that is a JSON value of this schema.
pub fn answer(
    schema: &Json,
    format: Option<&Format>,
    thinks: bool,
    opened: bool,
    marks: &Marks,
) -> String {
    let (first, rule) = thought(format, thinks, opened, marks);
    let (open, close) = format
        .map(|format| (format.content.0.as_str(), format.content.1.as_str()))
        .unwrap_or_default();
    let open = match open {
        "" => String::new(),
        open => format!("({})?", marks.literal(open)),
    };
    let close = if close.is_empty() {
        String::new()
    } else {
        format!("({})?", marks.literal(close))
    };
    format!(
        "start: {first} {open} body {close}\n{rule}body: {}\n",
        of_schema(schema)
    )
}

/// The grammar of calls. `required`: from the start of the answer; else from behind the trigger.
pub fn calls(
    format: &Format,
    shape: &Shape,
    tools: &[&Tool],
    required: bool,
    thinks: bool,
    opened: bool,
    marks: &Marks,
) -> String {
    let trigger = shape.trigger();
    let lead = shape.lead.trim_start();
    let (first, rule, lead) = match required {
        true => {
            let (first, rule) = thought(Some(format), thinks, opened, marks);
            (first, rule, lead)
        }
        false => (String::new(), String::new(), &lead[trigger.len()..]),
    };
    let mut rules = Rules {
        marks,
        shape,
        rest: rule,
    };
    let call = rules.call(tools);
    let (open, close) = if shape.array {
        ("\"[\" /\\s{0,2}/", "/\\s{0,2}/ \"]\"")
    } else {
        ("", "")
    };
    let (between, last) = (shape.between.as_str(), shape.last.as_str());
    let lead = marks.literal(lead);
    let comma = if shape.array { ", " } else { "" };
    let again = marks.literal(&format!(
        "{between}{comma}{}",
        if shape.array { "" } else { &shape.again }
    ));
    let more = if required {
        REQUIRED_MORE_MAX
    } else {
        MORE_CALLS_MAX
    };
    let more = if again.is_empty() {
        String::new()
    } else {
        format!("({again} call){{0,{more}}}")
    };
    let last = marks.literal(last.trim());
    let last = if last.is_empty() {
        last
    } else {
        format!("(/\\s{{0,2}}/ {last})?")
    };
    format!(
        "start: {first} {lead} {open} call {more} {close} {last}\ncall: {call}\n{}",
        rules.rest
    )
}

struct Rules<'a> {
    marks: &'a Marks<'a>,
    shape: &'a Shape,
    rest: String,
}

impl Rules<'_> {
    /// One call of any of the tools.
    fn call(&mut self, tools: &[&Tool]) -> String {
        if let Body::Object {
            name, arguments, ..
        } = &self.shape.body
        {
            let any: Vec<Json> = tools
                .iter()
                .map(|tool| object(name, arguments, tool))
                .collect();
            return of_schema(&json!({ "anyOf": any }));
        }
        let each = tools
            .iter()
            .enumerate()
            .map(|(index, tool)| self.tool(index, tool));
        each.collect::<Vec<_>>().join(" | ")
    }

    fn tool(&mut self, index: usize, tool: &Tool) -> String {
        let name = Json::from(tool.name.as_str()).to_string();
        let body = match &self.shape.body {
            Body::Object { .. } => String::new(),
            Body::Named { between } => {
                let arguments =
                    self.rule(&format!("arguments{index}"), of_schema(&parameters(tool)));
                format!("{} {arguments}", self.marks.literal(between))
            }
            Body::Python => {
                let pairs = self.pairs(
                    index,
                    tool,
                    |key| format!("{}", Json::from(format!("{key}="))),
                    "\",\" /\\s?/",
                );
                format!("\"(\" {pairs} \")\"")
            }
            Body::Braced { .. } => {
                let pairs = self.pairs(
                    index,
                    tool,
                    |key| format!("{}", Json::from(format!("{key}:"))),
                    "\",\"",
                );
                format!("\"{{\" {pairs} \"}}\"")
            }
            Body::Tagged {
                between,
                key_lead,
                key_ends,
                ..
            } => {
                let (between, key_lead, key_ends) =
                    (between.clone(), key_lead.clone(), key_ends.clone());
                let marks = self.marks;
                let key = move |key: &str, text: bool| {
                    let end = if text {
                        key_ends.first()
                    } else {
                        key_ends.last()
                    };
                    marks.literal(&format!(
                        "{key_lead}{key}{}",
                        end.map_or("", |end| end.as_str())
                    ))
                };
                let arguments = self.tagged(index, tool, key);
                format!("{} {arguments}", self.marks.literal(&between))
            }
        };
        format!("{name} {body}")
    }

    fn rule(&mut self, name: &str, body: String) -> String {
        self.rest += &format!("{name}: {body}\n");
        name.to_string()
    }

    /// Arguments between marks; those that need not be there may be left out.
    fn tagged(&mut self, index: usize, tool: &Tool, key: impl Fn(&str, bool) -> String) -> String {
        let Body::Tagged { value_end, .. } = &self.shape.body else {
            return String::new();
        };
        let (marks, value_end) = (self.marks, value_end.clone());
        let mut parts = Vec::new();
        for (at, (name, schema, required)) in arguments(tool).into_iter().enumerate() {
            let text = is_text(&schema);
            let rule = format!("value{index}_{at}");
            let value = match text {
                true => {
                    self.rest += &marks.until(&rule, &value_end);
                    rule
                }
                false => {
                    let end = marks.literal(&value_end);
                    format!("{} {end}", self.rule(&rule, of_schema(&schema)))
                }
            };
            let part = format!("{} {value}", key(&name, text));
            parts.push(if required { part } else { format!("({part})?") });
        }
        parts.join(" ")
    }

    /// `key value` pairs with something between them, in the order of the schema.
    fn pairs(
        &mut self,
        index: usize,
        tool: &Tool,
        key: impl Fn(&str) -> String,
        comma: &str,
    ) -> String {
        let mut required = Vec::new();
        let mut optional = Vec::new();
        for (at, (name, schema, needed)) in arguments(tool).into_iter().enumerate() {
            let value = match &self.shape.body {
                Body::Braced { quote } if is_text(&schema) && !quote.is_empty() => {
                    let rule = format!("value{index}_{at}");
                    let (marks, quote) = (self.marks, quote.clone());
                    self.rest += &marks.until(&rule, &quote);
                    format!("{} {rule}", marks.literal(&quote))
                }
                _ => self.rule(&format!("value{index}_{at}"), of_schema(&schema)),
            };
            let pair = format!("{} {value}", key(&name));
            if needed {
                required.push(pair)
            } else {
                optional.push(pair)
            }
        }
        let first = required.join(&format!(" {comma} "));
        match (first.is_empty(), optional.is_empty()) {
            (_, true) => first,
            (true, false) => {
                let any = optional.join(" | ");
                format!("(({any}) ({comma} ({any}))*)?")
            }
            (false, false) => format!("{first} ({comma} ({}))*", optional.join(" | ")),
        }
    }
}

fn parameters(tool: &Tool) -> Json {
    match tool.parameters.is_object() {
        true => tool.parameters.clone(),
        false => json!({ "type": "object" }),
    }
}

/// The arguments of a tool: name, schema, and whether it must be there.
fn arguments(tool: &Tool) -> Vec<(String, Json, bool)> {
    let required = |name: &str| {
        let names = tool.parameters["required"].as_array();
        names.is_some_and(|names| names.iter().any(|known| known == name))
    };
    let properties = tool.parameters["properties"].as_object();
    let properties = properties.into_iter().flatten();
    properties
        .map(|(name, schema)| (name.clone(), schema.clone(), required(name)))
        .collect()
}

fn is_text(schema: &Json) -> bool {
    schema["type"] == "string" && schema["enum"].is_null()
}

/// The schema of an object that holds a tool's name and arguments under these keys.
fn object(name: &[String], arguments: &[String], tool: &Tool) -> Json {
    let mut whole = json!({});
    put(&mut whole, name, json!({ "const": tool.name }));
    put(&mut whole, arguments, parameters(tool));
    whole
}

fn put(schema: &mut Json, keys: &[String], value: Json) {
    let Some((key, rest)) = keys.split_first() else {
        *schema = value;
        return;
    };
    if schema["type"].is_null() {
        *schema = json!({ "type": "object", "properties": {}, "required": [], "additionalProperties": false });
    }
    if let Some(required) = schema["required"].as_array_mut()
        && !required.iter().any(|known| known == key)
    {
        required.push(key.as_str().into());
    }
    let mut inner = schema["properties"][key.as_str()].take();
    put(&mut inner, rest, value);
    schema["properties"][key.as_str()] = inner;
}
