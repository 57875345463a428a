//! A GGUF file derived from another one: its header with other keys and names, its tensor data copied.
//!
//! Pure: a plan becomes the new file's header and a list of runs to copy after it.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use super::source::prefix_bytes;
use super::write::put_text;
use super::{ALIGNMENT, Header, Tensor, Value};

/// The plan of a new file derived from an old one.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    values: Vec<(String, Put)>,
    tensors: Vec<Laid>,
}

/// A tensor of the new file.
#[derive(Debug, Clone, PartialEq)]
struct Laid {
    name: String,
    /// Indices of the old tensors that are joined in it, along their last dimension.
    parts: Vec<usize>,
    /// Rows to keep; `None` keeps all.
    rows: Option<u64>,
}

/// A run of bytes to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Byte offset in the old file.
    pub source: u64,
    /// Byte offset in the new file.
    pub target: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A value of the new file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Put {
    /// A value copied from this byte range of the old file.
    Copied(Range<u64>),
    /// The first elements of an array: element type, count, byte range of the elements.
    Cut(u32, u64, Range<u64>),
    /// A 32-bit unsigned number.
    Number(u32),
    /// A 32-bit float.
    Float(f32),
    /// A text.
    Text(String),
    /// A boolean.
    Flag(bool),
    /// An array of 32-bit integers.
    Integers(Vec<i32>),
    /// An array of 32-bit floats.
    Floats(Vec<f32>),
    /// An array of bytes.
    Bytes(Vec<u8>),
}

/// A plan under construction.
pub(super) struct Draft<'a> {
    /// The old file's header.
    pub header: &'a Header,
    /// The architecture of the old file and of the new one.
    architectures: (String, String),
    values: Vec<(String, Put)>,
    tensors: Vec<Laid>,
    changed: bool,
}

impl<'a> Draft<'a> {
    /// Makes a plan without changes.
    pub fn new(header: &'a Header) -> Self {
        let copied = |((key, _), span): (&(String, Value), &Range<u64>)| {
            (key.clone(), Put::Copied(span.clone()))
        };
        let laid = |(index, tensor): (usize, &Tensor)| Laid {
            name: tensor.name.clone(),
            parts: vec![index],
            rows: None,
        };
        let architecture = header.architecture().to_string();
        Draft {
            header,
            architectures: (architecture.clone(), architecture),
            values: header
                .values
                .iter()
                .zip(&header.spans)
                .map(copied)
                .collect(),
            tensors: header.tensors.iter().enumerate().map(laid).collect(),
            changed: false,
        }
    }

    /// Makes a plan of a file with only the wanted tensors, and no keys yet.
    pub fn part(header: &'a Header, wanted: impl Fn(&str) -> bool) -> Self {
        let mut draft = Draft::new(header);
        draft.values.clear();
        draft.tensors.retain(|laid| wanted(&laid.name));
        draft.changed = true;
        draft
    }

    /// Copies the value of a key of the architecture to another key; true if the old key exists.
    pub fn copy_value(&mut self, old: &str, new: &str) -> bool {
        let old = self.key(old);
        let place = self.header.values.iter().position(|(key, _)| *key == old);
        if let Some(place) = place {
            self.set(new, Put::Copied(self.header.spans[place].clone()));
        }
        place.is_some()
    }

