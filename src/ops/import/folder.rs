//! The files of a safetensors model: from a folder, or from a list of names and paths.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::weights::{Located, Source};
use crate::core::error::{Error, Result};
use crate::core::regular_file;
use crate::format::safetensors;

/// Size limit of a file beside the weights, in bytes; the largest known tokenizer is 33 MB.
const BYTES_MAX: u64 = 256 << 20;
/// Limit on the number of files in a folder; further files are ignored.
const FILES_MAX: usize = 10_000;

/// File names relative to the folder, with their paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    name: String,
    files: BTreeMap<String, PathBuf>,
}

impl Folder {
    /// Lists the files of a folder and of its direct subfolders.
    ///
    /// # Errors
    /// If a folder cannot be read.
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

    /// A folder made from files by the names that they would have in it.
    pub fn new(name: &str, files: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        Folder {
            name: name.into(),
            files: files.into_iter().collect(),
        }
    }

    /// The folder's name, used as the model's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if there are safetensors files.
    pub fn has_weights(&self) -> bool {
        self.files.keys().any(|name| name.ends_with(".safetensors"))
    }

    /// The files directly in the folder whose names end with `end`, sorted by name.
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

    /// The `Usage` error that names this folder and the reason.
    pub fn wrong(&self, why: &str) -> Error {
        Error::usage(format!("{}: {why}", self.name))
    }

    /// The bytes of a file; `None` if it does not exist.
    ///
    /// # Errors
    /// If it cannot be read or is larger than 256 MiB.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(path) = self.files.get(name) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let read = regular_file::open(path)
            .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
        read.map_err(|error| Error::io("read", path, error))?;
        if bytes.len() as u64 > BYTES_MAX {
            Err(self.wrong(&format!("{name} is too large")))
        } else {
            Ok(Some(bytes))
        }
    }

    /// The text of a file; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`Folder::bytes`], and if it is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        let text = self.bytes(name)?.map(String::from_utf8).transpose();
        text.map_err(|_| self.wrong(&format!("{name} is not UTF-8 text")))
    }

    /// The JSON object in a file; `None` if it does not exist. `NaN` and `Infinity`, which Python
    /// writes, are read as null.
    ///
    /// # Errors
    /// As [`Folder::text`], and if it is not a JSON object.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Json>>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let read = serde_json::from_str(&text)
            .or_else(|_| serde_json::from_str(&without_odd_numbers(&text)));
        read.map(Some)
            .map_err(|_| self.wrong(&format!("{name} is not a JSON object")))
    }

    /// GGUF's number for the pooling type of a sentence-transformers model, if its files give one.
    ///
    /// # Errors
    /// As [`Folder::text`], and for a pooling type that llama.cpp does not support.
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
        let pooling_config = self
            .object(&format!("{path}/config.json"))?
            .unwrap_or_default();
        let is = |key: &str| pooling_config.get(key).is_some_and(|value| value == true);
        let mode = pooling_config.get("pooling_mode").and_then(Json::as_str);
        for (key, name, number) in [
            ("pooling_mode_mean_tokens", "mean", 1),
            ("pooling_mode_cls_token", "cls", 2),
            ("pooling_mode_lasttoken", "lasttoken", 3),
        ] {
            if is(key) || mode == Some(name) {
                return Ok(Some(number));
            }
        }
        Err(self.wrong("unsupported pooling: only mean, first token and last token are supported"))
    }

    /// The tensors of the model's weights.
    ///
    /// # Errors
    /// If there are no weights, or a file is damaged.
    pub fn weights(&self) -> Result<Source> {
        let model = self.named("model", ".safetensors");
        if model.is_empty() {
            let others = !self.named("consolidated", ".safetensors").is_empty();
            return Err(self.wrong(if others {
                "the weights are in Mistral's own layout; use the folder with model.safetensors"
            } else {
                "there is no model.safetensors"
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
            let file = regular_file::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
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
        if tensors.is_empty() {
            Err(self.wrong("there are no tensors"))
        } else {
            Ok(Source {
                paths: paths.to_vec(),
                tensors,
            })
        }
    }

    /// The files whose names start and end like this: those directly here, otherwise those one folder down.
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
            continue; // A dangling link is not a file.
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
