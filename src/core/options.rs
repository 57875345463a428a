//! The API's option names: their types, ranges and defaults, for every way of giving one.
//!
//! `-o KEY=VALUE`, PARAMETER lines and JSON all go through [`Options::set`].

use std::fmt;

use super::error::{Error, Result};
use super::name;

/// The type and range of an option's value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A whole number in this range, both ends included.
    Int(i64, i64),
    /// A number in this range, both ends included.
    Float(f64, f64),
    /// `true` or `false`.
    Bool,
    /// A list of texts.
    Texts,
}

/// The value given for an option.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// `true` or `false`.
    Bool(bool),
    /// A list of texts.
    Texts(Vec<String>),
}

/// The value that holds where an option is not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DefaultValue {
    /// This whole number.
    Int(i64),
    /// This number.
    Float(f64),
    /// This switch position.
    Bool(bool),
    /// No fixed value: where it comes from, in a few words.
    Words(&'static str),
}

impl fmt::Display for DefaultValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DefaultValue::Int(value) => write!(out, "{value}"),
            DefaultValue::Float(value) => write!(out, "{value}"),
            DefaultValue::Bool(value) => write!(out, "{value}"),
            DefaultValue::Words(words) => out.write_str(words),
        }
    }
}

/// An option.
#[derive(Debug)]
pub struct Entry {
    /// The name in the API and for `-o`.
    pub name: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// The value without the option. It is the API's, which is the reference's.
    pub default: DefaultValue,
    /// One line for help and manuals.
    pub help: &'static str,
}

const fn entry(name: &'static str, kind: Kind, default: DefaultValue, help: &'static str) -> Entry {
    Entry {
        name,
        kind,
        default,
        help,
    }
}

/// Every option.
pub const TABLE: &[Entry] = &[
    entry(
        "num_ctx",
        Kind::Int(0, 1 << 30),
        DefaultValue::Words("run: what prompt and answer need; serve: see serve"),
        "tokens of context",
    ),
    entry(
        "num_batch",
        Kind::Int(0, 1 << 20),
        DefaultValue::Words("chosen for the machine"),
        "tokens in one decode, at most",
    ),
    entry(
        "num_gpu",
        Kind::Int(-1, 1 << 20),
        DefaultValue::Int(-1),
        "layers on the GPU; -1 as many as fit",
    ),
    entry(
        "main_gpu",
        Kind::Int(-1, 1024),
        DefaultValue::Words("all that fit"),
        "the GPU to use when one is enough",
    ),
    entry(
        "use_mmap",
        Kind::Bool,
        DefaultValue::Words("as llama.cpp does"),
        "map the weights instead of reading them",
    ),
    entry(
        "use_mlock",
        Kind::Bool,
        DefaultValue::Bool(false),
        "keep the weights in memory: never swap them out",
    ),
    entry(
        "adapter_scale",
        Kind::Float(-100.0, 100.0),
        DefaultValue::Float(1.0),
        "scale of the model's adapter; 1 full strength",
    ),
    entry(
        "num_thread",
        Kind::Int(0, 4096),
        DefaultValue::Int(0),
        "threads, no more than there are processors; 0 one for each core",
    ),
    entry(
        "draft_num_predict",
        Kind::Int(0, 1 << 20),
        DefaultValue::Words("ignored"),
        "accepted for compatibility",
    ),
    entry(
        "num_keep",
        Kind::Int(-1, 1 << 30),
        DefaultValue::Int(4),
        "tokens kept at the front when a prompt is cut",
    ),
    entry(
        "seed",
        Kind::Int(i64::MIN, i64::MAX),
        DefaultValue::Int(-1),
        "same seed, same answer; -1 random",
    ),
    entry(
        "num_predict",
        Kind::Int(i64::MIN, i64::MAX),
        DefaultValue::Int(-1),
        "tokens to generate at most; negative no limit",
    ),
    entry(
        "top_k",
        Kind::Int(i32::MIN as i64, i32::MAX as i64),
        DefaultValue::Int(40),
        "sample from the k likeliest; 0 all",
    ),
    entry(
        "top_p",
        Kind::Float(0.0, 1.0),
        DefaultValue::Float(0.9),
        "sample from the likeliest that make up p",
    ),
    entry(
        "min_p",
        Kind::Float(0.0, 1.0),
        DefaultValue::Float(0.0),
        "drop tokens less likely than p times the likeliest",
    ),
    entry(
        "typical_p",
        Kind::Float(0.0, 1.0),
        DefaultValue::Float(1.0),
        "sample from the locally typical that make up p",
    ),
    entry(
        "repeat_last_n",
        Kind::Int(-1, 1 << 30),
        DefaultValue::Int(64),
        "last tokens that are checked for repeats; -1 all",
    ),
    entry(
        "temperature",
        Kind::Float(0.0, 1e6),
        DefaultValue::Float(0.8),
        "0 always the likeliest token; higher is more random",
    ),
    entry(
        "repeat_penalty",
        Kind::Float(1e-3, 1e3),
        DefaultValue::Float(1.0),
        "above 1 repeats get rarer",
    ),
    entry(
        "presence_penalty",
        Kind::Float(-1e3, 1e3),
        DefaultValue::Float(0.0),
        "subtracted from the logits of tokens that already occurred",
    ),
    entry(
        "frequency_penalty",
        Kind::Float(-1e3, 1e3),
        DefaultValue::Float(0.0),
        "subtracted for each time that a token occurred",
    ),
    entry(
        "stop",
        Kind::Texts,
        DefaultValue::Words("the model's"),
        "end the answer before this text; may be repeated",
    ),
    entry(
        "reasoning_budget",
        Kind::Int(-1, 1 << 30),
        DefaultValue::Int(-1),
        "tokens of thinking at most, then the answer; -1 no limit",
    ),
    entry(
        "parse_special",
        Kind::Bool,
        DefaultValue::Bool(false),
        "read special tokens in what users and tools write, as llama.cpp does",
    ),
];

