//! Grammars in llguidance's Lark: for JSON Schema, and for tool calls in a family's syntax.

use serde_json::{Value as Json, json};

use super::format::Format;
use super::schema;
use super::thinking::Thought;
use super::tool_syntax::{ANY, CallBody, ToolSyntax, allows, counter};
use crate::core::message::Tool;
use crate::core::special_tokens::{Piece, Specials};

/// Maximum calls after the first one: a model that cannot stop would call forever.
const MORE_CALLS_MAX: usize = 15;
/// The same limit if a call is required.
const REQUIRED_MORE_MAX: usize = 3;
/// White space that a model may put between the parts of a call.
const SPACE: &str = r"/\s{0,2}/";
/// The same in a list; some families write its elements on lines of their own.
const INDENT: &str = r"/[ \n]{0,10}/";
/// Characters with a meaning in a regular expression.
const META: &str = r"\.+*?()|[]{}^$/";

/// Writes the grammars for the answer to one prompt.
#[derive(Debug, Clone, Copy)]
pub struct ToolGrammar<'a> {
    /// The format of the model's answers.
    pub format: &'a Format,
    /// Whether the answer begins with thinking.
    pub thought: Thought,
    /// The vocabulary's special tokens.
    pub specials: &'a Specials,
}

impl<'a> ToolGrammar<'a> {
    /// The grammar of an answer that is a JSON value of this schema.
    pub fn answer(self, schema: &Json) -> String {
        let mut rules = Rules::new(self.specials);
        let thought = self.thought(&mut rules);
        let (open, close) = &self.format.content;
        let (open, close) = (rules.literal(open), rules.literal(close));
        let body = rules.json("body", schema);
        let parts = [thought, maybe(&open), body, maybe(&close)];
        rules.grammar(&parts)
    }

    /// The grammar of an answer that is a JSON value of this schema, or one or more calls of these tools. The text before a
    /// call must tell it from JSON.
    pub fn calls_or_answer(self, shape: &'a ToolSyntax, tools: &[&Tool], schema: &Json) -> String {
        let mut rules = Rules::new(self.specials);
        let thought = self.thought(&mut rules);
        let lead = rules.literal(shape.lead.trim_start());
        let calls = rules.calls(shape, tools, MORE_CALLS_MAX);
        let (open, close) = &self.format.content;
        let (open, close) = (rules.literal(open), rules.literal(close));
        let body = rules.json("body", schema);
        let answer = [maybe(&open), body, maybe(&close)].join(" ");
        rules.grammar(&[thought, format!("({lead} {calls} | {answer})")])
    }

    /// The grammar of an answer that is one or more calls of these tools.
    pub fn calls(self, shape: &'a ToolSyntax, tools: &[&Tool]) -> String {
        let mut rules = Rules::new(self.specials);
        let thought = self.thought(&mut rules);
        let lead = rules.literal(shape.lead.trim_start());
        let calls = rules.calls(shape, tools, REQUIRED_MORE_MAX);
        rules.grammar(&[thought, lead, calls])
    }

    /// The grammar of calls after their trigger.
    pub fn calls_behind_trigger(self, shape: &'a ToolSyntax, tools: &[&Tool]) -> String {
        let mut rules = Rules::new(self.specials);
        let lead = rules.literal(&shape.lead.trim_start()[shape.trigger().len()..]);
        let calls = rules.calls(shape, tools, MORE_CALLS_MAX);
        rules.grammar(&[lead, calls])
    }

    /// The grammar of an answer in channels that is a call of one of these tools.
    pub fn channel_call(self, tools: &[&Tool]) -> String {
        let mut rules = Rules::new(self.specials);
        let rule = rules.until("thought".into(), "<|end|>");
        let open = rules.literal("<|channel|>analysis<|message|>");
        let start = rules.literal("<|start|>assistant");
        let thought = format!("({open} {rule} {start})?");
        let lead = rules.literal("<|channel|>commentary to=functions.");
        let calls = rules.channel_calls(tools);
        rules.grammar(&[thought, lead, calls])
    }

    /// The same grammar after the text that opens a call.
    pub fn channel_call_behind_trigger(self, tools: &[&Tool]) -> String {
        let mut rules = Rules::new(self.specials);
        let calls = rules.channel_calls(tools);
        rules.grammar(&[calls])
    }

