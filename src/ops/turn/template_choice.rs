//! The template choice of a model: which of its templates is in force, compiled once, and the format of its
//! answers.

use std::sync::{Arc, Mutex, OnceLock};

use crate::core::error::{Error, Result};
use crate::core::lock::LockExt;
use crate::format::gguf::Header;
use crate::format::manifest::Config;
use crate::format::reply::Format;
use crate::format::template::named::Named;
use crate::format::template::{GoTemplate, Template};
use crate::ops::model::Model;

/// Compiled templates to cache; a server rarely uses more models in turn.
const COMPILED_MAX: usize = 32;

/// Which template a model uses, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The TEMPLATE of its Modelfile.
    Go(&'a str),
    /// The chat template of its GGUF, and the one for conversations with tools.
    Gguf(&'a str, Option<&'a str>),
    /// None: the model continues the prompt as it is.
    None,
}

/// A compiled template, and the answers that it implies.
pub struct TemplateChoice {
    /// Renders messages to prompts.
    pub template: Template,
    abilities: Vec<&'static str>,
    source: String,
    format: OnceLock<Arc<Format>>,
}

impl TemplateChoice {
    /// Compiles what was chosen.
    ///
    /// # Errors
    /// The mistake in the template.
    pub fn compile(choice: Choice) -> Result<Self> {
        let (template, source) = match choice {
            Choice::Go(source) => (Template::from_text(source)?, source),
            Choice::Gguf(chat, tools) => (Template::from_gguf(chat, tools)?, tools.unwrap_or(chat)),
            Choice::None => (Template::Completion, ""),
        };
        Ok(TemplateChoice {
            template,
            abilities: choice.abilities(),
            source: source.to_string(),
            format: OnceLock::new(),
        })
    }

    /// True if it can do `word`: `tools`, `thinking` or `insert`.
    pub fn can(&self, word: &str) -> bool {
        self.abilities.contains(&word)
    }

    /// The format of its answers, derived from the template at the first call.
    pub fn format(&self) -> Arc<Format> {
        let format = self
            .format
            .get_or_init(|| Arc::new(Format::detect(&self.template, &self.source)));
        format.clone()
    }
}

/// Compiled templates, by their texts.
#[derive(Default)]
pub struct TemplateChoices(Mutex<Vec<(String, Arc<TemplateChoice>)>>);

impl TemplateChoices {
    /// The compiled template of a choice; compiles it at the first call.
    ///
    /// # Errors
    /// As [`TemplateChoice::compile`].
    pub fn compiled(&self, choice: Choice) -> Result<Arc<TemplateChoice>> {
        let key = match choice {
            Choice::Go(source) => format!("go {source}"),
            Choice::Gguf(chat, tools) => format!("gguf {chat}\0{}", tools.unwrap_or_default()),
            Choice::None => String::new(),
        };
        let compiled_choices = || self.0.locked();
        if let Some((_, template_choice)) =
            compiled_choices().iter().find(|(known, _)| *known == key)
        {
            return Ok(template_choice.clone());
        }
        let template_choice = Arc::new(TemplateChoice::compile(choice)?);
        let mut compiled_choices = compiled_choices();
        if compiled_choices.len() >= COMPILED_MAX {
            compiled_choices.remove(0);
        }
        compiled_choices.push((key, template_choice.clone()));
        Ok(template_choice)
    }
}

/// The inputs of the template choice.
#[derive(Debug, Clone, Copy)]
pub struct Sources<'a> {
    /// The GGUF's header.
    pub header: &'a Header,
    /// The model's config.
    pub config: &'a Config,
    /// Its TEMPLATE.
    pub go: Option<&'a str>,
    /// True if that TEMPLATE comes from a Modelfile of this store's owner.
    pub given: bool,
    /// The built-in template that its vocabulary indicates.
    pub detected: Option<&'static Named>,
}

impl<'a> Sources<'a> {
    /// The inputs from a model.
    pub fn from_model(model: &'a Model) -> Self {
        Sources {
            header: &model.header,
            config: &model.config,
            go: model.go_template.as_deref(),
            given: model.template_given,
            detected: model.detected,
        }
    }

