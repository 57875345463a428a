//! A small GGUF writer: version 3, little-endian, 32 bytes of alignment.

use super::ALIGNMENT;

/// Builds a GGUF file in memory. Keys are written in the order they are given.
#[derive(Debug, Default)]
pub struct Writer {
    values: Vec<u8>,
    value_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
}

impl Writer {
    /// Starts a file of this architecture, without further keys or tensors.
    pub fn new(architecture: &str) -> Self {
        let mut writer = Writer::default();
        writer.text("general.architecture", architecture);
        writer
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, text: &str) -> &mut Self {
        self.key(key, 8);
        put_text(&mut self.values, text);
        self
    }

    /// Adds a 32-bit unsigned number.
    pub fn unsigned(&mut self, key: &str, value: u32) -> &mut Self {
        self.key(key, 4);
        self.values.extend(value.to_le_bytes());
        self
    }

    /// Adds a 32-bit float.
    pub fn float(&mut self, key: &str, value: f32) -> &mut Self {
        self.key(key, 6);
        self.values.extend(value.to_le_bytes());
        self
    }

    /// Adds a boolean.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key, 7);
        self.values.push(value.into());
        self
    }

    /// Adds an array of texts.
    pub fn texts<T: AsRef<str>>(&mut self, key: &str, texts: &[T]) -> &mut Self {
        self.array(key, 8, texts.len());
        for text in texts {
            put_text(&mut self.values, text.as_ref());
        }
        self
    }

    /// Adds an array of 32-bit floats.
    pub fn floats(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.array(key, 6, values.len());
        self.values
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// Adds an array of 32-bit signed numbers.
    pub fn integers(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.array(key, 5, values.len());
        self.values
            .extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// Adds an F32 tensor with its data.
    pub fn tensor_f32(&mut self, name: &str, shape: &[u64], data: &[f32]) -> &mut Self {
        assert_eq!(
            shape.iter().product::<u64>(),
            data.len() as u64,
            "data for the whole shape"
        );
        let offset = self.data.len().next_multiple_of(ALIGNMENT as usize);
        self.data.resize(offset, 0);
        self.data
            .extend(data.iter().flat_map(|value| value.to_le_bytes()));
        self.tensor_entry(name, shape, 0, offset as u64)
    }

    /// Adds only a tensor's entry, with ggml's type `kind` and the data offset `offset`.
    pub fn tensor_entry(&mut self, name: &str, shape: &[u64], kind: u32, offset: u64) -> &mut Self {
        self.tensor_count += 1;
        put_text(&mut self.tensors, name);
        self.tensors.extend((shape.len() as u32).to_le_bytes());
        self.tensors
            .extend(shape.iter().flat_map(|size| size.to_le_bytes()));
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self
    }

    /// Returns the whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.value_count.to_le_bytes());
        bytes.extend(&self.values);
        bytes.extend(&self.tensors);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        bytes.extend(&self.data);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        bytes
    }

    fn key(&mut self, key: &str, kind: u32) {
        self.value_count += 1;
        put_text(&mut self.values, key);
        self.values.extend(kind.to_le_bytes());
    }

    fn array(&mut self, key: &str, element: u32, count: usize) {
        self.key(key, 9);
        self.values.extend(element.to_le_bytes());
        self.values.extend((count as u64).to_le_bytes());
    }
}

pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::core::digest::Digest;
    use crate::format::gguf::read;

    #[test]
    fn the_smallest_file_has_the_known_bytes() {
        let bytes = Writer::new("test").bytes();
        let known = "89a2116c3a82d6a97f59f748d86ed4417214353fd178ee54df418fde32495fad";
        assert_eq!(Digest::compute(&bytes[..68]).hex(), known);
        assert!(read(Cursor::new(&bytes), bytes.len() as u64).is_ok());
    }
}
