//! The header parser: checks every length and count against a limit and the file's size before it allocates.

use std::collections::HashSet;
use std::io::{Read, Seek};
use std::ops::Range;

use super::source::{FLOAT_32, INTEGER_32, Source, TEXT, UNSIGNED_32};
use super::{ALIGNMENT, Header, Tensor, TensorKind, Value};

/// Maximum dimensions of a tensor (ggml's GGML_MAX_DIMS).
const DIMENSIONS_MAX: u32 = 4;
/// Maximum layers (llama.cpp's LLAMA_MAX_LAYERS).
const LAYERS_MAX: u64 = 512;
/// Maximum alignment of tensor data.
const ALIGNMENT_MAX: u64 = 1 << 20;

/// Reads and checks the header of a GGUF file of `file_bytes` bytes.
///
/// # Errors
/// The problem, in one line; the caller adds the path.
pub fn read(file: impl Read + Seek, file_bytes: u64) -> Result<Header, String> {
    let mut source = Source::new(file, 0, file_bytes);
    check_magic(
        source
            .bytes::<4>()
            .map_err(|_| "not a GGUF file".to_string())?,
    )?;
    let version = source.u32()?;
    check_version(version)?;
    let tensor_count = source.count("tensors")?;
    let value_count = source.count("key-value pairs")?;
    let (values, spans) = read_values(&mut source, value_count)?;
    let mut header = Header {
        values,
        spans,
        tensors: Vec::new(),
        data_offset: 0,
        file_bytes,
    };
    check_values(&header)?;
    header.tensors = read_tensors(&mut source, tensor_count)?;
    header.data_offset = source.at.next_multiple_of(alignment(&header)?);
    check_tensors(&header)?;
    Ok(header)
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

/// Keys with their values, and the byte range of each value.
type Values = (Vec<(String, Value)>, Vec<Range<u64>>);

fn read_values<R: Read + Seek>(source: &mut Source<R>, count: u64) -> Result<Values, String> {
    let (mut values, mut spans) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for _ in 0..count {
        let key = source.text()?;
        let start = source.at;
        let kind = source.u32()?;
        let value = source
            .value(kind)
            .map_err(|why| format!("{key:.80}: {why}"))?;
        if !seen.insert(key.clone()) {
            return Err(format!("duplicate key {key:.80}"));
        }
        values.push((key, value));
        spans.push(start..source.at);
    }
    Ok((values, spans))
}

/// Checks the keys that llama.cpp does not check itself.
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
        return Err(format!("block_count is {layers}, not 1 to {LAYERS_MAX}"));
    }
    let tokens = checked_array(header, "tokenizer.ggml.tokens", &[TEXT])?;
    checked_array(header, "tokenizer.ggml.merges", &[TEXT])?;
    for (key, kinds) in [
        ("tokenizer.ggml.scores", &[FLOAT_32][..]),
        ("tokenizer.ggml.token_type", &[INTEGER_32, UNSIGNED_32][..]),
    ] {
        let count = checked_array(header, key, kinds)?;
        if count.is_some() && count != tokens {
            return Err(format!("{key} does not have one element for each token"));
        }
    }
    Ok(())
}

fn checked_array(header: &Header, key: &str, kinds: &[u32]) -> Result<Option<u64>, String> {
    match header.value(key) {
        None => Ok(None),
        Some(Value::Array(array)) if kinds.contains(&array.element) => Ok(Some(array.count)),
        Some(_) => Err(format!("{key} has the wrong type")),
    }
}

fn read_tensors<R: Read + Seek>(source: &mut Source<R>, count: u64) -> Result<Vec<Tensor>, String> {
    let mut tensors = Vec::new();
    let mut seen = HashSet::new();
    for _ in 0..count {
        let tensor = read_tensor(source)?;
        if !seen.insert(tensor.name.clone()) {
            return Err(format!("duplicate tensor {:.80}", tensor.name));
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
    let kind = TensorKind::from_id(number)
        .ok_or_else(|| format!("tensor {name:.80} has the unknown type {number}"))?;
    let offset = source.u64()?;
    let size_bytes = tensor_bytes(&shape, kind)
        .ok_or_else(|| format!("tensor {name:.80} has an invalid shape"))?;
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

/// The alignment of tensor data.
fn alignment(header: &Header) -> Result<u64, String> {
    match header.value("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(value)) if value.is_power_of_two() && *value <= ALIGNMENT_MAX => {
            Ok(*value)
        }
        Some(_) => Err("general.alignment is not a usable power of two".into()),
    }
}

fn check_tensors(header: &Header) -> Result<(), String> {
    let alignment = alignment(header)?;
    for tensor in &header.tensors {
        let end = header
            .data_offset
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

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::format::gguf::Writer;

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
    fn written_files_are_read_back() {
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
                let _ = parse(&broken); // Any result is fine; a panic or a huge allocation is not.
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
