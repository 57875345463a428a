//! Grammars that an answer must follow: llguidance for JSON Schema and Lark, llama.cpp's own
//! sampler for GBNF.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv};
use llguidance::{Matcher, ParserFactory};

use crate::error::{Class, Error, Result};

/// Most bytes of a grammar's text.
const GRAMMAR_BYTES_MAX: usize = 1 << 20;
/// Most alternatives, and most brackets inside each other, of a GBNF grammar: llama.cpp parses it
/// by recursion and keeps every alternative in memory for each token.
const ALTERNATIVES_MAX: usize = 10_000;
const NESTED_MAX: usize = 100;
/// Most repetitions of one GBNF item.
const REPEATS_MAX: u32 = 2_000;

/// What an answer must follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar {
    /// The grammar's text.
    pub text: Text,
    /// The grammar holds from the first of these on; none: from the start.
    pub triggers: Vec<Trigger>,
}

/// The text of a grammar.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// In llguidance's Lark, `start` its root.
    Lark(String),
    /// In llama.cpp's GBNF, `root` its root.
    Gbnf(String),
}

/// Where a grammar begins to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// The text that was generated.
    pub text: String,
    /// True: only at the very start of the answer, and the text belongs to the grammar.
    pub first: bool,
}

/// Compiles grammars for one vocabulary.
pub struct Compiler {
    factory: ParserFactory,
}

/// Watches over one answer.
pub struct Guide {
    compiler: std::sync::Arc<Compiler>,
    source: String,
    triggers: Vec<Trigger>,
    state: State,
    /// Generated so far, while a trigger is waited for.
    text: Vec<u8>,
    tokens: Vec<(LlamaToken, usize)>,
}

enum State {
    Waiting(Box<Matcher>),
    Guided(Box<Matcher>),
    Gbnf(Box<LlamaSampler>),
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Guide")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

fn refused(why: impl fmt::Display) -> Error {
    let why = why.to_string();
    let line = why
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    Error::plain(
        Class::Schema,
        format!("the grammar is not accepted: {}", line.trim()),
    )
}

impl Compiler {
    /// For a model's vocabulary. Walks all of it once.
    ///
    /// # Errors
    /// If the vocabulary cannot be read.
    pub fn new(model: &LlamaModel) -> Result<Self> {
        Self::of(&LlamaSampler::llguidance_tok_env(model))
    }

    /// For plain bytes: to check texts without a model.
    ///
    /// # Errors
    /// None that is known.
    pub fn of_bytes() -> Result<Self> {
        Self::of(&ApproximateTokEnv::single_byte_env())
    }

    fn of(vocabulary: &TokEnv) -> Result<Self> {
        let mut factory = ParserFactory::new_simple(vocabulary).map_err(refused)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Compiler { factory })
    }

    fn matcher(&self, source: &str) -> Result<Matcher> {
        if source.len() > GRAMMAR_BYTES_MAX {
            return Err(refused("it is longer than 1 MiB"));
        }
        let grammar = TopLevelGrammar::from_lark(source.to_string());
        // The compiler is foreign code over foreign text: a panic in it is an error of this request.
        let made = catch_unwind(AssertUnwindSafe(|| {
            Matcher::new(self.factory.create_parser(grammar))
        }));
        let matcher = made.map_err(|_| refused("its compiler failed"))?;
        match matcher.get_error() {
            Some(error) => Err(refused(error)),
            None => Ok(matcher),
        }
    }

    /// Whether a text as a whole follows a grammar. Only for a compiler of bytes.
    ///
    /// # Errors
    /// `Schema` if the grammar is not accepted.
    pub fn accepts(&self, source: &str, text: &str) -> Result<bool> {
        let mut matcher = self.matcher(source)?;
        let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
        let used = matcher.validate_tokens(&tokens).map_err(refused)?;
        if used < tokens.len() || matcher.consume_tokens(&tokens).is_err() {
            return Ok(false);
        }
        Ok(matcher.is_accepting().unwrap_or(false) || matcher.is_stopped())
    }
}

