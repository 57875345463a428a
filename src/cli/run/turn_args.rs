//! The request of a command line: the flags that `run`, `render` and others share, and the prompt.

use std::io::IsTerminal;

use serde_json::Value as Json;

use super::turn_flags::{
    ATTACH, FORMAT, GRAMMAR, MESSAGES, NUM_CTX, NUM_PREDICT, OPEN, OPTION, OVERFLOW, RAW, SCHEMA,
    SEED, STOP, SYSTEM, TEMPERATURE, THINK, TOOL_CHOICE, TOOLS,
};
use crate::cli::encoding::Encoding;
use crate::cli::parsed::Parsed;
use crate::cli::{stdin, transcript};
use crate::core::error::{Class, Error, Result};
use crate::core::json;
use crate::core::message::{Message, Think};
use crate::core::options::{Options, RETIRED};
use crate::core::turn::{Input, OutputConstraint, Overflow, Part, ToolChoice, TurnRequest};
use crate::core::unique_keys;
use crate::format::reply::schema;
use crate::format::wire::native;
use crate::format::wire::options::of_sampling;

/// A larger prompt on standard input is refused: it fits no context.
pub const PROMPT_BYTES_MAX: u64 = 64 << 20;
/// Largest file of tools, messages, a schema or a grammar.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The turn that the command line describes.
#[derive(Clone)]
pub struct Ask {
    /// The turn, without its input.
    pub turn: TurnRequest,
    /// The prompt.
    pub prompt: String,
    /// The part of the prompt from the command line, if standard input comes before it.
    pub question: Option<String>,
    /// Messages before the prompt.
    pub messages: Vec<Message>,
    /// The system text.
    pub system: Option<String>,
    /// The prompt is used without the chat template.
    pub raw: bool,
    /// A prompt that does not fit is answered piece by piece.
    pub reduces: bool,
    /// The encoding of standard input and of attached files.
    pub encoding: Encoding,
}

impl Ask {
    /// The prompt, if there is one, and the reply to it.
    pub fn with_reply(&self, reply: &Message) -> Vec<Message> {
        let prompt = (!self.prompt.is_empty()).then(|| Message::new("user", &self.prompt));
        prompt.into_iter().chain([reply.clone()]).collect()
    }

    /// Reads flags, files and standard input.
    ///
    /// # Errors
    /// `Usage` for a wrong command line, `Schema` for an invalid schema.
    pub fn read(parsed: &Parsed, overflow_words: &[&str]) -> Result<Self> {
        let words = &parsed.operands[1..];
        check_stdin_once(parsed, words.iter().any(|word| word == "-"))?;
        let mut ask = Self::without_prompt(parsed, overflow_words)?;
        let encoding = ask.encoding;
        let attached = attachments(parsed, encoding)?;
        // Messages or attached files alone may be the request.
        let has_request = parsed.has(&MESSAGES) || !attached.is_empty();
        let alone = words.is_empty() && has_request && (attached.is_empty() || is_watched());
        let prompt = if alone {
            String::new()
        } else {
            let (prompt, question) = prompt(words, ask.raw, encoding)?;
            ask.question = question;
            prompt
        };
        ask.prompt = if attached.is_empty() {
            prompt
        } else {
            attached + &prompt
        };
        Ok(ask)
    }

