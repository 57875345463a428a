//! The reader: every length and count meets a cap, and the file's size, before it meets memory.

use std::collections::HashSet;
use std::io::{BufReader, Read, Seek, SeekFrom};

use super::{Array, Header, Tensor, TensorKind, Value};
use crate::error::{Error, Result};

/// Longest text outside arrays; the reference has the same cap.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// All texts outside arrays together.
const TEXTS_BYTES_MAX: u64 = 64 << 20;
/// Most elements of an array; the reference has the same cap.
const ARRAY_ELEMENTS_MAX: u64 = 64 << 20;
/// Most key-value pairs, and most tensors: the largest known models have about 3 000.
const ENTRIES_MAX: u64 = 1 << 16;
/// Most dimensions of a tensor (ggml's GGML_MAX_DIMS).
const DIMENSIONS_MAX: u32 = 4;
/// Most layers (llama.cpp's LLAMA_MAX_LAYERS).
const LAYERS_MAX: u64 = 512;
/// Largest alignment of tensor data that makes sense.
const ALIGNMENT_MAX: u64 = 1 << 20;
/// Read ahead by this much: a header of 2 MiB takes a handful of calls.
const BUFFER_BYTES: usize = 256 << 10;

const UNSIGNED_32: u32 = 4;
const INTEGER_32: u32 = 5;
const FLOAT_32: u32 = 6;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Reads and checks the header of a GGUF file of `file_bytes` bytes.
///
/// # Errors
/// A text of one line that says what is wrong; the caller adds the path.
pub fn read(file: impl Read + Seek, file_bytes: u64) -> Result<Header, String> {
    let mut source = Source {
        inner: BufReader::with_capacity(BUFFER_BYTES, file),
        at: 0,
        file_bytes,
        texts_bytes: 0,
    };
    check_magic(
        source
            .bytes::<4>()
            .map_err(|_| "not a GGUF file".to_string())?,
    )?;
    let version = source.u32()?;
    check_version(version)?;
    let tensor_count = source.count("tensors")?;
    let value_count = source.count("key-value pairs")?;
    let values = read_values(&mut source, value_count)?;
    let mut header = Header {
        values,
        tensors: Vec::new(),
        file_bytes,
    };
    check_values(&header)?;
    header.tensors = read_tensors(&mut source, tensor_count)?;
    check_tensors(&header, source.at)?;
    Ok(header)
}

/// Reads the elements of an array back from the file.
///
/// # Errors
/// If the file cannot be read there any more.
pub fn elements(mut file: impl Read + Seek, array: &Array) -> Result<Vec<Value>> {
    let changed = |why: String| Error::failed(format!("cannot read a GGUF array: {why}"));
    let file_bytes = file
        .seek(SeekFrom::End(0))
        .map_err(|error| changed(error.to_string()))?;
    file.seek(SeekFrom::Start(array.offset))
        .map_err(|error| changed(error.to_string()))?;
    let inner = BufReader::with_capacity(BUFFER_BYTES, file);
    let mut source = Source {
        inner,
        at: array.offset,
        file_bytes,
        texts_bytes: 0,
    };
    let mut values = Vec::new();
    for _ in 0..array.count {
        source.texts_bytes = 0;
        values.push(source.value(array.element).map_err(changed)?);
    }
    Ok(values)
}

fn check_magic(magic: [u8; 4]) -> Result<(), String> {
    match &magic {
        b"GGUF" => Ok(()),
        b"FUGG" => Err("a big-endian GGUF file, which this machine cannot run".into()),
        b"lmgg" | b"fmgg" | b"tjgg" | b"algg" => Err("an old ggml file: convert it to GGUF".into()),
        _ => Err("not a GGUF file".into()),
    }
}

fn check_version(version: u32) -> Result<(), String> {
    match version {
        2 | 3 => Ok(()),
        1 => Err("GGUF version 1, which is no longer read: convert the model again".into()),
        _ if version.swap_bytes() <= 3 => {
            Err("a big-endian GGUF file, which this machine cannot run".into())
        }
        _ => Err(format!("unknown GGUF version {version}")),
    }
}

fn read_values<R: Read + Seek>(
    source: &mut Source<R>,
    count: u64,
) -> Result<Vec<(String, Value)>, String> {
    let mut values = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let key = source.text()?;
        let kind = source.u32()?;
        let value = source
            .value(kind)
            .map_err(|why| format!("{why} in {key:.80}"))?;
        if !seen.insert(key.clone()) {
            return Err(format!("the key {key:.80} is there twice"));
        }
        values.push((key, value));
    }
    Ok(values)
}

