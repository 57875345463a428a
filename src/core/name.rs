//! Model names: grammar, defaults, display, and the only conversion from a name to a path.

use std::fmt;
use std::path::PathBuf;

use super::error::{Error, Result};

const HOST: &str = "registry.ollama.ai";
const NAMESPACE: &str = "library";
const TAG: &str = "latest";
/// Longest text of a name with scheme and blanks: its parts have at most 590 bytes together.
pub const TEXT_BYTES_MAX: usize = 1024;

/// A complete model name: `host/namespace/model:tag`, every part checked.
///
/// No part can be empty, start with a dot or contain a slash, so that a name joined to a directory
/// always stays inside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    host: String,
    namespace: String,
    model: String,
    tag: String,
}

impl Name {
    /// Parses `[scheme://][host/][namespace/]model[:tag]` and fills in the defaults.
    ///
    /// # Errors
    /// `invalid model name` if a part is empty, too long or contains an invalid character.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Error::usage(format!(
                "invalid model name: {} bytes, at most {TEXT_BYTES_MAX}",
                text.len()
            )));
        }
        let invalid = || Error::usage(format!("invalid model name '{text}'"));
        let trimmed = text.trim();
        let (rest, tag) = split_tag(trimmed);
        let (rest, model) = split_last(rest);
        let (host, namespace) = match rest.map(split_last) {
            None => (None, None),
            Some((host, namespace)) => (host, Some(namespace)),
        };
        let host = host.map(|host| host.split_once("://").map_or(host, |(_, host)| host));
        let name = Name {
            host: host.unwrap_or(HOST).to_string(),
            namespace: namespace.unwrap_or(NAMESPACE).to_string(),
            model: model.to_string(),
            tag: tag.unwrap_or(TAG).to_string(),
        };
        if name.is_valid() {
            Ok(name)
        } else {
            Err(invalid())
        }
    }

    /// A name from its four parts, as in a store's folders; `None` if one is invalid.
    pub fn from_parts(host: &str, namespace: &str, model: &str, tag: &str) -> Option<Self> {
        let name = Name {
            host: host.into(),
            namespace: namespace.into(),
            model: model.into(),
            tag: tag.into(),
        };
        name.is_valid().then_some(name)
    }

    /// The path of this name's manifest, relative to the folder of manifests.
    pub fn path(&self) -> PathBuf {
        [&self.host, &self.namespace, &self.model, &self.tag]
            .iter()
            .collect()
    }

    /// Host, `namespace/model` and tag, as registries name it.
    pub fn remote(&self) -> (&str, String, String) {
        let repository = format!("{}/{}", self.namespace, self.model);
        (&self.host, repository, self.tag.clone())
    }

    /// The model part of the name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// All four parts: `registry.ollama.ai/library/smol:latest`.
    pub fn full(&self) -> String {
        format!(
            "{}/{}/{}:{}",
            self.host, self.namespace, self.model, self.tag
        )
    }

    /// True if both names are equal, ignoring case.
    pub fn folds_to(&self, other: &Name) -> bool {
        self.full().eq_ignore_ascii_case(&other.full())
    }

    /// The same name in the spelling of known names, part by part.
    pub fn spelt_as<'a>(&self, known: impl Iterator<Item = &'a Name> + Clone) -> Name {
        type Part = fn(&Name) -> &String;
        let spelt = |part: Part| {
            let own = part(self);
            let same = known.clone().map(part);
            let mut same: Vec<&String> =
                same.filter(|text| text.eq_ignore_ascii_case(own)).collect();
            // Its own spelling first, if that is known.
            same.sort_by_key(|text| *text != own);
            same.first()
                .map_or_else(|| own.clone(), |text| (*text).clone())
        };
        Name {
            host: spelt(|name| &name.host),
            namespace: spelt(|name| &name.namespace),
            model: spelt(|name| &name.model),
            tag: spelt(|name| &name.tag),
        }
    }

    fn is_valid(&self) -> bool {
        is_part(&self.host, 350, b"-_.:")
            && is_part(&self.namespace, 80, b"-_")
            && is_part(&self.model, 80, b"-_.")
            && is_part(&self.tag, 80, b"-_.")
    }
}

