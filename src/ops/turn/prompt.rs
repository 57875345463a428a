//! Turns a request's input into the model's prompt tokens: rendering, special-token escaping,
//! truncation.

use std::time::SystemTime;

use serde_json::Value as Json;

use super::Request;
use super::far_too_long::reached;
use super::template_choice::TemplateChoice;
use crate::core::clock::Local;
use crate::core::error::{Class, Error, Result};
use crate::core::message::{Message, Think};
use crate::core::options::Options;
use crate::core::special_tokens::Specials;
use crate::core::turn::{Input, Overflow, Part};
use crate::format::template::escape::{self, Segment};
use crate::format::template::{Chat, Template};
use crate::system::engine::Engine;

/// Smallest context, in tokens, that a prompt is truncated to.
const LIMIT_MIN: usize = 4;

/// A prompt, ready for the engine.
#[derive(Debug, Clone)]
pub struct Prompt {
    /// The text, for display.
    pub text: String,
    /// The token ids.
    pub tokens: Vec<i32>,
    /// The number of tokens dropped to fit the context.
    pub truncated_tokens: usize,
    /// How the conversation was changed to fit the template.
    pub notes: Vec<&'static str>,
}

/// A token and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The id in the vocabulary.
    pub id: i32,
    /// The text; invalid UTF-8 is replaced.
    pub text: String,
}

/// Builds the prompts of one request.
pub struct Prompter<'a> {
    request: &'a Request<'a>,
    template_choice: &'a TemplateChoice,
    engine: &'a Engine,
    options: &'a Options,
    begin: String,
    end: String,
    now: Local,
    shows_all: bool,
}

/// A prompt before truncation.
struct Draft {
    segments: Vec<Segment>,
    notes: Vec<&'static str>,
}

impl Draft {
    fn raw(text: String) -> Self {
        let segments = vec![Segment {
            text,
            special: true,
        }];
        Draft {
            segments,
            notes: Vec::new(),
        }
    }
}

/// Tokens to keep at the front when others are dropped; `None` keeps as many as fit.
pub(super) fn front_tokens(options: &Options, engine: &Engine) -> Option<usize> {
    let keep = options.int_or_default("num_keep");
    let keep = usize::try_from(keep).ok()?;
    Some(keep + usize::from(engine.wants_begin()))
}

impl<'a> Prompter<'a> {
    /// Prepares for a request, with the template choice, the model's engine and the options in force.
    pub fn new(
        request: &'a Request,
        template_choice: &'a TemplateChoice,
        engine: &'a Engine,
        options: &'a Options,
    ) -> Self {
        let (begin, end) = engine.border_texts();
        let now = Local::here(SystemTime::now());
        Prompter {
            request,
            template_choice,
            engine,
            options,
            begin,
            end,
            now,
            shows_all: false,
        }
    }

    /// Returns a prompt that is too long as it is, to be shown or counted, unless the request has it cut.
    pub fn showing_all(mut self) -> Self {
        self.shows_all = self.request.turn.overflow == Overflow::Error;
        self
    }

    /// Builds the prompt; `context_tokens` is the context length, if it is known already.
    ///
    /// # Errors
    /// If the template fails, the prompt is empty, or it is too long and may not be truncated.
    pub fn prompt(&self, context_tokens: Option<u32>) -> Result<Prompt> {
        let limit = context_tokens.map_or(self.engine.trained_tokens(), |tokens| tokens as usize);
        self.check_variables()?;
        let overflow = self.request.turn.overflow;
        let kept = match overflow {
            Overflow::Error | Overflow::WholeMessages => Part::Head,
            Overflow::Truncate => Part::Ends,
            Overflow::Keep(part) => part,
        };
        let reach = if self.shows_all { usize::MAX } else { limit };
        let reached = reached(self.engine, &self.request.input, kept, reach);
        let input = &*reached.input;
        let full = self.draft(input)?;
        let tokens = self.tokens(&full);
        if tokens.is_empty() {
            return Err(Error::usage("the prompt is empty"));
        }
        let count = tokens.len() + reached.tokens;
        let fits = count < limit || limit < LIMIT_MIN;
        let (draft, tokens) = match overflow {
            _ if fits => (full, tokens),
            Overflow::Error if reached.tokens > 0 => {
                return Err(self.too_long(Error::far_too_long(count, limit), limit));
            }
            Overflow::Error if self.shows_all => (full, tokens),
            // An engine with a longer context than the one asked for would take it.
            Overflow::Error => {
                return Err(self.too_long(Error::too_long(count, limit), limit));
            }
            Overflow::Truncate | Overflow::WholeMessages => {
                self.truncated(input, full, tokens, limit)?
            }
            Overflow::Keep(part) => self.cut_to_part(input, part, limit)?,
        };
        Ok(Prompt {
            text: draft
                .segments
                .iter()
                .map(|segment| segment.text.as_str())
                .collect(),
            truncated_tokens: count.saturating_sub(tokens.len()),
            tokens,
            notes: draft.notes,
        })
    }