    /// Reads all but the prompt: the turn that a session starts from.
    ///
    /// # Errors
    /// As [`Ask::read`].
    pub fn without_prompt(parsed: &Parsed, overflow_words: &[&str]) -> Result<Self> {
        let mut messages = match parsed.value(&MESSAGES) {
            Some(path) => messages(path)?,
            None => Vec::new(),
        };
        messages.extend(transcript::earlier(parsed)?);
        let tools = match parsed.value(&TOOLS) {
            Some(path) => tools(path)?,
            None => Vec::new(),
        };
        let overflow = parsed
            .value(&OVERFLOW)
            .map(|word| overflow(word, overflow_words));
        let turn = TurnRequest {
            options: options(parsed)?,
            tool_choice: parsed
                .value(&TOOL_CHOICE)
                .map_or_else(Default::default, tool_choice),
            think: think(parsed)?,
            constraint: constraint(parsed)?,
            overflow: overflow
                .transpose()?
                .flatten()
                .map_or(Overflow::Error, Overflow::Keep),
            tools: tools.iter().map(native::tool).collect::<Result<_>>()?,
            bounded: true,
            ..TurnRequest::new(parsed.operands[0].as_str(), None)
        };
        let ask = Ask {
            turn,
            system: parsed.value(&SYSTEM).map(str::to_string),
            prompt: String::new(),
            question: None,
            messages,
            raw: parsed.has(&RAW),
            reduces: parsed.value(&OVERFLOW) == Some("reduce"),
            encoding: Encoding::read(parsed)?,
        };
        let turn = &ask.turn;
        if ask.raw && (ask.system.is_some() || !ask.messages.is_empty() || !turn.tools.is_empty()) {
            return Err(Error::usage(
                "--raw cannot be used with --system, --messages, --continue or --tools",
            ));
        }
        turn.check_tools()?;
        if parsed.has(&TOOL_CHOICE) && turn.tools.is_empty() {
            return Err(Error::usage("--tool-choice needs --tools"));
        }
        if turn.constraint != OutputConstraint::None && !turn.tools.is_empty() {
            return Err(Error::usage(
                "--tools cannot be used with --format, --schema or --grammar",
            ));
        }
        Ok(ask)
    }

    /// The conversation of the turn, without the messages of the model's own Modelfile.
    pub fn conversation(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text));
        let user = (!self.prompt.is_empty()).then(|| Message::new("user", &self.prompt));
        system
            .chain(self.messages.iter().cloned())
            .chain(user)
            .collect()
    }

    /// About how many tokens of prompt and answer the turn computes: a token has four bytes on average, and an
    /// answer without a limit is taken to have 256.
    ///
    /// An answer that shall come out the same every time counts as endless: its weights lie as in a server.
    pub fn work(&self) -> (usize, usize) {
        const ENDLESS: usize = u32::MAX as usize;
        const BYTES_A_TOKEN: usize = 4;
        const ANSWER_TOKENS: i64 = 256;
        let options = &self.turn.options;
        if options.int("seed").is_some() || options.float("temperature") == Some(0.0) {
            return (ENDLESS, ENDLESS);
        }
        let earlier = self.messages.iter().map(|message| message.content.len());
        let system = self.system.as_ref().map_or(0, String::len);
        let bytes = self.prompt.len() + system + earlier.sum::<usize>();
        let limit = options.int("num_predict").filter(|limit| *limit >= 0);
        (
            bytes / BYTES_A_TOKEN,
            limit.unwrap_or(ANSWER_TOKENS) as usize,
        )
    }

    /// The turn with its input.
    pub fn turn(&self) -> TurnRequest {
        let input = if self.raw {
            Input::Raw(self.prompt.clone())
        } else {
            Input::Chat(self.conversation())
        };
        TurnRequest {
            input: Some(input),
            ..self.turn.clone()
        }
    }
}

/// Checks that standard input is read only once, as the prompt or as one of the files.
fn check_stdin_once(parsed: &Parsed, prompt: bool) -> Result<()> {
    let flags = [&MESSAGES, &TOOLS, &SCHEMA, &GRAMMAR].map(|flag| parsed.value(flag));
    let format = parsed
        .value(&FORMAT)
        .and_then(|word| word.strip_prefix('@'));
    let files = flags.into_iter().chain([format]).flatten();
    let files = files.chain(parsed.values(&ATTACH));
    match files.filter(|file| *file == "-").count() + usize::from(prompt) {
        0 | 1 => Ok(()),
        _ => Err(Error::usage("standard input can be read only once")),
    }
}

/// Checks the options of a command that draws no token.
///
/// # Errors
/// `Usage` for an option of sampling.
pub fn draws_nothing(options: &Options) -> Result<()> {
    match of_sampling(options).next() {
        Some(name) => {
            let text = format!("nothing is drawn here, so that '{name}' has no effect");
            Err(Error::usage(text))
        }
        None => Ok(()),
    }
}