    /// The full name of a key of the architecture in the old file.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architectures.0)
    }

    /// Sets another architecture for the file and for all keys of its architecture.
    pub fn rename_architecture(&mut self, new: &str) {
        self.architectures.1 = new.to_string();
        self.set("general.architecture", Put::Text(new.into()));
    }

    /// Renames a key of the architecture; true if it existed.
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

    /// True if a key of the architecture is missing.
    pub fn is_missing(&self, key: &str) -> bool {
        let key = self.key(key);
        self.values.iter().all(|(known, _)| *known != key)
    }

    /// Sets a key of the architecture unless it exists.
    pub fn default(&mut self, key: &str, value: Put) {
        self.default_everywhere(&self.key(key), value);
    }

    /// Sets a key unless it exists.
    pub fn default_everywhere(&mut self, key: &str, value: Put) {
        if self.values.iter().all(|(known, _)| known != key) {
            self.set(key, value);
        }
    }

    /// Leaves out tensors whose names start with one of these; true if there were any.
    pub fn hide(&mut self, starts: &[&str]) -> bool {
        let before = self.tensors.len();
        self.tensors
            .retain(|laid| !starts.iter().any(|start| laid.name.starts_with(start)));
        self.changed |= self.tensors.len() < before;
        self.tensors.len() < before
    }

    /// Renames tensors; true if any name changed.
    pub fn rename_tensors(&mut self, new: impl Fn(&str) -> Option<String>) -> bool {
        let mut renamed = false;
        for laid in &mut self.tensors {
            if let Some(new) = new(&laid.name) {
                laid.name = new;
                renamed = true;
            }
        }
        self.changed |= renamed;
        renamed
    }

    /// Joins two tensors along their last dimension, the first in front; the result has the second's name.
    ///
    /// # Errors
    /// If one is missing, or their types or shapes differ.
    pub fn join(&mut self, first: &str, second: &str) -> Result<(), String> {
        let place = |name: &str| self.tensors.iter().position(|laid| laid.name == name);
        let (Some(from), Some(to)) = (place(first), place(second)) else {
            return Err(format!("{first} and {second} are not both present"));
        };
        let old = |laid: &Laid| &self.header.tensors[laid.parts[0]];
        let (one, other) = (old(&self.tensors[from]), old(&self.tensors[to]));
        if one.kind != other.kind || one.shape != other.shape {
            return Err(format!("{first} and {second} have different shapes"));
        }
        let parts = self.tensors[from].parts.clone();
        self.tensors[to].parts.splice(0..0, parts);
        self.tensors.remove(from);
        self.changed = true;
        Ok(())
    }

    /// The size of a tensor along a dimension, counted from the fastest.
    pub fn size(&self, tensor: &str, dimension: usize) -> Option<u64> {
        let tensor = self.header.tensor(tensor)?;
        tensor.shape.get(dimension).copied()
    }

    /// Truncates the tokenizer's arrays, and the embedding if it has more rows, to this number of
    /// tokens; true if anything was longer.
    pub fn cut_vocabulary(
        &mut self,
        mut file: impl Read + Seek,
        tokens: u64,
    ) -> Result<bool, String> {
        const EMBEDDING: &str = "token_embd.weight";
        let mut cut = false;
        for key in ["tokens", "scores", "token_type"] {
            let key = format!("tokenizer.ggml.{key}");
            let Some(Value::Array(array)) = self.header.value(&key) else {
                continue;
            };
            if array.count > tokens {
                let bytes = prefix_bytes(&mut file, array, tokens, self.header.file_bytes)?;
                let span = array.offset..array.offset + bytes;
                self.set(&key, Put::Cut(array.element, tokens, span));
                cut = true;
            }
        }
        if self.size(EMBEDDING, 1).is_some_and(|rows| rows > tokens) {
            let embedding = self.tensors.iter_mut().find(|laid| laid.name == EMBEDDING);
            embedding
                .into_iter()
                .for_each(|laid| laid.rows = Some(tokens));
            self.changed = true;
            cut = true;
        }
        Ok(cut)
    }

    /// Returns the plan, if it changes anything.
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
    /// Returns the new file up to its tensor data, and the runs to copy after it.
    ///
    /// # Errors
    /// If the old file can no longer be read there.
    pub fn header(
        &self,
        old: &Header,
        mut file: impl Read + Seek,
    ) -> std::io::Result<(Vec<u8>, Vec<Run>)> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        put_values(&mut bytes, &self.values, &mut file)?;
        let entries = self.tensors.iter().map(|laid| laid.entry(old));
        let runs = put_tensors(&mut bytes, entries);
        Ok((bytes, runs))
    }
}

impl Laid {
    fn entry(&self, old: &Header) -> Entry<'_> {
        let parts = || self.parts.iter().map(|index| &old.tensors[*index]);
        let mut entry = Entry::unchanged(&self.name, &old.tensors[self.parts[0]], old.data_offset);
        entry.parts = parts()
            .map(|part| (old.data_offset + part.offset, part.size_bytes))
            .collect();
        if let Some(rows) = entry.shape.last_mut() {
            *rows = parts().filter_map(|part| part.shape.last()).sum();
            if let Some(copied) = self.rows {
                let copied = copied.min(*rows);
                entry.parts[0].1 = entry.parts[0].1.checked_div(*rows).unwrap_or(0) * copied;
                *rows = copied;
            }
        }
        entry
    }
}

/// A tensor as it is written: name, shape, type, and the offset and length of each part of its data.
pub(super) struct Entry<'a> {
    name: &'a str,
    shape: Vec<u64>,
    kind: u32,
    parts: Vec<(u64, u64)>,
}

impl<'a> Entry<'a> {
    /// An unchanged tensor of a file whose tensor data begins at `data_offset`.
    pub fn unchanged(name: &'a str, tensor: &Tensor, data_offset: u64) -> Self {
        Entry {
            name,
            shape: tensor.shape.clone(),
            kind: tensor.kind.id,
            parts: vec![(data_offset + tensor.offset, tensor.size_bytes)],
        }
    }
}

/// Writes the number of values, and each value except the alignment: the new file has its own.
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

/// Writes the entries of tensors and pads up to their data; returns the runs to copy there.
pub(super) fn put_tensors<'a>(
    bytes: &mut Vec<u8>,
    tensors: impl Iterator<Item = Entry<'a>>,
) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut offset = 0;
    for entry in tensors {
        put_text(bytes, entry.name);
        bytes.extend((entry.shape.len() as u32).to_le_bytes());
        bytes.extend(entry.shape.iter().flat_map(|size| size.to_le_bytes()));
        bytes.extend(entry.kind.to_le_bytes());
        bytes.extend(u64::to_le_bytes(offset));
        for (source, length) in entry.parts {
            runs.push(Run {
                source,
                target: offset,
                bytes: length,
            });
            offset += length;
        }
        offset = offset.next_multiple_of(ALIGNMENT);
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
        Put::Copied(span) => copy(bytes, file, span)?,
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
        Put::Flag(flag) => {
            bytes.extend(7u32.to_le_bytes());
            bytes.push((*flag).into());
        }
        Put::Floats(numbers) => {
            array(bytes, 6, numbers.len() as u64);
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
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
    if file.take(length).read_to_end(bytes)? as u64 == length {
        Ok(())
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}