/// The keys that llama.cpp takes on trust.
fn check_values(header: &Header) -> Result<(), String> {
    if header
        .text("general.architecture")
        .is_none_or(str::is_empty)
    {
        return Err("no general.architecture".into());
    }
    if let Some(layers) = header.arch_integer("block_count")
        && (layers == 0 || layers > LAYERS_MAX)
    {
        return Err(format!("a block_count of {layers}"));
    }
    let tokens = checked_array(header, "tokenizer.ggml.tokens", &[TEXT])?;
    checked_array(header, "tokenizer.ggml.merges", &[TEXT])?;
    for (key, kinds) in [
        ("tokenizer.ggml.scores", &[FLOAT_32][..]),
        ("tokenizer.ggml.token_type", &[INTEGER_32, UNSIGNED_32][..]),
    ] {
        let count = checked_array(header, key, kinds)?;
        if count.is_some() && count != tokens {
            return Err(format!("{key} has not one element for each token"));
        }
    }
    Ok(())
}

fn checked_array(header: &Header, key: &str, kinds: &[u32]) -> Result<Option<u64>, String> {
    match header.value(key) {
        None => Ok(None),
        Some(Value::Array(array)) if kinds.contains(&array.element) => Ok(Some(array.count)),
        Some(_) => Err(format!("{key} is of a wrong type")),
    }
}

fn read_tensors<R: Read + Seek>(source: &mut Source<R>, count: u64) -> Result<Vec<Tensor>, String> {
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let tensor = read_tensor(source)?;
        if !seen.insert(tensor.name.clone()) {
            return Err(format!("the tensor {:.80} is there twice", tensor.name));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor<R: Read + Seek>(source: &mut Source<R>) -> Result<Tensor, String> {
    let name = source.text()?;
    let dimensions = source.u32()?;
    if dimensions > DIMENSIONS_MAX {
        return Err(format!("tensor {name:.80} has {dimensions} dimensions"));
    }
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        shape.push(source.u64()?);
    }
    let number = source.u32()?;
    let kind = TensorKind::of(number)
        .ok_or_else(|| format!("tensor {name:.80} has the unknown type {number}"))?;
    let offset = source.u64()?;
    let size_bytes = tensor_bytes(&shape, kind)
        .ok_or_else(|| format!("tensor {name:.80} has an absurd shape"))?;
    Ok(Tensor {
        name,
        kind,
        shape,
        offset,
        size_bytes,
    })
}

fn tensor_bytes(shape: &[u64], kind: TensorKind) -> Option<u64> {
    let elements = shape
        .iter()
        .try_fold(1u64, |product, size| product.checked_mul(*size))?;
    let first = shape.first().copied().unwrap_or(1);
    if elements == 0 || elements > i64::MAX as u64 || first % kind.block_elements != 0 {
        return None;
    }
    (elements / kind.block_elements).checked_mul(kind.block_bytes)
}

fn check_tensors(header: &Header, header_bytes: u64) -> Result<(), String> {
    let alignment = match header.value("general.alignment") {
        None => 32,
        Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= ALIGNMENT_MAX => {
            *value
        }
        Some(_) => return Err("general.alignment is no sensible power of two".into()),
    };
    let data_start = header_bytes.next_multiple_of(alignment);
    for tensor in &header.tensors {
        let end = data_start
            .checked_add(tensor.offset)
            .and_then(|start| start.checked_add(tensor.size_bytes));
        if tensor.offset % alignment != 0 || end.is_none_or(|end| end > header.file_bytes) {
            return Err(format!(
                "tensor {:.80} lies outside the file, which is cut short or broken",
                tensor.name
            ));
        }
    }
    Ok(())
}

/// The file as a stream of little-endian numbers and texts, with its position.
struct Source<R> {
    inner: BufReader<R>,
    at: u64,
    file_bytes: u64,
    texts_bytes: u64,
}

impl<R: Read + Seek> Source<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.inner
            .read_exact(&mut bytes)
            .map_err(|_| "the header is cut short".to_string())?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str) -> Result<u64, String> {
        let count = self.u64()?;
        if count > ENTRIES_MAX {
            Err(format!("{count} {what}"))
        } else {
            Ok(count)
        }
    }

    /// A length that must still fit into the file.
    fn length(&mut self, cap: u64) -> Result<u64, String> {
        let length = self.u64()?;
        if length > cap {
            return Err(format!("a length of {length}"));
        }
        if length > self.file_bytes.saturating_sub(self.at) {
            return Err("the header is cut short".into());
        }
        Ok(length)
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.length(TEXT_BYTES_MAX)?;
        self.texts_bytes += length;
        if self.texts_bytes > TEXTS_BYTES_MAX {
            return Err("too much text".into());
        }
        let mut bytes = vec![0; length as usize];
        self.inner
            .read_exact(&mut bytes)
            .map_err(|_| "the header is cut short".to_string())?;
        self.at += length;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn skip(&mut self, count: u64) -> Result<(), String> {
        if count > self.file_bytes.saturating_sub(self.at) {
            return Err("the header is cut short".into());
        }
        let offset = i64::try_from(count).map_err(|_| format!("a length of {count}"))?;
        self.inner
            .seek_relative(offset)
            .map_err(|error| error.to_string())?;
        self.at += count;
        Ok(())
    }

    fn value(&mut self, kind: u32) -> Result<Value, String> {
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
            _ => return Err(format!("the unknown value type {kind}")),
        })
    }

    /// Notes where an array lies and walks over it.
    fn array(&mut self) -> Result<Array, String> {
        let element = self.u32()?;
        let count = self.u64()?;
        if count > ARRAY_ELEMENTS_MAX {
            return Err(format!("an array of {count} elements"));
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
                let size =
                    element_bytes(element).ok_or_else(|| format!("an array of type {element}"))?;
                self.skip(count * size)?;
            }
        }
        Ok(array)
    }
}

