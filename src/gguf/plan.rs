//! A GGUF file made of another: its header with other keys and names, its tensor data copied.
//!
//! Pure: a plan becomes the new file's header and a list of runs to copy behind it.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use super::source::prefix_bytes;
use super::write::put_text;
use super::{ALIGNMENT, Header, Tensor, Value};

/// A new file made of an old one.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    values: Vec<(String, Put)>,
    tensors: Vec<(String, usize)>,
}

/// A run of bytes to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where it begins in the old file.
    pub source: u64,
    /// Where it goes in the new file.
    pub target: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// A value of the new file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Put {
    /// As it lies in the old file.
    Kept(Range<u64>),
    /// The beginning of an array: type, count, bytes of the elements.
    Cut(u32, u64, Range<u64>),
    /// A 32-bit unsigned number.
    Number(u32),
    /// A 32-bit float.
    Float(f32),
    /// A text.
    Text(String),
    /// An array of 32-bit integers.
    Integers(Vec<i32>),
    /// An array of bytes.
    Bytes(Vec<u8>),
}

/// A plan in the making.
pub(super) struct Draft<'a> {
    /// The old file's header.
    pub header: &'a Header,
    /// The architecture of the old file and of the new one.
    architectures: (String, String),
    values: Vec<(String, Put)>,
    tensors: Vec<(String, usize)>,
    changed: bool,
}

impl<'a> Draft<'a> {
    /// A plan that changes nothing yet.
    pub fn new(header: &'a Header) -> Self {
        let kept = |((key, _), span): (&(String, Value), &Range<u64>)| {
            (key.clone(), Put::Kept(span.clone()))
        };
        let named = |(index, tensor): (usize, &Tensor)| (tensor.name.clone(), index);
        let architecture = header.architecture().to_string();
        Draft {
            header,
            architectures: (architecture.clone(), architecture),
            values: header.values.iter().zip(&header.spans).map(kept).collect(),
            tensors: header.tensors.iter().enumerate().map(named).collect(),
            changed: false,
        }
    }

    /// A key of the architecture, as the old file spells it.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architectures.0)
    }

    /// Gives the file, and all keys of its architecture, another one.
    pub fn rename_architecture(&mut self, new: &str) {
        self.architectures.1 = new.to_string();
        self.set("general.architecture", Put::Text(new.into()));
    }

    /// Renames a key of the architecture; true if it was there.
    pub fn rename(&mut self, old: &str, new: &str) -> bool {
        let (old, new) = (self.key(old), self.key(new));
        let found = self.values.iter_mut().find(|(key, _)| *key == old);
        let renamed = found.map(|(key, _)| *key = new).is_some();
        self.changed |= renamed;
        renamed
    }

    /// Sets a value.
    pub fn set(&mut self, key: &str, value: Put) {
        self.changed = true;
        match self.values.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.values.push((key.to_string(), value)),
        }
    }

    /// Removes a key of the architecture.
    pub fn remove(&mut self, key: &str) {
        let key = self.key(key);
        self.values.retain(|(known, _)| *known != key);
    }

    /// True if a key of the architecture is not there.
    pub fn is_missing(&self, key: &str) -> bool {
        let key = self.key(key);
        self.values.iter().all(|(known, _)| *known != key)
    }

    /// Sets a key of the architecture unless it is there.
    pub fn default(&mut self, key: &str, value: Put) {
        self.default_everywhere(&self.key(key), value);
    }

    /// Sets a key unless it is there.
    pub fn default_everywhere(&mut self, key: &str, value: Put) {
        if self.values.iter().all(|(known, _)| known != key) {
            self.set(key, value);
        }
    }

    /// Leaves out tensors whose names begin so; true if there were any.
    pub fn hide(&mut self, starts: &[&str]) -> bool {
        let before = self.tensors.len();
        self.tensors
            .retain(|(name, _)| !starts.iter().any(|start| name.starts_with(start)));
        self.changed |= self.tensors.len() < before;
        self.tensors.len() < before
    }

    /// Renames tensors; true if there were any.
    pub fn rename_tensors(&mut self, new: impl Fn(&str) -> Option<String>) -> bool {
        let mut renamed = false;
        for (name, _) in &mut self.tensors {
            if let Some(new) = new(name) {
                *name = new;
                renamed = true;
            }
        }
        self.changed |= renamed;
        renamed
    }

    /// Cuts the tokenizer's arrays to the rows of the embedding; true if they were longer.
    pub fn cut_vocabulary(&mut self, mut file: impl Read + Seek) -> Result<bool, String> {
        let rows = self.header.tensor("token_embd.weight");
        let Some(&rows) = rows.and_then(|tensor| tensor.shape.get(1)) else {
            return Ok(false);
        };
        let mut cut = false;
        for key in ["tokens", "scores", "token_type"] {
            let key = format!("tokenizer.ggml.{key}");
            let Some(Value::Array(array)) = self.header.value(&key) else {
                continue;
            };
            if array.count > rows {
                let bytes = prefix_bytes(&mut file, array, rows, self.header.file_bytes)?;
                let span = array.offset..array.offset + bytes;
                self.set(&key, Put::Cut(array.element, rows, span));
                cut = true;
            }
        }
        Ok(cut)
    }

    /// The plan, if anything changes.
    pub fn finish(mut self) -> Option<Plan> {
        let (old, new) = self.architectures;
        for (key, _) in self.values.iter_mut().filter(|_| old != new) {
            if let Some(rest) = key.strip_prefix(&format!("{old}.")) {
                *key = format!("{new}.{rest}");
            }
        }
        self.changed.then_some(Plan {
            values: self.values,
            tensors: self.tensors,
        })
    }
}