/// Options that once existed: accepted and ignored, as existing scripts set them.
pub const RETIRED: &[&str] = &[
    "penalize_newline",
    "low_vram",
    "f16_kv",
    "logits_all",
    "vocab_only",
    "mirostat",
    "mirostat_tau",
    "mirostat_eta",
];

/// A set of options; those not given are absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    values: Vec<(&'static str, Value)>,
}

impl Options {
    /// Sets an option, replacing what was there.
    ///
    /// # Errors
    /// An unknown name (with the nearest known one), a value of the wrong type or out of range.
    pub fn set(&mut self, key: &str, value: Value) -> Result<()> {
        let (name, kind) = known(key)?;
        let value = checked(name, kind, value)?;
        self.values.retain(|(known, _)| *known != name);
        self.values.push((name, value));
        Ok(())
    }

    /// Sets an option from text; a list gains an element.
    ///
    /// # Errors
    /// As [`Options::set`], and text that is not a value of the option's type.
    pub fn set_text(&mut self, key: &str, text: &str) -> Result<()> {
        let (name, kind) = known(key)?;
        let wrong = |word| Error::usage(format!("option {name} needs {word}, not '{text}'"));
        let value = match kind {
            Kind::Int(..) => Value::Int(text.trim().parse().map_err(|_| wrong("a whole number"))?),
            Kind::Float(..) => Value::Float(text.trim().parse().map_err(|_| wrong("a number"))?),
            Kind::Bool => Value::Bool(boolean(text.trim()).ok_or_else(|| wrong("true or false"))?),
            Kind::Texts => {
                let mut texts = self.texts(name).unwrap_or_default().to_vec();
                texts.push(text.to_string());
                Value::Texts(texts)
            }
        };
        self.set(key, value)
    }

    /// Copies every option that `other` sets.
    pub fn overlay(&mut self, other: &Options) {
        for (name, value) in &other.values {
            self.values.retain(|(known, _)| known != name);
            self.values.push((name, value.clone()));
        }
    }

    /// The options given, sorted by name.
    pub fn sorted(&self) -> Vec<(&'static str, &Value)> {
        let mut values: Vec<_> = self
            .values
            .iter()
            .map(|(name, value)| (*name, value))
            .collect();
        values.sort_by_key(|(name, _)| *name);
        values
    }

    /// True if no option is given.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The value of an integer option, if given.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.value(name)? {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of an integer option, else its default in the table.
    pub fn int_or_default(&self, name: &str) -> i64 {
        self.int(name).unwrap_or_else(|| match default(name) {
            DefaultValue::Int(value) => value,
            other => panic!("{name} has no whole number as its default but {other}"),
        })
    }

    /// The value of a float option, else its default in the table.
    pub fn float_or_default(&self, name: &str) -> f64 {
        self.float(name).unwrap_or_else(|| match default(name) {
            DefaultValue::Float(value) => value,
            other => panic!("{name} has no number as its default but {other}"),
        })
    }

    /// The value of a boolean option, else its default in the table.
    pub fn bool_or_default(&self, name: &str) -> bool {
        self.bool(name).unwrap_or_else(|| match default(name) {
            DefaultValue::Bool(value) => value,
            other => panic!("{name} has no switch position as its default but {other}"),
        })
    }

