//! Grammars that an answer must follow: llguidance for JSON Schema and Lark, llama.cpp's own
//! sampler for GBNF.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value as Json;

use super::gbnf;
use crate::error::{Class, Error, Result};

/// Most bytes of a grammar's text.
const GRAMMAR_BYTES_MAX: usize = 1 << 20;

/// Most texts of a list that llguidance reads: it has limits of its own.
const CHOICES_MAX: usize = 100;

/// What an answer must follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Grammar {
    /// The grammar's text.
    pub text: Text,
    /// The grammar holds from behind this text on; `None`: from the start.
    pub trigger: Option<String>,
    /// Marks around a thought that the answer may begin with: a trigger in it is none.
    pub thought: Option<Marks>,
}

/// Marks around a thought.
#[derive(Debug, Clone, PartialEq)]
pub struct Marks {
    /// Before it; empty if the prompt wrote it.
    pub open: String,
    /// Behind it.
    pub close: String,
}

/// The text of a grammar.
#[derive(Debug, Clone, PartialEq)]
pub enum Text {
    /// In llguidance's Lark, `start` its root.
    Lark(String),
    /// In llama.cpp's GBNF, `root` its root.
    Gbnf(String),
}

/// Compiles grammars for one vocabulary.
pub struct Compiler {
    factory: ParserFactory,
}

/// The compiler for a model's vocabulary, made when one is first needed: 0.9 s for gemma-3's 262 000
/// tokens.
pub struct Compilers {
    made: Mutex<Option<Arc<Compiler>>>,
    /// True if many answers will follow.
    lasts: bool,
}

impl Compilers {
    /// None is made yet; `lasts`: many answers will follow.
    pub fn new(lasts: bool) -> Self {
        Compilers {
            made: Mutex::default(),
            lasts,
        }
    }

    /// Who asks while it is made waits.
    fn of(&self, model: &LlamaModel) -> Result<Arc<Compiler>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(compiler) => Ok(compiler.clone()),
            None => Ok(made.insert(Arc::new(Compiler::new(model)?)).clone()),
        }
    }
}

/// Watches over one answer.
pub struct Guide {
    source: String,
    state: State,
}

enum State {
    Waiting(Wait, Arc<Compiler>),
    Guided(Box<Matcher>),
    Gbnf(Box<LlamaSampler>),
}

/// A grammar that does not hold yet.
struct Wait {
    trigger: String,
    matcher: Box<Matcher>,
    /// The last bytes that were generated: as many as may begin a trigger.
    tail: Vec<u8>,
    /// The thought before it, until that has ended.
    thought: Option<Thinking>,
}

enum Thinking {
    /// It may begin with these marks.
    Perhaps(Marks),
    /// It ends with this mark.
    Until(String),
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

/// A grammar of these texts.
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
    /// `Schema` with what is wrong in it.
    pub fn new(compilers: &Compilers, model: &LlamaModel, grammar: Grammar) -> Result<Self> {
        let text = match grammar.text {
            // llama.cpp's sampler looks at every token anew each time: 50 ms for 262 000.
            Text::Gbnf(source) if compilers.lasts => match gbnf::choices(&source) {
                Some(choices) if choices.len() <= CHOICES_MAX => Text::Lark(one_of(&choices)),
                _ => Text::Gbnf(source),
            },
            text => text,
        };
        let (source, state) = match text {
            Text::Lark(source) => {
                let compiler = compilers.of(model)?;
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

    /// Takes away what may not come next.
    ///
    /// # Errors
    /// If the grammar's state was lost, or leaves nothing.
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
        match tokens.data.is_empty() {
            true => Err(refused("it leaves no token of the vocabulary")),
            false => Ok(()),
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

    /// Takes the token that was chosen, and its text.
    ///
    /// # Errors
    /// If the grammar does not go on with it.
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
    /// Takes a token; if the trigger stands in the text now, the grammar's state behind it.
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
        // The token that ends the trigger reaches beyond it: the grammar reads it whole.
        let Some(before) = self.tail.get(start..behind) else {
            // The trigger stood in what might have been a thought's mark.
            self.tail.clear();
            return Ok(None);
        };
        let before = String::from_utf8_lossy(before);
        let quoted = serde_json::Value::from(before);
        let longer = format!("start: {quoted} inner\ninner:");
        let mut matcher = compiler.matcher(&source.replacen("start:", &longer, 1))?;
        self.tail.clear();
        let token = token.0.cast_unsigned();
        // If it does not fit, it was no call, and the wait goes on.
        if matcher.validate_tokens(&[token]).ok() != Some(1) {
            return Ok(None);
        }
        matcher.consume_token(token).map_err(refused)?;
        Ok(Some(Box::new(matcher)))
    }
}

impl Wait {
    /// True while the text may belong to a thought.
    fn thinks(&mut self) -> bool {
        if let Some(Thinking::Perhaps(marks)) = &self.thought {
            let text = self.tail.trim_ascii_start();
            if text.starts_with(marks.open.as_bytes()) {
                self.thought = Some(Thinking::Until(marks.close.clone()));
            } else if marks.open.as_bytes().starts_with(text) {
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
                // No token holds the mark and a whole trigger behind it.
                self.tail.drain(..at + close.len());
                keep_end(&mut self.tail, self.trigger.len() - 1);
                self.thought = None;
            }
        }
        true
    }
}

/// Where a part of a text begins.
pub(super) fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let mut places = text.windows(part.len().max(1));
    places.position(|place| place == part)
}

/// Drops all but the last bytes.
pub(super) fn keep_end(text: &mut Vec<u8>, bytes: usize) {
    text.drain(..text.len().saturating_sub(bytes));
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
    fn a_trigger_in_a_thought_is_none() {
        let compiler = Compiler::of_bytes().unwrap();
        let source = r#"start: "1" /[0-9]/"#;
        let begins = |open: &str, text: &str| {
            let mut wait = Wait {
                trigger: "<call>".into(),
                matcher: Box::new(compiler.matcher(source).unwrap()),
                tail: Vec::new(),
                thought: Some(Thinking::Perhaps(Marks {
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