    /// Chooses the template. Also returns the reason, as display text.
    ///
    /// # Errors
    /// If the config names a renderer that puna lacks and there is no template instead.
    pub fn choose(self) -> Result<(Choice<'a>, &'static str)> {
        let chat = self
            .header
            .chat_template()
            .filter(|text| !text.trim().is_empty());
        let tools = self.header.text("tokenizer.chat_template.tool_use");
        let gguf = chat.map(|chat| Choice::Gguf(chat, tools));
        let renderer = self.config.renderer.as_str();
        Ok(match (self.go, gguf) {
            (Some(go), _) if self.given => (Choice::Go(go), "TEMPLATE of the Modelfile"),
            (Some(go), Some(gguf)) if prefers_gguf(go, chat.unwrap_or_default()) => (
                gguf,
                "chat template of the GGUF: it can do more than the TEMPLATE",
            ),
            (_, Some(gguf)) if !renderer.is_empty() => (
                gguf,
                "chat template of the GGUF, in place of the renderer that the config names",
            ),
            (Some(go), _) => (Choice::Go(go), "TEMPLATE of the model"),
            (None, Some(gguf)) => (gguf, "chat template of the GGUF"),
            (None, None) if !renderer.is_empty() => {
                return Err(Error::failed(format!(
                    "the model wants the built-in renderer '{renderer}', which puna lacks, and has no template"
                )));
            }
            (None, None) if !self.config.parser.is_empty() => {
                return Err(Error::failed(format!(
                    "the model wants the built-in parser '{}', which puna lacks, and has no template to derive one from",
                    self.config.parser
                )));
            }
            (None, None) => match self.detected {
                Some(named) => (
                    Choice::Go(named.template),
                    "built-in, by tokens of the vocabulary: the model has none",
                ),
                None => (
                    Choice::None,
                    "none: the model continues the prompt as it is",
                ),
            },
        })
    }
}

impl Choice<'_> {
    /// The template's abilities, in the words of the API's capabilities.
    pub fn abilities(self) -> Vec<&'static str> {
        match self {
            Choice::Go(source) => go_abilities(source),
            Choice::Gguf(chat, None) => gguf_abilities(chat),
            Choice::Gguf(chat, Some(tools)) => gguf_abilities(&format!("{chat}{tools}")),
            Choice::None => Vec::new(),
        }
    }
}

/// The abilities of a TEMPLATE, in the words of the API's capabilities.
fn go_abilities(source: &str) -> Vec<&'static str> {
    let Ok(template) = GoTemplate::compile(source) else {
        return Vec::new();
    };
    let words = [
        ("Tools", "tools"),
        ("Suffix", "insert"),
        ("Thinking", "thinking"),
    ];
    words
        .iter()
        .filter(|(name, _)| template.mentions(name))
        .map(|(_, word)| *word)
        .collect()
}

/// The abilities of a GGUF's chat template.
fn gguf_abilities(source: &str) -> Vec<&'static str> {
    let mut words = Vec::new();
    if source.contains("tools") || source.contains("tool_call") {
        words.push("tools");
    }
    let splits = source.contains("split('</think>')") || source.contains("split(\"</think>\")");
    let reasons = source.contains("reasoning_content") || source.contains("<SPECIAL_12>");
    let tags = source.contains("<think>") && source.contains("</think>");
    // Switches and tags of model families whose thinking the reference recognises by name.
    let others = [
        "enable_thinking",
        "reasoning_effort",
        "[THINK]",
        "<|START_THINKING|>",
        "<seed:think>",
    ];
    if tags || (splits && !reasons) || others.iter().any(|marker| source.contains(marker)) {
        words.push("thinking");
    }
    words
}

/// True if the GGUF's own template can do more than the TEMPLATE, or as much and only it renders tool calls
/// and their results.
fn prefers_gguf(go: &str, gguf: &str) -> bool {
    let (go_words, from_gguf) = (go_abilities(go), gguf_abilities(gguf));
    let go_words: Vec<_> = go_words
        .into_iter()
        .filter(|word| *word != "insert")
        .collect();
    let within = |a: &[&str], b: &[&str]| a.iter().all(|word| b.contains(word));
    let round_go = go.contains(".ToolCalls") && go.contains("\"tool\"");
    let round_gguf =
        gguf.contains("tool_calls") && (gguf.contains("'tool'") || gguf.contains("\"tool\""));
    let more = within(&go_words, &from_gguf) && from_gguf.len() > go_words.len();
    let same = within(&go_words, &from_gguf) && from_gguf.len() == go_words.len();
    (more && (!round_go || round_gguf))
        || (same && go_words.contains(&"tools") && round_gguf && !round_go)
}