/// The short form: without the default host and namespace, always with the tag.
impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.host.eq_ignore_ascii_case(HOST) {
            write!(out, "{}/{}/", self.host, self.namespace)?;
        } else if !self.namespace.eq_ignore_ascii_case(NAMESPACE) {
            write!(out, "{}/", self.namespace)?;
        }
        write!(out, "{}:{}", self.model, self.tag)
    }
}

/// The names of `known` nearest to `wanted`, at most three, the nearest first.
pub fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let limit = (wanted.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = known
        .map(|name| {
            let folded = name.to_lowercase();
            let bare = folded.strip_suffix(":latest").unwrap_or(&folded);
            let starts = bare.starts_with(&wanted) && !wanted.is_empty();
            (if starts { 1 } else { distance(&wanted, bare) }, name)
        })
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    near.sort();
    near.into_iter()
        .take(3)
        .map(|(_, name)| name.to_string())
        .collect()
}

/// The edit distance of two short texts; two swapped letters count once.
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows = vec![(0..=right.len()).collect::<Vec<usize>>()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let change = rows[i - 1][j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

fn split_tag(text: &str) -> (&str, Option<&str>) {
    match (text.rfind(':'), text.rfind('/')) {
        (Some(colon), slash) if slash.is_none_or(|slash| slash < colon) => {
            (&text[..colon], Some(&text[colon + 1..]))
        }
        _ => (text, None),
    }
}

fn split_last(text: &str) -> (Option<&str>, &str) {
    match text.rsplit_once('/') {
        Some((rest, last)) => (Some(rest), last),
        None => (None, text),
    }
}

fn is_part(text: &str, length_max: usize, further: &[u8]) -> bool {
    let bytes = text.as_bytes();
    let first = bytes
        .first()
        .is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    first
        && bytes.len() <= length_max
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || further.contains(b) || *b == b'_')
}

/// True if a model's name begins with `prefix`, in any case.
pub fn begins(name: &str, prefix: &str) -> bool {
    name.to_lowercase().starts_with(&prefix.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_and_left_out_again() {
        for (text, shown) in [
            ("smol", "smol:latest"),
            ("  smol  ", "smol:latest"),
            ("me/copy2:v1", "me/copy2:v1"),
            ("registry.ollama.ai/library/smol:latest", "smol:latest"),
            ("hf.co/a/b:Q4", "hf.co/a/b:Q4"),
            (
                "http://127.0.0.1:25000/lib/tiny",
                "127.0.0.1:25000/lib/tiny:latest",
            ),
        ] {
            assert_eq!(Name::parse(text).unwrap().to_string(), shown);
        }
        assert_eq!(
            Name::parse("smol").unwrap().full(),
            "registry.ollama.ai/library/smol:latest"
        );
    }

    #[test]
    fn invalid_names_are_refused() {
        let long = "m".repeat(81);
        for bad in [
            "",
            " ",
            "a b",
            "smol:",
            "/smol",
            ":latest",
            "a//b",
            "a/b/c/d",
            "smol@sha256:abc",
            "hf.co/x.y/z",
            "..",
            "../x",
            "a/../b",
            ".x",
            "ä",
            &long,
            &format!("m:{long}"),
            "reg:5000/m",
            "a\0b",
        ] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_path_has_four_plain_parts() {
        let path = Name::parse("smol:v1").unwrap().path();
        assert_eq!(path, PathBuf::from("registry.ollama.ai/library/smol/v1"));
    }

    #[test]
    fn the_nearest_names_come_first() {
        let known = ["llama3:latest", "llama2:latest", "qwen3:latest"];
        assert_eq!(nearest("lama3", known.into_iter()), ["llama3:latest"]);
        assert_eq!(
            nearest("llama", known.into_iter()),
            ["llama2:latest", "llama3:latest"]
        );
        assert!(nearest("xyz", known.into_iter()).is_empty());
    }
}
