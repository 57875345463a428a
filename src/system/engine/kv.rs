//! The types that cache cells can have.

/// The type in which the cache stores keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvKind {
    /// 16-bit floats.
    #[default]
    F16,
    /// Blocks of 32 in 8 bits.
    Q8,
    /// Blocks of 32 in 4 bits.
    Q4,
}

impl KvKind {
    /// Parses the names that OLLAMA_KV_CACHE_TYPE accepts.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_lowercase().as_str() {
            "f16" => Some(KvKind::F16),
            "q8_0" => Some(KvKind::Q8),
            "q4_0" => Some(KvKind::Q4),
            _ => None,
        }
    }

    /// The name that [`KvKind::parse`] reads.
    pub fn name(self) -> &'static str {
        match self {
            KvKind::F16 => "f16",
            KvKind::Q8 => "q8_0",
            KvKind::Q4 => "q4_0",
        }
    }

    /// Bytes of that many elements.
    pub fn bytes(self, elements: u64) -> u64 {
        let (block, bytes) = match self {
            KvKind::F16 => (1, 2),
            KvKind::Q8 => (32, 34),
            KvKind::Q4 => (32, 18),
        };
        elements.div_ceil(block).saturating_mul(bytes)
    }
}
