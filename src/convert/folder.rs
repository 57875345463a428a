//! The files of a model in safetensors: a folder, or files by their names.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::weights::{Located, Source};
use super::wrong;
use crate::error::{Error, Result};
use crate::safetensors;

/// Largest file beside the weights that is read; the largest tokenizer known has 33 MB.
const BYTES_MAX: u64 = 256 << 20;
/// Most files that are looked at.
const FILES_MAX: usize = 10_000;

/// Names of files, and where each is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    name: String,
    files: BTreeMap<String, PathBuf>,
}

impl Folder {
    /// The files in a folder, and in those that lie in it.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(path, "", &mut files)?;
        let whole = path.canonicalize();
        let last = whole.ok().and_then(|whole| {
            let name = whole.file_name()?;
            Some(name.to_string_lossy().into_owned())
        });
        Ok(Folder {
            name: last.unwrap_or_else(|| "model".into()),
            files,
        })
    }

    /// Files by the names that they would have in a folder.
    pub fn of(name: &str, files: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        Folder {
            name: name.into(),
            files: files.into_iter().collect(),
        }
    }

    /// What the folder is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if weights lie here that this module reads.
    pub fn has_weights(&self) -> bool {
        self.files.keys().any(|name| name.ends_with(".safetensors"))
    }

    /// The files that end so and lie in no further folder, in the order of their names.
    pub fn ending(&self, end: &str) -> Vec<&Path> {
        let direct = self.files.iter().filter(|(name, _)| !name.contains('/'));
        let ending = direct.filter(|(name, _)| name.ends_with(end));
        ending.map(|(_, path)| path.as_path()).collect()
    }

    /// The files that a conversion reads, with their names.
    pub fn needed(&self) -> Vec<(String, PathBuf)> {
        const ENDS: [&str; 4] = [".safetensors", ".json", ".jinja", "tokenizer.model"];
        let files = self.files.iter();
        let needed = files.filter(|(name, _)| ENDS.iter().any(|end| name.ends_with(end)));
        needed
            .map(|(name, path)| (name.clone(), path.clone()))
            .collect()
    }

    /// The error that something is wrong here.
    pub fn wrong(&self, why: &str) -> Error {
        wrong(&self.name, why)
    }

    /// The bytes of a file, `None` if it is not there.
    ///
    /// # Errors
    /// If it cannot be read, or is too large.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.files.get(name) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read =
            File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
        read.map_err(|error| Error::io("read", path, error))?;
        match bytes.len() as u64 > BYTES_MAX {
            true => Err(self.wrong(&format!("{name} is too large"))),
            false => Ok(Some(bytes)),
        }
    }

    /// The text of a file, `None` if it is not there.
    ///
    /// # Errors
    /// As [`Folder::bytes`], and if it is no UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let text = self.bytes(name)?.map(String::from_utf8).transpose();
        text.map_err(|_| self.wrong(&format!("{name} is no text")))
    }

    /// The JSON object of a file, `None` if it is not there. `NaN` and `Infinity`, which Python
    /// writes, are read as null.
    ///
    /// # Errors
    /// As [`Folder::text`], and if it is no JSON object.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Json>>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let read = serde_json::from_str(&text)
            .or_else(|_| serde_json::from_str(&without_odd_numbers(&text)));
        read.map(Some)
            .map_err(|_| self.wrong(&format!("{name} is no JSON object")))
    }

    /// GGUF's number for how a model of sentence-transformers pools, if its files tell.
    ///
    /// # Errors
    /// As [`Folder::text`], and for a way that llama.cpp does not know.
    pub fn pooling(&self) -> Result<Option<u32>> {
        let modules = self.text("modules.json")?;
        let modules: Vec<Json> = modules
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let pools = |module: &&Json| {
            let kind = module["type"].as_str();
            kind.is_some_and(|kind| kind.ends_with("Pooling"))
        };
        let Some(module) = modules.iter().find(pools) else {
            return Ok(None);
        };
        let path = module["path"].as_str().unwrap_or_default();
        let told = self
            .object(&format!("{path}/config.json"))?
            .unwrap_or_default();
        let is = |key: &str| told.get(key).is_some_and(|value| value == true);
        let mode = told.get("pooling_mode").and_then(Json::as_str);
        for (key, name, number) in [
            ("pooling_mode_mean_tokens", "mean", 1),
            ("pooling_mode_cls_token", "cls", 2),
            ("pooling_mode_lasttoken", "lasttoken", 3),
        ] {
            if is(key) || mode == Some(name) {
                return Ok(Some(number));
            }
        }
        Err(self.wrong("its pooling is not by mean, first or last token"))
    }

    /// The tensors of the weights.
    ///
    /// # Errors
    /// If there are none, or a file is damaged.
    pub fn weights(&self) -> Result<Source> {
        let model = self.named("model", ".safetensors");
        if model.is_empty() {
            let others = !self.named("consolidated", ".safetensors").is_empty();
            return Err(self.wrong(match others {
                true => "the weights are in Mistral's own layout: take the folder with model.safetensors",
                false => "there is no model.safetensors",
            }));
        }
        self.located(&model)
    }

    /// The tensors of these files.
    ///
    /// # Errors
    /// If a file cannot be read or is damaged.
    pub fn located(&self, paths: &[PathBuf]) -> Result<Source> {
        let mut tensors = BTreeMap::new();
        for (index, path) in paths.iter().enumerate() {
            let file = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (length, file) = file.map_err(|error| Error::io("read", path, error))?;
            let read = safetensors::read(file, length);
            let read = read.map_err(|why| Error::damaged(path, why))?;
            for tensor in read {
                tensors.insert(
                    tensor.name.clone(),
                    Located {
                        file: index,
                        tensor,
                    },
                );
            }
        }
        match tensors.is_empty() {
            true => Err(self.wrong("there are no tensors")),
            false => Ok(Source {
                paths: paths.to_vec(),
                tensors,
            }),
        }
    }

    /// The files with names that begin and end so: those that lie here, else those one folder down.
    fn named(&self, start: &str, end: &str) -> Vec<PathBuf> {
        let fits = |name: &str| name.starts_with(start) && name.ends_with(end);
        let at = |depth: usize| -> Vec<PathBuf> {
            let files = self.files.iter();
            let files = files.filter(|(name, _)| name.matches('/').count() == depth);
            let files = files.filter(|(name, _)| fits(name.rsplit('/').next().unwrap_or(name)));
            files.map(|(_, path)| path.clone()).collect()
        };
        match at(0) {
            files if files.is_empty() => at(1),
            files => files,
        }
    }
}

