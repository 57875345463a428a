//! Grammars that an answer must follow: llguidance for JSON Schema and Lark, llama.cpp's own
//! sampler for GBNF.
//!
//! Schemas go to llguidance, because llama.cpp's translation to GBNF accepts invalid values. The official suite
//! (draft 2020-12) by `cargo bench --bench schema`, counted in its values:
//!
//! | | schema refused | valid, accepted | invalid, rejected | valid, rejected | invalid, accepted |
//! |---|---|---|---|---|---|
//! | llguidance | 668 | 330 | 237 | 22 | 0 |
//! | GBNF | 263 | 499 | 206 | 111 | 178 |
//!
//! A refused schema is an error before the first token; an accepted invalid value would be a wrong answer.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;

use super::gbnf;
use crate::core::error::{Class, Error, Result};

/// Most bytes of a grammar's text.
const GRAMMAR_BYTES_MAX: usize = 1 << 20;

/// Longest list of literals that goes to llguidance, which has limits of its own.
const CHOICES_MAX: usize = 100;

/// A grammar that constrains an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar {
    /// The grammar's text.
    pub text: Text,
    /// The grammar applies after this text; `None`: from the start.
    pub trigger: Option<String>,
    /// The tags around thinking at the start of the answer: a trigger inside is ignored.
    pub thought: Option<ThinkingTags>,
}

/// The tags around thinking.
#[derive(Debug, Clone, PartialEq)]
pub struct ThinkingTags {
    /// The opening tag; empty if the prompt contains it.
    pub open: String,
    /// The closing tag.
    pub close: String,
}

/// The text of a grammar.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// llguidance's Lark, with the root `start`.
    Lark(String),
    /// llama.cpp's GBNF, with the root `root`.
    Gbnf(String),
}

/// Compiles grammars for one vocabulary.
pub struct Compiler {
    factory: ParserFactory,
}

/// The compiler for a model's vocabulary, built on first use: 0.9 s for gemma-3's 262 000 tokens.
pub struct Compilers {
    made: OnceLock<Arc<Compiler>>,
    /// True if many answers will follow.
    lasts: bool,
}

impl Compilers {
    /// Builds nothing yet; `lasts`: many answers will follow.
    pub fn new(lasts: bool) -> Self {
        Compilers {
            made: OnceLock::new(),
            lasts,
        }
    }

    /// Builds it on first use.
    fn get(&self, model: &LlamaModel) -> Result<Arc<Compiler>> {
        if let Some(compiler) = self.made.get() {
            return Ok(compiler.clone());
        }
        // Two answers that start at once may both build it; no lock is held meanwhile.
        let compiler = Arc::new(Compiler::new(model)?);
        Ok(self.made.get_or_init(|| compiler).clone())
    }
}

/// The grammar state of one answer.
pub struct Guide {
    source: String,
    state: State,
}

enum State {
    Waiting(Wait, Arc<Compiler>),
    Guided(Box<Matcher>),
    Gbnf(Box<LlamaSampler>),
}

/// A grammar that does not apply yet.
struct Wait {
    trigger: String,
    matcher: Box<Matcher>,
    /// The last bytes generated, as many as could start a trigger.
    tail: Vec<u8>,
    /// The thinking before it, until that is complete.
    thought: Option<Thinking>,
}

