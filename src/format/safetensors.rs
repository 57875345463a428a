//! Safetensors headers: the tensors of a file and their positions, checked against the file's length.
//!
//! Pure: reads from any `Read`, and only the header.

use std::io::Read;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

/// Size limit of a header, in bytes; the format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Limit on the dimensions of a tensor, as in GGUF.
const DIMENSIONS_MAX: usize = 4;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name.
    pub name: String,
    /// The element type, as the file spells it: `F32`, `BF16`, `I64`.
    pub dtype: String,
    /// Dimensions, slowest first.
    pub shape: Vec<u64>,
    /// Offset of the first byte in the file.
    pub start: u64,
    /// Length in bytes.
    pub size_bytes: u64,
}

impl Tensor {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Reads the tensors of a file of `file_bytes` bytes, sorted by position.
///
/// # Errors
/// One line of text: what is wrong with the header.
pub fn read(mut file: impl Read, file_bytes: u64) -> Result<Vec<Tensor>, String> {
    let short = |_| "it ends inside its header".to_string();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(short)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX || length > file_bytes.saturating_sub(8) {
        return Err(format!("its header cannot have {length} bytes"));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(short)?;
    let header: Map<String, Json> =
        serde_json::from_slice(&text).map_err(|_| "its header is not a JSON object".to_string())?;
    let mut tensors = Vec::with_capacity(header.len());
    for (name, entry) in header {
        if name != "__metadata__" {
            tensors.push(tensor(name, entry, 8 + length, file_bytes)?);
        }
    }
    tensors.sort_by_key(|tensor| tensor.start);
    Ok(tensors)
}

fn tensor(name: String, entry: Json, data: u64, file_bytes: u64) -> Result<Tensor, String> {
    let wrong = |what: &str| format!("the tensor {name} {what}");
    let entry: Entry = serde_json::from_value(entry).map_err(|_| wrong("has no proper entry"))?;
    let (begin, end) = entry.data_offsets;
    let outside = data.checked_add(end).is_none_or(|end| end > file_bytes);
    if begin > end || outside {
        return Err(wrong("lies outside of the file"));
    }
    if entry.shape.len() > DIMENSIONS_MAX {
        return Err(wrong("has too many dimensions"));
    }
    let mut sizes = entry.shape.iter();
    let elements = sizes.try_fold(1u64, |product, size| product.checked_mul(*size));
    let bits = bits(&entry.dtype)
        .ok_or_else(|| wrong(&format!("has the unknown type {}", entry.dtype)))?;
    let bytes = elements.and_then(|count| count.checked_mul(bits));
    if bytes.is_none_or(|bits| bits.div_ceil(8) != end - begin) {
        return Err(wrong("has a length that does not match its shape"));
    }
    Ok(Tensor {
        name,
        dtype: entry.dtype,
        shape: entry.shape,
        start: data + begin,
        size_bytes: end - begin,
    })
}

/// Bits per element; `None` for an unknown type.
fn bits(dtype: &str) -> Option<u64> {
    Some(match dtype {
        "F64" | "I64" | "U64" | "C64" => 64,
        "F32" | "I32" | "U32" => 32,
        "F16" | "BF16" | "I16" | "U16" => 16,
        "I8" | "U8" | "BOOL" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ"
        | "F8_E5M2FNUZ" => 8,
        "F6_E2M3" | "F6_E3M2" => 6,
        "F4" => 4,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn parse(header: &str, data: usize) -> Result<Vec<Tensor>, String> {
        let bytes = file(header, data);
        read(&bytes[..], bytes.len() as u64)
    }

    #[test]
    fn tensors_come_in_the_order_of_their_data() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},
            "a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
        let tensors = parse(header, 28).unwrap();
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(tensors[1].start, 8 + header.len() as u64 + 4);
        assert_eq!(tensors[1].elements(), 6);
    }

    #[test]
    fn inconsistent_headers_are_refused() {
        let entry = |text: &str| format!(r#"{{"t":{text}}}"#);
        let cases = [
            (
                r#"{"dtype":"F32","shape":[2],"data_offsets":[0,9]}"#,
                "outside",
            ),
            (
                r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#,
                "does not match its shape",
            ),
            (
                r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#,
                "outside",
            ),
            (
                r#"{"dtype":"X","shape":[2],"data_offsets":[0,8]}"#,
                "unknown type X",
            ),
            (
                r#"{"dtype":"F32","shape":[1,1,1,1,2],"data_offsets":[0,8]}"#,
                "too many",
            ),
            (
                r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#,
                "does not match its shape",
            ),
            (
                r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}"#,
                "no proper",
            ),
            ("7", "no proper"),
        ];
        for (text, why) in cases {
            let error = parse(&entry(text), 8).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(read(&b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"[..], 10).is_err());
        assert!(read(&b"\x02\0\0\0\0\0\0\0{"[..], 100).is_err());
        assert!(parse("[]", 0).is_err());
    }
}
