//! Renders a GGUF's chat template with minijinja. The template is untrusted code: its fuel, recursion
//! and text lengths are limited, and it sees only the conversation.

mod capabilities;
mod dumps;
mod list;
mod python;
mod rewrite;
mod values;

use std::sync::OnceLock;

use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;

use super::{Chat, Rendered};
use crate::core::error::{self, Result};
use crate::core::message::Tool;

use capabilities::Capabilities;
use values::tool_value;

pub use capabilities::CALLS_AS_TEXT;

/// Instructions that one rendering may execute; a chat of 100 messages needs about 10 000.
const FUEL: u64 = 2_000_000;
/// Maximum nesting of calls and includes.
const DEPTH_MAX: usize = 64;
/// Maximum bytes of a template; the largest known have about 30 KiB.
const TEMPLATE_BYTES_MAX: usize = 1 << 20;
/// Maximum bytes of a text that a template builds, which is also the limit for a prompt.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// A compiled chat template.
pub struct Jinja {
    environment: Environment<'static>,
    source: String,
    capabilities: OnceLock<Capabilities>,
}

impl Jinja {
    /// Compiles a template.
    ///
    /// # Errors
    /// The first problem that minijinja reports, or that the template is too long.
    pub fn compile(source: &str) -> Result<Self> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(error::Error::failed("the chat template is too long"));
        }
        let rewritten = rewrite::rewrite(source)
            .map_err(|why| error::Error::failed(format!("the chat template fails: {why}")))?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(plain)?);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(DEPTH_MAX);
        python::extend(&mut environment, TEXT_BYTES_MAX);
        environment
            .add_template_owned("chat", rewritten)
            .map_err(plain)?;
        Ok(Jinja {
            environment,
            source: source.to_string(),
            capabilities: OnceLock::new(),
        })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation. Content that the template cannot express is rewritten, with a note for each
    /// change.
    ///
    /// # Errors
    /// If the template raises an error or takes too long.
    pub fn render(&self, chat: &Chat) -> Result<Rendered> {
        let capabilities = self.capabilities();
        let tools = chat.tools;
        let mut notes = Vec::new();
        let messages = capabilities.fit(chat.messages, tools, &mut notes);
        let first = self.run(chat, capabilities.values(&messages, tools));
        let Err(error) = first else {
            return Ok(Rendered {
                text: first?,
                notes,
            });
        };
        // Some templates assume that every argument has a description.
        let described: Vec<Tool> = chat.tools.iter().map(capabilities::described).collect();
        let chat = &Chat {
            tools: &described,
            ..*chat
        };
        if described != tools
            && let Ok(text) = self.run(chat, capabilities.values(&messages, &described))
        {
            notes.push("the template requires described arguments: empty descriptions were added");
            return Ok(Rendered { text, notes });
        }
        // Many templates require that roles alternate.
        let merged = capabilities::alternating(&messages);
        if merged.len() == messages.len() {
            return Err(error);
        }
        notes.push(
            "the template requires alternating roles: adjacent messages of one role are joined",
        );
        let text = self
            .run(chat, capabilities.values(&merged, &described))
            .map_err(|_| error)?;
        Ok(Rendered { text, notes })
    }

    fn capabilities(&self) -> &Capabilities {
        self.capabilities.get_or_init(|| {
            Capabilities::detect(&self.source, &|chat, messages| self.run(chat, messages))
        })
    }

    fn run(&self, chat: &Chat, messages: Vec<Value>) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(plain)?;
        let further = chat.variables.iter();
        let further = further.map(|(name, value)| (name.as_str(), values::from_json(value)));
        let mut fields: Vec<(&str, Value)> = further.collect();
        fields.extend([
            ("messages", Value::from(messages)),
            ("add_generation_prompt", chat.opens.into()),
            ("bos_token", chat.begin.into()),
            ("eos_token", chat.end.into()),
            ("strftime_now", python::strftime_now(chat.now)),
        ]);
        if !chat.tools.is_empty() {
            fields.push(("tools", chat.tools.iter().map(tool_value).collect()));
        }
        if self.source.contains("functions") && self.source.contains("datetime") {
            // The names that an older model family uses for the list of tools, as text, and for the time.
            let list = chat.tools.iter().map(tool_value).collect();
            fields.push(("functions", python::dumped(list)));
            fields.push(("datetime", python::moment(chat.now).into()));
        }
        if let Some(think) = chat.think {
            // Each family has its own name for the same switch.
            for name in ["enable_thinking", "thinking"] {
                fields.push((name, think.is_on().into()));
            }
            if let crate::core::message::Think::Level(_) = think {
                fields.push(("reasoning_effort", think.level().into()));
            }
        }
        template.render(Value::from_pairs(fields)).map_err(plain)
    }
}

