//! What `run` and `render` are asked: the flags and the prompt that they share.

use std::io::IsTerminal;

use serde_json::Value as Json;

use super::parse::Parsed;
use super::spec::{Flag, maybe, option, switch};
use super::transcript;
use crate::api::native;
use crate::chat::{self, Input, Overflow, Part, Promise, Request, ToolChoice};
use crate::error::{Class, Error, Result};
use crate::message::{Message, Think, Tool};
use crate::model::Model;
use crate::options::{Options, RETIRED};

pub const SYSTEM: Flag = option(
    "system",
    Some('s'),
    "TEXT",
    "system text, instead of the model's own",
);
pub const OPTION: Flag = option(
    "option",
    Some('o'),
    "KEY=VALUE",
    "set an option of the API, such as top_k=1; may be repeated",
);
pub const SEED: Flag = option("seed", None, "N", "same seed, same answer");
pub const TEMPERATURE: Flag = option(
    "temperature",
    None,
    "T",
    "0: always the likeliest token; higher is wilder",
);
pub const FORMAT: Flag = option(
    "format",
    None,
    "json|@FILE",
    "answer in JSON, or in JSON of the schema in FILE",
);
pub const SCHEMA: Flag = option(
    "schema",
    None,
    "FILE",
    "answer in JSON of the schema in FILE",
);
pub const GRAMMAR: Flag = option(
    "grammar",
    None,
    "FILE",
    "answer in a text of the GBNF grammar in FILE",
);
pub const MESSAGES: Flag = option(
    "messages",
    None,
    "FILE",
    "the conversation before the prompt, as the API's JSON list",
);
pub const TOOLS: Flag = option(
    "tools",
    None,
    "FILE",
    "functions that the model may call, as the API's JSON list",
);
pub const TOOL_CHOICE: Flag = option(
    "tool-choice",
    None,
    "WHICH",
    "which of the tools must be called: auto, none, required or a name",
);
pub const THINK: Flag = maybe(
    "think",
    "LEVEL",
    "think before the answer: true, false, low, medium, high or max",
);
pub const RAW: Flag = switch(
    "raw",
    None,
    "take the prompt as it is, without the model's template",
);
pub const OVERFLOW: Flag = option(
    "overflow",
    None,
    "PART",
    "a prompt that does not fit: error, keep its head or tail, or drop its middle; with run also reduce",
);

pub const ATTACH: Flag = option(
    "attach",
    Some('a'),
    "FILE",
    "put a text file before the prompt, under its name; may be repeated",
);

/// A prompt on standard input larger than this is refused: no context holds it.
pub const PROMPT_BYTES_MAX: u64 = 64 << 20;
/// Largest file of tools, of a schema, of a grammar or of messages.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What was asked on the command line.
#[derive(Clone)]
pub struct Ask {
    /// The model's name or path.
    pub model: String,
    /// The prompt.
    pub prompt: String,
    /// The part of it that stood on the command line, behind what came on standard input.
    pub question: Option<String>,
    /// Messages before it.
    pub messages: Vec<Message>,
    /// The system text.
    pub system: Option<String>,
    /// Options.
    pub options: Options,
    /// The prompt is taken as it is.
    pub raw: bool,
    /// The tools as they were given, and as they were read.
    pub tools: (Vec<Json>, Vec<Tool>),
    /// Which of them must be called.
    pub tool_choice: Option<Json>,
    /// Whether to think.
    pub think: Option<Think>,
    /// What the answer must look like.
    pub promise: Promise,
    /// What to keep of too long a prompt.
    pub overflow: Option<Part>,
    /// A prompt that does not fit is answered piece by piece.
    pub reduces: bool,
    /// The oldest messages may go where the conversation does not fit.
    pub forgets: bool,
}

impl Ask {
    /// Reads flags, files and standard input.
    ///
    /// # Errors
    /// `Usage` for what is wrong with the command line, `Schema` for a schema that is none.
    pub fn of(parsed: &Parsed) -> Result<Self> {
        let words = &parsed.operands[1..];
        once(parsed, words.iter().any(|word| word == "-"))?;
        let mut ask = Self::without_prompt(parsed)?;
        let attached = attachments(parsed)?;
        // Messages or files may say all there is to say.
        let told = parsed.has("messages") || !attached.is_empty();
        let alone = words.is_empty() && told && (attached.is_empty() || is_watched());
        let prompt = match alone {
            true => String::new(),
            false => {
                let (prompt, question) = prompt(words, ask.raw)?;
                ask.question = question;
                prompt
            }
        };
        ask.prompt = attached + &prompt;
        Ok(ask)
    }