impl Plan {
    /// The new file up to its tensor data, and what to copy behind it.
    ///
    /// # Errors
    /// If the old file cannot be read there any more.
    pub fn header(
        &self,
        old: &Header,
        mut file: impl Read + Seek,
    ) -> std::io::Result<(Vec<u8>, Vec<Run>)> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        put_values(&mut bytes, &self.values, &mut file)?;
        let entries = self
            .tensors
            .iter()
            .map(|(name, index)| (name.as_str(), &old.tensors[*index], old.data_offset));
        let runs = put_tensors(&mut bytes, entries);
        Ok((bytes, runs))
    }
}

/// Writes the number of values, and each; the new file is aligned in its own way.
pub(super) fn put_values(
    bytes: &mut Vec<u8>,
    values: &[(String, Put)],
    mut file: impl Read + Seek,
) -> std::io::Result<()> {
    let values = values.iter().filter(|(key, _)| key != "general.alignment");
    bytes.extend((values.clone().count() as u64).to_le_bytes());
    for (key, value) in values {
        put_text(bytes, key);
        put_value(bytes, value, &mut file)?;
    }
    Ok(())
}

/// Writes the entries of tensors, each with where its file's tensor data begins, and fills up to
/// where the data goes; what to copy there.
pub(super) fn put_tensors<'a>(
    bytes: &mut Vec<u8>,
    tensors: impl Iterator<Item = (&'a str, &'a Tensor, u64)>,
) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut offset = 0;
    for (name, tensor, data_offset) in tensors {
        put_text(bytes, name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        bytes.extend(tensor.shape.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend(tensor.kind.id.to_le_bytes());
        bytes.extend(u64::to_le_bytes(offset));
        runs.push(Run {
            source: data_offset + tensor.offset,
            target: offset,
            bytes: tensor.size_bytes,
        });
        offset += tensor.size_bytes.next_multiple_of(ALIGNMENT);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    let start = bytes.len() as u64;
    runs.iter_mut().for_each(|run| run.target += start);
    runs
}

fn put_value(bytes: &mut Vec<u8>, value: &Put, file: impl Read + Seek) -> std::io::Result<()> {
    let array = |bytes: &mut Vec<u8>, element: u32, count: u64| {
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(element.to_le_bytes());
        bytes.extend(count.to_le_bytes());
    };
    match value {
        Put::Kept(span) => copy(bytes, file, span)?,
        Put::Cut(element, count, span) => {
            array(bytes, *element, *count);
            copy(bytes, file, span)?;
        }
        Put::Number(number) => {
            bytes.extend(4u32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        Put::Float(number) => {
            bytes.extend(6u32.to_le_bytes());
            bytes.extend(number.to_le_bytes());
        }
        Put::Text(text) => {
            bytes.extend(8u32.to_le_bytes());
            put_text(bytes, text);
        }
        Put::Integers(numbers) => {
            array(bytes, 5, numbers.len() as u64);
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        }
        Put::Bytes(content) => {
            array(bytes, 0, content.len() as u64);
            bytes.extend(content);
        }
    }
    Ok(())
}

fn copy(bytes: &mut Vec<u8>, mut file: impl Read + Seek, span: &Range<u64>) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(span.start))?;
    let length = span.end - span.start;
    match file.take(length).read_to_end(bytes)? as u64 == length {
        true => Ok(()),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}