/// The size of an array element of fixed size; nested arrays are not supported by anyone.
fn element_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::gguf::Writer;

    fn parse(bytes: &[u8]) -> Result<Header, String> {
        read(Cursor::new(bytes), bytes.len() as u64)
    }

    fn good() -> Writer {
        let mut writer = Writer::new("test");
        writer
            .unsigned("test.block_count", 1)
            .texts("tokenizer.ggml.tokens", &["a", "b"]);
        writer.tensor_f32("x.weight", &[32, 2], &[0.5; 64]);
        writer
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = good().bytes();
        let header = parse(&bytes).unwrap();
        assert_eq!(header.architecture(), "test");
        assert_eq!(header.parameter_count(), 64);
        let Some(Value::Array(array)) = header.value("tokenizer.ggml.tokens") else {
            panic!("no tokens")
        };
        let tokens = header.elements(Cursor::new(&bytes), array).unwrap();
        assert_eq!(tokens, [Value::Text("a".into()), Value::Text("b".into())]);
    }

    #[test]
    fn cut_at_any_offset_it_is_refused() {
        let bytes = good().bytes();
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn absurd_lengths_are_refused() {
        let bytes = good().bytes();
        for absurd in [1u64 << 31, 1 << 63, u64::MAX] {
            for at in 8..bytes.len() - 264 {
                let mut broken = bytes.clone();
                broken[at..at + 8].copy_from_slice(&absurd.to_le_bytes());
                let _ = parse(&broken); // Any answer will do that comes without a panic or an allocation.
            }
            for at in [8, 16, 24] {
                let mut broken = bytes.clone();
                broken[at..at + 8].copy_from_slice(&absurd.to_le_bytes());
                assert!(parse(&broken).is_err(), "{absurd} at {at}");
            }
        }
    }

    #[test]
    fn senseless_values_are_refused() {
        type Break = fn(&mut Writer);
        let cases: [(&str, Break); 9] = [
            ("general.alignment", |w| {
                _ = w.unsigned("general.alignment", 0)
            }),
            ("general.alignment", |w| {
                _ = w.unsigned("general.alignment", 3)
            }),
            ("general.alignment", |w| {
                _ = w.unsigned("general.alignment", 1 << 31)
            }),
            ("block_count", |w| {
                _ = w.unsigned("test.block_count", 4_000_000_000)
            }),
            ("block_count", |w| _ = w.unsigned("test.block_count", 0)),
            ("wrong type", |w| {
                _ = w.floats("tokenizer.ggml.tokens", &[1.0])
            }),
            ("wrong type", |w| {
                _ = w.texts("tokenizer.ggml.scores", &["1"])
            }),
            ("wrong type", |w| {
                _ = w.floats("tokenizer.ggml.merges", &[1.0])
            }),
            ("each token", |w| {
                _ = w
                    .texts("tokenizer.ggml.tokens", &["a"])
                    .floats("tokenizer.ggml.scores", &[1.0, 2.0])
            }),
        ];
        for (word, break_it) in cases {
            let mut writer = Writer::new("test");
            break_it(&mut writer);
            let why = parse(&writer.bytes()).unwrap_err();
            assert!(why.contains(word), "{why}");
        }
    }

    #[test]
    fn tensors_stay_inside_the_file() {
        for (shape, offset) in [
            (vec![1u64 << 40, 1 << 40], 0u64),
            (vec![1 << 62], 0),
            (vec![32], 1 << 40),
            (vec![32], u64::MAX - 31),
            (vec![32], 7),
        ] {
            let mut writer = Writer::new("test");
            writer.tensor_entry("x", &shape, 0, offset);
            assert!(parse(&writer.bytes()).is_err(), "{shape:?} at {offset}");
        }
    }
}