impl Guide {
    /// Compiles a grammar.
    ///
    /// # Errors
    /// `Schema` with what is wrong in it.
    pub fn new(
        compiler: &std::sync::Arc<Compiler>,
        model: &LlamaModel,
        grammar: Grammar,
    ) -> Result<Self> {
        let (source, state) = match grammar.text {
            Text::Lark(source) => {
                let matcher = Box::new(compiler.matcher(&source)?);
                let waits = !grammar.triggers.is_empty();
                (
                    source,
                    if waits {
                        State::Waiting(matcher)
                    } else {
                        State::Guided(matcher)
                    },
                )
            }
            Text::Gbnf(source) => {
                check_gbnf(&source)?;
                let sampler = LlamaSampler::grammar(model, &source, "root");
                let sampler = sampler.map_err(|_| refused("llama.cpp cannot read it"))?;
                (source, State::Gbnf(Box::new(sampler)))
            }
        };
        Ok(Guide {
            compiler: compiler.clone(),
            source,
            triggers: grammar.triggers,
            state,
            text: Vec::new(),
            tokens: Vec::new(),
        })
    }

    /// True if this token may come next.
    ///
    /// # Errors
    /// If the grammar's state was lost.
    pub fn allows(&mut self, token: LlamaToken) -> Result<bool> {
        match &mut self.state {
            State::Waiting(_) => Ok(true),
            State::Guided(matcher) if matcher.is_stopped() => Ok(false),
            State::Guided(matcher) => {
                let count = matcher
                    .validate_tokens(&[token.0.cast_unsigned()])
                    .map_err(refused)?;
                Ok(count == 1)
            }
            State::Gbnf(_) => Ok(false),
        }
    }

    /// Takes away what may not come next.
    ///
    /// # Errors
    /// If the grammar's state was lost, or leaves nothing.
    pub fn mask(&mut self, tokens: &mut LlamaTokenDataArray) -> Result<()> {
        match &mut self.state {
            State::Waiting(_) => {}
            State::Guided(matcher) => {
                let mask = matcher.compute_mask_or_eos().map_err(refused)?;
                tokens
                    .data
                    .retain(|data| mask.is_allowed(data.id().0.cast_unsigned()));
            }
            State::Gbnf(sampler) => {
                tokens.apply_sampler(sampler);
                tokens.data.retain(|data| data.logit() > f32::NEG_INFINITY);
            }
        }
        match tokens.data.is_empty() {
            true => Err(refused("it leaves no token of the vocabulary")),
            false => Ok(()),
        }
    }

    /// True if the answer may end here.
    pub fn may_end(&mut self) -> bool {
        match &mut self.state {
            State::Waiting(_) => true,
            State::Guided(matcher) => {
                matcher.is_stopped() || matcher.is_accepting().unwrap_or(false)
            }
            State::Gbnf(_) => false,
        }
    }

    /// Takes the token that was chosen, and its text.
    ///
    /// # Errors
    /// If the grammar does not go on with it.
    pub fn accept(&mut self, token: LlamaToken, bytes: &[u8]) -> Result<()> {
        match &mut self.state {
            State::Waiting(_) => {
                self.tokens.push((token, self.text.len()));
                self.text.extend_from_slice(bytes);
                self.look()
            }
            State::Guided(matcher) if matcher.is_stopped() => Ok(()),
            State::Guided(matcher) => matcher
                .consume_token(token.0.cast_unsigned())
                .map_err(refused),
            State::Gbnf(sampler) => sampler.try_accept(token).map_err(refused),
        }
    }

    /// Looks for a trigger; from there on the grammar holds.
    fn look(&mut self) -> Result<()> {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        let found = self
            .triggers
            .iter()
            .find_map(|trigger| match trigger.first {
                true => {
                    let start = text.len() - text.trim_start().len();
                    text[start..].starts_with(&trigger.text).then_some(start)
                }
                false => Some(text.find(&trigger.text)? + trigger.text.len()),
            });
        let Some(from) = found else {
            return Ok(());
        };
        // Tokens that reach beyond the trigger are read by the grammar, whatever of them lies before it.
        let reaches = |(index, (_, start)): &(usize, &(LlamaToken, usize))| {
            let end = self
                .tokens
                .get(index + 1)
                .map_or(self.text.len(), |(_, next)| *next);
            *start >= from || end > from
        };
        let first = self
            .tokens
            .iter()
            .enumerate()
            .find(reaches)
            .map(|(index, _)| index);
        let Some(first) = first else {
            return self.begin(None, &[]);
        };
        let start = self.tokens[first].1.min(from);
        let before = text.get(start..from).unwrap_or_default().to_string();
        let tokens: Vec<u32> = self.tokens[first..]
            .iter()
            .map(|(token, _)| token.0.cast_unsigned())
            .collect();
        self.begin((!before.is_empty()).then_some(before), &tokens)
    }