fn collect(path: &Path, prefix: &str, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let wrong = |error| Error::io("read", path, error);
    for entry in fs::read_dir(path).map_err(wrong)? {
        let path = entry.map_err(wrong)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{prefix}{name}");
        let Ok(kind) = fs::metadata(&path) else {
            continue; // A link to nowhere is no file.
        };
        if kind.is_dir() && prefix.is_empty() {
            collect(&path, &format!("{name}/"), files)?;
        } else if kind.is_file() && files.len() < FILES_MAX {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The text with `NaN`, `Infinity` and `-Infinity` outside of strings replaced by `null`.
fn without_odd_numbers(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let (mut open, mut rest) = (false, text);
    while let Some(first) = rest.chars().next() {
        let odd = ["-Infinity", "Infinity", "NaN"];
        let word = odd.iter().find(|word| !open && rest.starts_with(**word));
        let length = match (word, first) {
            (Some(word), _) => {
                clean += "null";
                rest = &rest[word.len()..];
                continue;
            }
            (None, '\\') => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, first) => first.len_utf8(),
        };
        open ^= first == '"';
        clean += &rest[..length];
        rest = &rest[length..];
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_are_null() {
        let text = r#"{"a":NaN,"b":[-Infinity,Infinity],"NaN":"NaN \" Infinity"}"#;
        let clean = r#"{"a":null,"b":[null,null],"NaN":"NaN \" Infinity"}"#;
        assert_eq!(without_odd_numbers(text), clean);
    }
}
