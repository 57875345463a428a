//! The form that each setting's value must have.

use crate::core::bytes;
use crate::core::duration::KeepAlive;

/// The form of a value.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    /// On or off; with `auto`, the engine may decide.
    Switch { auto: bool },
    /// A whole number from this one on.
    Count(u64),
    /// A number of bytes, such as `500M`.
    Bytes,
    /// A time, such as `5m`, or a number of seconds.
    Time,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Numbers, comma-separated.
    Numbers,
}

/// The words for on, off, and for the engine's own choice.
const ON: [&str; 5] = ["1", "t", "true", "on", "yes"];
const OFF: [&str; 5] = ["0", "f", "false", "off", "no"];
const AUTO: [&str; 2] = ["auto", "-1"];

/// The settings whose values have a form, by their key in the file.
const FORMS: &[(&str, Form)] = &[
    ("cache_max", Form::Bytes),
    ("keep_alive", Form::Time),
    // 0 is the reference's word for its own choice.
    ("context_length", Form::Count(0)),
    ("num_parallel", Form::Count(0)),
    ("max_loaded_models", Form::Count(0)),
    ("max_queue", Form::Count(0)),
    ("deterministic", Form::Switch { auto: false }),
    ("load_timeout", Form::Time),
    ("noprune", Form::Switch { auto: false }),
    ("debug", Form::Switch { auto: false }),
    ("flash_attention", Form::Switch { auto: true }),
    ("kv_cache_type", Form::Word(&["f16", "q8_0", "q4_0"])),
    ("nohistory", Form::Switch { auto: false }),
    ("num_threads", Form::Count(1)),
    ("repack", Form::Switch { auto: true }),
    ("speculate", Form::Switch { auto: false }),
    ("tensor_split", Form::Numbers),
    ("stall_time", Form::Time),
    ("retry_pause", Form::Time),
    ("part_bytes", Form::Count(1)),
    ("pull_streams", Form::Count(1)),
];

/// True for a word that means on; `None` for `auto` and for what is no such word.
pub fn switched(value: &str) -> Option<bool> {
    let value = value.to_lowercase();
    let is = |words: &[&str]| words.contains(&value.as_str());
    is(&ON)
        .then_some(true)
        .or_else(|| is(&OFF).then_some(false))
}

/// Why a value is wrong for this key; `None`: it is right.
pub fn wrong(key: &str, value: &str) -> Option<String> {
    let (_, form) = FORMS.iter().find(|(known, _)| *known == key)?;
    let is_auto = AUTO.contains(&value.to_lowercase().as_str());
    let (is_right, needed) = match form {
        Form::Switch { auto: false } => (switched(value).is_some(), "on or off".into()),
        Form::Switch { auto: true } => (
            is_auto || switched(value).is_some(),
            "auto, on or off".into(),
        ),
        Form::Count(least) => (
            value
                .parse::<u32>()
                .is_ok_and(|count| u64::from(count) >= *least),
            format!("a whole number from {least} on"),
        ),
        Form::Bytes => (
            bytes::parse(value).is_ok(),
            "a number of bytes, such as 500M".into(),
        ),
        Form::Time => (
            KeepAlive::parse_lenient(value).is_ok(),
            "a time, such as 5m, or seconds".into(),
        ),
        Form::Word(words) => (words.contains(&value), words.join(", ")),
        Form::Numbers => (
            value
                .split(',')
                .all(|part| part.trim().parse::<f32>().is_ok()),
            "numbers with commas".into(),
        ),
    };
    (!is_right).then(|| format!("needs {needed}, not '{value}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_form_of_their_setting() {
        for (key, right, bad) in [
            ("cache_max", "500M", "lots"),
            ("keep_alive", "-1", "soon"),
            ("num_parallel", "0", "-1"),
            ("num_threads", "4", "0"),
            ("deterministic", "Yes", "auto"),
            ("flash_attention", "auto", "perhaps"),
            ("kv_cache_type", "q8_0", "q5"),
            ("tensor_split", "3, 1", "3;1"),
            ("load_timeout", "5m", "5 minutes"),
        ] {
            assert_eq!(wrong(key, right), None, "{key}");
            let why = wrong(key, bad).unwrap();
            assert!(why.ends_with(&format!("not '{bad}'")), "{why}");
        }
        assert_eq!(wrong("models", "anything"), None);
    }

    #[test]
    fn every_checked_setting_is_one() {
        let known = crate::system::config::keys();
        for (key, _) in FORMS {
            assert!(known.contains(&(*key).to_string()), "{key}");
        }
    }
}