enum Thinking {
    /// It may start with these tags.
    Perhaps(ThinkingTags),
    /// It continues up to this tag.
    Until(String),
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Guide")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The error of a text that does not compile, in one line: a schema is compiled inside a Lark grammar, whose places
/// mean nothing to its author, and a regular expression is drawn with an arrow before its error is named.
fn refused(why: impl fmt::Display) -> Error {
    const OF_SCHEMA: &str = "failed to compile JSON schema: ";
    let why = why.to_string();
    let (what, why) = match why.split_once(OF_SCHEMA) {
        Some((_, why)) => ("schema", why),
        None => ("grammar", why.as_str()),
    };
    let mut lines = why.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let named = lines.find_map(|line| line.strip_prefix("error: "));
    let named = named.map(|named| format!(" {named}")).unwrap_or_default();
    let text = format!("the {what} is not accepted: {first}{named}");
    Error::plain(Class::Schema, text)
}

impl Compiler {
    /// A compiler for a model's vocabulary, which is walked once.
    ///
    /// # Errors
    /// If the vocabulary cannot be read.
    pub fn new(model: &LlamaModel) -> Result<Self> {
        Self::for_vocabulary(&LlamaSampler::llguidance_tok_env(model))
    }

    /// A compiler for plain bytes, to check texts without a model.
    ///
    /// # Errors
    /// None are known.
    pub fn for_bytes() -> Result<Self> {
        Self::for_vocabulary(&ApproximateTokEnv::single_byte_env())
    }

    fn for_vocabulary(vocabulary: &TokEnv) -> Result<Self> {
        let mut factory = ParserFactory::new_simple(vocabulary).map_err(refused)?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Compiler { factory })
    }

    fn matcher(&self, source: &str) -> Result<Matcher> {
        if source.len() > GRAMMAR_BYTES_MAX {
            return Err(refused("it is longer than 1 MiB"));
        }
        self.parser(TopLevelGrammar::from_lark(source.to_string()))
    }

    fn parser(&self, grammar: TopLevelGrammar) -> Result<Matcher> {
        // The compiler is third-party code with untrusted input: a panic in it is an error of this request.
        let made = catch_unwind(AssertUnwindSafe(|| {
            Matcher::new(self.factory.create_parser(grammar))
        }));
        let matcher = made.map_err(|_| refused("its compiler failed"))?;
        match matcher.get_error() {
            Some(error) => Err(refused(error)),
            None => Ok(matcher),
        }
    }

    /// True if a whole text matches a grammar. Only for a compiler of bytes.
    ///
    /// # Errors
    /// `Schema` if the grammar is rejected.
    pub fn accepts(&self, source: &str, text: &str) -> Result<bool> {
        matches(self.matcher(source)?, text)
    }

    /// True if a whole text is JSON of a schema, its properties in the schema's order. Only for a compiler of
    /// bytes.
    ///
    /// # Errors
    /// `Schema` if the schema is rejected.
    pub fn accepts_json(&self, schema: &Json, text: &str) -> Result<bool> {
        matches(
            self.parser(TopLevelGrammar::from_json_schema(schema.clone()))?,
            text,
        )
    }
}

fn matches(mut matcher: Matcher, text: &str) -> Result<bool> {
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let used = matcher.validate_tokens(&tokens).map_err(refused)?;
    if used < tokens.len() || matcher.consume_tokens(&tokens).is_err() {
        return Ok(false);
    }
    Ok(matcher.is_accepting().unwrap_or(false) || matcher.is_stopped())
}

/// A Lark grammar that accepts exactly these texts.
fn one_of(choices: &[String]) -> String {
    let quoted: Vec<String> = choices
        .iter()
        .map(|choice| Json::from(choice.as_str()).to_string())
        .collect();
    format!("start: {}", quoted.join(" | "))
}