/// The options of `-o` and of the flags that stand for one.
///
/// # Errors
/// `Usage` for an unknown option or a wrong value.
pub fn options(parsed: &Parsed) -> Result<Options> {
    let mut options = Options::default();
    for pair in parsed.values(&OPTION) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("--option needs KEY=VALUE, not '{pair}'")))?;
        if key.trim() == "stop" && value.is_empty() {
            return Err(Error::usage("--option stop needs a text"));
        }
        if !RETIRED.contains(&key.trim()) {
            options.set_text(key.trim(), value)?;
        }
    }
    for text in parsed.values(&STOP) {
        if text.is_empty() {
            return Err(Error::usage("--stop needs a text"));
        }
    }
    for (flag, key) in [
        (&SEED, "seed"),
        (&TEMPERATURE, "temperature"),
        (&NUM_PREDICT, "num_predict"),
        (&NUM_CTX, "num_ctx"),
    ] {
        if let Some(value) = parsed.value(flag) {
            let mut given = parsed
                .values(&OPTION)
                .filter_map(|pair| pair.split_once('='));
            if given.any(|(name, _)| name.trim() == key) {
                let text = format!("--{} and --option {key} cannot be used together", flag.long);
                return Err(Error::usage(text));
            }
            if key == "num_ctx" {
                parsed.number(flag, 1..=usize::MAX)?;
            }
            options.set_text(key, value)?;
        }
    }
    for text in parsed.values(&STOP) {
        options.set_text("stop", text)?;
    }
    Ok(options)
}

fn think(parsed: &Parsed) -> Result<Option<Think>> {
    match parsed.value(&THINK) {
        None => Ok(None),
        Some("") => Ok(Some(Think::On)),
        Some(word) => match Think::parse(word) {
            Some(think) => Ok(Some(think)),
            None => Err(Error::usage(format!(
                "--think must be true, false, low, medium, high or max, not '{word}'"
            ))),
        },
    }
}