    /// The same without the prompt: what a session starts from.
    ///
    /// # Errors
    /// As [`Ask::of`].
    pub fn without_prompt(parsed: &Parsed) -> Result<Self> {
        let raw = parsed.has("raw");
        let mut messages = match parsed.value("messages") {
            Some(path) => messages(path)?,
            None => Vec::new(),
        };
        messages.extend(transcript::earlier(parsed)?);
        let tools = match parsed.value("tools") {
            Some(path) => tools(path)?,
            None => Vec::new(),
        };
        // Several answers are needed for that: only run gives them.
        let reduces = parsed.value("overflow") == Some("reduce") && parsed.command.name == "run";
        let overflow = parsed.value("overflow");
        let overflow = overflow.filter(|word| *word != "error" && !reduces);
        let overflow = overflow.map(|word| {
            let part = Part::parse(word);
            part.ok_or_else(|| {
                let words = match parsed.command.name {
                    "run" => "error, head, tail, middle or reduce",
                    _ => "error, head, tail or middle",
                };
                Error::usage(format!("--overflow is {words}, not '{word}'"))
            })
        });
        let ask = Ask {
            model: parsed.operands[0].clone(),
            options: options(parsed)?,
            tool_choice: parsed.value("tool-choice").map(tool_choice),
            think: think(parsed)?,
            promise: promise(parsed)?,
            overflow: overflow.transpose()?,
            system: parsed.value("system").map(str::to_string),
            tools: (
                tools.clone(),
                tools.iter().map(native::tool).collect::<Result<_>>()?,
            ),
            prompt: String::new(),
            question: None,
            messages,
            raw,
            reduces,
            forgets: false,
        };
        if ask.raw && (ask.system.is_some() || !ask.messages.is_empty() || !ask.tools.1.is_empty())
        {
            return Err(Error::usage(
                "--raw takes the prompt as it is: no --system, --messages or --tools",
            ));
        }
        ToolChoice::of_json(ask.tool_choice.as_ref())?.among(&ask.tools.1)?;
        if ask.promise != Promise::None && !ask.tools.1.is_empty() {
            return Err(Error::usage(
                "--tools and --format, --schema or --grammar exclude each other",
            ));
        }
        Ok(ask)
    }

    /// The conversation that was asked for, without what the model brings.
    pub fn conversation(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let user = (!self.prompt.is_empty()).then(|| Message::new("user", &self.prompt));
        system
            .chain(self.messages.iter().cloned())
            .chain(user)
            .collect()
    }

    /// The request for a model in this process.
    pub fn request<'a>(&self, model: &'a Model) -> Request<'a> {
        let input = match self.raw {
            true => Input::Raw(self.prompt.clone()),
            false => Input::Chat(chat::conversation(model, self.conversation())),
        };
        Request {
            tools: self.tools.1.clone(),
            tool_choice: ToolChoice::of_json(self.tool_choice.as_ref()).unwrap_or_default(),
            think: self.think,
            promise: self.promise.clone(),
            options: self.options.clone(),
            overflow: match self.overflow {
                Some(part) => Overflow::Keep(part),
                None if self.forgets => Overflow::Truncate,
                None => Overflow::Error,
            },
            ..Request::new(model, input)
        }
    }
}

/// Standard input can be read once only: as the prompt, or as one of the files.
fn once(parsed: &Parsed, prompt: bool) -> Result<()> {
    let flags = ["messages", "tools", "schema", "grammar"].map(|flag| parsed.value(flag));
    let format = parsed
        .value("format")
        .and_then(|word| word.strip_prefix('@'));
    let files = flags.into_iter().chain([format]).flatten();
    let files = files.chain(parsed.values("attach"));
    match files.filter(|file| *file == "-").count() + usize::from(prompt) {
        0 | 1 => Ok(()),
        _ => Err(Error::usage("standard input can be read once only")),
    }
}

/// The options of `-o` and of the flags that stand for some.
///
/// # Errors
/// `Usage` for what is wrong.
pub fn options(parsed: &Parsed) -> Result<Options> {
    let mut options = Options::default();
    for pair in parsed.values("option") {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("--option needs KEY=VALUE, not '{pair}'")))?;
        if !RETIRED.contains(&key.trim()) {
            options.set_text(key.trim(), value)?;
        }
    }
    for (flag, key) in [
        ("seed", "seed"),
        ("temperature", "temperature"),
        ("num-predict", "num_predict"),
        ("num-ctx", "num_ctx"),
    ] {
        if let Some(value) = parsed.value(flag) {
            options.set_text(key, value)?;
        }
    }
    for text in parsed.values("stop") {
        options.set_text("stop", text)?;
    }
    Ok(options)
}

fn think(parsed: &Parsed) -> Result<Option<Think>> {
    match parsed.value("think") {
        None => Ok(None),
        Some("") => Ok(Some(Think::On)),
        Some(word) => match Think::parse(word) {
            Some(think) => Ok(Some(think)),
            None => Err(Error::usage(format!(
                "--think is true, false, low, medium, high or max, not '{word}'"
            ))),
        },
    }
}

