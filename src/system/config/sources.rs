//! The sources of settings: the environment, then the one optional file; and which one was used.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use super::variables::{form, key};
use crate::core::error::{Error, Result};
use crate::core::name;
use crate::core::regular_file;

/// A larger configuration file is an error.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The file's lines, and the origins of the settings found so far.
pub struct Sources<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    path: PathBuf,
    lines: Vec<Line>,
    found: RefCell<Vec<(String, String)>>,
    /// The first wrong value.
    wrong: RefCell<Option<Error>>,
    /// Notes on values of Ollama's variables that mean nothing.
    meaningless: RefCell<Vec<String>>,
}

/// A line of the file: its number, key and value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    number: usize,
    key: String,
    value: String,
}

impl<'a> Sources<'a> {
    /// The environment, and the file if it exists.
    ///
    /// # Errors
    /// If the file cannot be read, or a line is wrong; `known` returns the valid keys.
    pub fn new(
        environment: &'a dyn Fn(&str) -> Option<String>,
        path: Option<&Path>,
        known: &dyn Fn() -> Vec<String>,
    ) -> Result<Self> {
        let path = path.map(Path::to_path_buf).unwrap_or_default();
        let wrong = |why: String| Error::usage(format!("{}, {why}", path.display()));
        let lines = match std::fs::metadata(&path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                return Err(Error::usage(format!("{} is too large", path.display())));
            }
            Ok(_) => {
                let text = regular_file::text(&path);
                let text = text.map_err(|error| Error::io("read", &path, error))?;
                parse(&text, &known()).map_err(wrong)?
            }
            Err(_) => Vec::new(), // The file is optional.
        };
        Ok(Sources {
            environment,
            lines,
            found: RefCell::default(),
            wrong: RefCell::default(),
            meaningless: RefCell::default(),
            path,
        })
    }

    /// A variable of the environment as it is, even if it is empty.
    pub fn raw(&self, variable: &str) -> Option<String> {
        let value = (self.environment)(variable)?;
        self.note(&key(variable), variable);
        Some(value)
    }

    /// A variable, or the file's value for it.
    pub fn plain(&self, variable: &str) -> Option<String> {
        self.first(&[variable])
    }

    /// Our variable, Ollama's of the same meaning, or the file's value for it.
    pub fn either(&self, name: &str) -> Option<String> {
        self.first(&[&format!("PUNA_{name}"), &format!("OLLAMA_{name}")])
    }

    fn first(&self, variables: &[&str]) -> Option<String> {
        let own = key(variables[0]);
        for variable in variables {
            let value = (self.environment)(variable).map(|value| trimmed(&value));
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                if variable.starts_with("PUNA_") {
                    self.check(&own, &value, variable);
                } else if let Some(why) = form(&own).wrong(&value) {
                    // A value of Ollama's that means nothing here leaves the file's, or the default.
                    let note = format!("{variable} {why}: it is not used");
                    self.meaningless.borrow_mut().push(note);
                    continue;
                }
                self.note(&own, variable);
                return Some(value);
            }
        }
        let lines = self.lines.iter().rev();
        let line = lines
            .filter(|line| !line.value.is_empty())
            .find(|line| line.key == own)?;
        let place = format!("{}, line {}: {own}", self.path.display(), line.number);
        self.check(&own, &line.value, &place);
        self.note(&own, &format!("{}:{}", self.path.display(), line.number));
        Some(line.value.clone())
    }

    fn note(&self, key: &str, origin: &str) {
        let mut found = self.found.borrow_mut();
        found.retain(|(known, _)| known != key);
        found.push((key.to_string(), origin.to_string()));
    }

    /// Remembers a value that has not its setting's form.
    fn check(&self, key: &str, value: &str, place: &str) {
        if let Some(why) = form(key).wrong(value) {
            let error = Error::usage(format!("{place} {why}"));
            self.wrong.borrow_mut().get_or_insert(error);
        }
    }

    /// Notes on values of Ollama's variables that mean nothing and are not used.
    pub fn meaningless(&self) -> Vec<String> {
        self.meaningless.take()
    }

    /// The keys that were found, with their origins.
    ///
    /// # Errors
    /// The first value that has not its setting's form.
    pub fn found(self) -> Result<Vec<(String, String)>> {
        match self.wrong.into_inner() {
            Some(error) => Err(error),
            None => Ok(self.found.into_inner()),
        }
    }
}

fn parse(text: &str, known: &[String]) -> Result<Vec<Line>, String> {
    let mut lines = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (index, line) in text.lines().enumerate() {
        let (number, line) = (index + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!("line {number}: not 'key = value'"));
        };
        let key = key.trim().to_lowercase();
        if !known.contains(&key) {
            let near = name::nearest(&key, known.iter().map(String::as_str));
            return Err(match near.first() {
                Some(near) => format!("line {number}: unknown key '{key}': is it {near}?"),
                None => format!("line {number}: unknown key '{key}'"),
            });
        }
        if let Some(earlier) = lines.iter().find(|line: &&Line| line.key == key) {
            return Err(format!(
                "line {number}: '{key}' is in line {} too",
                earlier.number
            ));
        }
        lines.push(Line {
            number,
            key,
            value: trimmed(value),
        });
    }
    Ok(lines)
}

fn trimmed(value: &str) -> String {
    value.trim().trim_matches(['"', '\'']).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Vec<String> {
        ["models", "keep_alive", "host"].map(String::from).to_vec()
    }

    #[test]
    fn lines_are_keys_and_values() {
        let lines = parse("# mine\n\n models = /data \nHOST=\":1\"\n", &known()).unwrap();
        let parsed: Vec<_> = lines
            .iter()
            .map(|line| (line.number, line.key.as_str(), line.value.as_str()))
            .collect();
        assert_eq!(parsed, [(3, "models", "/data"), (4, "host", ":1")]);
        for (text, why) in [
            ("models", "line 1: not 'key = value'"),
            ("\nmodel = x", "line 2: unknown key 'model': is it models?"),
            ("zzzzzzzz = x", "line 1: unknown key 'zzzzzzzz'"),
        ] {
            assert_eq!(parse(text, &known()).unwrap_err(), why);
        }
    }

    #[test]
    fn the_environment_comes_before_the_file() {
        let folder = std::env::temp_dir().join(format!("puna-sources-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("config");
        std::fs::write(&path, "host = :3\nkeep_alive = 1m\nmodels = /m\n").unwrap();
        let environment = |name: &str| match name {
            "OLLAMA_HOST" => Some(":2".to_string()),
            "OLLAMA_KEEP_ALIVE" => Some("soon".to_string()),
            "PUNA_MODELS" => Some(" ".to_string()),
            _ => None,
        };
        let sources = Sources::new(&environment, Some(&path), &known).unwrap();
        assert_eq!(sources.either("HOST").as_deref(), Some(":2"));
        assert_eq!(sources.either("KEEP_ALIVE").as_deref(), Some("1m"));
        assert_eq!(sources.plain("PUNA_MODELS").as_deref(), Some("/m"));
        let notes = sources.meaningless();
        assert!(notes.len() == 1 && notes[0].starts_with("OLLAMA_KEEP_ALIVE needs"));
        let file = path.display();
        let origins = [
            ("host".to_string(), "OLLAMA_HOST".to_string()),
            ("keep_alive".to_string(), format!("{file}:2")),
            ("models".to_string(), format!("{file}:3")),
        ];
        assert_eq!(sources.found().unwrap(), origins);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