    /// Returns the part that matches the thinking at the start of an answer.
    fn thought(self, rules: &mut Rules) -> String {
        let Some((open, close)) = &self.format.think else {
            return String::new();
        };
        match self.thought {
            Thought::None => String::new(),
            Thought::Begun => format!("{} /[ \\n]{{0,4}}/", rules.until("thought".into(), close)),
            Thought::Possible => {
                let open = rules.literal(open);
                let rule = rules.until("thought".into(), close);
                format!("({open} {rule} /[ \\n]{{0,4}}/)?")
            }
        }
    }
}

/// Returns the texts of a schema's `enum`, if it allows only texts.
fn choices(schema: &Json) -> Option<Vec<&str>> {
    let texts = schema["enum"].as_array()?.iter().map(Json::as_str);
    texts
        .collect::<Option<Vec<&str>>>()
        .filter(|texts| !texts.is_empty())
}

/// Makes a part optional.
fn maybe(part: &str) -> String {
    if part.is_empty() {
        String::new()
    } else {
        format!("({part})?")
    }
}

/// Quotes a text literally.
fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            '\n' => out.push_str("\\n"),
            c if META.contains(c) => out.extend(['\\', c]),
            c => out.push(c),
        }
        out
    })
}

/// The rules of a grammar under construction.
struct Rules<'a> {
    specials: &'a Specials,
    text: String,
}

impl<'a> Rules<'a> {
    fn new(specials: &'a Specials) -> Self {
        let text = String::new();
        Rules { specials, text }
    }

    fn grammar(self, start: &[String]) -> String {
        format!("start: {}\n{}", start.join(" "), self.text)
    }

    /// Returns a text in the grammar's notation: special tokens by their ids, the rest quoted.
    fn literal(&self, text: &str) -> String {
        if let Some((before, after)) = text.split_once(ANY) {
            let (before, after) = (self.literal(before), self.literal(after));
            return format!("{before} /[A-Za-z0-9_.:-]{{1,40}}/ {after}");
        }
        let pieces = self.specials.cut(text).map(|piece| match piece {
            Piece::Plain(text) => quoted(text),
            Piece::Special(_, id) => format!("<[{id}]>"),
        });
        pieces.collect::<Vec<_>>().join(" ")
    }

    /// Adds a rule for any text up to and including `end`.
    fn until(&mut self, rule: String, end: &str) -> String {
        self.text += &match self.specials.id(end) {
            Some(id) => format!("{rule}: /(?s:.*)/ <[{id}]>\n"),
            None => format!("{rule}[lazy]: /(?s:.*){}/\n", escaped(end)),
        };
        rule
    }

    /// Adds a rule for the values of a schema.
    fn json(&mut self, rule: &str, schema: &Json) -> String {
        self.text += &format!("{rule}: %json {}\n", schema::bounded(schema));
        rule.to_string()
    }

    /// Returns the calls after the first one's lead through the text that closes them all.
    fn calls(&mut self, shape: &ToolSyntax, tools: &[&Tool], more: usize) -> String {
        self.call(shape, tools);
        let last = match shape.last.trim() {
            "" => String::new(),
            last => format!("({SPACE} {})?", self.literal(last)),
        };
        if shape.array {
            let next_lead = format!("{} \",\" {INDENT}", self.literal(&shape.between));
            let calls = format!("call ({next_lead} call){{0,{more}}}");
            return format!("\"[\" {INDENT} {calls} {INDENT} \"]\" {last}");
        }
        let next_lead = shape.between.clone() + &shape.next_lead;
        if next_lead.is_empty() {
            return format!("call {last}");
        }
        self.forked(&next_lead, shape.last.trim(), more)
            .unwrap_or_else(|| {
                format!(
                    "call ({} call){{0,{more}}} {last}",
                    self.literal(&next_lead)
                )
            })
    }

    /// Handles calls whose separator begins like the text after the last call. That beginning is written
    /// once: of two texts the lexer follows the longer one, and would never see the end.
    fn forked(&self, next_lead: &str, last: &str, more: usize) -> Option<String> {
        let next_lead = next_lead.trim_start();
        let shared = self.shared(next_lead, last);
        let close = Some(&next_lead[..shared]).filter(|close| !close.is_empty())?;
        let close = format!("{SPACE} {}", self.literal(close));
        let (next_lead, last) = (
            self.literal(&next_lead[shared..]),
            self.literal(&last[shared..]),
        );
        Some(format!(
            "call ({close} ({next_lead} call {close}){{0,{more}}} {last})?"
        ))
    }