/// `--format`, `--schema` and `--grammar`: one of them.
fn promise(parsed: &Parsed) -> Result<Promise> {
    let (format, schema, grammar) = (
        parsed.value("format"),
        parsed.value("schema"),
        parsed.value("grammar"),
    );
    let given = [format, schema, grammar].into_iter().flatten().count();
    if given > 1 {
        return Err(Error::usage(
            "--format, --schema and --grammar exclude each other",
        ));
    }
    if let Some(path) = grammar {
        return Ok(Promise::Grammar(file(path)?));
    }
    let path = match (format, schema) {
        (Some("json"), _) => return Ok(Promise::Json),
        (Some(word), _) => match word.strip_prefix('@') {
            Some(path) => path,
            None => {
                return Err(Error::usage(format!(
                    "--format is json or @FILE with a schema, not '{word}'"
                )));
            }
        },
        (None, Some(path)) => path,
        (None, None) => return Ok(Promise::None),
    };
    let wrong =
        |why: String| Error::plain(Class::Schema, format!("{path} is no JSON Schema: {why}"));
    match serde_json::from_str(&file(path)?) {
        Ok(schema @ Json::Object(_)) => Ok(Promise::Schema(schema)),
        Ok(_) => Err(wrong("it is no object".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn tools(path: &str) -> Result<Vec<Json>> {
    match json(path)? {
        Json::Array(tools) => Ok(tools),
        tool @ Json::Object(_) => Ok(vec![tool]),
        _ => Err(Error::usage(format!(
            "{path}: tools are a list of functions"
        ))),
    }
}

/// A word of the API's, or a function by its name.
fn tool_choice(word: &str) -> Json {
    match word {
        "auto" | "none" | "required" => word.into(),
        name => serde_json::json!({ "type": "function", "function": { "name": name } }),
    }
}

fn messages(path: &str) -> Result<Vec<Message>> {
    let wire: std::result::Result<Vec<native::Message>, _> = serde_json::from_value(json(path)?);
    let wire = wire.map_err(|error| {
        Error::usage(format!(
            "{path}: messages are a list as in the API: {error}"
        ))
    })?;
    Ok(wire.into_iter().map(Into::into).collect())
}

fn json(path: &str) -> Result<Json> {
    serde_json::from_str(&file(path)?)
        .map_err(|error| Error::usage(format!("{path} is no JSON: {error}")))
}

/// A file's text.
///
/// # Errors
/// If it cannot be read, is too large, or is no text.
pub fn file(path: &str) -> Result<String> {
    super::read_text(path, FILE_BYTES_MAX)
}

/// The texts of all files that `--attach` names.
fn attachments(parsed: &Parsed) -> Result<String> {
    parsed.values("attach").map(attachment).collect()
}

/// A text file as it stands in a prompt: a line with its name, then its content.
///
/// # Errors
/// If it cannot be read, is too large, or is no text.
pub fn attachment(path: &str) -> Result<String> {
    let bytes = super::read_input(path, FILE_BYTES_MAX)?;
    let text = String::from_utf8(bytes)
        .ok()
        .filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| {
        Error::usage(format!(
            "{path} is no text: only texts can be attached so far"
        ))
    })?;
    Ok(format!("==> {path} <==\n{}\n\n", text.trim_end()))
}

fn is_watched() -> bool {
    std::io::stdin().is_terminal()
}

/// The prompt from the words after the model, standard input, or both; and the words, if there are
/// both.
fn prompt(words: &[String], raw: bool) -> Result<(String, Option<String>)> {
    let named = words.iter().any(|word| word == "-");
    let spoken = words
        .iter()
        .filter(|word| *word != "-")
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    let no_prompt =
        || Error::usage("no prompt: give one after the model's name, or on standard input");
    // Words that say nothing are no reason to read what may be a loop's input.
    if !named && !words.is_empty() {
        return match spoken.trim().is_empty() {
            true => Err(no_prompt()),
            false => Ok((spoken, None)),
        };
    }
    if !named && is_watched() {
        return Err(no_prompt());
    }
    let piped = super::standard_input(PROMPT_BYTES_MAX).map_err(|error| match error.class() {
        Class::Usage => Error::plain(Class::TooLong, "standard input is larger than any context"),
        _ => error,
    })?;
    let piped =
        String::from_utf8(piped).map_err(|_| Error::usage("standard input is not UTF-8 text"))?;
    let piped = if raw {
        &piped
    } else {
        piped.trim_end_matches(['\n', '\r'])
    };
    match (piped.trim().is_empty(), spoken.is_empty()) {
        (true, true) => Err(no_prompt()),
        (true, false) => Ok((spoken, None)),
        (false, true) => Ok((piped.to_string(), None)),
        (false, false) => {
            let prompt = format!("{}\n\n{spoken}", piped.trim_end_matches('\n'));
            Ok((prompt, Some(spoken)))
        }
    }
}