    fn begin(&mut self, before: Option<String>, tokens: &[u32]) -> Result<()> {
        let fresh = match &before {
            Some(before) => {
                let quoted = serde_json::Value::from(before.as_str());
                let source =
                    self.source
                        .replacen("start:", &format!("start: {quoted} inner\ninner:"), 1);
                Box::new(self.compiler.matcher(&source)?)
            }
            None => match &self.state {
                State::Waiting(matcher) => Box::new(matcher.deep_clone()),
                State::Guided(_) | State::Gbnf(_) => return Ok(()),
            },
        };
        let mut matcher = fresh;
        // What came with the trigger may not fit: then it was no call, and the wait goes on.
        if matcher
            .validate_tokens(tokens)
            .is_ok_and(|count| count == tokens.len())
        {
            matcher.consume_tokens(tokens).map_err(refused)?;
            self.state = State::Guided(matcher);
        }
        self.text.clear();
        self.tokens.clear();
        Ok(())
    }
}

/// Refuses what llama.cpp's parser would choke on.
fn check_gbnf(source: &str) -> Result<()> {
    if source.len() > GRAMMAR_BYTES_MAX {
        return Err(refused("it is longer than 1 MiB"));
    }
    if source.contains('\0') {
        return Err(refused("it holds a NUL byte"));
    }
    let (mut depth, mut alternatives, mut quote) = (0_usize, 0_usize, None);
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(close), c) if c == close => quote = None,
            (Some(_), _) => {}
            (None, '"') => quote = Some('"'),
            (None, '[') => quote = Some(']'),
            (None, '#') => drop(chars.by_ref().find(|c| *c == '\n')),
            (None, '(') => depth += 1,
            (None, ')') => depth = depth.saturating_sub(1),
            (None, '|') => alternatives += 1,
            (None, '{') => {
                let counts: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let large = |count: &str| {
                    count
                        .trim()
                        .parse::<u32>()
                        .map_or(!count.trim().is_empty(), |count| count > REPEATS_MAX)
                };
                if counts.split(',').any(large) {
                    return Err(refused(format!(
                        "it repeats something more than {REPEATS_MAX} times"
                    )));
                }
            }
            _ => {}
        }
        if depth > NESTED_MAX || alternatives > ALTERNATIVES_MAX {
            return Err(refused(
                "it is nested too deeply or has too many alternatives",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_tells_its_texts_from_others() {
        let compiler = Compiler::of_bytes().unwrap();
        let schema = r#"start: %json {"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}"#;
        assert!(compiler.accepts(schema, r#"{"a": 1}"#).unwrap());
        for text in [r#"{"a": "1"}"#, r#"{"a": 1"#, "{}", "", r#"{"a":1,"b":2}"#] {
            assert!(!compiler.accepts(schema, text).unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_grammar_is_refused() {
        let compiler = Compiler::of_bytes().unwrap();
        for source in ["nothing", r#"start: %json {"type":"bogus"}"#, "start: /(/"] {
            let error = compiler.accepts(source, "").unwrap_err();
            assert_eq!(error.class(), Class::Schema, "{source}");
        }
        let deep = format!("start: /{}a{}/", "(".repeat(100_000), ")".repeat(100_000));
        assert!(compiler.accepts(&deep, "a").is_err());
    }

    #[test]
    fn gbnf_has_limits() {
        assert!(check_gbnf("root ::= \"((((\" | [(] # ((\n").is_ok());
        for source in [
            format!(
                "root ::= {}\"a\"{}",
                "(".repeat(100_000),
                ")".repeat(100_000)
            ),
            format!("root ::= {}\"a\"", "\"a\" | ".repeat(60_000)),
            "root ::= \"a\"{1,99999999}".to_string(),
            "root ::= \"\0\"".to_string(),
        ] {
            assert!(check_gbnf(&source).is_err(), "{}", &source[..30]);
        }
    }
}