fn plain(error: minijinja::Error) -> error::Error {
    let text = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_string);
    error::Error::failed(format!(
        "the chat template fails: {}",
        text.replace('\n', " ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::clock::Local;
    use crate::core::message::Message;
    use std::time::{Duration, Instant, SystemTime};

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let chat = Chat {
            messages,
            begin: "<s>",
            end: "</s>",
            now: Local::utc(SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_366_000)),
            ..Chat::default()
        };
        let jinja = Jinja::compile(source)?;
        jinja.render(&chat).map(|rendered| rendered.text)
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
            (
                "{{ strftime_now('%d %b %Y, %A %-d %H:%M') }}",
                "02 Jan 2026, Friday 2 15:00",
            ),
            (
                "{{ {'a': [1, 'é'], 'b': none} | tojson }}",
                "{\"a\": [1, \"é\"], \"b\": null}",
            ),
            (
                "{{ ['é😀'] | tojson(ensure_ascii=true) }}",
                "[\"\\u00e9\\ud83d\\ude00\"]",
            ),
            (
                "{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}",
                "{\"a\":2,\"b\":1}",
            ),
            (
                "{{ [1] | tojson(indent=2) }}{{ [1]|tojson(4) }}",
                "[\n  1\n][\n    1\n]",
            ),
            ("{% if true %}\n  {# c #}\nx\n{% endif %}", "x\n"),
            (
                "{{ none }} {{ true }} {{ [1, 'a\\'', none, 1.0] }} {{ {'k': false} }}",
                "None True [1, \"a'\", None, 1.0] {'k': False}",
            ),
            (
                "{{ '{}-{1}{{}}'.format(1, 'b') }}{{ 'a.b.c'.rsplit('.', 1)[0] }}",
                "1-b{}a.b",
            ),
            ("{%- generation %}x{% endgeneration %}y", "xy"),
            (
                "{% set n = namespace(l=[]) %}{% for i in [3, 4] %}{% set _ = n.l.append(i) %}{% endfor %}{% set x = n.l.pop(0) %}{{ x }}{{ n.l }}",
                "3[4]",
            ),
            (
                "{{ messages[1:] | length }}{{ messages[0].none is defined }}",
                "0False",
            ),
        ] {
            assert_eq!(render(source, &messages).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn exceptions_of_templates_become_errors() {
        let error = render("{{ raise_exception('no system role') }}", &[]).unwrap_err();
        assert_eq!(error.to_string(), "the chat template fails: no system role");
    }

    #[test]
    fn a_bomb_is_an_error_within_a_second() {
        let double = "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}";
        let capture = "{% set x %}aaaaaaaa{% endset %}{% for i in range(99) %}{% set x %}{{ x }}{{ x }}{% endset %}{% endfor %}";
        let call = "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('aaaaaaaa', 60) }}";
        let square = "{% set x = 'a' * 10000000 %}{{ x | replace('a', x) | length }}";
        let method = "{% set x = 'a' * 10000000 %}{{ x.replace('a', x) | length }}";
        let joined = "{% set x = 'a' * 10000000 %}{{ range(9999) | join(x) | length }}";
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a * b }}{% endfor %}{% endfor %}";
        let deep = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        for source in [double, call, square, method, joined, endless, deep, capture] {
            let started = Instant::now();
            let found = render(source, &[]);
            assert!(found.is_err() || source == capture, "{source}");
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{source}: {:?}",
                started.elapsed()
            );
        }
        assert!(Jinja::compile("{% for x in %}").is_err());
    }

    #[test]
    fn cyclic_values_are_an_error_without_overflow() {
        let namespace = "{% set n = namespace() %}{% set l = [] %}{% set m = [] %}";
        for source in [
            "{% set n.x = n %}{{ n ~ 'a' }}",
            "{% set n.x = [{'a': n}] %}{{ n | upper }}",
            "{% set n.x, y = n, 1 %}{{ n ~ 'a' }}",
            "{% set y, n.x = 1, n %}{{ n ~ 'a' }}",
            "{% for n.x in [n] %}{% endfor %}{{ n ~ 'a' }}",
            "{% with n.x = n %}{{ n ~ 'a' }}{% endwith %}",
            "{% set _ = l.append(l) %}{{ l ~ 'a' }}",
            "{% set _ = l.insert(0, [l]) %}{{ l ~ 'a' }}",
            "{% set _ = l.append(m) %}{% set _ = m.extend([l]) %}{{ l | sort }}",
            "{% set n.x = l %}{% set _ = l.append(n) %}{{ n ~ 'a' }}",
            "{% set _ = l.append(n) %}{% set n.x = l %}{{ n ~ 'a' }}",
            "{% set _ = l.append([l + [1]]) %}{% set _ = l.append({'a': l + l}) %}{{ l ~ 'a' }}{{ raise_exception('fine') }}",
            "{% set _ = l.append(l[:]) %}{% set _ = l.append(l | list) %}{{ l ~ 'a' }}{{ raise_exception('fine') }}",
            "{% set (y, n . x) = (1, n) %}{{ n ~ 'a' }}",
            "{% set _ = l.append(m) %}{% for i in range(999) %}{% set k = [] %}{% set _ = k.append(l[-1]) %}\
             {% set _ = l.append(k) %}{% endfor %}{{ l ~ 'a' }}",
        ] {
            let source = format!("{namespace}{source}");
            let messages = [Message::new("user", "hi")];
            assert!(render(&source, &messages).is_err(), "{source}");
        }
        let fine = "{% set n.x = l %}{% set _ = l.append([1]) %}{% set _ = l.append(m) %}{% set _ = m.append(2) %}{{ n.x }}";
        assert_eq!(
            render(&format!("{namespace}{fine}"), &[]).unwrap(),
            "[[1], [2]]"
        );
    }

    #[test]
    fn a_deeply_nested_expression_is_an_error_without_overflow() {
        for (front, link, back) in [
            ("{{ ", "not ", "1 }}"),
            ("{{ ", "-", "1 }}"),
            ("{{ 1", " ~ 1", " }}"),
            ("{{ 1", " + 1", " }}"),
            ("{{ x", ".x", " }}"),
            ("{{ x", "|string", " }}"),
            ("{{ x", "[0]", " }}"),
            ("{{ 1", " if 1 else 1", " }}"),
            ("{{ 1", " and 1", " }}"),
            ("{% if 1 %}a", "{% elif 1 %}a", "{% endif %}"),
            ("{% set x = 1", " ~ 1", " %}"),
            ("", "{% if 1 %}", ""),
            ("{{ ", "[", " }}"),
        ] {
            for count in [100, 190, 590, 100_000] {
                let source = format!("{front}{}{back}", link.repeat(count));
                let started = Instant::now();
                drop(render(&source, &[])); // An error is fine; a crash of the process is not.
                assert!(
                    started.elapsed() < Duration::from_secs(5),
                    "{link} {count}: {:?}",
                    started.elapsed()
                );
            }
            let source = format!("{front}{}{back}", link.repeat(100_000));
            assert!(Jinja::compile(&source).is_err(), "{link}");
        }
        let doubled = "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}";
        assert!(render(doubled, &[]).is_err());
        let deep = "{% set n = namespace(x=1) %}{% for i in range(9999) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}";
        assert!(render(deep, &[]).is_err());
    }
}