    /// The value of a float option, if given.
    pub fn float(&self, name: &str) -> Option<f64> {
        match self.value(name)? {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => None,
        }
    }

    /// The value of a boolean option, if given.
    pub fn bool(&self, name: &str) -> Option<bool> {
        match self.value(name)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a list option, if given.
    pub fn texts(&self, name: &str) -> Option<&[String]> {
        match self.value(name)? {
            Value::Texts(value) => Some(value),
            _ => None,
        }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.values
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }
}

/// The kind of the option with this name.
pub fn kind(key: &str) -> Option<Kind> {
    find(key).map(|entry| entry.kind)
}

/// The default of the option with this name, which must be in the table.
pub fn default(key: &str) -> DefaultValue {
    let entry = find(key).unwrap_or_else(|| panic!("{key} is not an option"));
    entry.default
}

fn find(key: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == key)
}

fn known(key: &str) -> Result<(&'static str, Kind)> {
    if let Some(entry) = find(key) {
        return Ok((entry.name, entry.kind));
    }
    let near = name::nearest(key, TABLE.iter().map(|entry| entry.name));
    Err(Error::usage(match near.first() {
        Some(near) => format!("unknown option '{key}': is it {near}?"),
        None => format!("unknown option '{key}'"),
    }))
}

fn checked(name: &str, kind: Kind, value: Value) -> Result<Value> {
    let range = |low: String, high: String| {
        Err(Error::usage(format!(
            "option {name} must be between {low} and {high}"
        )))
    };
    match (kind, value) {
        (Kind::Int(low, high), Value::Int(value)) if !(low..=high).contains(&value) => {
            range(low.to_string(), high.to_string())
        }
        (Kind::Float(low, high), Value::Float(value)) if !(low..=high).contains(&value) => {
            range(low.to_string(), high.to_string())
        }
        (Kind::Float(..), Value::Int(value)) => checked(name, kind, Value::Float(value as f64)),
        (Kind::Int(..), value @ Value::Int(_))
        | (Kind::Float(..), value @ Value::Float(_))
        | (Kind::Bool, value @ Value::Bool(_))
        | (Kind::Texts, value @ Value::Texts(_)) => Ok(value),
        _ => Err(Error::usage(format!(
            "option {name} has a value of the wrong type"
        ))),
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_a_value_of_the_options_type() {
        let mut options = Options::default();
        for (key, text) in [
            ("seed", "7"),
            ("temperature", "0"),
            ("use_mmap", "false"),
            ("stop", "a"),
            ("stop", "b=c"),
        ] {
            options.set_text(key, text).unwrap();
        }
        assert_eq!(options.int("seed"), Some(7));
        assert_eq!(options.float("temperature"), Some(0.0));
        assert_eq!(options.bool("use_mmap"), Some(false));
        assert_eq!(options.texts("stop").unwrap(), ["a", "b=c"]);
    }

    #[test]
    fn wrong_options_say_what_is_wrong() {
        let mut options = Options::default();
        for (key, text, message) in [
            (
                "temprature",
                "1",
                "unknown option 'temprature': is it temperature?",
            ),
            ("xyzzy", "1", "unknown option 'xyzzy'"),
            ("seed", "x", "option seed needs a whole number, not 'x'"),
            ("top_p", "2", "option top_p must be between 0 and 1"),
            ("top_p", "nan", "option top_p must be between 0 and 1"),
            (
                "use_mmap",
                "maybe",
                "option use_mmap needs true or false, not 'maybe'",
            ),
        ] {
            assert_eq!(
                options.set_text(key, text).unwrap_err().to_string(),
                message
            );
        }
    }

    #[test]
    fn defaults_have_the_type_and_range_of_their_option() {
        let none = Options::default();
        for entry in TABLE {
            match (entry.default, entry.kind) {
                (DefaultValue::Int(value), Kind::Int(low, high)) => {
                    assert!((low..=high).contains(&value), "{}", entry.name);
                    assert_eq!(none.int_or_default(entry.name), value);
                }
                (DefaultValue::Float(value), Kind::Float(low, high)) => {
                    assert!((low..=high).contains(&value), "{}", entry.name);
                    assert_eq!(none.float_or_default(entry.name), value);
                }
                (DefaultValue::Bool(value), Kind::Bool) => {
                    assert_eq!(none.bool_or_default(entry.name), value);
                }
                (DefaultValue::Words(words), _) => assert!(!words.is_empty(), "{}", entry.name),
                (other, _) => panic!("{}: {other}", entry.name),
            }
        }
    }
}
