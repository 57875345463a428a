//! A GGUF's chat template, run by minijinja. The template is foreign code: it gets fuel, a
//! recursion limit and nothing but the messages.

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};

use super::Surroundings;
use crate::clock;
use crate::error::{self, Result};
use crate::message::Message;

/// Instructions that one rendering may take: a chat of 100 messages takes about 10 000.
const FUEL: u64 = 2_000_000;
/// Nested calls and includes.
const DEPTH_MAX: usize = 64;
/// A template larger than this is refused; the largest known have about 20 KiB.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;

/// A compiled chat template.
pub struct Jinja {
    environment: Environment<'static>,
}

impl Jinja {
    /// Compiles a template.
    ///
    /// # Errors
    /// The first thing in it that minijinja does not understand.
    pub fn compile(source: &str) -> Result<Self> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(error::Error::failed("the chat template is absurdly long"));
        }
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(plain)?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEPTH_MAX);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned("chat", source.to_string())
            .map_err(plain)?;
        Ok(Jinja { environment })
    }

    /// Renders the messages, with the assistant's turn opened.
    ///
    /// # Errors
    /// What the template raises, or that it took too long.
    pub fn render(&self, messages: &[Message], surroundings: &Surroundings) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(message_value).collect();
        let now = surroundings.now;
        let strftime = Value::from_function(move |format: String| strftime(&format, now));
        let template = self.environment.get_template("chat").map_err(plain)?;
        let rendered = template.render(context! {
            messages,
            add_generation_prompt => true,
            bos_token => surroundings.begin,
            eos_token => surroundings.end,
            strftime_now => strftime,
        });
        rendered.map_err(plain)
    }
}

fn message_value(message: &Message) -> Value {
    let mut fields = vec![
        ("role", Value::from(message.role.as_str())),
        ("content", message.content.as_str().into()),
    ];
    if let Some(thinking) = &message.thinking {
        fields.push(("reasoning_content", thinking.as_str().into()));
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(|call| {
            let function =
                context! { name => call.name.as_str(), arguments => json_value(&call.arguments) };
            context! { id => call.id.as_deref(), type => "function", function }
        });
        fields.push(("tool_calls", calls.collect()));
    }
    if let Some(name) = &message.tool_name {
        fields.push(("name", name.as_str().into()));
    }
    if let Some(id) = &message.tool_call_id {
        fields.push(("tool_call_id", id.as_str().into()));
    }
    Value::from_pairs(fields)
}

fn json_value(text: &str) -> Value {
    let parsed: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    from_json(&parsed)
}

fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(value) => Value::from(value),
            None => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(fields) => Value::from_pairs(
            fields
                .iter()
                .map(|(key, value)| (key.clone(), from_json(value))),
        ),
    }
}

fn raise(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON as Python's `json.dumps` writes it: a blank after each comma and colon.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text)?;
    Ok(Value::from_safe_string(text))
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    text: &mut String,
) -> Result<(), Error> {
    use minijinja::value::ValueKind;
    if depth > DEPTH_MAX {
        return raise("a value nested too deeply for tojson".into()).map(|_| ());
    }
    match value.kind() {
        ValueKind::Map => {
            let entries: Vec<(Value, Value)> = value
                .try_iter()?
                .map(|key| value.get_item(&key).map(|item| (key, item)))
                .collect::<Result<_, _>>()?;
            write_items(
                text,
                indent,
                depth,
                ('{', '}'),
                &entries,
                |(key, item), text| {
                    text.push_str(&quoted(&key.to_string()));
                    text.push_str(": ");
                    write_json(item, indent, depth + 1, text)
                },
            )
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_items(text, indent, depth, ('[', ']'), &items, |item, text| {
                write_json(item, indent, depth + 1, text)
            })
        }
        ValueKind::None | ValueKind::Undefined => {
            text.push_str("null");
            Ok(())
        }
        ValueKind::String => {
            text.push_str(&quoted(value.as_str().unwrap_or_default()));
            Ok(())
        }
        _ => {
            text.push_str(&value.to_string());
            Ok(())
        }
    }
}

fn write_items<T>(
    text: &mut String,
    indent: Option<usize>,
    depth: usize,
    (open, close): (char, char),
    items: &[T],
    mut write: impl FnMut(&T, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let newline = |text: &mut String, depth: usize| {
        if let Some(width) = indent {
            text.push('\n');
            text.push_str(&" ".repeat(width * depth));
        }
    };
    text.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.push_str(if indent.is_some() { "," } else { ", " });
        }
        newline(text, depth + 1);
        write(item, text)?;
    }
    if !items.is_empty() {
        newline(text, depth);
    }
    text.push(close);
    Ok(())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The directives of `strftime` that templates use; others stay as they are.
fn strftime(format: &str, now: SystemTime) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (year, month, day) = clock::date(now);
    let name = MONTHS[(month as usize).saturating_sub(1).min(11)];
    format
        .replace("%Y", &year.to_string())
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%B", name)
        .replace("%b", &name[..3])
}

fn plain(error: Error) -> error::Error {
    let text = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_string);
    error::Error::failed(format!(
        "the model's chat template fails: {}",
        text.replace('\n', " ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let surroundings = Surroundings {
            begin: "<s>",
            end: "</s>",
            now: SystemTime::UNIX_EPOCH,
        };
        Jinja::compile(source)?.render(messages, &surroundings)
    }

    #[test]
    fn chatml_is_rendered_exactly() {
        let source = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + \
                      '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let messages = [Message::new("system", "S"), Message::new("user", "U")];
        let expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(source, &messages).unwrap(), expected);
    }

    #[test]
    fn pythons_ways_work() {
        let messages = [Message::new("user", " Hi ")];
        for (source, expected) in [
            (
                "{{ bos_token }}{{ messages[0].content.strip().upper() }}",
                "<s>HI",
            ),
            ("{{ strftime_now('%d %b %Y') }}", "01 Jan 1970"),
            (
                "{{ {'a': [1, 'é'], 'b': none} | tojson }}",
                "{\"a\": [1, \"é\"], \"b\": null}",
            ),
            ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
            ("{% if true %}\n  {# c #}\nx\n{% endif %}", "x\n"),
        ] {
            assert_eq!(render(source, &messages).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn what_a_template_raises_is_the_error() {
        let error = render("{{ raise_exception('no system role') }}", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model's chat template fails: no system role"
        );
    }

    #[test]
    fn an_endless_template_ends() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
        assert!(render(source, &[]).is_err());
        assert!(Jinja::compile("{% for x in %}").is_err());
    }
}
