//! A GGUF file as a stream of numbers, texts and arrays, each checked against a limit and the file's size.

use std::io::{BufReader, Read, Seek, SeekFrom};

use super::{Array, Value};
use crate::core::error::{Error, Result};

/// Maximum bytes of a text outside arrays; the reference has the same limit.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Maximum bytes of all texts outside arrays together.
const TEXTS_BYTES_MAX: u64 = 64 << 20;
/// Maximum elements of an array; the reference has the same limit.
const ARRAY_ELEMENTS_MAX: u64 = 64 << 20;
/// Maximum key-value pairs, and maximum tensors: the largest known models have about 3 000.
const ENTRIES_MAX: u64 = 1 << 16;
/// Bytes to read ahead: a header of 2 MiB needs a handful of calls.
const BUFFER_BYTES: usize = 256 << 10;

// GGUF's numbers for the types of values.
pub const UNSIGNED_32: u32 = 4;
pub const INTEGER_32: u32 = 5;
pub const FLOAT_32: u32 = 6;
pub const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// The file as a stream of little-endian numbers and texts, with its position.
pub struct Source<R> {
    inner: BufReader<R>,
    /// Byte offset in the file of the next read.
    pub at: u64,
    file_bytes: u64,
    texts_bytes: u64,
}

impl<R: Read + Seek> Source<R> {
    /// Wraps a file of `file_bytes` bytes whose position is `at`.
    pub fn new(file: R, at: u64, file_bytes: u64) -> Self {
        Source {
            inner: BufReader::with_capacity(BUFFER_BYTES, file),
            at,
            file_bytes,
            texts_bytes: 0,
        }
    }

    /// Wraps a file and seeks to the start of its array.
    pub fn at(mut file: R, array: &Array, file_bytes: u64) -> Result<Self, String> {
        let found = file.seek(SeekFrom::Start(array.offset));
        found.map_err(|error| error.to_string())?;
        Ok(Source::new(file, array.offset, file_bytes))
    }

    /// Reads the next bytes.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.inner
            .read_exact(&mut bytes)
            .map_err(|_| "the header is cut short".to_string())?;
        self.at += N as u64;
        Ok(bytes)
    }

    /// Reads a 32-bit number.
    pub fn u32(&mut self) -> Result<u32, String> {
        self.bytes().map(u32::from_le_bytes)
    }

    /// Reads a 64-bit number.
    pub fn u64(&mut self) -> Result<u64, String> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// Reads a number of entries.
    pub fn count(&mut self, what: &str) -> Result<u64, String> {
        let count = self.u64()?;
        if count > ENTRIES_MAX {
            Err(format!("too many {what}: {count}"))
        } else {
            Ok(count)
        }
    }

    /// Reads a length, which must fit into the rest of the file.
    pub fn length(&mut self, cap: u64) -> Result<u64, String> {
        let length = self.u64()?;
        if length > cap {
            return Err(format!("the length {length} is too large"));
        }
        if length > self.file_bytes.saturating_sub(self.at) {
            return Err("the header is cut short".into());
        }
        Ok(length)
    }

    /// Reads a text, which follows its length.
    pub fn text(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        self.raw_text(&mut bytes)?;
        self.texts_bytes += bytes.len() as u64;
        if self.texts_bytes > TEXTS_BYTES_MAX {
            return Err("too much text".into());
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Reads a text as raw bytes, which replace the content of `text`.
    pub fn raw_text(&mut self, text: &mut Vec<u8>) -> Result<(), String> {
        let length = self.length(TEXT_BYTES_MAX)?;
        text.resize(length as usize, 0);
        self.inner
            .read_exact(text)
            .map_err(|_| "the header is cut short".to_string())?;
        self.at += length;
        Ok(())
    }

    /// Skips some bytes.
    pub fn skip(&mut self, count: u64) -> Result<(), String> {
        if count > self.file_bytes.saturating_sub(self.at) {
            return Err("the header is cut short".into());
        }
        let offset =
            i64::try_from(count).map_err(|_| format!("the length {count} is too large"))?;
        self.inner
            .seek_relative(offset)
            .map_err(|error| error.to_string())?;
        self.at += count;
        Ok(())
    }

    /// Reads a value of this type.
    pub fn value(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Unsigned(self.bytes::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.bytes()?).into()),
            UNSIGNED_32 => Value::Unsigned(self.u32()?.into()),
            INTEGER_32 => Value::Signed(i32::from_le_bytes(self.bytes()?).into()),
            FLOAT_32 => Value::F32(f32::from_le_bytes(self.bytes()?)),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            TEXT => Value::Text(self.text()?),
            ARRAY => Value::Array(self.array()?),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.bytes()?)),
            12 => Value::F64(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(format!("unknown value type {kind}")),
        })
    }

    /// Records the location of an array and skips its elements.
    fn array(&mut self) -> Result<Array, String> {
        let element = self.u32()?;
        let count = self.u64()?;
        if count > ARRAY_ELEMENTS_MAX {
            return Err(format!("too many array elements: {count}"));
        }
        let array = Array {
            element,
            count,
            offset: self.at,
        };
        match element {
            TEXT => {
                for _ in 0..count {
                    let length = self.length(TEXT_BYTES_MAX)?;
                    self.skip(length)?;
                }
            }
            _ => {
                let size = element_bytes(element)
                    .ok_or_else(|| format!("unknown array element type {element}"))?;
                self.skip(count * size)?;
            }
        }
        Ok(array)
    }
}

/// The size of an array element of fixed size in bytes; no implementation supports nested arrays.
fn element_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Reads the elements of an array from the file again.
///
/// # Errors
/// If the file can no longer be read there.
pub fn elements(mut file: impl Read + Seek, array: &Array) -> Result<Vec<Value>> {
    let changed = |why: String| Error::failed(format!("cannot read a GGUF array: {why}"));
    let file_bytes = file
        .seek(SeekFrom::End(0))
        .map_err(|error| changed(error.to_string()))?;
    let mut source = Source::at(file, array, file_bytes).map_err(changed)?;
    let mut values = Vec::new();
    for _ in 0..array.count {
        source.texts_bytes = 0;
        values.push(source.value(array.element).map_err(changed)?);
    }
    Ok(values)
}

/// Returns the size in the file of the first `count` elements of an array, in bytes.
///
/// # Errors
/// If the file can no longer be read there.
pub fn prefix_bytes(
    file: impl Read + Seek,
    array: &Array,
    count: u64,
    file_bytes: u64,
) -> Result<u64, String> {
    if let Some(size) = element_bytes(array.element) {
        return Ok(count.min(array.count) * size);
    }
    let mut source = Source::at(file, array, file_bytes)?;
    for _ in 0..count.min(array.count) {
        let length = source.length(TEXT_BYTES_MAX)?;
        source.skip(length)?;
    }
    Ok(source.at - array.offset)
}