    /// Tokens and their texts.
    pub fn pieces(&self, tokens: &[i32]) -> Vec<Token> {
        let pieces = tokens.iter().map(|id| Token {
            id: *id,
            text: self.engine.text(&[*id]),
        });
        pieces.collect()
    }

    fn draft(&self, input: &Input) -> Result<Draft> {
        match input {
            Input::Raw(text) => Ok(Draft::raw(text.clone())),
            Input::Chat(messages) => self.chat(messages),
            Input::Insert(prompt, suffix) => match &self.template_choice.template {
                Template::Go(template) if template.mentions("Suffix") => {
                    template.insert(prompt, suffix, self.now).map(Draft::raw)
                }
                _ => self.around_gap(prompt, suffix),
            },
        }
    }

    /// The prompt for a gap, with the vocabulary's fill-in-the-middle tokens.
    fn around_gap(&self, prompt: &str, suffix: &str) -> Result<Draft> {
        let Some(gap_tokens) = self.engine.gap_tokens() else {
            let model = self.request.model;
            let name = model.name.as_ref().map(|name| name.full());
            let name = name.unwrap_or_else(|| model.label.clone());
            return Err(Error::usage(format!("{name} does not support insert")));
        };
        let gap_tokens = gap_tokens.map(|id| Segment {
            text: self.engine.text(&[id]),
            special: true,
        });
        let plain = |text: &str| Segment {
            text: text.to_string(),
            special: false,
        };
        let [before, behind, gap] = gap_tokens;
        Ok(Draft {
            segments: vec![before, plain(prompt), behind, plain(suffix), gap],
            notes: Vec::new(),
        })
    }

    fn chat(&self, messages: &[Message]) -> Result<Draft> {
        let mut messages = messages.to_vec();
        let mut tools = self.request.turn.tools.clone();
        let trusted = self.options.bool_or_default("parse_special");
        let none = Specials::new([])?;
        let specials = if trusted {
            &none
        } else {
            self.engine.specials()?
        };
        let hidden = escape::hide(&mut messages, &mut tools, specials);
        let rendered = self.template_choice.template.render(&Chat {
            messages: &messages,
            tools: &tools,
            think: self.think(),
            opens: true,
            begin: &self.begin,
            end: &self.end,
            now: self.now,
            variables: &self.request.turn.variables,
        })?;
        check_roles(&messages, &rendered.text)?;
        let mut segments = hidden.segments(&rendered.text, specials);
        if !self.request.turn.context.is_empty() {
            let text = self.engine.text(&self.request.turn.context);
            segments.insert(
                0,
                Segment {
                    text,
                    special: true,
                },
            );
        }
        Ok(Draft {
            segments,
            notes: rendered.notes,
        })
    }

    /// The thinking mode: a model that can think does by default.
    fn think(&self) -> Option<Think> {
        let format = self.template_choice.format();
        match self.request.turn.think {
            None if format.think.is_some() => Some(Think::On),
            think => think,
        }
    }

    /// Tokenises a draft; adds no begin token if the text already starts with it.
    fn tokens(&self, draft: &Draft) -> Vec<i32> {
        let mut tokens = Vec::new();
        for (index, segment) in draft.segments.iter().enumerate() {
            let brings =
                segment.special && !self.begin.is_empty() && segment.text.starts_with(&self.begin);
            let begin = index == 0 && self.engine.wants_begin() && !brings;
            tokens.extend(self.engine.tokens(&segment.text, begin, segment.special));
        }
        tokens
    }

    /// Drops messages, then the middle of the prompt, until it fits.
    fn truncated(
        &self,
        input: &Input,
        full: Draft,
        tokens: Vec<i32>,
        limit: usize,
    ) -> Result<(Draft, Vec<i32>)> {
        let (draft, tokens) = match input {
            Input::Chat(messages) => self.shortened(messages, limit)?.unwrap_or((full, tokens)),
            Input::Raw(_) | Input::Insert(..) => (full, tokens),
        };
        match tokens.len() < limit {
            true => Ok((draft, tokens)),
            false if self.request.turn.overflow == Overflow::WholeMessages => Err(Error::plain(
                Class::TooLong,
                "the prompt is longer than the context length currently available to the model; shorten the prompt, \
                 adjust the context length in settings, or use a model with a longer context length",
            )),
            false => {
                let tokens = self.without_middle(&tokens, limit);
                Ok((draft, tokens))
            }
        }
    }

    /// Drops messages from the front until the rest fits; system messages and the last one stay.
    fn shortened(&self, messages: &[Message], limit: usize) -> Result<Option<(Draft, Vec<i32>)>> {
        // A binary search, because each try renders and tokenises the remaining messages.
        let (mut low, mut high) = (1, messages.len().saturating_sub(1));
        let mut best = None;
        while low <= high {
            let dropped = usize::midpoint(low, high);
            let (front, rest) = messages.split_at(dropped);
            let systems = front
                .iter()
                .filter(|message| message.role == "system")
                .cloned();
            let remaining: Vec<Message> = systems.chain(rest.iter().cloned()).collect();
            let draft = self.chat(&remaining)?;
            let tokens = self.tokens(&draft);
            let fits = tokens.len() < limit;
            if fits || best.is_none() || dropped == messages.len() - 1 {
                best = Some((draft, tokens));
            }
            if fits {
                high = dropped - 1
            } else {
                low = dropped + 1
            }
        }
        Ok(best)
    }