    /// The length of the longest common prefix that splits no special token.
    fn shared(&self, one: &str, other: &str) -> usize {
        let (mut ones, mut others) = (self.specials.cut(one), self.specials.cut(other));
        let mut length = 0;
        loop {
            match (ones.next(), others.next()) {
                (Some(Piece::Plain(one)), Some(Piece::Plain(other))) if one != other => {
                    let pairs = one.chars().zip(other.chars());
                    let same = pairs.take_while(|(one, other)| one == other);
                    return length + same.map(|(letter, _)| letter.len_utf8()).sum::<usize>();
                }
                (Some(one), Some(other)) if one == other => {
                    let (Piece::Plain(text) | Piece::Special(text, _)) = one;
                    length += text.len();
                }
                _ => return length,
            }
        }
    }

    /// Returns a call in a channel, from the name of its function.
    fn channel_calls(&mut self, tools: &[&Tool]) -> String {
        let between = self.literal("<|constrain|>json<|message|>");
        let calls = tools.iter().enumerate().map(|(index, tool)| {
            let rule = self.json(&format!("arguments{index}"), &parameters(tool));
            format!("{} \" \"? {between} {rule}", quoted(&tool.name))
        });
        let calls: Vec<String> = calls.collect();
        format!("({})", calls.join(" | "))
    }

    /// Adds the rule of one call of any of the tools.
    fn call(&mut self, shape: &ToolSyntax, tools: &[&Tool]) {
        if let CallBody::Object {
            name,
            arguments,
            id,
        } = &shape.body
        {
            let any = tools.iter().flat_map(|tool| {
                let whole = object(name, arguments, tool);
                match id {
                    None => vec![whole],
                    Some(keys) => with_id(&whole, keys),
                }
            });
            self.json("call", &json!({ "anyOf": any.collect::<Vec<Json>>() }));
            return;
        }
        let mut each = Vec::new();
        for (index, tool) in tools.iter().enumerate() {
            let arguments = self.arguments(&shape.body, index, tool);
            each.push(format!("{} {arguments}", quoted(&tool.name)));
        }
        self.text += &format!("call: {}\n", each.join(" | "));
    }

    /// Returns the part that follows the name of a tool.
    fn arguments(&mut self, body: &CallBody, index: usize, tool: &Tool) -> String {
        match body {
            CallBody::Object { .. } => String::new(),
            CallBody::Named { between } => {
                let rule = self.json(&format!("arguments{index}"), &parameters(tool));
                let (counter, tag) = counter(between);
                let counter = if counter.is_empty() {
                    ""
                } else {
                    "/:[0-9]{1,4}/"
                };
                format!("{counter} {} {rule}", self.literal(tag))
            }
            CallBody::Python => {
                let pairs = self.pairs(body, index, tool);
                format!("\"(\" {} \")\"", listed(&pairs, "\",\" /\\s?/"))
            }
            CallBody::Braced { .. } => {
                let pairs = self.pairs(body, index, tool);
                format!("\"{{\" {} \"}}\"", listed(&pairs, "\",\""))
            }
            CallBody::Tagged { between, .. } => {
                let pairs = self.pairs(body, index, tool).into_iter();
                let pairs =
                    pairs.map(|(pair, required)| if required { pair } else { maybe(&pair) });
                let pairs = pairs.collect::<Vec<_>>().join(" ");
                format!("{} {pairs}", self.literal(between))
            }
        }
    }

    /// Adds a rule for an unquoted text, which is one of `choices` if there are any, and its end.
    fn raw(&mut self, rule: String, choices: Option<Vec<&str>>, end: &str) -> String {
        let Some(choices) = choices else {
            return self.until(rule, end);
        };
        let choices: Vec<String> = choices.into_iter().map(quoted).collect();
        self.text += &format!("{rule}: {}\n", choices.join(" | "));
        format!("{rule} {}", self.literal(end))
    }

    /// Adds a rule for values of a schema; true and false may also be in Python's spelling.
    fn word(&mut self, rule: String, schema: &Json) -> String {
        if schema["type"] == "boolean" {
            "/[Tt]rue|[Ff]alse/".to_string()
        } else {
            self.json(&rule, schema)
        }
    }

