//! Changes that several families of layouts share.

use std::io::{Read, Seek};

use crate::format::gguf::plan::{Draft, Put};
use crate::format::gguf::{Array, Header, Value};

/// Prefixes of tensors that serve only vision or audio.
pub const SENSES: [&str; 5] = ["v.", "mm.", "a.", "s.", "model.vision_tower."];

/// The key of the pre-tokenizer, which splits a text before tokens are looked up.
pub const PRE: &str = "tokenizer.ggml.pre";

/// Replaces the first occurrence of a part in the tensors' names; true if any name contained it.
pub fn rename_part(draft: &mut Draft, old: &str, new: &str) -> bool {
    draft.rename_tensors(|name| name.contains(old).then(|| name.replacen(old, new, 1)))
}

/// Reads the elements of an array of integers.
pub fn integers(
    header: &Header,
    array: &Array,
    file: impl Read + Seek,
) -> Result<Vec<i32>, String> {
    let values = header.elements(file, array);
    let values = values.map_err(|error| error.to_string())?;
    let integer = |value| match value {
        Value::Unsigned(value) => i32::try_from(value).ok(),
        Value::Signed(value) => i32::try_from(value).ok(),
        _ => None,
    };
    Ok(values.into_iter().filter_map(integer).collect())
}

/// Pads the sections of multi-dimensional positions to four; false if the file lacks the key.
pub fn pad_sections(draft: &mut Draft, key: &str, file: impl Read + Seek) -> Result<bool, String> {
    let Some(Value::Array(array)) = draft.header.value(&draft.key(key)) else {
        return Ok(false);
    };
    let mut padded = integers(draft.header, array, file)?;
    padded.resize(4, 0);
    let sections = draft.key("rope.dimension_sections");
    draft.set(&sections, Put::Integers(padded));
    Ok(true)
}