    /// Refuses variables for a template that has none.
    fn check_variables(&self) -> Result<()> {
        let is_jinja = matches!(self.template_choice.template, Template::Jinja { .. });
        match self.request.turn.variables.first() {
            Some((name, _)) if !is_jinja => Err(Error::usage(format!(
                "chat_template_kwargs: the template of \"{}\" takes no '{}'",
                self.request.model.label,
                name.chars().take(80).collect::<String>()
            ))),
            _ => Ok(()),
        }
    }

    /// The error of a prompt for a context of `limit` tokens.
    fn too_long(&self, error: Error, limit: usize) -> Error {
        if limit >= self.engine.trained_tokens() {
            error.at_maximum()
        } else {
            error
        }
    }

    /// Keeps the first `num_keep` tokens and the end, leaving about half the context free.
    fn without_middle(&self, tokens: &[i32], limit: usize) -> Vec<i32> {
        let keep = front_tokens(self.options, self.engine).unwrap_or(limit);
        let keep = keep.min(limit.saturating_sub(2));
        let total = limit - ((limit - keep) / 2).max(1);
        let tail = tokens.len() - (total - keep);
        [&tokens[..keep], &tokens[tail..]].concat()
    }

    /// Cuts the longest message, or the raw text, so that the prompt fits and leaves room for
    /// `num_predict` tokens (at most half the context).
    fn cut_to_part(&self, input: &Input, part: Part, limit: usize) -> Result<(Draft, Vec<i32>)> {
        let answer = self
            .options
            .int("num_predict")
            .and_then(|count| usize::try_from(count).ok());
        let limit = limit
            .saturating_sub(answer.unwrap_or(0).min(limit / 2))
            .max(2);
        let text = match input {
            Input::Raw(text) | Input::Insert(text, _) => text,
            Input::Chat(messages) => messages
                .iter()
                .map(|message| &message.content)
                .max_by_key(|text| text.len())
                .unwrap_or(&self.begin),
        };
        let tokens = self.engine.tokens(text, false, false);
        let cut = |keep: usize| -> Result<_> {
            let cut = self.part(&tokens, part, keep);
            let draft = self.draft(&with(input, text, &cut))?;
            let found = self.tokens(&draft);
            Ok((draft, found))
        };
        let (draft, found) = cut(0)?;
        // A cut may change how the rest is rendered and tokenised, so what would fit is a guess to search from.
        let mut keep = limit.saturating_sub(found.len() + 1);
        if found.len() >= limit {
            let error = Error::too_long(found.len() + tokens.len(), limit);
            return Err(self.too_long(error, limit));
        }
        let (mut best, mut low, mut high) = ((draft, found), 1, tokens.len());
        let mut step = 1;
        let (mut above, mut below) = (false, false);
        while low <= high {
            keep = if above && below {
                usize::midpoint(low, high)
            } else {
                keep.clamp(low, high)
            };
            let (draft, found) = cut(keep)?;
            if found.len() < limit {
                best = (draft, found);
                (low, below) = (keep + 1, true);
                keep += step;
            } else {
                (high, above) = (keep - 1, true);
                keep = keep.saturating_sub(step);
            }
            step *= 2;
        }
        Ok(best)
    }

    fn part(&self, tokens: &[i32], part: Part, keep: usize) -> String {
        let (head, tail) = match part {
            Part::Head => (keep, 0),
            Part::Tail => (0, keep),
            Part::Ends => (keep.div_ceil(2), keep / 2),
        };
        self.engine.text(&tokens[..head]) + &self.engine.text(&tokens[tokens.len() - tail..])
    }
}

/// Refuses a message of a role of its own that the template left out. A template may know such roles: documents, say.
fn check_roles(messages: &[Message], rendered: &str) -> Result<()> {
    let is_own = |role: &str| !matches!(role, "system" | "user" | "assistant" | "tool");
    let is_there = |content: &str| {
        // A template may print a text as JSON.
        let escaped = || Json::from(content).to_string();
        rendered.contains(content) || rendered.contains(escaped().trim_matches('"'))
    };
    let is_lost = |message: &&Message| is_own(&message.role) && !is_there(message.content.trim());
    match messages.iter().find(is_lost) {
        Some(message) => Err(Error::usage(format!(
            "the model's template has no place for a message of the role '{}'",
            message.role.chars().take(80).collect::<String>()
        ))),
        None => Ok(()),
    }
}

/// The input with `text` replaced by `cut`.
fn with(input: &Input, text: &str, cut: &str) -> Input {
    match input {
        Input::Raw(_) => Input::Raw(cut.to_string()),
        Input::Insert(_, suffix) => Input::Insert(cut.to_string(), suffix.clone()),
        Input::Chat(messages) => {
            let mut is_found = false;
            let messages = messages.iter().map(|message| {
                if !is_found && message.content == text {
                    is_found = true;
                    return message.with_content(cut.to_string());
                }
                message.clone()
            });
            Input::Chat(messages.collect())
        }
    }
}