impl Guide {
    /// Compiles a grammar.
    ///
    /// # Errors
    /// `Schema` with the mistake in it.
    pub fn new(compilers: &Compilers, model: &LlamaModel, grammar: Grammar) -> Result<Self> {
        let text = match grammar.text {
            // llama.cpp's sampler checks every token at each step: 50 ms for 262 000.
            Text::Gbnf(source) if compilers.lasts => match gbnf::choices(&source) {
                Some(choices) if choices.len() <= CHOICES_MAX => Text::Lark(one_of(&choices)),
                _ => Text::Gbnf(source),
            },
            text => text,
        };
        let (source, state) = match text {
            Text::Lark(source) => {
                let compiler = compilers.get(model)?;
                let matcher = Box::new(compiler.matcher(&source)?);
                let trigger = grammar.trigger.filter(|text| !text.is_empty());
                let state = match trigger {
                    None => State::Guided(matcher),
                    Some(trigger) => {
                        let wait = Wait {
                            trigger,
                            matcher,
                            tail: Vec::new(),
                            thought: grammar.thought.map(Thinking::Perhaps),
                        };
                        State::Waiting(wait, compiler)
                    }
                };
                (source, state)
            }
            Text::Gbnf(source) => {
                gbnf::check(&source).map_err(refused)?;
                let sampler = LlamaSampler::grammar(model, &source, "root");
                let sampler = sampler.map_err(|_| refused("llama.cpp cannot read it"))?;
                (source, State::Gbnf(Box::new(sampler)))
            }
        };
        Ok(Guide { source, state })
    }