    /// The same, except that texts may also be in single quotes.
    fn python(&mut self, rule: String, schema: &Json) -> String {
        if let Some(choices) = choices(schema) {
            let each = choices.into_iter();
            let each = each.flat_map(|text| [quoted(&format!("'{text}'")), quoted(&quoted(text))]);
            return format!("({})", each.collect::<Vec<_>>().join(" | "));
        }
        let bounds = ["pattern", "format", "minLength", "maxLength", "const"];
        let plain = schema["type"] == "string" && bounds.iter().all(|key| schema[key].is_null());
        let value = self.word(rule, schema);
        if plain {
            format!("({value} | /'([^'\\\\]|\\\\.)*'/)")
        } else {
            value
        }
    }

    /// Returns each argument with its key, and whether it is required.
    fn pairs(&mut self, body: &CallBody, index: usize, tool: &Tool) -> Vec<(String, bool)> {
        let required = tool.parameters["required"].as_array();
        let properties = tool.parameters["properties"].as_object();
        let mut pairs = Vec::new();
        for (at, (name, schema)) in properties.into_iter().flatten().enumerate() {
            let rule = format!("value{index}_{at}");
            let choices = choices(schema);
            let text = choices.is_some() || allows(schema, "string");
            let pair = match body {
                CallBody::Braced { quote } if text && !quote.is_empty() => {
                    let value = self.raw(rule, choices, quote);
                    let quote = self.literal(quote);
                    format!("{} {quote} {value}", quoted(&format!("{name}:")))
                }
                CallBody::Tagged {
                    key_lead,
                    key_ends,
                    value_end,
                    ..
                } => {
                    let end = if text {
                        key_ends.first()
                    } else {
                        key_ends.last()
                    };
                    let end = end.map_or("", String::as_str);
                    let key = self.literal(&format!("{key_lead}{name}{end}"));
                    if text {
                        format!("{key} {}", self.raw(rule, choices, value_end))
                    } else {
                        let value = self.word(rule, schema);
                        format!("{key} {value} {}", self.literal(value_end))
                    }
                }
                CallBody::Python => {
                    let value = self.python(rule, schema);
                    format!("{} {value}", quoted(&format!("{name}=")))
                }
                _ => {
                    let value = self.json(&rule, schema);
                    format!("{} {value}", quoted(&format!("{name}:")))
                }
            };
            let needed = required.is_some_and(|names| names.iter().any(|known| known == name));
            pairs.push((pair, needed));
        }
        pairs
    }
}

/// Joins pairs with a separator: the required ones first, then any of the others.
fn listed(pairs: &[(String, bool)], comma: &str) -> String {
    let those = |wanted: bool, between: &str| {
        let pairs = pairs.iter().filter(|(_, required)| *required == wanted);
        let pairs: Vec<&str> = pairs.map(|(pair, _)| pair.as_str()).collect();
        pairs.join(between)
    };
    let (first, any) = (those(true, &format!(" {comma} ")), those(false, " | "));
    match (first.is_empty(), any.is_empty()) {
        (_, true) => first,
        (true, false) => format!("(({any}) ({comma} ({any}))*)?"),
        (false, false) => format!("{first} ({comma} ({any}))*"),
    }
}

fn parameters(tool: &Tool) -> Json {
    if tool.parameters.is_object() {
        tool.parameters.clone()
    } else {
        json!({ "type": "object" })
    }
}

/// The schema of an object with a tool's name and arguments under these keys.
fn object(name: &[String], arguments: &[String], tool: &Tool) -> Json {
    let mut whole = json!({});
    put(&mut whole, name, json!({ "const": tool.name }));
    put(&mut whole, arguments, parameters(tool));
    whole
}

/// The schemas of the same object with an id after its other keys, and before them.
fn with_id(whole: &Json, keys: &[String]) -> Vec<Json> {
    let id = json!({ "type": "string", "pattern": "^[A-Za-z0-9_.:-]{0,40}$" });
    let mut behind = whole.clone();
    put(&mut behind, keys, id.clone());
    let mut before = json!({});
    put(&mut before, keys, id);
    if let (Some(properties), Some(others)) = (
        before["properties"].as_object_mut(),
        whole["properties"].as_object(),
    ) {
        let others = others.iter().filter(|(key, _)| **key != keys[0]);
        properties.extend(others.map(|(key, value)| (key.clone(), value.clone())));
    }
    for one in [&mut before, &mut behind] {
        one["required"] = whole["required"].clone();
    }
    vec![behind, before]
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