/// The output constraint of `--format`, `--schema` or `--grammar`; at most one may be given.
fn constraint(parsed: &Parsed) -> Result<OutputConstraint> {
    let (format, given, grammar) = (
        parsed.value(&FORMAT),
        parsed.value(&SCHEMA),
        parsed.value(&GRAMMAR),
    );
    parsed.only_one(&[(&FORMAT, ()), (&SCHEMA, ()), (&GRAMMAR, ())])?;
    let has_schema = given.is_some() || format.is_some_and(|word| word.starts_with('@'));
    if parsed.has(&OPEN) && !has_schema {
        return Err(Error::usage("--open needs --schema"));
    }
    if let Some(path) = grammar {
        return Ok(OutputConstraint::Grammar(file(path)?));
    }
    let path = match (format, given) {
        (Some("json"), _) => return Ok(OutputConstraint::Json),
        (Some(word), _) => match word.strip_prefix('@') {
            Some(path) => path,
            None => {
                return Err(Error::usage(format!(
                    "--format must be json or @FILE with a schema, not '{word}'"
                )));
            }
        },
        (None, Some(path)) => path,
        (None, None) => return Ok(OutputConstraint::None),
    };
    let is_inline = path.trim_start().starts_with('{');
    let name = if is_inline { "--schema" } else { path };
    let wrong =
        |why: String| Error::plain(Class::Schema, format!("{name} is not a JSON Schema: {why}"));
    let text = if is_inline {
        path.to_string()
    } else {
        file(path)?
    };
    match unique_keys::parse(&text) {
        Ok(given @ Json::Object(_)) => {
            let opens = parsed.has(&OPEN);
            let given = if opens { schema::open(given) } else { given };
            Ok(OutputConstraint::Schema(schema::compact(given)))
        }
        Ok(_) => Err(wrong("it is not an object".into())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

fn tools(path: &str) -> Result<Vec<Json>> {
    match json_file(path)? {
        Json::Array(tools) => Ok(tools),
        tool @ Json::Object(_) => Ok(vec![tool]),
        _ => Err(Error::usage(format!(
            "{path}: tools must be a list of functions"
        ))),
    }
}

/// The tool choice: a keyword, or the function of this name.
fn tool_choice(word: &str) -> ToolChoice {
    match word {
        "auto" => ToolChoice::Auto,
        "none" => ToolChoice::None,
        "required" => ToolChoice::Required,
        name => ToolChoice::Named(name.to_string()),
    }
}

fn messages(path: &str) -> Result<Vec<Message>> {
    let wire: std::result::Result<Vec<native::Message>, _> =
        serde_json::from_value(json_file(path)?);
    let wire = wire.map_err(|error| {
        Error::usage(format!(
            "{path}: messages must be a list as in the API: {error}"
        ))
    })?;
    if wire.is_empty() {
        return Err(Error::usage(format!("{path} has no message")));
    }
    let checked = wire.into_iter().enumerate().map(|(index, wire)| {
        let wrong = |error| Error::usage(format!("{path}, message {}: {error}", index + 1));
        transcript::checked_message(wire).map_err(wrong)
    });
    checked.collect()
}

fn json_file(path: &str) -> Result<Json> {
    unique_keys::parse(&json::repaired(file(path)?))
        .map_err(|error| Error::usage(format!("{path} is not JSON: {error}")))
}

/// A file's text.
///
/// # Errors
/// If it cannot be read, is too large, or is not UTF-8.
pub fn file(path: &str) -> Result<String> {
    stdin::read_text(path, FILE_BYTES_MAX)
}

/// The texts of all files that `--attach` names.
fn attachments(parsed: &Parsed, encoding: Encoding) -> Result<String> {
    let attachment = |path| attachment(path, encoding);
    parsed.values(&ATTACH).map(attachment).collect()
}

/// A text file as part of a prompt: a line with its name, then its content.
///
/// # Errors
/// If it cannot be read, is too large, or is not text.
pub fn attachment(path: &str, encoding: Encoding) -> Result<String> {
    let bytes = stdin::read_input(path, FILE_BYTES_MAX)?;
    if bytes.contains(&0) {
        let text = format!("{path} is not text: only text files can be attached");
        return Err(Error::usage(text));
    }
    let text = encoding.decode(bytes, path)?;
    Ok(format!("==> {path} <==\n{}\n\n", text.trim_end()))
}

/// The values of `--overflow` in every other command.
pub const OVERFLOWS: &[&str] = &["error", "head", "tail", "middle"];

/// The part to keep of a text that does not fit; `None` where that is an error, or left to the caller
/// (`reduce`).
fn overflow(word: &str, words: &[&str]) -> Result<Option<Part>> {
    if words.contains(&word) {
        return Ok(Part::parse(word));
    }
    let (last, first) = words.split_last().expect("there are words");
    Err(Error::usage(format!(
        "--overflow must be {} or {last}, not '{word}'",
        first.join(", ")
    )))
}

fn is_watched() -> bool {
    std::io::stdin().is_terminal()
}

/// The prompt from the words after the model, standard input, or both. The second value is the words,
/// if both are present.
fn prompt(words: &[String], raw: bool, encoding: Encoding) -> Result<(String, Option<String>)> {
    let named = words.iter().any(|word| word == "-");
    let spoken = words
        .iter()
        .filter(|word| *word != "-")
        .cloned()
        .collect::<Vec<_>>()
        .join(" ");
    let no_prompt =
        || Error::usage("no prompt: give one after the model's name, or on standard input");
    // Blank words do not make us read standard input, which may belong to a shell loop.
    if !named && !words.is_empty() {
        return if spoken.trim().is_empty() {
            Err(no_prompt())
        } else {
            Ok((spoken, None))
        };
    }
    if !named && is_watched() {
        return Err(no_prompt());
    }
    let piped = stdin::standard_input(PROMPT_BYTES_MAX).map_err(|error| match error.class() {
        Class::Usage => Error::plain(Class::TooLong, "standard input is larger than any context"),
        _ => error,
    })?;
    // It may be large: it becomes the prompt without a copy.
    let mut prompt = encoding.decode(piped, "standard input")?;
    if !raw {
        prompt.truncate(prompt.trim_end_matches(['\n', '\r']).len());
    }
    match (prompt.trim().is_empty(), spoken.is_empty()) {
        (true, true) => Err(no_prompt()),
        // It was named, so that nothing in it is a broken pipe and not a wish.
        (true, false) => Err(Error::usage("standard input is empty")),
        (false, true) => Ok((prompt, None)),
        (false, false) => {
            prompt.truncate(prompt.trim_end_matches('\n').len());
            prompt.push_str("\n\n");
            prompt.push_str(&spoken);
            Ok((prompt, Some(spoken)))
        }
    }
}