    /// True if this token may come next.
    ///
    /// # Errors
    /// If the grammar's state was lost.
    pub fn allows(&mut self, token: LlamaToken) -> Result<bool> {
        match &mut self.state {
            State::Waiting(..) => Ok(true),
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

    /// Removes the tokens that may not come next.
    ///
    /// # Errors
    /// If the grammar's state was lost, or if no token remains.
    pub fn mask(&mut self, tokens: &mut LlamaTokenDataArray) -> Result<()> {
        match &mut self.state {
            State::Waiting(..) => {}
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
        if tokens.data.is_empty() {
            Err(refused("it allows no token of the vocabulary"))
        } else {
            Ok(())
        }
    }

    /// True if the answer may end here.
    pub fn may_end(&mut self) -> bool {
        match &mut self.state {
            State::Waiting(..) => true,
            State::Guided(matcher) => {
                matcher.is_stopped() || matcher.is_accepting().unwrap_or(false)
            }
            State::Gbnf(_) => false,
        }
    }

    /// Advances the grammar by the chosen token and its text.
    ///
    /// # Errors
    /// If the grammar does not allow the token.
    pub fn accept(&mut self, token: LlamaToken, bytes: &[u8]) -> Result<()> {
        match &mut self.state {
            State::Waiting(wait, compiler) => {
                if let Some(begun) = wait.look(compiler, &self.source, token, bytes)? {
                    self.state = State::Guided(begun);
                }
                Ok(())
            }
            State::Guided(matcher) if matcher.is_stopped() => Ok(()),
            State::Guided(matcher) => matcher
                .consume_token(token.0.cast_unsigned())
                .map_err(refused),
            State::Gbnf(sampler) => sampler.try_accept(token).map_err(refused),
        }
    }
}

impl Wait {
    /// Reads a token. Returns the grammar's state after the trigger once the text contains the trigger.
    fn look(
        &mut self,
        compiler: &Compiler,
        source: &str,
        token: LlamaToken,
        bytes: &[u8],
    ) -> Result<Option<Box<Matcher>>> {
        let start = self.tail.len();
        self.tail.extend_from_slice(bytes);
        if self.thinks() {
            return Ok(None);
        }
        let trigger = self.trigger.as_bytes();
        let Some(at) = find(&self.tail, trigger) else {
            keep_end(&mut self.tail, trigger.len() - 1);
            return Ok(None);
        };
        let behind = at + trigger.len();
        if behind == self.tail.len() {
            return Ok(Some(Box::new(self.matcher.deep_clone())));
        }
        // The trigger's last token extends beyond it: the grammar reads that token as a whole.
        let Some(before) = self.tail.get(start..behind) else {
            // The trigger was part of what might have been a thinking tag.
            self.tail.clear();
            return Ok(None);
        };
        let before = String::from_utf8_lossy(before);
        let quoted = serde_json::Value::from(before);
        let longer = format!("start: {quoted} inner\ninner:");
        let mut matcher = compiler.matcher(&source.replacen("start:", &longer, 1))?;
        self.tail.clear();
        let token = token.0.cast_unsigned();
        // If the token does not match, this was not a call, and the wait continues.
        if matcher.validate_tokens(&[token]).ok() != Some(1) {
            return Ok(None);
        }
        matcher.consume_token(token).map_err(refused)?;
        Ok(Some(Box::new(matcher)))
    }
}

impl Wait {
    /// True while the text may be thinking.
    fn thinks(&mut self) -> bool {
        if let Some(Thinking::Perhaps(checkpoints)) = &self.thought {
            let text = self.tail.trim_ascii_start();
            if text.starts_with(checkpoints.open.as_bytes()) {
                self.thought = Some(Thinking::Until(checkpoints.close.clone()));
            } else if checkpoints.open.as_bytes().starts_with(text) {
                return true;
            } else {
                self.thought = None;
            }
        }
        let Some(Thinking::Until(close)) = &self.thought else {
            return false;
        };
        match find(&self.tail, close.as_bytes()) {
            None => keep_end(&mut self.tail, close.len().saturating_sub(1)),
            Some(at) => {
                // A token never contains the tag and a whole trigger after it.
                self.tail.drain(..at + close.len());
                keep_end(&mut self.tail, self.trigger.len() - 1);
                self.thought = None;
            }
        }
        true
    }
}

/// The byte offset of `part` in `text`.
pub(super) fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let mut places = text.windows(part.len().max(1));
    places.position(|place| place == part)
}

/// Drops all but the last `bytes` bytes.
pub(super) fn keep_end(text: &mut Vec<u8>, bytes: usize) {
    text.drain(..text.len().saturating_sub(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_accepts_only_its_texts() {
        let compiler = Compiler::for_bytes().unwrap();
        let schema = r#"start: %json {"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}"#;
        assert!(compiler.accepts(schema, r#"{"a": 1}"#).unwrap());
        for text in [r#"{"a": "1"}"#, r#"{"a": 1"#, "{}", "", r#"{"a":1,"b":2}"#] {
            assert!(!compiler.accepts(schema, text).unwrap(), "{text}");
        }
    }

    #[test]
    fn invalid_grammars_are_refused() {
        let compiler = Compiler::for_bytes().unwrap();
        for source in ["nothing", r#"start: %json {"type":"bogus"}"#, "start: /(/"] {
            let error = compiler.accepts(source, "").unwrap_err();
            assert_eq!(error.class(), Class::Schema, "{source}");
        }
        let deep = format!("start: /{}a{}/", "(".repeat(100_000), ")".repeat(100_000));
        assert!(compiler.accepts(&deep, "a").is_err());
    }

    #[test]
    fn triggers_inside_thinking_are_ignored() {
        let compiler = Compiler::for_bytes().unwrap();
        let source = r#"start: "1" /[0-9]/"#;
        let begins = |open: &str, text: &str| {
            let mut wait = Wait {
                trigger: "<call>".into(),
                matcher: Box::new(compiler.matcher(source).unwrap()),
                tail: Vec::new(),
                thought: Some(Thinking::Perhaps(ThinkingTags {
                    open: open.into(),
                    close: "</think>".into(),
                })),
            };
            text.bytes().position(|byte| {
                let token = LlamaToken(byte.into());
                let begun = wait.look(&compiler, source, token, &[byte]);
                begun.unwrap().is_some()
            })
        };
        for (open, text, place) in [
            ("<think>", "a<call>", Some(6)),
            ("<think>", "<call>", Some(5)),
            ("<think>", " <think>a<call>b</think><call>", Some(29)),
            ("<think>", "<think><call><call>", None),
            ("", "a<call></think> <call>", Some(21)),
            ("", "a<call></thin", None),
        ] {
            assert_eq!(begins(open, text), place, "{text}");
        }
    }
}
