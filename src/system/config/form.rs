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
    /// The same, longer than 0 and not for ever.
    Span,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Numbers, comma-separated.
    Numbers,
    /// A path; `~` is the shell's and means nothing here.
    Path,
    /// Any text.
    Text,
}

/// The words for on, off, and for the engine's own choice.
const ON: [&str; 5] = ["1", "t", "true", "on", "yes"];
const OFF: [&str; 5] = ["0", "f", "false", "off", "no"];
const AUTO: [&str; 2] = ["auto", "-1"];

/// True for a word that means on; `None` for `auto` and for what is no such word.
pub fn switched(value: &str) -> Option<bool> {
    let value = value.to_lowercase();
    let is = |words: &[&str]| words.contains(&value.as_str());
    is(&ON)
        .then_some(true)
        .or_else(|| is(&OFF).then_some(false))
}

impl Form {
    /// Why a value is wrong; `None`: it is right.
    pub fn wrong(self, value: &str) -> Option<String> {
        let is_auto = AUTO.contains(&value.to_lowercase().as_str());
        let (is_right, needed) = match self {
            Form::Switch { auto: false } => (switched(value).is_some(), "on or off".into()),
            Form::Switch { auto: true } => (
                is_auto || switched(value).is_some(),
                "auto, on or off".into(),
            ),
            Form::Count(least) => (
                value
                    .parse::<u32>()
                    .is_ok_and(|count| u64::from(count) >= least),
                format!("a whole number from {least} on"),
            ),
            Form::Bytes => (
                bytes::parse(value).is_ok(),
                "a number of bytes, such as 500M".into(),
            ),
            Form::Time => (
                KeepAlive::parse_lenient(value).is_ok(),
                "a duration, such as 90s or 5m".into(),
            ),
            Form::Span => (
                matches!(KeepAlive::parse_lenient(value), Ok(KeepAlive::For(time)) if !time.is_zero()),
                "a duration longer than 0, such as 90s or 5m".into(),
            ),
            Form::Word(words) => (words.contains(&value), words.join(", ")),
            Form::Numbers => (
                value
                    .split(',')
                    .all(|part| part.trim().parse::<f32>().is_ok()),
                "numbers with commas".into(),
            ),
            Form::Path => (!value.starts_with('~'), "a path without ~".into()),
            Form::Text => (true, String::new()),
        };
        (!is_right).then(|| format!("needs {needed}, not '{value}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_form() {
        for (form, right, bad) in [
            (Form::Path, "a/~b", "~/a"),
            (Form::Bytes, "500M", "lots"),
            (Form::Time, "-1", "5 minutes"),
            (Form::Span, "1s", "0"),
            (Form::Span, "90", "-1s"),
            (Form::Count(0), "0", "-1"),
            (Form::Count(1), "4", "0"),
            (Form::Switch { auto: false }, "Yes", "auto"),
            (Form::Switch { auto: true }, "auto", "perhaps"),
            (Form::Word(&["f16", "q8_0"]), "q8_0", "q5"),
            (Form::Numbers, "3, 1", "3;1"),
        ] {
            assert_eq!(form.wrong(right), None, "{form:?}");
            let why = form.wrong(bad).unwrap();
            assert!(why.ends_with(&format!("not '{bad}'")), "{why}");
        }
        assert_eq!(Form::Text.wrong("anything"), None);
    }
}
